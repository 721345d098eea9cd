"""`rd_hf.compare`: tunes, runs what is not done, then writes tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..arguments import arguments_from
from ..run_folder import write_json
from .arguments import ComparisonArguments
from .cell import is_done
from .plan import Plan
from .report import write_report
from .tuning import TUNING_FILE, choose_settings, tuning_in_words
from .workers import ComparisonError, run_cells


def compare(data: dict | None = None, **arguments: Any) -> list[dict[str, Any]]:
    """Compare methods on data sets under one protocol; see `ComparisonArguments` for the arguments.

    :return: the rows of results.csv, one a run.
    :raises ArgumentError: for an unknown or contradictory argument.
    :raises ComparisonError: after all other runs and the report, when some have failed.
    """
    return run_comparison(Plan(arguments_from({"data": data} | arguments, ComparisonArguments)))


def run_comparison(plan: Plan) -> list[dict[str, Any]]:
    """Run what is not done of a plan, tuning first, and write its report; see `compare`."""
    root = Path(plan.comparison.output_dir)
    failed: list[str] = []
    if not plan.comparison.table_only:
        root.mkdir(parents=True, exist_ok=True)
        failed += run_cells(plan, plan.tuning_cells(), root, "tuning")
    plan.tuned = choose_settings(plan, root)
    cells = [plan.as_tuned(cell) for cell in plan.cells()]
    if not plan.comparison.table_only:
        if plan.tuning is not None:
            write_json(tuning_in_words(plan, root), root / TUNING_FILE)
        failed += run_cells(plan, cells, root, "comparing")
    rows = write_report(plan, [cell for cell in cells if is_done(root, cell)], root)
    if failed:
        raise ComparisonError(f"{len(failed)} runs failed, the others are in the tables:\n" + "\n".join(failed))
    return rows
