"""Views depend on (seed, sample, view) and nothing else, and are the same at every size."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from rd_hf.data.augmentation import AugmentationError, AugmentationParameters, ViewParameters, apply, draw

STRONG = AugmentationParameters(25, 0.3, 0.15, True, True, 0.2, 0.3, 0.3)
STILL = AugmentationParameters(0, 0, 0, False, False, 0, 0, 0)
FIELDS = [field.name for field in fields(ViewParameters)]


def smooth(count: int, height: int = 128, width: int = 128, seed: int = 0) -> torch.Tensor:
    """Band-limited images, so that two sizes of one view can be compared."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 255
    return interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).byte()


def view_of(**changes: float) -> ViewParameters:
    """One view, all unchanged but what is named."""
    still = draw(STILL, 0, [0], 0)
    return replace(still, **{name: torch.tensor([float(value)]) for name, value in changes.items()})


def test_same_key_same_view_in_another_process(light_python, tmp_path):
    code = (
        "from rd_hf.data.augmentation import *; v = draw(AugmentationParameters(), 5, [3, 900000], [7, 0]);"
        "print(v.rotation.tolist(), v.gamma.tolist(), v.flip_x.tolist())"
    )
    other = light_python.run("-c", code, cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    view = draw(AugmentationParameters(), 5, [3, 900000], [7, 0])
    assert other.stdout.strip() == f"{view.rotation.tolist()} {view.gamma.tolist()} {view.flip_x.tolist()}"


def test_rows_do_not_depend_on_the_batch():
    samples, views = [4, 17, 2, 11], [0, 3, -1, 8]
    whole, images = draw(STRONG, 1, samples, views), smooth(4, 64, 64)
    shown = apply(whole, images)
    for row in (3, 0, 2, 1):
        np.random.rand(3), torch.rand(3)
        alone = draw(STRONG, 1, [samples[row]], [views[row]])
        for name in FIELDS:
            assert torch.equal(getattr(alone, name), getattr(whole, name)[row : row + 1]), name
        assert torch.equal(apply(alone, images[row : row + 1])[0], shown[row])


@pytest.mark.parametrize(("seed", "sample", "view"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2**40, 0)])
def test_another_key_gives_another_view(seed, sample, view):
    base, other = draw(STRONG, 0, [0], 0), draw(STRONG, seed, [sample], view)
    assert not torch.equal(base.rotation, other.rotation)


def test_seed_sample_and_view_do_not_stand_in_for_one_another():
    keys = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    drawn = {draw(STRONG, a, [b], c).rotation.item() for a, b, c in keys}
    assert len(drawn) == len(keys)


def test_neighbouring_views_and_samples_are_unrelated():
    """A counter that runs on from one key into the next would show as one field repeating another."""
    names = ["rotation", "zoom", "shift_x", "shift_y", "flip_x", "flip_y", "brightness", "contrast", "gamma"]
    for samples, views in ((range(2000), 0), ([0] * 2000, list(range(2000)))):
        view = draw(STRONG, 0, samples, views)
        table = torch.stack([getattr(view, name) for name in names]).numpy()
        correlation = np.corrcoef(table[:, :-1], table[:, 1:])
        assert abs(correlation - np.eye(18)).max() < 0.12


def test_draws_fill_their_ranges_evenly():
    view = draw(STRONG, 0, range(4000), 0)
    turn = math.radians(25)
    for values, low, high in [
        (view.rotation, -turn, turn),
        (view.zoom.log(), -math.log(1.3), math.log(1.3)),
        (view.shift_x, -0.15, 0.15),
        (view.shift_y, -0.15, 0.15),
        (view.brightness, -0.2, 0.2),
        (view.contrast.log(), -math.log(1.3), math.log(1.3)),
        (view.gamma.log(), -math.log(1.3), math.log(1.3)),
    ]:
        counts = torch.histc((values - low) / (high - low), 4, 0, 1)
        assert counts.sum() == 4000 and (counts - 1000).abs().max() < 150
    for flips in (view.flip_x, view.flip_y):
        assert abs((flips < 0).float().mean() - 0.5) < 0.04
    assert abs(np.corrcoef(view.flip_x, view.flip_y)[0, 1]) < 0.06


def test_strengths_of_zero_are_off_and_leave_the_others_alone():
    plain, view = (
        draw(STRONG, 0, range(200), 0),
        draw(replace(STRONG, scale=0, horizontal_flip=False), 0, range(200), 0),
    )
    assert (view.zoom == 1).all() and (view.flip_x == 1).all()
    assert torch.equal(view.rotation, plain.rotation) and torch.equal(view.flip_y, plain.flip_y)
    still = draw(STILL, 0, range(200), 3)
    shown = apply(still, smooth(200, 16, 16))
    torch.testing.assert_close(shown, smooth(200, 16, 16).float(), atol=0.01, rtol=0)


def test_defaults_do_not_flip_vertically():
    view = draw(AugmentationParameters(), 0, range(100), 0)
    assert (view.flip_y == 1).all() and (view.flip_x < 0).any()


@pytest.mark.parametrize("views", [None, -1, [None] * 3, [-1] * 3])
def test_evaluation_view_is_exactly_the_input(views):
    images = torch.randint(0, 256, (3, 3, 33, 20), dtype=torch.uint8)
    shown = apply(draw(STRONG, 0, [1, 2, 3], views), images)
    assert shown.dtype == torch.float32 and torch.equal(shown, images.float())


def test_evaluation_rows_in_a_mixed_batch_are_exact_and_the_others_are_not():
    images = torch.randint(0, 256, (3, 3, 33, 20), dtype=torch.uint8)
    shown = apply(draw(STRONG, 0, [1, 2, 3], [0, -1, 5]), images)
    assert torch.equal(shown[1], images[1].float())
    assert not torch.equal(shown[0], images[0].float()) and not torch.equal(shown[2], images[2].float())


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160)])
def test_teacher_and_student_see_the_same_view(height, width):
    large = smooth(6, height, width)
    small = avg_pool2d(large.float(), 2).round().byte()
    view = draw(STRONG, 0, range(6), 0)
    difference = (avg_pool2d(apply(view, large), 2) - apply(view, small)).abs()
    assert difference.mean() < 0.5 and difference.max() < 8
    other = (avg_pool2d(apply(draw(STRONG, 0, range(6), 1), large), 2) - apply(view, small)).abs()
    assert other.mean() > 10


def test_flip_shift_and_quarter_turn_go_where_they_say():
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    image[:, :, 10, 30] = 255  # above and right of the centre

    def lands(**changes):
        return divmod(apply(view_of(**changes), image)[0, 0].argmax().item(), 40)

    assert lands() == (10, 30)
    assert lands(flip_x=-1) == (10, 9)
    assert lands(flip_y=-1) == (29, 30)
    assert lands(shift_x=0.1) == (10, 34)
    assert lands(shift_y=-0.1) == (6, 30)
    assert lands(rotation=math.pi / 2) == (30, 29)
    assert lands(flip_x=-1, shift_x=0.1) == (10, 13)


def test_zoom_magnifies_about_the_centre():
    image = torch.zeros(1, 3, 41, 41, dtype=torch.uint8)
    image[:, :, 15:26, 15:26] = 255
    shown = apply(view_of(zoom=2), image)
    assert (shown[0, 0, 12:29, 12:29] > 250).all() and (shown[0, 0, :8] < 5).all()


def test_border_is_repeated():
    image = torch.full((1, 3, 20, 20), 90, dtype=torch.uint8)
    torch.testing.assert_close(apply(view_of(shift_x=0.3, rotation=0.4), image), image.float(), atol=1e-3, rtol=0)


def test_tone_is_one_curve_of_the_grey_value():
    greys = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    shown = apply(view_of(brightness=0.1, contrast=1.2, gamma=0.8), greys)
    value = np.clip(1.2 * (np.arange(256) / 255 - 0.5) + 0.5 + 0.1, 0, 1) ** 0.8 * 255
    np.testing.assert_allclose(shown[0, 0].flatten().numpy(), value, atol=0.02)
    assert shown.min() >= 0 and shown.max() <= 255


def test_from_arguments_takes_the_fields_of_the_same_names():
    from rd_hf.arguments.distillation import DistillationArguments

    plain = DistillationArguments(teacher="t", student="s", dataset="d", output_dir="o")
    assert AugmentationParameters.from_arguments(plain) == AugmentationParameters()
    strong = replace(plain, **vars(STRONG))
    assert AugmentationParameters.from_arguments(strong) == STRONG


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_strength_that_makes_no_sense_is_named(value):
    with pytest.raises(AugmentationError, match="contrast"):
        AugmentationParameters(contrast=value)


def test_mismatched_lengths_and_negative_keys_are_named():
    with pytest.raises(AugmentationError, match="got 2 views for 3 samples"):
        draw(STRONG, 0, [0, 1, 2], [0, 1])
    with pytest.raises(AugmentationError, match="sample -1"):
        draw(STRONG, 0, [-1], 0)
    with pytest.raises(AugmentationError, match="view -2"):
        draw(STRONG, 0, [1], -2)
    with pytest.raises(AugmentationError, match="got 1 views for 2 images"):
        apply(draw(STRONG, 0, [1], 0), smooth(2, 8, 8))
