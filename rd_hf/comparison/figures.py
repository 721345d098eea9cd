"""Plots of a comparison: scores against labels, the deployment frontier, training time."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..scoring.drawn_names import drawn_names
from ..scoring.plots import COLOURS, new_figure
from ..students.cost import Cost
from .tables import by_method, by_title, distinct_shots, has_seeds, method_title, metric_values

if TYPE_CHECKING:
    from .runs import Run

MARKERS = "osD^v<>PX*hpd"


def plot_scores(runs: Sequence[Run], title: str, path: Path) -> None:
    """Plot the mean test score against labels, one line per method; bars are standard deviations over seeds."""
    columns, groups = distinct_shots(runs), by_method(runs)
    apart = min(0.04, 0.6 / len(groups))  # so that the bars can be told apart
    beside = [[name for name, own in groups.items() if metric_values(own, s, "test")] for s in columns]
    names = drawn_names([method_title(own[0]) for own in groups.values()], "method")
    with new_figure(path, 1, 8.5, 5, names=names) as (_, (axes,)):
        lines = []
        for number, (name, own) in enumerate(groups.items()):
            points = [(i, metric_values(own, s, "test")) for i, s in enumerate(columns) if name in beside[i]]
            spread = [
                np.std(values, ddof=1) if len(values) > 1 else 0.0 for _, values in points
            ]  # NaN for undefined ones
            places = [i + apart * (beside[i].index(name) - (len(beside[i]) - 1) / 2) for i, _ in points]
            means = [statistics.mean(values) for _, values in points]
            style = {"linewidth": 2.2, "zorder": 3} if _is_ours(own) else {"linewidth": 1.0, "alpha": 0.75}
            lines.append(axes.errorbar(
                places, means, spread, marker=MARKERS[number % len(MARKERS)], markersize=5, capsize=2, elinewidth=1.0,
                linestyle="--" if own[0].cell.entry.method.role == "teacher" else "-", color=_colour(number), **style,
            ))  # fmt: skip
        axes.set_xticks(range(len(columns)), [str(shots) for shots in columns])
        axes.set_xlabel(runs[0].shots_title)
        spread_in_words = ", mean and standard deviation over seeds" * has_seeds(runs)
        axes.set_ylabel(f"test {runs[0].metric.title}{spread_in_words}")
        axes.set_title(title)
        axes.legend(lines, names.texts, bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)


def plot_frontier(runs: Sequence[Run], costs: dict[str, Cost], title: str, path: Path) -> None:
    """Mean test score against deployed parameters and against latency, both logarithmic.

    The number of labels is the one that most methods were run with; the smallest if several tie.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    shots = max(
        distinct_shots(runs), key=lambda shots: len(by_method(run for run in runs if run.row["shots"] == shots))
    )
    groups = by_method(run for run in runs if run.row["shots"] == shots)
    names = drawn_names([method_title(own[0]) for own in groups.values()], "method")
    with new_figure(path, 2, 12, names=names) as (figure, panels):
        for number, own in enumerate(groups.values()):
            cost, score = costs[own[0].cost_key], statistics.mean(metric_values(own, shots, "test"))
            places = (own[0].row["deployed_parameters"], cost.milliseconds)
            for axes, place in zip(panels, places, strict=True):
                if place is not None:
                    axes.plot(
                        place, score, MARKERS[number % len(MARKERS)], color=_colour(number), label=names.texts[number],
                        markersize=9 if _is_ours(own) else 6,
                    )  # fmt: skip
        for axes, label in zip(panels, ("deployed parameters", f"CPU latency per {runs[0].shown}, ms"), strict=True):
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high < 8 * low else (1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(label)
            axes.set_ylabel(f"test {runs[0].metric.title}" + ", mean over seeds" * has_seeds(runs))
        figure.suptitle(f"{title}: {shots} {runs[0].shots_title}")
        points = panels[-1].get_lines()
        labels = [point.get_label() for point in points]
        panels[-1].legend(points, labels, bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)


def plot_costs(runs: Sequence[Run], path: Path) -> None:
    """Mean training time of each method, with and without unlabelled rows."""
    groups = by_title(runs)
    names = drawn_names(list(groups), "method")
    seconds = [statistics.mean(run.row["seconds"] for run in own) for own in groups.values()]
    with new_figure(path, 1, 8, 1.5 + 0.28 * len(groups), names=names) as (_, (axes,)):
        bars = axes.barh(range(len(groups)), seconds, color="#4477aa")
        written = [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in seconds]
        axes.bar_label(bars, written, padding=3, fontsize=8)
        axes.set_yticks(range(len(groups)), names.texts, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("mean time per run in seconds (on this machine; other runs may have been active)")


def _is_ours(runs: Sequence[Run]) -> bool:
    return runs[0].cell.entry.method.role == "reprogramming"


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
