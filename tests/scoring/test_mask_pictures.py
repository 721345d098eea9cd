"""Pictures and figures of masks show what they were given."""

from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from rd_hf.scoring import mask_pictures, mask_plots
from rd_hf.scoring.mask_pictures import HUES, MaskExample, class_colors, draw_masks, overlay
from rd_hf.scoring.mask_plots import plot_dice, plot_dice_of_images

NAMES = ["background", "a very long name of a lesion " * 3, "$b_1$", "吃"]


@pytest.fixture
def empty_plots():
    """Plots are drawn here."""


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test draws, with their axes."""
    kept = []
    original = mask_plots.new_figure

    @contextmanager
    def keeping(*arguments, **keywords):
        with original(*arguments, **keywords) as found:
            kept.append(found)
            yield found

    for module in (mask_plots, mask_pictures):
        monkeypatch.setattr(module, "new_figure", keeping)
    return kept


def test_every_class_has_its_own_colour_whatever_the_number_of_classes():
    colours = class_colors(255)
    assert len(set(colours)) == 255 and mask_pictures.GREY not in colours
    assert colours[: len(HUES) + 1] == [(0, 0, 0), *HUES] and class_colors(5) == colours[:5]
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_an_overlay_tints_classes_and_leaves_the_background():
    image = np.full((8, 9, 3), 100, np.uint8)
    mask = np.zeros((8, 9), np.uint8)
    mask[2:7, 2:7] = 2
    mask[0] = 255
    picture = overlay(image, mask)
    assert (picture[mask == 0] == 100).all() and (image == 100).all()
    assert (picture[2, 2:7] == HUES[1]).all()  # the outline
    assert picture[4, 4].tolist() == [round(0.6 * 100 + 0.4 * value) for value in HUES[1]]
    grey = picture[0, 0]
    assert grey[0] == grey[1] == grey[2] != 100
    with pytest.raises(ValueError, match=r"shape \(8, 9, 3\) and its mask \(9, 8\)"):
        overlay(image, mask.T)


def test_examples_are_drawn_with_the_classes_that_they_show(tmp_path, drawn):
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    truth, prediction = np.zeros((2, 40, 30), np.uint8)
    truth[5:20, 5:20], prediction[8:20, 8:20], truth[:2] = 1, 3, 255
    large = MaskExample(
        np.zeros((1200, 1500, 3), np.uint8), np.zeros((1200, 1500)), np.ones((1200, 1500)), "test\nworst"
    )
    draw_masks([MaskExample(image, truth, prediction, "best: Dice 0.70"), large], NAMES, tmp_path / "x.png")
    ((figure, axes),) = drawn
    assert len(axes) == 6 and [one.get_ylabel() for one in axes[::3]] == ["best: Dice 0.70", "test\nworst"]
    assert np.array_equal(axes[0].images[0].get_array(), image)
    assert np.array_equal(axes[2].images[0].get_array(), overlay(image, prediction))
    assert axes[4].images[0].get_array().shape == (800, 1000, 3)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[0].startswith("a very long name") and labels[1] in ("class 3", "吃") and labels[2] == "no label"
    with Image.open(tmp_path / "x.png") as written:
        assert written.width > 1300


def test_examples_without_any_class_need_no_legend(tmp_path, drawn):
    nothing = np.zeros((4, 4), np.uint8)
    draw_masks([MaskExample(np.zeros((4, 4, 3), np.uint8), nothing, nothing, "")], NAMES, tmp_path / "x.png")
    assert drawn[0][0].legends == [] and (tmp_path / "x.png").is_file()


def test_bars_are_the_dice_of_each_class(tmp_path, drawn):
    values = dict(zip(NAMES[1:], [0.5, None, 0.9], strict=True))
    intervals = {"dice_per_class": dict(zip(NAMES[1:], [[0.4, 0.6], None, None], strict=True))}
    plot_dice({"dice": 0.7, "dice_per_class": values, "intervals": intervals}, NAMES, tmp_path / "x.png")
    ((_, (axes,)),) = drawn
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.9]
    assert list(axes.get_lines()[0].get_xdata()) == [0.4, 0.6]
    assert [text.get_text() for text in axes.texts] == ["undefined"]
    assert axes.get_yticklabels()[1].get_text() == "$b_1$"
    plot_dice({"dice": None, "dice_per_class": dict.fromkeys(NAMES[1:]), "intervals": {}}, NAMES, tmp_path / "y.png")
    assert (tmp_path / "y.png").is_file()


def test_dots_are_the_dice_of_each_image(tmp_path, drawn):
    dice = np.array([[0.1, np.nan, 0.3], [0.5, np.nan, np.nan], [0.6, np.nan, 0.9]])
    plot_dice_of_images(dice, NAMES, tmp_path / "x.png")
    ((_, (axes,)),) = drawn
    assert [dots.get_offsets()[:, 0].tolist() for dots in axes.collections] == [[0.1, 0.5, 0.6], [0.3, 0.9]]
    assert "no image has this class" in axes.texts[0].get_text()
