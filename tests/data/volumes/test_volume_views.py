"""Views of volumes: crops, geometry and tone, and masks that stay on their images."""

import dataclasses

import numpy as np
import pytest
import torch

from rd_hf.data.augmentation import EVALUATION_VIEW, AugmentationError, AugmentationParameters
from rd_hf.data.volumes.views import STILL, VolumeView, VolumeViews, _rotation, foreground_positions
from rd_hf.scoring.segmentation import IGNORED_LABEL

NOTHING = np.empty(0, dtype=np.int64)
CUBE = (1.0, 1.0, 1.0)
STRONG = AugmentationParameters(rotation_degrees=40, scale=0.4, shift=0.1, vertical_flip=True)
LOWEST = torch.zeros(1)


def volume(shape=(30, 26, 22), seed=0):
    return np.random.default_rng(seed).random((1, *shape)).astype(np.float32)


def looked(views, values, row=0, view=0, spacing=CUBE, foreground=NOTHING):
    drawn = views.draw(row, view)
    return views.window(drawn, values.shape[1:], spacing, foreground).image(values, LOWEST)


def blob(shape=(40, 36, 32)):
    """Two classes of several smooth parts, unlike each of its mirror images."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    classes = np.zeros(shape, dtype=np.uint8)
    classes[(x + 0.2) ** 2 + (y / 0.8) ** 2 + (z / 0.6) ** 2 < 0.35] = 1
    classes[(x - 0.5) ** 2 + (y - 0.5) ** 2 + (z + 0.5) ** 2 < 0.1] = 2
    return classes


def turned(x=0.0, y=0.0, z=0.0, zoom=1.0, signs=(1, 1, 1)):
    degrees = np.pi / 180
    still = VolumeViews(STILL, 0).draw(0, 0)
    turn = _rotation(x * degrees, y * degrees, z * degrees)
    return dataclasses.replace(still, turn=turn, zoom=zoom, signs=np.array(signs))


def test_a_view_is_a_function_of_seed_row_and_view():
    values, views = volume(), VolumeViews(STRONG, 5, (16, 12, 20))
    first = looked(views, values, 3, 7)
    assert torch.equal(first, looked(VolumeViews(STRONG, 5, (16, 12, 20)), values, 3, 7))
    for other in (looked(views, values, 4, 7), looked(views, values, 3, 8)):
        assert not torch.equal(first, other)
    assert not torch.equal(first, looked(VolumeViews(STRONG, 6, (16, 12, 20)), values, 3, 7))
    with pytest.raises(AugmentationError, match="at least 0"):
        views.draw(-2, 0)


def test_the_evaluation_view_is_the_middle_as_it_is():
    values = volume()
    shown = looked(VolumeViews(STRONG, 5, (16, 12, 22)), values, view=EVALUATION_VIEW)
    assert np.array_equal(shown, values[:, 7:23, 7:19])
    assert np.array_equal(looked(VolumeViews(STRONG, 5), values, view=EVALUATION_VIEW), values)
    drawn = VolumeViews(STRONG, 5).draw(3, EVALUATION_VIEW)
    assert torch.equal(drawn.toned(shown), shown)


def test_without_strengths_crops_are_parts_of_the_volume_and_reach_its_ends():
    values, views = volume((9, 8, 10)), VolumeViews(None, 0, (4, 8, 5))
    values[0] = np.arange(720).reshape(9, 8, 10)  # by which a voxel knows its place
    starts = set()
    for view in range(400):
        crop = looked(views, values, 1, view).numpy()
        x, y, z = np.unravel_index(int(crop[0, 0, 0, 0]), (9, 8, 10))
        assert np.array_equal(crop, values[:, x : x + 4, y : y + 8, z : z + 5])
        starts.add((x, y, z))
    assert starts == {(x, 0, z) for x in range(6) for z in range(6)}


@pytest.mark.parametrize(
    ("strengths", "axes"), [({"horizontal_flip": True}, [1]), ({"vertical_flip": True}, [2, 3])]
)  # fmt: skip
def test_flips_mirror_their_axes_in_half_of_the_views(strengths, axes):
    values, views = volume(), VolumeViews(dataclasses.replace(STILL, **strengths), 1)
    seen = []
    for view in range(100):
        shown, signs = looked(views, values, view=view).numpy(), views.draw(0, view).signs
        assert np.array_equal(shown, np.flip(values, [axis + 1 for axis in np.flatnonzero(signs < 0)]))
        seen.append(signs < 0)
    for axis in (1, 2, 3):
        share = np.mean(seen, axis=0)[axis - 1]
        assert 0.35 < share < 0.65 if axis in axes else share == 0


@pytest.mark.parametrize("crop_size", [None, (24, 20, 28), (48, 48, 40)])
def test_image_and_mask_stay_on_one_another(crop_size):
    """The image is the mask; where they could differ is the edge, at which the one is linear and the other nearest."""
    classes = blob()
    views, positions = VolumeViews(STRONG, 2, crop_size), foreground_positions(classes)
    image = (classes == 1)[None].astype(np.float16)
    for view in range(25):
        window = views.window(views.draw(0, view), classes.shape, (0.8, 1.0, 2.0), positions)
        shown, mask = window.image(image, torch.tensor([-5.0]))[0], window.mask(classes)
        beyond = mask == IGNORED_LABEL
        assert torch.equal(shown == -5, beyond)
        one, other = (shown > 0.5)[~beyond], (mask == 1)[~beyond]
        if other.sum() > 200:
            assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.96
            places = [field.nonzero().float().mean(dim=0) for field in (~beyond & (shown > 0.5), mask == 1)]
            assert torch.allclose(*places, atol=0.2)


def test_mirrored_crops_have_their_masks_to_the_voxel():
    classes = blob()
    parameters = dataclasses.replace(STILL, horizontal_flip=True, vertical_flip=True)
    views, positions = VolumeViews(parameters, 2, (24, 48, 28)), foreground_positions(classes)
    for view in range(25):
        window = views.window(views.draw(0, view), classes.shape, CUBE, positions)
        shown, mask = window.image(classes[None].astype(np.float16), torch.tensor([255.0]))[0], window.mask(classes)
        assert torch.equal(shown, mask.float())


def test_turns_are_true_to_shape_in_millimetres():
    spacing, shape = np.array([1.0, 1.0, 3.0]), (40, 40, 14)
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    distance = sum((axis * side) ** 2 for axis, side in zip(axes, spacing, strict=True)) ** 0.5
    ball = (np.clip(12 - distance, -1, 1)[None] / 2 + 0.5).astype(np.float32)
    views = VolumeViews(None, 0)
    for view in (turned(z=30), turned(x=50), turned(y=-35, z=20), turned(x=90)):
        shown = views.window(view, shape, spacing, NOTHING).image(ball, LOWEST)
        assert (shown - torch.from_numpy(ball)).abs().mean() < 0.01
    larger = views.window(turned(zoom=1.25), shape, spacing, NOTHING).image(ball, LOWEST)
    assert float(larger.sum()) / ball.sum() == pytest.approx(1.25**3, rel=0.05)


def test_a_quarter_turn_about_z_moves_x_to_y():
    values = np.zeros((1, 21, 21, 5), dtype=np.float32)
    values[0, 16, 10, 2] = 1
    shown = VolumeViews(None, 0).window(turned(z=90), (21, 21, 5), CUBE, NOTHING).image(values, LOWEST)
    places = shown[0].nonzero()[shown[0][shown[0] > 0] > 0.5]
    assert places.tolist() in ([[10, 4, 2]], [[10, 16, 2]])


def test_strengths_bound_what_is_drawn():
    parameters = AugmentationParameters()
    drawn = [VolumeViews(parameters, 4).draw(0, view) for view in range(300)]
    about_z = np.rad2deg([np.arctan2(view.turn[1, 0], view.turn[0, 0]) for view in drawn])
    tilts = np.rad2deg([np.arccos(view.turn[2, 2]) for view in drawn])  # of the axis from feet to head
    assert 8 < np.abs(about_z).max() <= 10 and 3 < tilts.max() <= 10 / 3 * 2**0.5
    zooms = [view.zoom for view in drawn]
    assert 1 / 1.1 <= min(zooms) < 0.93 and 1.08 < max(zooms) <= 1.1
    crop = torch.rand(1, 5, 5, 5)
    toned = torch.stack([view.toned(crop) for view in drawn])
    assert toned.min() >= 0 and toned.max() <= 1 and (toned - crop).abs().max() > 0.1


def test_a_third_of_the_crops_is_centred_on_foreground_of_every_class_alike():
    classes = np.zeros((60, 60, 60), dtype=np.uint8)
    classes[5:25, 5:25, 5:25] = 1
    classes[40, 41, 42] = 2
    classes[:3] = IGNORED_LABEL
    views, positions = VolumeViews(None, 0, (15, 15, 15)), foreground_positions(classes)
    centres = []
    for view in range(900):
        window = views.window(views.draw(3, view), classes.shape, CUBE, positions)
        centres.append(classes[tuple(window.centre.astype(int))])
    counts = np.bincount(centres, minlength=3)
    assert 110 < counts[2] < 190  # 150 expected; other crops' centres hardly ever meet a single voxel
    assert 110 < counts[1] < 230  # and those crops that happen to be centred there
    bare = [views.window(views.draw(3, view), classes.shape, CUBE, NOTHING).centre for view in range(900)]
    assert sum(classes[tuple(centre.astype(int))] == 2 for centre in bare) <= 3


def test_foreground_at_the_edge_is_in_the_crop_and_the_crop_in_the_volume(monkeypatch):
    monkeypatch.setattr("rd_hf.data.volumes.views.FOREGROUND_SHARE", 1)
    classes = np.zeros((20, 20, 20), dtype=np.uint8)
    classes[0, 19, 10] = 1
    views, positions = VolumeViews(None, 0, (8, 8, 8)), foreground_positions(classes)
    for view in range(20):
        mask = views.window(views.draw(0, view), classes.shape, CUBE, positions).mask(classes)
        assert (mask == 1).sum() == 1 and (mask == IGNORED_LABEL).sum() == 0


def test_a_volume_smaller_than_the_crop_is_padded_at_its_end():
    values, classes = volume((6, 9, 5)), np.ones((6, 9, 5), dtype=np.uint8)
    views = VolumeViews(None, 0, (8, 8, 8))
    for view in (EVALUATION_VIEW, 0, 1):
        window = views.window(views.draw(0, view), (6, 9, 5), CUBE, foreground_positions(classes))
        shown, mask = window.image(values, torch.tensor([-3.0])), window.mask(classes)
        assert shown.shape == (1, 8, 8, 8) and mask.shape == (8, 8, 8)
        assert (mask[:6, :, :5] == 1).all() and (mask == IGNORED_LABEL).sum() == 8**3 - 6 * 8 * 5
        assert torch.equal(shown[0] == -3, mask == IGNORED_LABEL)


class Watched:
    """An array that knows how much of it has been read."""

    def __init__(self, values):
        self.values, self.read = values, 0

    def __getitem__(self, key):
        part = self.values[key]
        self.read += part.size
        return part


def test_only_the_part_around_the_crop_is_read():
    watched, views = Watched(np.zeros((1, 100, 100, 100), dtype=np.float16)), VolumeViews(STRONG, 0, (20, 20, 20))
    for view in range(20):
        looked(views, watched.values, view=view)
        window = views.window(views.draw(0, view), (100, 100, 100), CUBE, NOTHING)
        watched.read = 0
        window.image(watched, LOWEST)
        half = np.abs(window.step).sum(axis=1) * 19 / 2
        assert 0 < watched.read <= np.prod(2 * half + 5)


def test_an_empty_volume_has_no_foreground():
    assert len(foreground_positions(np.zeros((4, 4, 4), dtype=np.uint8))) == 0
    assert len(foreground_positions(np.full((4, 4, 4), IGNORED_LABEL, dtype=np.uint8))) == 0


def test_a_whole_volume_is_shifted_and_a_crop_lies_anywhere():
    parameters = dataclasses.replace(STILL, shift=0.2)
    assert np.abs(VolumeViews(parameters, 0).draw(0, 0).shift).max() > 0
    views, values = VolumeViews(parameters, 0, (8, 8, 8)), volume()
    window = views.window(views.draw(0, 0), values.shape[1:], CUBE, NOTHING)
    assert np.array_equal(window.centre * 2 % 1, np.zeros(3))
    whole = VolumeViews(parameters, 0)
    assert not np.allclose(whole.window(whole.draw(0, 0), (30, 26, 22), CUBE, NOTHING).centre, (14.5, 12.5, 10.5))


def test_view_without_tone_is_left_alone():
    crop = torch.rand(1, 3, 3, 3)
    view: VolumeView = VolumeViews(None, 0).draw(0, 0)
    assert view.toned(crop) is crop
