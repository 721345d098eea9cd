"""The losses of methods for masks against explicit loops, cases worked by hand, invariances and edges."""

import math

import numpy as np
import pytest
import torch

from rd_hf.comparison.losses.maps import channel_wise, pixel_relations

LOSSES = {"channel_wise": channel_wise, "pixel_relations": pixel_relations}


def maps(name: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random maps of three images on one grid, of two widths where the loss allows it."""
    generator = torch.Generator().manual_seed(0)
    widths = (4, 4) if name == "channel_wise" else (4, 5)
    return tuple(torch.randn(3, width, 2, 3, generator=generator, dtype=torch.float64).to(dtype) for width in widths)


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def divergence(teacher: list[float], student: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def channel_wise_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Each channel of each image at temperature 4."""
    total = 0.0
    for image in range(3):
        for channel in range(4):
            sides = [softmax([value / 4 for value in side[image, channel].ravel()]) for side in (teacher, student)]
            total += divergence(*sides)
    return 16 * total / (3 * 4)


def pixel_relations_by_loops(student: np.ndarray, teacher: np.ndarray) -> float:
    """Each position of each image against the positions of each image, at temperature 0.1."""

    def similarities(side: np.ndarray, image: int, place: int, other: int) -> list[float]:
        one = side[image].reshape(side.shape[1], -1)[:, place]
        others = side[other].reshape(side.shape[1], -1).T
        return [float(one @ two / np.sqrt((one @ one) * (two @ two))) / 0.1 for two in others]

    total = 0.0
    for image in range(3):
        for other in range(3):
            for place in range(6):
                sides = [softmax(similarities(side, image, place, other)) for side in (teacher, student)]
                total += divergence(*sides) / 6
    return total / 9


@pytest.mark.parametrize("name", LOSSES)
def test_explicit_formulas(name):
    student, teacher = maps(name)
    expected = globals()[f"{name}_by_loops"](student.numpy(), teacher.numpy())
    value = LOSSES[name](student, teacher)
    assert value.shape == () and value.item() == pytest.approx(expected, rel=1e-10) and expected > 1e-2


def test_channel_wise_by_hand():
    # Two positions: (3/4, 1/4) of the teacher, (1/2, 1/2) of the student.
    teacher = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2)
    expected = 0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2)
    assert channel_wise(torch.zeros(1, 1, 1, 2), teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert channel_wise(torch.zeros(1, 1, 1, 2), 2 * teacher, 2.0).item() == pytest.approx(4 * expected, abs=1e-6)


def test_pixel_relations_by_hand():
    # One image of two positions, orthogonal for the teacher and equal for the student; temperature 1.
    teacher, student = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 3, 1, 2)
    likely = math.e / (math.e + 1)
    expected = likely * math.log(2 * likely) + (1 - likely) * math.log(2 * (1 - likely))
    assert pixel_relations(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_zero_where_both_sides_are_equal_and_the_gradient_is_right(name):
    student, teacher = (side.requires_grad_() for side in maps(name))
    assert LOSSES[name](student, student.detach().clone()).item() == pytest.approx(0.0, abs=1e-12)
    assert torch.autograd.gradcheck(LOSSES[name], (student, teacher))


@pytest.mark.parametrize("name", LOSSES)
def test_the_smaller_grid_is_that_of_both(name):
    student, teacher = maps(name)
    finer = student.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert LOSSES[name](finer, teacher).item() == pytest.approx(LOSSES[name](student, teacher).item(), abs=1e-12)


def test_what_changes_nothing():
    student, teacher = maps("channel_wise")
    moved = channel_wise(student + torch.arange(12.0).view(3, 4, 1, 1), teacher - 7.0)
    assert moved.item() == pytest.approx(channel_wise(student, teacher).item(), abs=1e-10)
    student, teacher = maps("pixel_relations")
    longer = pixel_relations(student * torch.arange(1.0, 7.0).view(1, 1, 2, 3), 3e4 * teacher)
    assert longer.item() == pytest.approx(pixel_relations(student, teacher).item(), abs=1e-10)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
    turned = pixel_relations(torch.einsum("bchw,cd->bdhw", student, turn), teacher)
    assert turned.item() == pytest.approx(pixel_relations(student, teacher).item(), abs=1e-10)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("constant", [0.0, 0.3, -1e4])
def test_constant_maps_have_finite_values_and_gradients(name, constant):
    student, teacher = maps(name, torch.float32)
    for own, other in ((torch.full_like(student, constant), teacher), (student, torch.full_like(teacher, constant))):
        own, other = own.clone().requires_grad_(), other.clone().requires_grad_()
        value = LOSSES[name](own, other)
        value.backward()
        assert value.isfinite() and all(side.grad.isfinite().all() for side in (own, other))
        assert max(side.grad.abs().max() for side in (own, other)) < 1e3


def test_a_position_of_zeros_has_gradient_zero():
    student, teacher = maps("pixel_relations")
    student[1, :, 0, 2] = 0.0
    student.requires_grad_()
    pixel_relations(student, teacher).backward()
    assert not student.grad[1, :, 0, 2].any() and student.grad[1, :, 0, 1].abs().max() > 1e-4


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(name, dtype):
    student, teacher = maps(name, dtype)
    expected = LOSSES[name](student.double(), teacher.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name](student, teacher)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_what_does_not_fit_is_named(name):
    student, teacher = maps(name)
    loss = LOSSES[name]
    for own, other, words in (
        (student, teacher[:2], "batch has 3 samples, but the teacher's has 2"),
        (student[:0], teacher[:0], "at least 1 samples"),
        (student, teacher[:, 0], "maps must have 4 dimensions"),
    ):
        with pytest.raises(ValueError, match=words):
            loss(own, other)
    with pytest.raises(ValueError, match="temperature is 0"):
        loss(student, teacher, 0.0)
    with pytest.raises(ValueError, match="4 channels, but the teacher's has 3"):
        channel_wise(student, teacher[:, :3])
