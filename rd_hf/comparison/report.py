"""What a comparison leaves beside its runs: results.csv, tables in Markdown, plots. All are made from the runs."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from .._version import __version__
from ..scoring.classification import METRIC_NAMES
from .cell import PREDICTIONS_FILE, result_of
from .costs import measure_costs
from .figures import plot_costs, plot_frontier, plot_scores
from .plan import Cell, Plan
from .tables import cost_table, difference_table, overview_table, score_table

logger = logging.getLogger(__name__)

METRICS = ("auroc", *(name for name in METRIC_NAMES if name != "auroc"))


class Run:
    """A finished cell.

    :ivar row: its line of results.csv.
    """

    def __init__(self, cell: Cell, root: Path):
        self.cell, self.folder = cell, root / cell.path
        result = result_of(root, cell)
        self.settings, self.label_names = result["settings"], result["label_names"]
        model = self._teacher() if cell.entry.method.role == "teacher" else self._student()
        self.cost_key = f"{model}, {len(self.label_names)} labels"
        self.row: dict[str, Any] = {
            "data": cell.data,
            "teacher": cell.teacher or "",
            "method": cell.entry.name,
            "unlabelled": cell.unlabelled,
            "shots": cell.shots or "all",
            "seed": cell.seed,
            **{f"test_{name}": result["test"][name] for name in METRICS},
            **{f"validation_{name}": result["validation"][name] for name in METRICS},
            "learning_rate": self.settings["learning_rate"],
            "weight": self.settings["comparison_weight"],
            **{n: result.get(n, "") for n in ("steps", "best_step", "teacher_C", "seconds", "training_memory_mib")},
            "trained_parameters": result["trained_parameters"],
            "deployed_parameters": result["deployed_parameters"],
            "rd_hf_version": result["rd_hf_version"],
        }

    def _teacher(self) -> str:
        return " ".join(["teacher", *(str(self.settings[name]) for name in ("teacher", "teacher_revision"))])

    def _student(self) -> str:
        size = self.settings["student_image_size"]
        return f"student {json.dumps(self.settings['student'], sort_keys=True)}" + (f" at {size} px" if size else "")

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, K) and class numbers (N,) of the test split."""
        tensors = load_file(self.folder / PREDICTIONS_FILE)
        return tensors["test/probabilities"], tensors["test/labels"]


def write_report(plan: Plan, cells: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """Write results.csv, results.md and the plots from finished cells.

    :return: the rows of results.csv.
    """
    runs = [Run(cell, root) for cell in cells]
    if not runs:
        logger.warning("No run of %s is finished: there is nothing to put into a table.", root)
        return []
    rows = [run.row for run in runs]
    with (root / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    costs = measure_costs(plan, runs, root)
    missing = len(plan.cells()) - len(runs)
    parts = [
        f"Made by `rd-hf compare` {__version__} from {len(runs)} runs"
        + (f"; {missing} more are not done." if missing else ".")
    ]
    if len({run.cell.data for run in runs}) > 1:
        parts += _overviews(plan, runs)
    for title, own in _tables(plan, runs):
        name = title.replace(" ", "_").replace(",", "")
        differences = difference_table(own, plan.comparison.reference)
        parts += [f"## {title}", score_table(own, "test"), differences, score_table(own, "validation")]
        if len({run.row["shots"] for run in own}) > 1:
            plot_scores(own, title, root / f"scores_{name}.png")
            parts.append(f"![scores against labels a class](scores_{name}.png)")
        if len({(run.row["deployed_parameters"], round(costs[run.cost_key].gflop, 3)) for run in own}) > 1:
            plot_frontier(own, costs, title, root / f"frontier_{name}.png")
            parts.append(f"![scores against parameters and latency](frontier_{name}.png)")
    parts += ["## Cost", cost_table(runs, costs), "![training time](costs.png)"]
    plot_costs(runs, root / "costs.png")
    (root / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    logger.info("Tables: %s", root / "results.md")
    return rows


def _overviews(plan: Plan, runs: Sequence[Run]) -> Iterable[str]:
    """A table of all data sets side by side, for each teacher, with and without unlabelled rows."""
    groups: dict[str, list[Run]] = {}
    for title, own in _tables(plan, runs):
        groups.setdefault(title.removeprefix(f"{own[0].cell.data}, "), []).extend(own)
    for title, own in groups.items():
        yield f"## All data sets, {title}\n\n{overview_table(own)}"


def _tables(plan: Plan, runs: Sequence[Run]) -> Iterable[tuple[str, list[Run]]]:
    """Runs that stand in one table: of a data set and teacher, with or without unlabelled rows.

    A method that cannot use unlabelled rows, and one that finds none, stands in both.
    """
    for data in plan.comparison.data:
        for teacher in plan.comparison.teachers or [None]:
            of_both = [run for run in runs if run.cell.data == data and run.cell.teacher in (teacher, None)]
            for unlabelled in plan.comparison.use_unlabeled:
                own = [
                    run
                    for run in of_both
                    if run.cell.unlabelled == unlabelled
                    or not run.cell.entry.method.uses_unlabelled
                    or not plan.has_unlabelled(data, run.cell.shots)
                ]
                if own:
                    of_teacher = f", teacher {teacher}" if teacher else ""
                    kind = "with the unlabelled rest" if unlabelled else "labelled images only"
                    yield f"{data}{of_teacher}, {kind}", own
