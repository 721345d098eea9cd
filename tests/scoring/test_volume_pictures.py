"""Slices of volumes lie as radiologists see them, true to shape, through the largest region."""

import weakref

import numpy as np
import pytest
from PIL import Image

from rd_hf.scoring import volume_pictures
from rd_hf.scoring.mask_pictures import HUES
from rd_hf.scoring.volume_pictures import (
    FILLED,
    GAP,
    LETTERS,
    OUTLINED,
    VolumeExample,
    draw_volumes,
    lettered,
    mask_slice,
    overlay_of_volume,
    region_centre,
    slice_of,
)

RIGHT, FRONT, HEAD = 1, 2, 3  # marks of three directions


@pytest.fixture
def empty_plots():
    """Plots are drawn here."""


def marked() -> np.ndarray:
    """A volume (X, Y, Z) towards right, front and head with a mark at the end of each axis through its middle."""
    volume = np.zeros((9, 11, 7), np.uint8)
    volume[8, 5, 3], volume[4, 10, 3], volume[4, 5, 6] = RIGHT, FRONT, HEAD
    return volume


@pytest.mark.parametrize(
    "plane, shape, places",
    [
        ("axial", (11, 9), {RIGHT: (5, 0), FRONT: (0, 4)}),
        ("coronal", (7, 9), {RIGHT: (3, 0), HEAD: (0, 4)}),
        ("sagittal", (7, 11), {FRONT: (3, 0), HEAD: (0, 5)}),
    ],
)
def test_right_is_left_and_front_is_up_or_left(plane, shape, places):
    shown = slice_of(marked(), plane, (4, 5, 3))
    assert shown.shape == shape
    assert {int(shown[place]): place for place in zip(*np.nonzero(shown), strict=True)} == places
    left, _, top, _ = LETTERS[plane]
    marks = {"R": RIGHT, "A": FRONT, "H": HEAD}
    assert places[marks[left]][1] == 0 and places[marks[top]][0] == 0


def test_a_letter_is_drawn_at_the_middle_of_each_edge(monkeypatch):
    picture = lettered(np.full((200, 300, 3), 90, np.uint8), "axial")
    rows, columns = np.nonzero((picture == 255).all(axis=2))
    for edge in (columns < 20, columns >= 280, rows < 20, rows >= 180):
        assert edge.any()
    middle = (abs(rows - 100) < 10) | (abs(columns - 150) < 10)
    assert middle.all() and not ((abs(rows - 100) < 70) & (abs(columns - 150) < 120)).any()
    monkeypatch.setitem(LETTERS, "axial", "LRAP")
    assert not np.array_equal(lettered(np.full((200, 300, 3), 90, np.uint8), "axial"), picture)


def test_pixels_are_square_whatever_the_spacing():
    mask = np.zeros((20, 30, 10), np.uint8)
    for plane, millimetres in (("axial", (60, 20)), ("coronal", (50, 20)), ("sagittal", (50, 60))):
        rows, columns = mask_slice(mask, plane, (1, 1, 1), (1.0, 2.0, 5.0)).shape
        assert rows / columns == pytest.approx(millimetres[0] / millimetres[1], rel=0.01)
        assert max(rows, columns) >= volume_pictures.SMALLEST_SIDE - 1


def test_the_largest_region_is_shown_and_never_a_gap_in_it():
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    mask[8:19, 8:19, 10:13] = 2
    mask[10:17, 10:17, 10:13] = 0  # a ring
    mask[:, 0] = 255
    place = region_centre(mask)
    assert mask[place] == 2
    assert region_centre(np.full((4, 6, 8), 255)) == (2, 3, 4)


def test_an_overlay_has_three_slices_side_by_side():
    mask = np.zeros((12, 8, 10), np.uint8)
    mask[3:6, 2:5, 4:7] = 1
    picture = overlay_of_volume(np.full(mask.shape, 0.5), mask, (1.0, 1.0, 1.0))
    pixels = volume_pictures.SMALLEST_SIDE / 12, volume_pictures.SMALLEST_SIDE / 10
    width = 2 * volume_pictures.SMALLEST_SIDE + round(8 * pixels[1]) + 2 * GAP
    assert picture.dtype == np.uint8 and picture.shape == (volume_pictures.SMALLEST_SIDE, width, 3)
    assert (picture == HUES[0]).all(axis=2).any() and (picture == 0).all(axis=2).any()


def test_examples_tint_the_prediction_and_outline_the_truth(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(volume_pictures, "draw_grid", lambda *arguments: drawn.append(arguments))
    truth, prediction = np.zeros((2, 16, 16, 8), np.uint8)
    truth[4:9, 4:9, 2:6], prediction[6:12, 6:12, 2:6] = 1, 2
    example = VolumeExample(np.zeros(truth.shape), truth, prediction, (1.0, 1.0, 2.0), "test, row 3")
    draw_volumes([example], ["background", "a", "b"], tmp_path / "x.png")
    ((pictures, titles, heads, _, handles, _, _),) = drawn
    assert (list(titles), heads) == (["test, row 3"], ["axial", "coronal", "sagittal"])
    assert [handle.get_label() for handle in handles] == ["a", "b", FILLED, OUTLINED]
    (axial, _, _) = pictures[0]
    tint = [round(0.4 * value) for value in HUES[1]]
    assert (axial == HUES[0]).all(axis=2).any() and (axial == tint).all(axis=2).any()
    assert not (axial == HUES[1]).all(axis=2).any()  # a prediction has no outline
    white, hue = ((axial == colour).all(axis=2) for colour in (255, HUES[0]))
    beside = np.zeros_like(hue)
    beside[1:] |= hue[:-1]
    beside[:-1] |= hue[1:]
    assert (beside & white).sum() > 50  # the outline of the truth has a white edge
    monkeypatch.undo()
    draw_volumes([example, example], ["background", "a", "b"], tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as written:
        assert written.width > 1300


def test_one_example_is_in_memory_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(volume_pictures, "draw_grid", lambda *arguments: None)
    made = []

    def example() -> VolumeExample:
        shown = np.zeros((4, 4, 4))
        made.append(weakref.ref(shown))
        return VolumeExample(shown, *np.zeros((2, 4, 4, 4), np.uint8), (1.0, 1.0, 1.0), "row")

    def examples():
        for _ in range(3):
            assert all(reference() is None for reference in made)
            yield example()

    draw_volumes(examples(), ["background", "a"], tmp_path / "x.png")
    assert len(made) == 3
