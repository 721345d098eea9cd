"""Figures of the scores of masks: Dice of each class with its interval, and of each image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawn_names import DrawnNames, drawn_names, lines_of, longest_line
from .plots import COLOURS, LARGEST_MATRIX, LETTER, LINE_HEIGHT, new_figure
from .segmentation import IMAGES, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_HEIGHT = 0.42  # inches per class
SPREAD = 0.3  # of the dots of a class, up and down


def plot_dice(scores: dict[str, Any], label_names: Sequence[str], path: str | Path) -> None:
    """Mean Dice of each foreground class, with its interval where there is one.

    :param scores: what `rd_hf.scoring.mask_metrics.segmentation_scores` gives.
    :param label_names: of the K classes, the background first.
    :param path: the PNG to write.
    """
    values = scores["dice_per_class"]
    intervals = scores["intervals"].get("dice_per_class", {})
    names = _foreground(label_names)
    with new_figure(path, 1, *_size(names), names=names) as (_, (axes,)):
        for row, (name, value) in enumerate(values.items()):
            if value is None:
                axes.text(0.01, row, "undefined", va="center", color="#666666")
                continue
            axes.barh(row, value, height=0.6, color=COLOURS[5])
            if intervals.get(name) is not None:
                axes.plot(intervals[name], [row, row], color="#000000", linewidth=1.5, marker="|")
        if scores["dice"] is not None and len(values) > 1:
            axes.axvline(scores["dice"], color=COLOURS[1], linestyle="--", label=f"mean {scores['dice']:.3f}")
            axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1))
        title = "Dice on the test split" + (", with 95 % intervals" if any(intervals.values()) else "")
        _finish(axes, names, title)


def plot_dice_of_images(
    dice: np.ndarray, label_names: Sequence[str], path: str | Path, measured: Measured = IMAGES
) -> None:
    """Dice of each image or volume as a dot, by class, with quartiles as a box and the median as a line.

    :param dice: (N, K - 1) of the foreground classes, NaN where an image has no value.
    :param label_names: of the K classes, the background first.
    :param path: the PNG to write.
    :param measured: whether they are images or volumes, in words.
    """
    names = _foreground(label_names)
    with new_figure(path, 1, *_size(names), names=names) as (_, (axes,)):
        for row, column in enumerate(dice.T):
            own = column[~np.isnan(column)]
            if not len(own):
                text = f"no {measured.image} has this class, in truth or prediction"
                axes.text(0.01, row, text, va="center", color="#666666")
                continue
            # multiples of the golden ratio spread evenly, the same at every drawing
            offsets = (np.arange(len(own)) * 0.618034 % 1 - 0.5) * 2 * SPREAD
            axes.scatter(own, row + offsets, s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
            low, median, high = np.percentile(own, (25, 50, 75))
            axes.barh(row, high - low, left=low, height=0.75, fill=False, edgecolor="#000000")
            axes.plot([median, median], [row - 0.37, row + 0.37], color=COLOURS[1], linewidth=2)
        _finish(axes, names, f"Dice of each test {measured.image}, with quartiles")


def _foreground(label_names: Sequence[str]) -> DrawnNames:
    """The names without the background's; a class keeps its number."""
    names = drawn_names(label_names)
    return names._replace(texts=names.texts[1:])


def _size(names: DrawnNames) -> tuple[float, float]:
    """Width and height in inches of a figure with a row per class."""
    row = max(ROW_HEIGHT, LINE_HEIGHT * lines_of(names.texts) + 0.08)
    width = 6.5 + max(0.0, LETTER * longest_line(names.texts) - 1.0)
    return width, min(1.5 + row * len(names.texts), LARGEST_MATRIX)


def _finish(axes: Axes, names: DrawnNames, title: str) -> None:
    ticks = range(len(names.texts))
    axes.set_yticks(ticks, names.texts, fontsize="small" if lines_of(names.texts) > 1 else None)
    axes.set(title=title, xlabel="Dice", xlim=(-0.01, 1.01), ylim=(len(names.texts) - 0.5, -0.5))
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
