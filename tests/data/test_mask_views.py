"""Views of masks: the geometry of the image's view, to the pixel."""

from __future__ import annotations

import math

import pytest
import torch

from rd_hf.data.augmentation import (
    AugmentationError,
    AugmentationParameters,
    ViewParameters,
    apply,
    apply_to_masks,
    draw,
)

IGNORED = 255
GREY = 60  # per class
NO_TONE = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0}
STILL = {"rotation_degrees": 0.0, "scale": 0.0, "shift": 0.0, "horizontal_flip": False, **NO_TONE}
OPERATIONS = {
    "rotation": {"rotation_degrees": 40.0},
    "scale": {"scale": 0.5},
    "shift": {"shift": 0.3},
    "horizontal flip": {"horizontal_flip": True},
    "vertical flip": {"vertical_flip": True},
    "all": {"rotation_degrees": 30.0, "scale": 0.3, "shift": 0.2, "horizontal_flip": True, "vertical_flip": True},
}


@pytest.fixture
def masks() -> torch.Tensor:
    """Eight masks of four classes in large blobs, some at the frame."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (8, 1, 4, 6), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size=(32, 48), mode="nearest")[:, 0].to(torch.uint8)


def as_images(masks: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, h, w) whose grey value tells the class."""
    return (masks * GREY)[:, None].expand(-1, 3, -1, -1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_image_and_mask_stay_aligned_to_the_pixel(masks: torch.Tensor, operation: str) -> None:
    """The class that the mask gives a pixel is the nearest of those that the image's interpolation mixes there."""
    view = draw(AugmentationParameters(**(STILL | OPERATIONS[operation])), 3, range(8), 1)
    shares = apply(view, torch.nn.functional.one_hot(masks.long(), 4).movedim(-1, 1) * 255) / 255
    mask = apply_to_masks(view, masks)
    labelled = mask != IGNORED
    assert labelled.float().mean() > 0.5
    own = shares.gather(1, mask.long().clamp(max=3)[:, None])[:, 0]
    # of the four pixels that bilinear interpolation mixes, the nearest has at least a quarter of the weight
    assert own[labelled].min() > 0.25 - 1e-3
    assert own[labelled].mean() > 0.9


def test_a_shift_by_whole_pixels_is_exact(masks: torch.Tensor) -> None:
    """And what comes in from outside is ignored."""
    still, eight = torch.zeros(8), torch.ones(8)
    view = ViewParameters(
        rotation=still, zoom=eight, shift_x=still + 6 / 48, shift_y=still - 4 / 32, flip_x=eight, flip_y=eight,
        brightness=still, contrast=eight, gamma=eight, identity=torch.zeros(8, dtype=torch.bool),
    )  # fmt: skip
    moved = apply_to_masks(view, masks)
    assert torch.equal(moved[:, :-4, 6:], masks[:, 4:, :-6])
    assert (moved[:, -4:] == IGNORED).all() and (moved[:, :, :6] == IGNORED).all()


def test_flips_lose_no_pixel(masks: torch.Tensor) -> None:
    """A mirrored mask is the mask, mirrored, with nothing ignored."""
    view = draw(AugmentationParameters(**(STILL | {"horizontal_flip": True})), 0, range(8), 0)
    shown = apply_to_masks(view, masks)
    assert 0 < (view.flip_x < 0).sum() < 8
    for one, mask, flip in zip(shown, masks, view.flip_x, strict=True):
        assert torch.equal(one, mask.flip(-1) if flip < 0 else mask)


def test_a_turn_by_a_right_angle(masks: torch.Tensor) -> None:
    """Square masks, turned clockwise as seen, equal torch's own rotation."""
    square, still, one = masks[:, :, :32], torch.zeros(8), torch.ones(8)
    view = ViewParameters(
        rotation=still + math.pi / 2, zoom=one, shift_x=still, shift_y=still, flip_x=one, flip_y=one, brightness=still,
        contrast=one, gamma=one, identity=torch.zeros(8, dtype=torch.bool),
    )  # fmt: skip
    image = apply(view, as_images(square))[:, 0] / GREY
    mask = apply_to_masks(view, square)
    inside = mask != IGNORED
    assert inside.float().mean() > 0.9
    assert torch.equal(mask[inside].float(), image.round()[inside])


def test_ignored_pixels_and_types_are_kept(masks: torch.Tensor) -> None:
    """255 is a value as any other; the identity changes nothing; integers of any width come back as they were."""
    masks[:, 10:20, 10:20] = IGNORED
    view = draw(AugmentationParameters(**(STILL | {"horizontal_flip": True})), 0, range(8), [-1] * 4 + [0] * 4)
    for dtype in (torch.uint8, torch.int64):
        shown = apply_to_masks(view, masks.to(dtype))
        assert shown.dtype == dtype
        assert torch.equal(shown[:4], masks[:4].to(dtype))
        assert (shown == IGNORED).sum() == (masks == IGNORED).sum()


def test_as_many_views_as_masks(masks: torch.Tensor) -> None:
    """The number of both is compared."""
    with pytest.raises(AugmentationError, match="3 views for 8 masks"):
        apply_to_masks(draw(AugmentationParameters(), 0, range(3), 0), masks)
