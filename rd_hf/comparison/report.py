"""Writes a comparison's results.csv, Markdown tables and plots from its runs."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from .costs import measure_costs
from .difference_tables import difference_table, overall_table
from .figures import plot_costs, plot_frontier, plot_scores
from .plan import Cell, Plan
from .runs import Run
from .tables import cost_table, overview_table, score_table, teacher_table
from .tuning import TUNING_FILE

logger = logging.getLogger(__name__)


def write_report(plan: Plan, cells: Sequence[Cell], root: Path) -> list[dict[str, Any]]:
    """Write results.csv, results.md and the plots from finished cells.

    :return: the rows of results.csv.
    """
    runs = [Run(cell, root) for cell in cells]
    if not runs:
        logger.warning("No run in %s is finished, so there is no table to make.", root)
        return []
    rows = [run.row for run in runs]
    with (root / "results.csv").open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(name for row in rows for name in row))  # classes and masks have other scores
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    costs = measure_costs(plan, runs, root)
    missing = len(plan.cells()) - len(runs)
    parts = [
        f"Made by `rd-hf compare` {__version__} from {len(runs)} runs"
        + (f"; {missing} more are not finished." if missing else ".")
    ]
    if plan.tuned:
        parts.append(
            f"Each method has the learning rate and weight that its tuning chose on validation: {TUNING_FILE}."
        )
    if len({run.cell.data for run in runs}) > 1:
        parts += _overviews(plan, runs)
    for title, own in _tables(plan, runs):
        name = title.replace(" ", "_").replace(",", "")
        differences = difference_table(own, plan.comparison.reference)
        parts += [
            f"## {title}",
            _passed_over(own),
            score_table(own, "test"),
            differences,
            teacher_table(own),
            score_table(own, "validation"),
        ]
        if len({run.row["shots"] for run in own}) > 1:
            plot_scores(own, title, root / f"scores_{name}.png")
            parts.append(f"![scores against {own[0].shots_title}](scores_{name}.png)")
        if len({(run.row["deployed_parameters"], round(costs[run.cost_key].gflop, 3)) for run in own}) > 1:
            plot_frontier(own, costs, title, root / f"frontier_{name}.png")
            parts.append(f"![scores against parameters and latency](frontier_{name}.png)")
    parts += ["## Cost", cost_table(runs, costs), "![training time](costs.png)"]
    plot_costs(runs, root / "costs.png")
    (root / "results.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    logger.info("Tables: %s", root / "results.md")
    return rows


def _overviews(plan: Plan, runs: Sequence[Run]) -> Iterable[str]:
    """A table of all data sets of one task side by side, for each teacher, with and without unlabelled rows."""
    groups: dict[tuple[str, bool], list[Run]] = {}
    for title, own in _tables(plan, runs):
        groups.setdefault((title.removeprefix(f"{own[0].cell.data}, "), own[0].has_masks), []).extend(own)
    several = len({has_masks for _, has_masks in groups}) > 1
    for (title, has_masks), own in groups.items():
        of_task = f" of {'masks' if has_masks else 'classes'}" if several else ""
        yield f"## All data sets{of_task}, {title}\n\n{overview_table(own)}"
        yield overall_table(own, plan.comparison.reference)


def _passed_over(runs: Sequence[Run]) -> str | None:
    """A sentence on the rows without a label that the column of all labels does not use, where others use some."""
    left_out = max(run.passed_over for run in runs)
    if not left_out or not any(run.cell.unlabelled for run in runs):
        return None
    return f"The runs with all labels leave out the {left_out} {runs[0].case}s of train that have no label."


def _tables(plan: Plan, runs: Sequence[Run]) -> Iterable[tuple[str, list[Run]]]:
    """The runs of each table: one data set and teacher, with or without unlabelled rows.

    A method that cannot use unlabelled rows, or finds none, is in both tables.
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
                uses_some = any(run.cell.unlabelled for run in own)
                # without any unlabelled rows, both tables would be the same
                if own and (uses_some or not unlabelled or False not in plan.comparison.use_unlabeled):
                    of_teacher = f", teacher {teacher}" if teacher else ""
                    kind = "with the unlabelled rest" if uses_some else f"labelled {own[0].case}s only"
                    yield f"{data}{of_teacher}, {kind}", own
