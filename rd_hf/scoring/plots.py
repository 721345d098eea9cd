"""Figures of a run: loss and validation curves, CKA, confusion matrix, ROC. Written as PNG without a display.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; line styles and markers tell them apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .classification import METRICS, Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
MARKED_POINTS = 30
LOSS_TERMS = {
    "loss": "total",
    "supervised": "supervised (student)",
    "hybrid": "hybrid (reprogrammed teacher)",
    "kl": "KL, hybrid to student",
    "cka_loss": "1 - CKA, sum of stages",
}
METRIC_TITLES = {metric.name: metric.title for metric in METRICS}
LABELLED_CURVES = 8
DOTS_PER_INCH = 150


def plot_curves(history: list[dict], path: str | Path) -> None:
    """Loss terms and validation metrics over the optimiser's steps.

    :param history: rows of metrics.jsonl, each with "step"; training rows hold loss terms ("loss", "supervised",
        "hybrid", "kl", "cka_loss"), validation rows "validation/<metric>". Terms that no row has are left out.
    :param path: the PNG to write.
    """
    figure, (left, right) = new_figure(2)
    terms = {title: _series(history, key) for key, title in LOSS_TERMS.items()}
    terms["validation"] = _series(history, "validation/loss")
    _lines(left, terms, "no loss recorded")
    left.set(title="Loss and its terms", xlabel="optimiser step", ylabel="loss")
    keys = sorted({key for row in history for key in row if key.startswith("validation/") and key != "validation/loss"})
    names = [key.removeprefix("validation/") for key in keys]
    metrics = {METRIC_TITLES.get(name, name): _series(history, f"validation/{name}") for name in names}
    _lines(right, metrics, "no validation recorded")
    right.set(title="Validation", xlabel="optimiser step", ylabel="value")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def plot_cka(history: list[dict], path: str | Path) -> None:
    """Similarity of reprogrammed teacher features and student features over the steps, one line per stage.

    :param history: rows of metrics.jsonl; rows with "cka/1", "cka/2", ... hold the CKA value of those stages.
    :param path: the PNG to write.
    """
    figure, (axes,) = new_figure(1)
    stages = {key.removeprefix("cka/") for row in history for key in row if key.startswith("cka/")}
    ordered = sorted(stages, key=lambda stage: (not stage.isdigit(), int(stage) if stage.isdigit() else 0, stage))
    several = len(ordered) > 1
    names = {stage: f"stage {stage}" if several else "last stage" for stage in ordered}
    _lines(axes, {name: _series(history, f"cka/{stage}") for stage, name in names.items()}, "no CKA recorded")
    axes.set(title="Reprogrammed teacher features against student features", xlabel="optimiser step", ylabel="CKA")
    lowest = min((value for stage in ordered for value in _series(history, f"cka/{stage}")[1]), default=0.0)
    axes.set_ylim(min(lowest, 0.0) - 0.02, 1.02)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def plot_confusion_matrix(matrix: Sequence, label_names: Sequence[str], path: str | Path) -> None:
    """Counts of decisions per true class on the test split, shaded by their share of the row.

    :param matrix: (K, K), rows being the truth; or (K, 2, 2), one per label, for several labels per image.
    :param label_names: K names.
    :param path: the PNG to write.
    """
    counts = np.asarray(matrix)
    if counts.ndim == 2:
        side = max(4.5, 0.7 * len(label_names) + 2.5)
        figure, (axes,) = new_figure(1, side + 1, side)
        _matrix(axes, counts, label_names)
        axes.set_title("Confusion matrix: images of the test split")
        figure.colorbar(axes.images[0], ax=axes, label="share of the true class", shrink=0.8)
    else:
        columns = min(4, len(label_names))
        rows = -(-len(label_names) // columns)
        figure, grid = new_figure(columns, 2.6 * columns, 2.8 * rows + 0.5, rows)
        for axes, name, cell in zip(grid, label_names, counts, strict=False):
            _matrix(axes, cell, ("absent", "present"))
            axes.set_title(name)
        for axes in grid[len(label_names) :]:
            axes.set_visible(False)
        figure.suptitle("Confusion matrices: images of the test split, shaded by share of the row")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def plot_roc(
    probabilities: np.ndarray, labels: np.ndarray, label_names: Sequence[str], exclusive: bool, path: str | Path
) -> None:
    """ROC curves on the test split, each class (or label) against the rest; of two exclusive classes the second one's.

    :param probabilities: (N, K).
    :param labels: (N,) class numbers, or (N, K) of 0 and 1.
    :param label_names: K names.
    :param exclusive: whether each image has exactly one class.
    :param path: the PNG to write.
    :raises rd_hf.scoring.classification.MetricError: if the inputs do not fit together.
    """
    from sklearn.metrics import auc, roc_curve

    checked = Predictions.check(probabilities, labels, label_names, exclusive)
    binary = len(label_names) == 2 and exclusive
    figure, (axes,) = new_figure(1, 6.5, 5.5)
    shown = [1] if binary else list(range(len(label_names)))
    named, areas = len(shown) <= LABELLED_CURVES, []
    for position, k in enumerate(shown):
        known = checked.known[:, k]
        truth = checked.truth[known, k]
        if truth.all() or not truth.any():
            axes.plot([], [], " ", label=f"{label_names[k]}: no curve, only positive or only negative images")
            continue
        false_positives, true_positives, _ = roc_curve(truth, checked.probabilities[known, k], drop_intermediate=False)
        areas.append(auc(false_positives, true_positives))
        style = _style(position) if named else {"color": "#999999", "linewidth": 0.8}
        label = f"{label_names[k]} (AUROC {areas[-1]:.3f})" if named else None
        axes.plot(false_positives, true_positives, label=label, **style)
    if areas and not named:
        axes.plot([], [], color="#999999", linewidth=0.8, label=f"{len(areas)} classes (AUROC {np.mean(areas):.3f})")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (1, 3)), label="chance (AUROC 0.500)")
    against = f"{label_names[1]} against {label_names[0]}" if binary else "each class against the rest"
    axes.set(
        title=f"ROC on the test split: {against}",
        xlabel="1 - specificity (false positive rate)",
        ylabel="sensitivity (true positive rate)",
    )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.legend(loc="lower right", frameon=False, fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def new_figure(
    columns: int, width: float | None = None, height: float = 4.5, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure on the Agg canvas, apart from pyplot's global state, and its axes row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width or 6.5 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def _series(history: list[dict], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that have `key`, in the order of their steps."""
    points = sorted((row["step"], row[key]) for row in history if row.get(key) is not None)
    return [step for step, _ in points], [value for _, value in points]


def _lines(axes: Axes, series: dict[str, tuple[list[float], list[float]]], empty: str) -> None:
    """One line per series; points are marked while they are few, so that a single one shows."""
    from matplotlib.ticker import MaxNLocator

    drawn = {name: points for name, points in series.items() if points[0]}
    for position, (name, (steps, values)) in enumerate(drawn.items()):
        marker = MARKERS[position % len(MARKERS)] if len(steps) <= MARKED_POINTS else None
        axes.plot(steps, values, label=name, marker=marker, markersize=4, **_style(position))
    known = {step for steps, _ in drawn.values() for step in steps}
    if len(known) == 1:
        axes.set_xlim(min(known) - 1, max(known) + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    if drawn:
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color="#666666")


def _style(position: int) -> dict:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": STYLES[position % len(STYLES)],
        "linewidth": 1.5,
    }


def _matrix(axes: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    """Counts as cells; a class without images has a blank row."""
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    ticks = range(len(names))
    long = max(map(len, names)) > 8 or len(names) > 6
    axes.set_xticks(ticks, names, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    for row, column in np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour)
