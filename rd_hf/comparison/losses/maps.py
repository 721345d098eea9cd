"""The losses of distillation methods for dense prediction, which compare maps of a student and a frozen teacher.

Each returns a scalar, a mean over the batch, computed in float32, or in float64 if either side is, also under autocast.
Nothing is detached: whoever calls decides which side is constant. Maps of two grids are averaged to the smaller of each
side. The maps of volumes have three sides; what is said of h and w holds for them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...tasks.dist import unit
from .features import on_common_grid, without_autocast


def channel_wise(student_map: Tensor, teacher_map: Tensor, temperature: float = 4.0) -> Tensor:
    """CWD: KL(teacher || student) of each channel's distribution over the positions (arXiv 2011.13256, eq. 3 to 5).

    Shu et al. 2021. The softmax of a channel, divided by the temperature, runs over its h * w positions. The divergence
    is the sum over positions and the mean over channels and images, times the temperature's square, as in eq. 5 and in
    the authors' code. Their weights are 3 for maps of logits and 50 for features, both at temperature 4.

    A constant that is added to a channel changes nothing. A constant channel is the uniform distribution.

    :param student_map: (B, C, h, w): logits, or features that have been regressed to the teacher's channels.
    :param teacher_map: (B, C, H, W).
    :param temperature: Divides the values.
    :return: A scalar.
    :raises ValueError: If these are no maps, if batch sizes or channels differ, if the batch is empty, or if the
        temperature is not above 0.
    """
    student, teacher = _grids_in_common(student_map, teacher_map, temperature)
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student's map has {student.shape[1]} channels, but the teacher's has {teacher.shape[1]}; regress the "
            "student's map to the teacher's channels first"
        )
    student, teacher = ((side.flatten(2) / temperature).log_softmax(dim=2) for side in (student, teacher))
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / student.shape[:2].numel()


def pixel_relations(student_map: Tensor, teacher_map: Tensor, temperature: float = 0.1) -> Tensor:
    """CIRKD's mini-batch pixel-to-pixel distillation: similarities of positions within and across images.

    Yang et al. 2022, arXiv 2204.06986, "mini-batch-based pixel-to-pixel distillation". Each position's feature is
    brought to length 1. For a pair of images, its similarities to the other image's positions, divided by the
    temperature, are a distribution by their softmax. The value is KL(teacher || student), the mean over the positions
    and over all B^2 pairs, those of an image with itself included. The authors' code has temperature 0.1 and weight 1.

    This needs two matrices of (B h w)^2 numbers. Widths may differ. Invariant to the length of every position's feature
    and to rotation of either side. A position whose features are all 0 has similarity 0 to all, and gradient 0.

    :param student_map: (B, C, h, w).
    :param teacher_map: (B, D, H, W).
    :param temperature: Divides the similarities.
    :return: A scalar.
    :raises ValueError: If these are no maps, if batch sizes differ, if the batch is empty, or if the temperature is not
        above 0.
    """
    sides = _grids_in_common(student_map, teacher_map, temperature)
    student, teacher = (_similarities(side).div(temperature).log_softmax(dim=3) for side in sides)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / student.shape[:3].numel()


def _grids_in_common(student_map: Tensor, teacher_map: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return on_common_grid(student_map, teacher_map)


def _similarities(features: Tensor) -> Tensor:
    """Cosines (B, P, B, P) of the positions of maps (B, C, h, w)."""
    directions = unit(features.flatten(2).transpose(1, 2))
    with without_autocast(features):
        cosines = directions.flatten(0, 1) @ directions.flatten(0, 1).T
    return cosines.view(*directions.shape[:2], *directions.shape[:2])
