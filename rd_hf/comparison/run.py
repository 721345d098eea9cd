"""`rd_hf.compare`: tunes, runs what is not finished yet, then writes tables and plots."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from ..arguments.config import arguments_from
from ..arguments.target_checks import check_targets
from ..arguments.values import ArgumentError
from ..inference.model_names import check_name
from ..runtime.files import alone_in, check_folder, write_json
from .arguments import ComparisonArguments
from .cell import is_done
from .plan import Plan
from .report import write_report
from .tuning import TUNING_FILE, choose_settings, tuning_in_words
from .workers import ComparisonError, check_finished, run_cells


def compare(data: dict | None = None, **arguments: Any) -> list[dict[str, Any]]:
    """Compare methods on data sets under one protocol; see `ComparisonArguments` for the arguments.

    :return: the rows of results.csv, one per run.
    :raises ArgumentError: for an unknown or contradictory argument.
    :raises ComparisonError: after all other runs and the report, when some have failed.
    """
    return run_comparison(Plan(arguments_from({"data": data} | arguments, ComparisonArguments)))


def run_comparison(plan: Plan) -> list[dict[str, Any]]:
    """Run what is not done of a plan, tuning first, and write its report; see `compare`."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # a worker that imports the user's script
        raise ComparisonError(
            'Call rd_hf.compare under `if __name__ == "__main__":`, because each worker imports the script.'
        )
    root = Path(plan.comparison.output_dir)
    check_folder(root)
    _check_arguments(plan, root)
    if plan.comparison.table_only:
        return _run(plan, root)
    root.mkdir(parents=True, exist_ok=True)
    in_use = f"Another comparison is running in {root}. Wait for it to finish, or choose another `output_dir`."
    with alone_in(root, ComparisonError(in_use)):
        return _run(plan, root)


def _check_arguments(plan: Plan, root: Path) -> None:
    """Check the arguments of all runs, and look for the models of those to come: the last may be hours away.

    :raises ArgumentError: with the path of the run.
    :raises ModelNameError: for a model whose folder is missing.
    """
    for cell in [*plan.tuning_cells(), *plan.cells()]:
        try:
            arguments = plan.cell_arguments(cell, root / cell.path)
        except ArgumentError as error:
            raise ArgumentError(f"{cell.path}: {error}") from error
        if plan.comparison.table_only or is_done(root, cell):
            continue
        try:
            check_targets(arguments, cell.entry.uses)
        except ArgumentError as error:
            raise ArgumentError(f"{cell.path}: {error}") from error
        for role in ("teacher", "student"):
            name = getattr(arguments, role)
            if isinstance(name, str) and (role == "student" or cell.teacher is not None):
                check_name(role, name)


def _run(plan: Plan, root: Path) -> list[dict[str, Any]]:
    failed: list[str] = []
    if plan.comparison.table_only:
        plan.tuned = choose_settings(plan, root)
    else:
        _tune(plan, root)
    if plan.tuned:
        write_json(tuning_in_words(plan, root), root / TUNING_FILE)
    cells = [plan.as_tuned(cell) for cell in plan.cells()]
    if plan.comparison.table_only:
        check_finished(plan, cells, root)
    else:
        failed += run_cells(plan, cells, root, "comparing")
    done = [cell for cell in cells if is_done(root, cell)]
    if plan.comparison.table_only and not done:
        raise ComparisonError(f"{root} has no finished run of this comparison, so there is no table to make.")
    rows = write_report(plan, done, root)
    if failed:
        others = "; the tables contain the others" if done else ", so there is no table"
        raise ComparisonError(f"{len(failed)} of {len(cells)} runs failed{others}:\n" + "\n".join(_grouped(failed)))
    return rows


def _grouped(failed: list[str]) -> list[str]:
    """A line for each reason, with the first of its runs and the number of the others."""
    runs: dict[str, list[str]] = {}
    for line in failed:
        run, _, reason = line.partition(": ")
        runs.setdefault(reason, []).append(run)
    return [f"{own[0]}{f' and {len(own) - 1} more' if len(own) > 1 else ''}: {reason}" for reason, own in runs.items()]


def _tune(plan: Plan, root: Path) -> None:
    """Run the tuning. Runs that adapt a teacher go first, because two-stage methods are tuned with the tuned teacher.

    :raises ComparisonError: when some failed, since nothing can be chosen then.
    """
    cells = plan.tuning_cells()
    for role in ("teacher", "others"):
        own = [cell for cell in cells if (cell.entry.method.role == "teacher") == (role == "teacher")]
        failed = run_cells(plan, own, root, "tuning", stops_at_failure=True) if own else []
        if failed:
            lines = "\n".join(_grouped(failed))
            raise ComparisonError(f"A run of the tuning failed, so it stopped, and nothing was compared:\n{lines}")
        plan.tuned = choose_settings(plan, root)
