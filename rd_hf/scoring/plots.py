"""Figures of a run: loss and validation curves, CKA, confusion matrix, ROC. Written as PNG without a display.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; line styles and markers tell them apart again.
Class names are drawn as they are; `rd_hf.scoring.drawn_names` says what becomes of long ones and rare letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .classification import METRICS, Predictions
from .drawn_names import DrawnNames, drawn_names, lines_of, longest_line
from .segmentation import METRICS as MASK_METRICS

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
    "dist": "DIST, targets to student",
    "probe": "KL, probe to hybrid",
    "mutual": "KL, targets to hybrid",
    "cka_loss": "1 - CKA, sum of stages",
}
METRIC_TITLES = {metric.name: metric.title for metric in (*METRICS, *MASK_METRICS)}
LABELLED_CURVES = 8
NO_CURVE = "no curve, only positive or only negative images"
NO_LABEL = "no curve, no known label"
DOTS_PER_INCH = 150
# In inches: a cell of a confusion matrix, the side of the largest matrix, and the letters and lines of class names.
CELL, LARGEST_MATRIX, LETTER, LINE_HEIGHT = 0.7, 40.0, 0.085, 0.17
LETTER_POINTS = 10


def plot_curves(history: list[dict], path: str | Path) -> None:
    """Loss terms and validation metrics over the optimiser's steps.

    :param history: rows of metrics.jsonl, each with "step"; training rows hold loss terms ("loss", "supervised",
        "hybrid", "kl", "cka_loss", ...), validation rows "validation/<metric>". Terms that no row has are left out.
    :param path: the PNG to write.
    """
    terms = {title: _series(history, key) for key, title in LOSS_TERMS.items()}
    terms["validation"] = _series(history, "validation/loss")
    keys = sorted({key for row in history for key in row if key.startswith("validation/") and key != "validation/loss"})
    names = [key.removeprefix("validation/") for key in keys]
    metrics = {METRIC_TITLES.get(name, name): _series(history, f"validation/{name}") for name in names}
    with new_figure(path, 2) as (_, (left, right)):
        _lines(left, terms, "no loss recorded")
        left.set(title="Loss and its terms", xlabel="optimiser step", ylabel="loss")
        _lines(right, metrics, "no validation recorded")
        right.set(title="Validation", xlabel="optimiser step", ylabel="value")


def plot_cka(history: list[dict], path: str | Path) -> None:
    """Similarity of reprogrammed teacher features and student features over the steps, one line per stage.

    :param history: rows of metrics.jsonl; rows with "cka/1", "cka/2", ... hold the CKA value of those stages.
    :param path: the PNG to write.
    """
    stages = {key.removeprefix("cka/") for row in history for key in row if key.startswith("cka/")}
    ordered = sorted(stages, key=lambda stage: (not stage.isdigit(), int(stage) if stage.isdigit() else 0, stage))
    several = len(ordered) > 1
    names = {stage: f"stage {stage}" if several else "last stage" for stage in ordered}
    lowest = min((value for stage in ordered for value in _series(history, f"cka/{stage}")[1]), default=0.0)
    with new_figure(path, 1) as (_, (axes,)):
        _lines(axes, {name: _series(history, f"cka/{stage}") for stage, name in names.items()}, "no CKA recorded")
        axes.set(title="Reprogrammed teacher features against student features", xlabel="optimiser step", ylabel="CKA")
        axes.set_ylim(min(lowest, 0.0) - 0.02, 1.02)


def plot_stages(history: list[dict], path: str | Path) -> None:
    """Which stages were on over the steps, and what the sampler that chose them expected of each, where there is one.

    :param history: rows of metrics.jsonl; "stages/1", "stages/2", ... hold the share of the steps since the row before
        in which those stages were on, "rewards/1", ... the expected rewards.
    :param path: the PNG to write.
    """
    rows = sorted((row for row in history if "stages/1" in row), key=lambda row: row["step"])
    names = sorted({int(key.removeprefix("stages/")) for row in rows for key in row if key.startswith("stages/")})
    shares = np.array([[row[f"stages/{name}"] for row in rows] for name in names]).reshape(len(names), len(rows))
    rewards = {f"stage {name}": _series(history, f"rewards/{name}") for name in names}
    has_rewards = any(steps for steps, _ in rewards.values())
    with new_figure(path, 2 if has_rewards else 1) as (figure, (left, *right)):
        if rows:
            edges = np.arange(len(names) + 1) + 0.5
            mesh = left.pcolormesh([0, *(row["step"] for row in rows)], edges, shares, cmap="Blues", vmin=0, vmax=1)
            figure.colorbar(mesh, ax=left, label="share of the steps", shrink=0.8)
            left.set_yticks(names)
        left.set(title="Stages that were on", xlabel="optimiser step", ylabel="stage")
        for axes in right:
            _lines(axes, rewards, "no reward recorded")
            axes.set(title="Expected decrement of the loss", xlabel="optimiser step", ylabel="root mean squares")


def plot_confusion_matrix(matrix: Sequence, label_names: Sequence[str], path: str | Path) -> None:
    """Counts of decisions per true class on the test split, shaded by their share of the row.

    :param matrix: (K, K), rows being the truth; or (K, 2, 2), one per label, for several labels per image.
    :param label_names: K names.
    :param path: the PNG to write.
    """
    counts, names = np.asarray(matrix), drawn_names(label_names)
    if counts.ndim == 2:
        _plot_matrix(counts, names, path)
    else:
        _plot_matrices(counts, names, path)


def _plot_matrix(counts: np.ndarray, names: DrawnNames, path: str | Path) -> None:
    """One matrix of all classes, whose cells and letters shrink where there are very many."""
    cell = min(CELL, LARGEST_MATRIX / len(counts))
    room = max(0.0, LETTER * longest_line(names.texts) - 1.0)  # beyond that for short names
    side = max(4.5, cell * len(counts) + 2.5) + room
    with new_figure(path, 1, side + 1, side, names=names) as (figure, (axes,)):
        _matrix(axes, counts, names.texts, cell / CELL)
        axes.set_title("Confusion matrix: images of the test split")
        figure.colorbar(axes.images[0], ax=axes, label="share of the true class", shrink=0.8)


def _plot_matrices(counts: np.ndarray, names: DrawnNames, path: str | Path) -> None:
    """A matrix of each label, which is absent or present."""
    columns = min(4, len(counts))
    rows = -(-len(counts) // columns)
    several = lines_of(names.texts) > 1
    width = max(2.6, LETTER * longest_line(names.texts) + 0.6 * several)
    height = 2.6 + LINE_HEIGHT * lines_of(names.texts)
    with new_figure(path, columns, width * columns, height * rows + 0.7, rows, names) as (figure, grid):
        for axes, name, cell in zip(grid, names.texts, counts, strict=False):
            _matrix(axes, cell, ("absent", "present"))
            axes.set_title(name, fontsize="small" if several else None)
        for axes in grid[len(counts) :]:
            axes.set_visible(False)
        figure.suptitle("Confusion matrices: images of the test split,\nshaded by share of the row")


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
    names = drawn_names(label_names)
    shown = [1] if binary else list(range(len(label_names)))
    named, areas, undrawn = len(shown) <= LABELLED_CURVES, [], 0
    beside = named and lines_of(names.texts) > 1  # where the legend hides no curve
    with new_figure(path, 1, 6.5 + 3.2 * beside, 5.5, names=names) as (_, (axes,)):
        for position, k in enumerate(shown):
            known, name = checked.known[:, k], names.texts[k]
            truth = checked.truth[known, k]
            if truth.all() or not truth.any():
                undrawn += 1
                if named:
                    axes.plot([], [], " ", label=f"{name}: {NO_CURVE if known.any() else NO_LABEL}")
                continue
            scores = checked.probabilities[known, k]
            false_positives, true_positives, _ = roc_curve(truth, scores, drop_intermediate=False)
            areas.append(auc(false_positives, true_positives))
            style = _style(position) if named else {"color": "#999999", "linewidth": 0.8}
            if binary and beside:
                name += f"\nagainst\n{names.texts[0]}"
            label = f"{name} (AUROC {areas[-1]:.3f})" if named else None
            axes.plot(false_positives, true_positives, label=label, **style)
        if undrawn and not named:
            axes.plot([], [], " ", label=f"{undrawn} classes: {NO_CURVE}")
        if areas and not named:
            mean = f"{len(areas)} classes (AUROC {np.mean(areas):.3f})"
            axes.plot([], [], color="#999999", linewidth=0.8, label=mean)
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (1, 3)), label="chance (AUROC 0.500)")
        against = f"{names.texts[1]} against {names.texts[0]}" if binary else "each class against the rest"
        axes.set(
            title="ROC on the test split" + ("" if binary and beside else f": {against}"),
            xlabel="1 - specificity (false positive rate)",
            ylabel="sensitivity (true positive rate)",
        )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if beside else {"loc": "lower right"}
        _legend(axes, **place)


@contextmanager
def new_figure(
    path: str | Path,
    columns: int,
    width: float | None = None,
    height: float = 4.5,
    rows: int = 1,
    names: DrawnNames | None = None,
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure on the Agg canvas, apart from pyplot's state, and its axes row by row; it is saved after the context.

    No text in it is read as a formula.

    :param path: the PNG to write.
    :param names: of classes, for their fonts and their note.
    """
    from matplotlib import rc_context, rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families = rcParams["font.family"] if names is None else names.families
    with rc_context({"text.parse_math": False, "text.usetex": False, "font.family": families}):
        figure = Figure(figsize=(width or 6.5 * columns, height), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.spines[["top", "right"]].set_visible(False)
        yield figure, list(grid.flat)
        if names is not None and names.note:
            figure.supxlabel(names.note, fontsize="small", color="#666666")
        figure.savefig(path, dpi=DOTS_PER_INCH)


def _legend(axes: Axes, **place: object) -> None:
    """A legend of every labelled line: by itself it leaves out labels that begin with an underscore."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_child")]  # their own number
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, fontsize="small", **place)


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
        _legend(axes)
    else:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", va="center", color="#666666")


def _style(position: int) -> dict:
    return {
        "color": COLOURS[position % len(COLOURS)],
        "linestyle": STYLES[position % len(STYLES)],
        "linewidth": 1.5,
    }


def _matrix(axes: Axes, counts: np.ndarray, names: Sequence[str], scale: float = 1.0) -> None:
    """Counts as cells; a class without images has a blank row.

    :param scale: of the letters; below 1 empty cells are left blank too.
    """
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    ticks = range(len(names))
    if lines_of(names) > 1 or scale < 1:
        turned = {"rotation": 90, "ha": "center"}
    elif max(map(len, names)) > 8 or len(names) > 6:
        turned = {"rotation": 45, "ha": "right"}
    else:
        turned = {"rotation": 0, "ha": "center"}
    size = LETTER_POINTS * scale * (0.8 if lines_of(names) > 1 else 1)
    axes.set_xticks(ticks, names, fontsize=size, **turned)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true")
    for row, column in zip(*np.nonzero(counts >= (0 if scale == 1 else 1)), strict=True):
        colour = "white" if share[row, column] > 0.55 else "black"
        text = f"{counts[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=LETTER_POINTS * scale)
