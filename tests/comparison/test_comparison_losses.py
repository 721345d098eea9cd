"""The losses of the compared methods against explicit loops, cases worked by hand, invariances and edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rd_hf.comparison.losses.features import attention, contrastive, hint, probabilistic, relational, similarity
from rd_hf.comparison.losses.logits import dkd, kd
from rd_hf.tasks.dist import dist, unit

TARGETS = torch.tensor([2, 0, 3, 1, 3])
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "hint": hint,
    "attention": attention,
    "similarity": similarity,
    "relational": relational,
    "probabilistic": probabilistic,
    "contrastive": partial(contrastive, rows=20),
    "kd": kd,
    "dkd": partial(dkd, targets=TARGETS),
    "dist": dist,
}
ON_MAPS = ("hint", "attention")
ZERO_WHERE_EQUAL = [name for name in LOSSES if name != "contrastive"]
WITHOUT_LENGTH = ("attention", "similarity", "relational", "probabilistic", "contrastive")


def tensors(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random input of five samples for a loss: maps, features of two widths, embeddings of one, or logits."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "hint": ((5, 3, 4, 2), (5, 3, 2, 4)),
        "attention": ((5, 3, 4, 2), (5, 2, 2, 4)),
        "similarity": ((5, 3, 2), (5, 4)),
        "relational": ((5, 3), (5, 4)),
        "probabilistic": ((5, 3), (5, 4)),
    }.get(name, ((5, 4), (5, 4)))
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return student.to(dtype), teacher.to(dtype)


def arrays(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same as numpy arrays."""
    student, teacher = tensors(name, seed)
    return student.numpy(), teacher.numpy()


def pooled(maps: np.ndarray) -> np.ndarray:
    """Maps (B, C, 4, 2) or (B, C, 2, 4) as (B, C, 2, 2), means of two neighbours."""
    out = np.zeros((*maps.shape[:2], 2, 2))
    for row in range(2):
        for column in range(2):
            if maps.shape[2] == 4:
                out[:, :, row, column] = (maps[:, :, 2 * row, column] + maps[:, :, 2 * row + 1, column]) / 2
            else:
                out[:, :, row, column] = (maps[:, :, row, 2 * column] + maps[:, :, row, 2 * column + 1]) / 2
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise softmax."""
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def huber(difference: float) -> float:
    """Huber loss with delta 1."""
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors; 0 where one is 0."""
    norm = np.sqrt(a @ a) * np.sqrt(b @ b)
    return a @ b / norm if norm else 0.0


def hint_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean squared error, number by number."""
    pairs = list(zip(pooled(student).ravel(), pooled(teacher).ravel(), strict=True))
    return sum((s - t) ** 2 for s, t in pairs) / len(pairs)


def attention_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Per sample, the squared distance of the unit vectors of sums of squares, over samples and positions."""
    total = 0.0
    for s, t in zip(pooled(student), pooled(teacher), strict=True):
        s = np.array([sum(channel[i, j] ** 2 for channel in s) for i in range(2) for j in range(2)])
        t = np.array([sum(channel[i, j] ** 2 for channel in t) for i in range(2) for j in range(2)])
        total += sum((s / np.sqrt(s @ s) - t / np.sqrt(t @ t)) ** 2)
    return total / (5 * 4)


def similarity_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Rows of Gram matrices at length 1."""
    student, teacher = student.reshape(5, -1), teacher.reshape(5, -1)
    total = 0.0
    for i in range(5):
        s = np.array([student[i] @ student[j] for j in range(5)])
        t = np.array([teacher[i] @ teacher[j] for j in range(5)])
        total += sum((s / np.sqrt(s @ s) - t / np.sqrt(t @ t)) ** 2)
    return total / 25


def relational_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Pairs by their distance over the mean, triples by the cosine at the one in the middle."""

    def distance(x: np.ndarray, i: int, j: int) -> float:
        return np.sqrt(((x[i] - x[j]) ** 2).sum())

    every = range(5)
    mean_s, mean_t = (np.mean([distance(x, i, j) for i in every for j in every if i != j]) for x in (student, teacher))
    pairs = [huber(distance(student, i, j) / mean_s - distance(teacher, i, j) / mean_t) for i in every for j in every]
    triples = [
        huber(
            cosine(student[i] - student[j], student[k] - student[j])
            - cosine(teacher[i] - teacher[j], teacher[k] - teacher[j])
        )
        for i in every
        for j in every
        for k in every
    ]
    return 25 * np.mean(pairs) + 50 * np.mean(triples)


def probabilistic_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """KL of the rows' probabilities, with the diagonal and the authors' 1e-7, over all pairs."""
    total = 0.0
    for i in range(5):
        s, t = ([(cosine(x[i], x[j]) + 1) / 2 for j in range(5)] for x in (student, teacher))
        for j in range(5):
            p, q = t[j] / sum(t), s[j] / sum(s)
            total += p * np.log((p + 1e-7) / (q + 1e-7))
    return total / 25


def contrastive_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """The teacher as anchor; the critic as eq. 19 prints it, 4 negatives, 20 samples in the training set."""
    total = 0.0
    for i in range(5):
        for j in range(5):
            score = np.exp(cosine(teacher[i], student[j]) / 0.07)
            critic = score / (score + 4 / 20)
            total -= np.log(critic) if i == j else np.log(1 - critic)
    return total / 5


def kd_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """KL at temperature 4."""
    p, q = softmax(teacher / 4), softmax(student / 4)
    return 16 * sum(p[i, k] * np.log(p[i, k] / q[i, k]) for i in range(5) for k in range(4)) / 5


def dkd_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Both parts at temperature 4, from probabilities."""
    total = 0.0
    for p, q, target in zip(softmax(teacher / 4), softmax(student / 4), TARGETS.tolist(), strict=True):
        tckd = p[target] * np.log(p[target] / q[target]) + (1 - p[target]) * np.log((1 - p[target]) / (1 - q[target]))
        nckd = 0.0
        for k in range(4):
            if k != target:
                p_other, q_other = p[k] / (1 - p[target]), q[k] / (1 - q[target])
                nckd += p_other * np.log(p_other / q_other)
        total += 1.0 * tckd + 8.0 * nckd
    return 16 * total / 5


def dist_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Pearson correlations of rows and of columns."""
    s, t = softmax(student), softmax(teacher)
    inter = np.mean([1 - np.corrcoef(s[i], t[i])[0, 1] for i in range(5)])
    intra = np.mean([1 - np.corrcoef(s[:, k], t[:, k])[0, 1] for k in range(4)])
    return 2 * inter + 2 * intra


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("seed", [0, 1])
def test_explicit_formulas(name, seed):
    expected = globals()[f"{name}_by_loops"](*arrays(name, seed))
    value = LOSSES[name](*tensors(name, seed))
    assert value.shape == () and value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, abs=1e-10)
    assert expected > 1e-3


def test_hint_by_hand():
    # Averages of the student's neighbours: 2 and 6; differences 1 and -2.
    student = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 1, 4)
    assert hint(student, torch.tensor([1.0, 8.0]).view(1, 1, 1, 2)).item() == (1 + 4) / 2


def test_attention_by_hand():
    # Sums of squares (3, 4) and (1, 0): unit vectors (.6, .8) and (1, 0), squared distance .16 + .64.
    student = torch.tensor([[1.0, 2.0], [math.sqrt(2.0), 0.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([-5.0, 0.0]).view(1, 1, 1, 2)
    assert attention(student, teacher).item() == pytest.approx(0.8 / 2, abs=1e-6)


def test_similarity_by_hand():
    # Rows (1, 0), (0, 1) for orthogonal samples, twice (1, 1)/sqrt(2) for equal ones.
    value = similarity(torch.eye(2), torch.ones(2, 3)).item()
    assert value == pytest.approx(2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4, abs=1e-6)


def test_relational_by_hand():
    # On a line at 0, 1, 3: distances 1, 2, 3 of mean 2. On a right triangle of sides 3, 4, 5: mean 4.
    line = torch.tensor([[0.0], [1.0], [3.0]])
    triangle = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])  # the right angle at the middle sample
    pairs = ((1 / 2 - 3 / 4) ** 2 + (2 / 2 - 4 / 4) ** 2 + (3 / 2 - 5 / 4) ** 2) / 2
    assert relational(line, triangle, 1.0, 0.0).item() == pytest.approx(2 * pairs / 9, abs=1e-6)
    # Cosines at the three samples: 1, -1, 1 on the line and 3/5, 0, 4/5 in the triangle; each for two orders.
    triples = ((1 - 3 / 5) ** 2 + 1.0**2 + (1 - 4 / 5) ** 2) / 2
    assert relational(line, triangle, 0.0, 1.0).item() == pytest.approx(2 * triples / 27, abs=1e-6)


def test_probabilistic_by_hand():
    # Orthogonal samples: kernel (1, .5), probabilities (2/3, 1/3). Equal ones: (1/2, 1/2).
    value = probabilistic(torch.ones(2, 3).double(), torch.eye(2).double()).item()
    assert value == pytest.approx((2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2, abs=1e-6)


def test_contrastive_by_hand():
    # Products 1 for the positives and 0 for the negatives; temperature 1, one negative, 4 training samples.
    positive, negative = math.e / (math.e + 1 / 4), 1 / (1 + 1 / 4)
    value = contrastive(7 * torch.eye(2), torch.eye(2), rows=4, temperature=1.0).item()
    assert value == pytest.approx(-math.log(positive) - math.log(1 - negative), abs=1e-6)


def test_logit_losses_by_hand():
    # Probabilities (1/2, 1/4, 1/4) of the teacher and 1/3 each of the student.
    teacher, student = torch.tensor([[2.0, 1.0, 1.0]]).log(), torch.zeros(1, 3)
    divergence = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    assert kd(student, teacher, temperature=1.0).item() == pytest.approx(divergence, abs=1e-6)
    assert kd(2 * student, 2 * teacher, temperature=2.0).item() == pytest.approx(4 * divergence, abs=1e-6)
    # The other classes are equal on both sides, so only the target counts: (1/2, 1/2) against (1/3, 2/3).
    assert dkd(student, teacher, torch.tensor([0])).item() == pytest.approx(
        16 * dkd(student / 4, teacher / 4, torch.tensor([0]), beta=0.0, temperature=1.0).item(), abs=1e-6
    )
    value = dkd(student, teacher, torch.tensor([0]), temperature=1.0).item()
    assert value == pytest.approx(divergence, abs=1e-6)
    # Given "not class 1": (2/3, 1/3) against (1/2, 1/2).
    value = dkd(student, teacher, torch.tensor([1]), alpha=0.0, beta=3.0, temperature=1.0).item()
    assert value == pytest.approx(3 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)), abs=1e-6)


def test_dist_by_hand():
    # Rows (.5, .3, .2) and (.2, .3, .5), swapped between the sides: centred (.5, -.1, -.4)/3 and (-.4, -.1, .5)/3.
    teacher = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]], dtype=torch.float64)
    rows = (2 * 0.5 * -0.4 + 0.1**2) / (0.5**2 + 0.1**2 + 0.4**2)
    value = dist(teacher.flip(0).log(), teacher.log(), beta=1.0, gamma=0.0).item()
    assert value == pytest.approx(1 - rows, abs=1e-12)
    # The outer columns are opposite to each other; the middle one does not vary, so its correlation is 0.
    value = dist(teacher.flip(0).log(), teacher.log(), beta=0.0, gamma=1.0).item()
    assert value == pytest.approx(1 - (-1 + 0 - 1) / 3, abs=1e-12)


def test_dist_grows_with_the_square_of_the_temperature():
    student, teacher = tensors("dist")
    expected = 9 * dist(student, teacher).item()
    assert dist(3 * student, 3 * teacher, temperature=3.0).item() == pytest.approx(expected, abs=1e-10)


def test_dkd_with_the_teachers_weights_is_kd():
    student, teacher = tensors("dkd")
    target_probability = (teacher / 4).softmax(dim=1)[torch.arange(5), TARGETS]
    values = [
        dkd(student[i : i + 1], teacher[i : i + 1], TARGETS[i : i + 1], 1.0, 1.0 - target_probability[i].item())
        for i in range(5)
    ]
    assert torch.stack(values).mean().item() == pytest.approx(kd(student, teacher).item(), abs=1e-12)


def test_dkd_of_two_classes_is_kd_whatever_beta():
    student, teacher = (logits[:, :2] for logits in tensors("dkd"))
    targets = TARGETS % 2
    assert dkd(student, teacher, targets, beta=100.0).item() == pytest.approx(kd(student, teacher).item(), abs=1e-12)


def test_dist_of_two_classes_has_no_inter_class_gradient():
    student, teacher = (logits[:, :2].clone().requires_grad_() for logits in tensors("dist"))
    agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).double().mean().item()
    assert 0 < agree < 1
    value = dist(student, teacher, beta=1.0, gamma=0.0)
    value.backward()
    assert value.item() == pytest.approx(2 * (1 - agree), abs=1e-12)
    assert student.grad.abs().max() < 1e-12 and teacher.grad.abs().max() < 1e-12
    dist(student, teacher, beta=0.0, gamma=1.0).backward()
    assert student.grad.abs().max() > 1e-2
    # Three classes do have it.
    student, teacher = (logits[:, :3].clone().requires_grad_() for logits in tensors("dist"))
    dist(student, teacher, beta=1.0, gamma=0.0).backward()
    assert student.grad.abs().max() > 1e-2


def rotation(width: int) -> torch.Tensor:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(3)).double())[0]


@pytest.mark.parametrize("name", ["similarity", "relational", "probabilistic"])
def test_invariant_to_rotation_of_either_side(name):
    student, teacher = (features.flatten(1) for features in tensors(name))
    turned = LOSSES[name](student @ rotation(student.shape[1]), teacher @ rotation(teacher.shape[1]))
    assert turned.item() == pytest.approx(LOSSES[name](student, teacher).item(), abs=1e-10)
    # Not to another scale per direction, which they must see.
    bent = LOSSES[name](student * torch.arange(1.0, 1.0 + student.shape[1]), teacher)
    assert abs(bent - LOSSES[name](student, teacher)) > 1e-4


def test_contrastive_is_invariant_to_a_common_rotation_only():
    student, teacher = tensors("contrastive")
    loss, turn = LOSSES["contrastive"], rotation(4)
    assert loss(student @ turn, teacher @ turn).item() == pytest.approx(loss(student, teacher).item(), abs=1e-10)
    assert abs(loss(student @ turn, teacher) - loss(student, teacher)) > 1e-2


@pytest.mark.parametrize("name", WITHOUT_LENGTH)
def test_invariant_to_scale_of_either_side(name):
    student, teacher = tensors(name)
    expected = LOSSES[name](student, teacher).item()
    assert LOSSES[name](7e3 * student, 3e-4 * teacher).item() == pytest.approx(expected, abs=1e-10)
    # Those that normalise before they multiply are it in float32 too where squares leave its range.
    if name in ("probabilistic", "contrastive"):
        assert LOSSES[name](1e25 * student.float(), 1e-30 * teacher.float()).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(1.0, 0.0), (0.0, 1.0)])
def test_relational_is_invariant_to_translation(distance_weight, angle_weight):
    student, teacher = tensors("relational")
    expected = relational(student, teacher, distance_weight, angle_weight).item()
    moved = relational(student + 5.0, teacher - 9.0, distance_weight, angle_weight).item()
    assert moved == pytest.approx(expected, abs=1e-10)
    assert expected > 1e-3


@pytest.mark.parametrize("name", ZERO_WHERE_EQUAL)
def test_zero_where_both_sides_are_equal(name):
    student, _ = tensors(name)
    assert LOSSES[name](student, student.clone()).item() == pytest.approx(0.0, abs=1e-12)


def test_contrastive_is_lowest_for_its_own_teacher_and_symmetric():
    student, teacher = tensors("contrastive")
    loss = LOSSES["contrastive"]
    assert loss(student, teacher).item() == pytest.approx(loss(teacher, student).item(), abs=1e-12)
    assert loss(teacher, teacher) < loss(student, teacher)
    assert loss(teacher, teacher) < loss(teacher.roll(1, dims=0), teacher)


def test_contrastive_has_the_gradient_of_two_anchors_with_constant_other_sides():
    student, teacher = (embeddings.requires_grad_() for embeddings in tensors("contrastive"))
    loss = LOSSES["contrastive"]
    expected = torch.autograd.grad(
        loss(student, teacher.detach()) + loss(student.detach(), teacher), (student, teacher)
    )
    for ours, theirs in zip(torch.autograd.grad(loss(student, teacher), (student, teacher)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    inputs = tuple(side.requires_grad_() for side in tensors(name, seed=1))
    assert torch.autograd.gradcheck(LOSSES[name], inputs)


def with_gradients(name: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Value and both gradients, after checking that all are finite."""
    student, teacher = student.clone().requires_grad_(), teacher.clone().requires_grad_()
    value = LOSSES[name](student, teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and teacher.grad.isfinite().all()
    return value, [student.grad, teacher.grad]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("constant", [0.0, 0.3, -1e4])
def test_constant_features_have_finite_values_and_gradients(name, constant):
    student, teacher = tensors(name, dtype=torch.float32)
    # Another constant per dimension, and the same one in all.
    for flat in (torch.full_like(student, constant), constant * student[:1].expand_as(student)):
        with_gradients(name, flat, teacher)
        _, gradients = with_gradients(name, flat, flat)
        assert all(gradient.abs().max() < 1e3 for gradient in gradients)
    with_gradients(name, student, torch.full_like(teacher, constant))


@pytest.mark.parametrize("name", WITHOUT_LENGTH)
def test_a_sample_of_zeros_has_gradient_zero(name):
    student, teacher = tensors(name, dtype=torch.float32)
    student[1] = 0.0
    _, (gradient, _) = with_gradients(name, student, teacher)
    if name not in ("relational", "similarity"):  # where 0 is a place like any other; where the other rows see it
        assert not gradient[1].any()
    assert gradient.abs().max() > 1e-6
    assert gradient.abs().max() < 1e3


def test_dist_of_probabilities_that_do_not_vary_is_1_with_gradient_0():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(7, 11, generator=generator)
    for _ in range(20):  # constants whose means over 7 samples have various roundings
        student = torch.randn(11, generator=generator).repeat(7, 1).requires_grad_()
        value = dist(student, teacher, beta=0.0, gamma=1.0)
        value.backward()
        assert value.item() == 1.0 and not student.grad.any()


def test_probabilistic_of_opposite_samples():
    """Their rounded cosine can be below -1, and the logarithm of what is then below 0 is no number."""
    generator = torch.Generator().manual_seed(0)
    for width in range(3, 300):
        direction = torch.randn(1, width, generator=generator)
        value = probabilistic(torch.cat([direction, -direction]), torch.eye(2))
        # Probabilities (1, 0) against (2/3, 1/3), and 1e-7 in the logarithms.
        expected = (2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3e-7)) / 2
        assert value.item() == pytest.approx(expected, rel=0.2)


def test_contrastive_at_a_low_temperature_does_not_overflow():
    # Products -200 of the positives and 200 of the negatives.
    value = contrastive(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-1.0], [1.0]]), rows=1, temperature=1 / 200)
    assert value.item() == pytest.approx(200 + 200, rel=1e-6)


@pytest.mark.parametrize("apart", [0.0, 1e-7])
def test_coincident_samples_have_a_bounded_gradient(apart):
    student, teacher = tensors("relational", dtype=torch.float32)
    student[1] = student[3] + apart
    _, (gradient, _) = with_gradients("relational", student, teacher)
    assert 1e-2 < gradient.abs().max() < 1e3
    _, (_, gradient) = with_gradients("relational", teacher, student)
    assert 1e-2 < gradient.abs().max() < 1e3


def test_coincident_samples_have_neither_angle_nor_direction():
    student = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    # Distances 0, 1, 1 of mean 2/3 against 1, 3, 2 of mean 2.
    pairs = ((0 - 1 / 2) ** 2 + (3 / 2 - 3 / 2) ** 2 + (3 / 2 - 2 / 2) ** 2) / 2
    assert relational(student, teacher, 1.0, 0.0).item() == pytest.approx(2 * pairs / 9, abs=1e-12)
    # Cosines 0, 0 and 1 against 1, -1 and 1, two orders each; and of a direction with itself 0 for 1, twice.
    assert relational(student, teacher, 0.0, 1.0).item() == pytest.approx((4 * 0.5 + 2 * 0.5) / 27, abs=1e-12)


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
def test_saturated_logits(name, scale):
    student, teacher = tensors(name, dtype=torch.float32)
    value, _ = with_gradients(name, scale * student, scale * teacher)
    assert value > 0
    with_gradients(name, student, scale * teacher)
    # All samples sure of the same class, on both sides and on one.
    sure = scale * F.one_hot(torch.full((5,), 2), 4).float()
    with_gradients(name, sure, teacher)
    with_gradients(name, sure, sure)
    with_gradients(name, -sure, sure)


def test_dkd_of_saturated_logits_keeps_its_value():
    """From probabilities in float32 the other classes would be 0 / 0."""
    student, teacher = tensors("dkd")
    student, teacher = 3000 * student, 3000 * teacher
    expected = dkd(student, teacher, TARGETS).item()
    assert dkd(student.float(), teacher.float(), TARGETS).item() == pytest.approx(expected, rel=1e-5)
    # Two samples with the same probabilities to any digit of float32, whose other classes differ.
    value = dkd(torch.tensor([[900.0, 0.0, 8.0]]), torch.tensor([[900.0, 8.0, 0.0]]), torch.tensor([0]))
    assert value.item() == pytest.approx(16 * 8.0 * 2.0 * math.tanh(1.0), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(name, dtype):
    student, teacher = tensors(name, dtype=dtype)
    expected = LOSSES[name](student.double(), teacher.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](student, teacher)
        wide = LOSSES[name](student, teacher.double())
    assert value.dtype == torch.float32 and wide.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=2e-5)
    assert wide.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_not_a_number_is_not_hidden(name):
    student, teacher = tensors(name)
    student[0].view(-1)[0] = float("nan")
    assert LOSSES[name](student, teacher).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_batches_that_differ_or_are_too_small(name):
    student, teacher = tensors(name)
    with pytest.raises(ValueError, match="batch has 5 samples, but the teacher's has 4"):
        LOSSES[name](student, teacher[:4])
    minimum = {"similarity": 2, "relational": 3, "probabilistic": 2, "contrastive": 2, "dist": 2}.get(name, 1)
    loss = partial(dkd, targets=TARGETS[:minimum]) if name == "dkd" else LOSSES[name]
    assert loss(student[:minimum], teacher[:minimum]).isfinite()
    with pytest.raises(ValueError, match=f"at least {minimum} samples in a batch, but got {minimum - 1}"):
        loss(student[: minimum - 1], teacher[: minimum - 1])


def test_shapes_that_do_not_fit():
    maps = torch.randn(4, 3, 2, 2)
    with pytest.raises(ValueError, match="3 channels, but the teacher's has 2"):
        hint(maps, maps[:, :2])
    for loss in (hint, attention):
        with pytest.raises(ValueError, match=r"4 dimensions .* teacher's is \(4, 3\)"):
            loss(maps, maps[:, :, 0, 0])
    with pytest.raises(ValueError, match="width 3, but the teacher's have 2"):
        contrastive(torch.randn(4, 3), torch.randn(4, 2), rows=10)
    logits = torch.randn(4, 3)
    for loss in (kd, partial(dkd, targets=torch.zeros(4, dtype=torch.long)), dist):
        for student, teacher in ((logits, logits[:, :2]), (logits[:, :1], logits[:, :1]), (logits[:, 0], logits[:, 0])):
            with pytest.raises(ValueError, match="same K of at least 2"):
                loss(student, teacher)
    with pytest.raises(ValueError, match=r"\(3,\), but there are 4 samples"):
        dkd(logits, logits, torch.zeros(3, dtype=torch.long))


def test_settings_out_of_range():
    logits = torch.randn(4, 3)
    for loss in (kd, partial(dkd, targets=torch.zeros(4, dtype=torch.long)), dist):
        with pytest.raises(ValueError, match="temperature is 0"):
            loss(logits, logits, temperature=0.0)
    for settings in ({"rows": 0}, {"rows": 10, "temperature": -1.0}):
        with pytest.raises(ValueError, match="must be above 0"):
            contrastive(logits, logits, **settings)


def test_unit():
    vectors = torch.tensor([[3e30, -4e30], [3e-38, 4e-38], [0.0, 0.0], [0.3, 0.4]])
    expected = torch.tensor([[0.6, -0.8], [0.6, 0.8], [0.0, 0.0], [0.6, 0.8]])
    torch.testing.assert_close(unit(vectors), expected)
    assert not unit(vectors, floor=0.6)[3].any()
