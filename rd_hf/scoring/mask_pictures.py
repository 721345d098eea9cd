"""Pictures of masks: over their image, and truth beside prediction.

The first seven class colours are Okabe and Ito's, which colour-blind readers can tell apart. The same class number has
the same colour in every picture and palette.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .drawn_names import LINE, drawn_names, longest_line
from .plots import LARGEST_MATRIX, LETTER, LINE_HEIGHT, new_figure
from .segmentation import IGNORED_LABEL

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
    palette = np.array([*class_colors(IGNORED_LABEL), GREY], dtype=np.uint8)
    tint = palette[mask]
    shown = mask != 0
    picture = image.copy()
    opacity = np.where(mask[shown] == IGNORED_LABEL, OPACITY_WITHOUT_LABEL, OPACITY)[:, None]
    blended = image[shown] * (1 - opacity) + tint[shown] * opacity
    picture[shown] = np.rint(blended).astype(np.uint8)
    outline = shown & _differs_from_a_neighbour(mask) & (mask != IGNORED_LABEL)
    picture[outline] = tint[outline]
    return picture


def draw_masks(rows: Sequence[MaskExample], names: Sequence[str], path: str | Path) -> None:
    """A row per example: the image, the truth over it, and the prediction over it.

    :param rows: a few, of any sizes.
    :param names: of the K classes; those that are drawn are in the legend.
    :param path: the PNG to write.
    """
    from matplotlib.patches import Patch

    drawn = drawn_names(names)
    present = sorted({int(number) for row in rows for mask in row[1:3] for number in np.unique(mask)} - {0})
    colours = [*class_colors(IGNORED_LABEL), GREY]
    texts = [*drawn.texts, *[""] * (IGNORED_LABEL - len(names)), "no label"]
    handles = [Patch(color=np.array(colours[number]) / 255, label=texts[number]) for number in present]
    ratio = max(min(row.truth.shape[0] / row.truth.shape[1], 1.6) for row in rows)
    beside = LETTER * longest_line([handle.get_label() for handle in handles] or [""]) + 0.7
    height = min(PANEL * ratio * len(rows) + 0.6, LARGEST_MATRIX)
    height = max(height, LINE_HEIGHT * sum(handle.get_label().count("\n") + 1.3 for handle in handles))
    with new_figure(path, 3, 3 * PANEL + beside, height, len(rows), drawn) as (figure, grid):
        for number, row in enumerate(rows):
            image, truth, prediction = (_shrunk(part) for part in row[:3])
            pictures = (image, overlay(image, truth), overlay(image, prediction))
            for head, axes, picture in zip(HEADS, grid[3 * number :], pictures, strict=False):
                axes.imshow(picture)
                axes.set(xticks=[], yticks=[], title=head if number == 0 else "")
                axes.spines[:].set_visible(False)
            lines = [part for line in row.title.splitlines() for part in textwrap.wrap(line, LINE)]
            grid[3 * number].set_ylabel("\n".join(lines))
        if handles:
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize="small")


def _differs_from_a_neighbour(mask: np.ndarray) -> np.ndarray:
    """(H, W) whether a pixel is of another class than the one above, below, left or right."""
    differs = np.zeros(mask.shape, dtype=bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    differs[1:] |= down
    differs[:-1] |= down
    differs[:, 1:] |= right
    differs[:, :-1] |= right
    return differs


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """An image or a mask that is no larger than a figure shows; a mask by nearest neighbour."""
    height, width = picture.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if picture.ndim == 2 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(size, how))
