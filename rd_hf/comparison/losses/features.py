"""The losses of distillation methods that compare features of a student and a frozen teacher, over one batch.

Each returns a scalar, a mean over the batch, computed in float32, or in float64 if either side is, also under autocast.
Nothing is detached: whoever calls decides which side is constant. Where the authors' code differs from their paper by a
factor, the factor is that of the code, because the weights that the literature quotes belong to it; each docstring says
so, with that weight.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.grids import pool
from ...tasks.dist import same_batch, unit


def hint(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """FitNet: mean squared error of the feature maps (Romero et al. 2015, arXiv 1412.6550, eq. 3).

    The student's map has been regressed to the teacher's channels by a layer of the caller's. Both are averaged to the
    smaller height and width. The mean runs over samples, channels and positions, where the paper has half the sum: a
    sample's loss is 2 / (C h w) times eq. 3. The customary weight with the mean is 100 (Tian et al. 2020).

    Constant features are no special case: value and gradient are those of any others.

    :param student_map: Regressed map (B, C, h, w).
    :param teacher_map: Map (B, C, H, W).
    :return: A scalar.
    :raises ValueError: If these are no maps, if batch sizes or channels differ, or if the batch is empty.
    """
    student_map, teacher_map = on_common_grid(student_map, teacher_map)
    if student_map.shape[1] != teacher_map.shape[1]:
        raise ValueError(
            f"the student's map has {student_map.shape[1]} channels, but the teacher's has {teacher_map.shape[1]}; "
            "regress the student's map to the teacher's channels first"
        )
    return (student_map - teacher_map).square().mean()


def attention(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """AT: distance of the maps of attention (Zagoruyko and Komodakis 2017, arXiv 1612.03928, eq. 2 with p = 2).

    A map of attention is the sum of squares over the channels, as a vector of length 1 over the positions. Features are
    averaged to the smaller height and width before they are squared, so channels and grids may differ.

    The value is the *square* of eq. 2's norm as a mean over samples and positions, as in the authors' code and in that
    of Tian et al. 2020; both weight it with 1000. Eq. 2 prints the norm itself, half of it.

    A sample whose map is 0 everywhere has attention 0 everywhere, and gradient 0.

    :param student_map: Map (B, C, h, w).
    :param teacher_map: Map (B, D, H, W).
    :return: A scalar between 0 and 2 / positions.
    :raises ValueError: If these are no maps, if batch sizes differ, or if the batch is empty.
    """
    student, teacher = (
        unit(features.square().sum(dim=1).flatten(1)) for features in on_common_grid(student_map, teacher_map)
    )
    return (student - teacher).square().mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """SP: distance of the batch's similarity matrices (Tung and Mori 2019, arXiv 1907.09682, eq. 1 to 3).

    The Gram matrix (B, B) of each side, every row at length 1; the squared Frobenius norm of their difference over B^2.
    Its weight in eq. 4 is the caller's (3000 in the paper).

    Invariant to rotation and isotropic scale of either side. Equal features of all samples are no special case. A
    sample whose features are all 0 has a row of 0, which passes no gradient; it gets one from the others' rows.

    :param student: Features (B, ...), flattened to (B, p).
    :param teacher: Features (B, ...), flattened to (B, q).
    :return: A scalar between 0 and 4 / B.
    :raises ValueError: If batch sizes differ or there are fewer than 2 samples.
    """
    student, teacher = _flat_pair(student, teacher, minimum=2)
    with without_autocast(student):
        return (unit(student @ student.T) - unit(teacher @ teacher.T)).square().mean()


def relational(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """RKD: distances of pairs and angles of triples (Park et al. 2019, arXiv 1904.05068, section 3.2).

    Distances (eq. 5 to 8) are divided by their mean over all pairs of two samples; angles (eq. 9 and after) are the
    cosines at the middle one of three samples. Both are compared by the Huber loss with delta 1. The paper sums over
    pairs and triples; the value is the mean over all B^2 and B^3 of them, those that name a sample twice included, as
    in the authors' code, to which the weights 25 and 50 belong (Tian et al. 2020 use them too).

    Invariant to rotation, translation and isotropic scale of either side. Two samples that coincide, or whose distance
    is within the rounding of their features, have no direction: angles with it are 0, and so is its gradient. Where
    all samples coincide, all distances are 0 with gradient 0.

    :param student: Features (B, ...), flattened to (B, p).
    :param teacher: Features (B, ...), flattened to (B, q).
    :param distance_weight: Weight of the distances.
    :param angle_weight: Weight of the angles.
    :return: A scalar.
    :raises ValueError: If batch sizes differ or there are fewer than 3 samples.
    """
    student, teacher = _flat_pair(student, teacher, minimum=3)
    with without_autocast(student):
        (student_distances, student_angles), (teacher_distances, teacher_angles) = map(_relations, (student, teacher))
        distance_loss = F.smooth_l1_loss(student_distances, teacher_distances)
        angle_loss = F.smooth_l1_loss(student_angles, teacher_angles)
    return distance_weight * distance_loss + angle_weight * angle_loss


def probabilistic(student: Tensor, teacher: Tensor) -> Tensor:
    """PKT: KL(teacher || student) of conditional probabilities of samples (Passalis and Tefas 2018, arXiv 1803.10837).

    The kernel is (cosine + 1) / 2; divided by its sum over the batch it is the probability of a sample given another.
    As in the authors' code the sample itself is among those (the paper's sums leave it out), 1e-7 is added to both
    probabilities in the logarithm, and the value is the mean over all B^2 of them, where the paper has the sum. The
    customary weight with that mean is 30000 (Tian et al. 2020).

    Invariant to rotation of either side and to the length of every sample. Equal features of all samples are uniform
    probabilities. A sample whose features are all 0 has cosine 0 to all, and gradient 0.

    :param student: Features (B, ...), flattened to (B, p).
    :param teacher: Features (B, ...), flattened to (B, q).
    :return: A scalar.
    :raises ValueError: If batch sizes differ or there are fewer than 2 samples.
    """
    student, teacher = _flat_pair(student, teacher, minimum=2)
    with without_autocast(student):
        student, teacher = map(_conditional_probabilities, (student, teacher))
    return (teacher * ((teacher + 1e-7) / (student + 1e-7)).log()).mean()


def contrastive(student: Tensor, teacher: Tensor, rows: int, temperature: float = 0.07) -> Tensor:
    """CRD: tell the pairs of one sample from those of two (Tian et al. 2020, arXiv 1910.10699, eq. 17 to 19).

    The critic is h = exp(g_T . g_S / temperature) / (exp(g_T . g_S / temperature) + N / M) with g of length 1, N
    negatives for each positive and M samples in the training set. The value is the batch mean of -log h of the positive
    minus the sum of log(1 - h) of its N negatives.

    This is not the paper's training in these respects:

    - The negatives are the N = B - 1 other samples of the batch, where the paper draws N = 16384 from a memory buffer
      of earlier embeddings. They may be of the positive's class, which the authors' code for labelled sets excludes.
    - The authors' code adds the loss with the teacher as anchor to that with the student as anchor, with the other side
      constant from the buffer. In a batch both see the same B^2 pairs, so the two are equal; the value is one of them,
      and both sides get the gradient that they get there. It is symmetric in student and teacher.
    - The authors' code divides the exponentials by a constant that it estimates from the first batch and adds 1e-7 to
      the critic's denominator. Here the critic is eq. 19 as printed.

    The customary weight is 0.8. An embedding that is 0 has product 0 with all, and gradient 0.

    :param student: Embeddings (B, d) from a layer of the caller's; brought to length 1 here.
    :param teacher: Embeddings (B, d) from another.
    :param rows: Samples in the training set, M.
    :param temperature: Divides the products.
    :return: A scalar.
    :raises ValueError: If batch sizes or widths differ, if there are fewer than 2 samples, or if `rows` or the
        temperature are not above 0.
    """
    student, teacher = _flat_pair(student, teacher, minimum=2)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student's embeddings have width {student.shape[1]}, but the teacher's have {teacher.shape[1]}"
        )
    if not (rows > 0 and temperature > 0.0):
        raise ValueError(f"rows is {rows} and temperature is {temperature}; both must be above 0")
    with without_autocast(student):
        products = unit(student) @ unit(teacher).T / temperature
    # log h and log(1 - h) without the exponential, which overflows float32 at temperatures below 1/88.
    margins = products - math.log((len(student) - 1) / rows)
    positive = torch.eye(len(student), dtype=torch.bool, device=student.device)
    return -F.logsigmoid(torch.where(positive, margins, -margins)).sum() / len(student)


def on_common_grid(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of the same batch, both averaged to the smaller of each side.

    :param student_map: (B, C, h, w), of volumes (B, C, x, y, z).
    :param teacher_map: (B, D, H, W), of volumes (B, D, X, Y, Z).
    :raises ValueError: If these are no maps, if batch sizes differ or the batch is empty.
    """
    if student_map.dim() not in (4, 5) or teacher_map.dim() != student_map.dim():
        raise ValueError(
            "maps must have 4 dimensions (B, C, h, w), or those of volumes 5, but the student's shape is "
            f"{tuple(student_map.shape)} and the teacher's is {tuple(teacher_map.shape)}"
        )
    student_map, teacher_map = same_batch(student_map, teacher_map, minimum=1)
    grid = tuple(min(sizes) for sizes in zip(student_map.shape[2:], teacher_map.shape[2:], strict=True))
    return pool(student_map, grid), pool(teacher_map, grid)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which matrix products keep the precision of their factors."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _flat_pair(student: Tensor, teacher: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Features (B, p) and (B, q) of the same batch."""
    student, teacher = same_batch(student, teacher, minimum)
    return student.reshape(len(student), -1), teacher.reshape(len(teacher), -1)


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """RKD's normalised distances (B, B) and the cosines (B, B, B) at the first of three samples."""
    count = len(features)
    # Not from the Gram matrix: its rounding would keep samples that coincide apart.
    differences = features[None, :] - features[:, None]
    distances = torch.linalg.vector_norm(differences, dim=-1)
    rounding = 16 * torch.finfo(features.dtype).eps * torch.linalg.vector_norm(features.detach(), dim=-1).amax()
    mean = distances.sum() / (count * (count - 1))
    coincide = mean <= rounding
    distances = torch.where(coincide, 0.0, distances / torch.where(coincide, 1.0, mean))
    directions = unit(differences, floor=rounding)
    return distances, directions @ directions.mT


def _conditional_probabilities(features: Tensor) -> Tensor:
    """PKT's probabilities (B, B), which sum to 1 in each row."""
    directions = unit(features)
    # A rounded cosine can be below -1.
    kernel = ((directions @ directions.T + 1.0) / 2.0).clamp(min=0.0)
    return kernel / kernel.sum(dim=1, keepdim=True)
