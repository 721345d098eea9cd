"""Pictures of masks: over their image, and truth beside prediction.

The first seven class colours are Okabe and Ito's, which colour-blind readers can tell apart. The same class number has
the same colour in every picture and palette.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from .drawn_names import LINE, drawn_names, longest_line
from .plots import LARGEST_MATRIX, LETTER, LINE_HEIGHT, new_figure
from .segmentation import IGNORED_LABEL

if TYPE_CHECKING:
    from matplotlib.artist import Artist

HUES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
GREY = (128, 128, 128)  # of pixels without a label
OPACITY, OPACITY_WITHOUT_LABEL = 0.4, 0.8
HEADS = ("image", "truth", "prediction")
PANEL = 3.0  # inches
LONGEST_SIDE = 1000  # pixels of a drawn image


class MaskExample(NamedTuple):
    """A row of `draw_masks`.

    :ivar image: (H, W, 3) uint8.
    :ivar truth: (H, W) class numbers, or IGNORED_LABEL.
    :ivar prediction: (H, W) class numbers.
    :ivar title: what is written beside it.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    title: str


def class_colors(classes: int) -> list[tuple[int, int, int]]:
    """A colour (red, green, blue) per class, all different; black for class 0, the background.

    :param classes: at most 255.
    """
    colours = [(0, 0, 0)]
    for number in range(classes - 1):
        hue, turn = np.array(HUES[number % len(HUES)], dtype=float), number // len(HUES)
        # after each turn lighter or darker, by amounts that the golden ratio spreads
        amount = 0.15 + 0.65 * ((turn + 1) // 2 * 0.618034 % 1) if turn else 0.0
        end = 255.0 if turn % 2 else 0.0
        colours.append(tuple(int(value) for value in np.rint(hue + amount * (end - hue))))
    return colours


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with its mask over it: classes tinted and outlined, the background clear, grey where no label is.

    :param image: (H, W, 3) uint8.
    :param mask: (H, W) class numbers, or IGNORED_LABEL.
    :return: (H, W, 3) uint8.
    :raises ValueError: if they differ in size.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"the image has shape {image.shape} and its mask {mask.shape}; expected (H, W, 3) and (H, W)")
    return outlined(tinted(image, mask), mask)


def tinted(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the classes of its mask tinted, grey where no label is."""
    shown = mask != 0
    picture = image.copy()
    opacity = np.where(mask[shown] == IGNORED_LABEL, OPACITY_WITHOUT_LABEL, OPACITY)[:, None]
    blended = image[shown] * (1 - opacity) + _palette()[mask[shown]] * opacity
    picture[shown] = np.rint(blended).astype(np.uint8)
    return picture


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the outlines of the classes of its mask."""
    picture = image.copy()
    outline = (mask != 0) & differs_from_a_neighbour(mask) & (mask != IGNORED_LABEL)
    picture[outline] = _palette()[mask[outline]]
    return picture


def _palette() -> np.ndarray:
    """(256, 3) uint8: the colour of each class number, and of no label."""
    return np.array([*class_colors(IGNORED_LABEL), GREY], dtype=np.uint8)


def draw_masks(rows: Sequence[MaskExample], names: Sequence[str], path: str | Path) -> None:
    """A row per example: the image, the truth over it, and the prediction over it.

    :param rows: a few, of any sizes.
    :param names: of the K classes; those that are drawn are in the legend.
    :param path: the PNG to write.
    """
    present = {int(number) for row in rows for mask in row[1:3] for number in np.unique(mask)} - {0}
    pictures = []
    for row in rows:
        image, truth, prediction = (shrunk(part) for part in row[:3])
        pictures.append([image, overlay(image, truth), overlay(image, prediction)])
    ratio = max(min(row.truth.shape[0] / row.truth.shape[1], 1.6) for row in rows)
    draw_grid(pictures, [row.title for row in rows], HEADS, ratio, legend_of(present, names), names, path)


def legend_of(present: set[int], names: Sequence[str]) -> list[Artist]:
    """A patch with its name for each class number that is drawn."""
    from matplotlib.patches import Patch

    colours = [*class_colors(IGNORED_LABEL), GREY]
    texts = [*drawn_names(names).texts, *[""] * (IGNORED_LABEL - len(names)), "no label"]
    return [Patch(color=np.array(colours[number]) / 255, label=texts[number]) for number in sorted(present)]


def draw_grid(
    pictures: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    heads: Sequence[str],
    ratio: float,
    handles: list[Artist],
    names: Sequence[str],
    path: str | Path,
) -> None:
    """Pictures in rows and columns, with a legend beside them.

    :param pictures: row by row, each (rows, columns, 3) uint8.
    :param titles: of the rows.
    :param heads: of the columns.
    :param ratio: height of a row by the width of a column.
    :param handles: of the legend.
    :param names: of the K classes.
    :param path: the PNG to write.
    """
    beside = LETTER * longest_line([handle.get_label() for handle in handles] or [""]) + 0.7
    height = min(PANEL * ratio * len(pictures) + 0.6, LARGEST_MATRIX)
    height = max(height, LINE_HEIGHT * sum(handle.get_label().count("\n") + 1.3 for handle in handles))
    width = len(heads) * PANEL + beside
    with new_figure(path, len(heads), width, height, len(pictures), drawn_names(names)) as (figure, grid):
        for number, (row, title) in enumerate(zip(pictures, titles, strict=True)):
            for head, axes, picture in zip(heads, grid[len(heads) * number :], row, strict=False):
                axes.imshow(picture)
                axes.set(xticks=[], yticks=[], title=head if number == 0 else "")
                axes.spines[:].set_visible(False)
            lines = [part for line in title.splitlines() for part in textwrap.wrap(line, LINE)]
            grid[len(heads) * number].set_ylabel("\n".join(lines))
        if handles:
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")


def differs_from_a_neighbour(mask: np.ndarray) -> np.ndarray:
    """(H, W) whether a pixel is of another class than the one above, below, left or right."""
    differs = np.zeros(mask.shape, dtype=bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    differs[1:] |= down
    differs[:-1] |= down
    differs[:, 1:] |= right
    differs[:, :-1] |= right
    return differs


def shrunk(picture: np.ndarray, longest: int = LONGEST_SIDE) -> np.ndarray:
    """An image or a mask that is no larger than a figure shows; a mask by nearest neighbour.

    :param longest: pixels of its longer side.
    """
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if picture.ndim == 2 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(size, how))
