"""`rd_hf.compare`: runs the cells that are not done, several at a time, then writes tables and plots."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..allocator import keep_freed_memory
from ..arguments import ArgumentError, arguments_from
from ..processes import start_accelerator
from ..run_folder import write_json
from .arguments import ComparisonArguments
from .bench import Bench
from .cell import RESULT_FILE, run_cell, settings_of
from .plan import Cell, Plan
from .report import write_report

logger = logging.getLogger(__name__)

TUNING_FILE = "tuning.json"
POLL_SECONDS = 1.0
# Errors of one run that say nothing of the others: our own and those of the libraries about data or a model.
OF_ONE_RUN = (ValueError, OSError, FloatingPointError, RuntimeError)


class ComparisonError(ValueError):
    """Runs of a comparison failed, or belong to another one; the message names them."""


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
        failed += _run(plan, plan.tuning_cells(), root, "tuning")
    plan.tuned = choose_settings(plan, root)
    cells = [plan.as_tuned(cell) for cell in plan.cells()]
    if not plan.comparison.table_only:
        if plan.tuning is not None:
            write_json(_tuning_in_words(plan, root), root / TUNING_FILE)
        failed += _run(plan, cells, root, "comparing")
    rows = write_report(plan, [cell for cell in cells if is_done(root, cell)], root)
    if failed:
        raise ComparisonError(f"{len(failed)} runs failed, the others are in the tables:\n" + "\n".join(failed))
    return rows


def is_done(root: Path, cell: Cell) -> bool:
    """Whether a run has left its result."""
    return (root / cell.path / RESULT_FILE).exists()


def result_of(root: Path, cell: Cell) -> dict[str, Any]:
    """What a finished run left in result.json."""
    return json.loads((root / cell.path / RESULT_FILE).read_text(encoding="utf-8"))


def choose_settings(plan: Plan, root: Path) -> dict[tuple, tuple[float | None, float]]:
    """Learning rate and weight of each method: the best on validation, averaged over the tuning's data sets and seeds.

    Only settings that were run on all of these are compared; ties go to the one first in the grid.
    """
    scores = _tuning_scores(plan, root)
    chosen = {}
    for setting, by_values in scores.items():
        most = max(map(len, by_values.values()))
        means = {values: statistics.mean(found) for values, found in by_values.items() if len(found) == most}
        chosen[setting] = max(means, key=means.get)
    return chosen


def _tuning_scores(plan: Plan, root: Path) -> dict[tuple, dict[tuple, list[float]]]:
    scores: dict[tuple, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in plan.tuning_cells():
        if is_done(root, cell):
            arguments = plan.arguments_of(cell, root)
            score = result_of(root, cell)["validation"][arguments.metric_for_best_model]
            scores[cell.setting][(cell.learning_rate, cell.weight)].append(score)
    return scores


def _tuning_in_words(plan: Plan, root: Path) -> list[dict[str, Any]]:
    return [
        {
            "teacher": teacher,
            "method": method,
            "unlabelled": unlabelled,
            "learning_rate": values[0],
            "weight": values[1],
            "validation": [round(score, 4) for score in found],
            "chosen": plan.tuned[(teacher, method, unlabelled)] == values,
        }
        for (teacher, method, unlabelled), by_values in _tuning_scores(plan, root).items()
        for values, found in by_values.items()
    ]


def _run(plan: Plan, cells: Sequence[Cell], root: Path, title: str) -> list[str]:
    """Run what is not done; what failed, in words.

    :raises ComparisonError: when a finished run had other settings.
    """
    _check_finished(plan, cells, root)
    left = [cell for cell in cells if not is_done(root, cell)]
    if not left:
        return []
    workers = plan.comparison.workers or (1 if torch.accelerator.is_available() else os.cpu_count() or 1)
    jobs = _jobs(left, workers)
    failed: list[str] = []
    with _environment_of_workers(workers), tqdm(total=len(cells), initial=len(cells) - len(left), desc=title) as bar:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=_start_worker)
        try:
            settings = (asdict(plan.comparison), plan.tuned)
            waiting = {pool.submit(run_job, *settings, [str(cell.path) for cell in job]) for job in jobs}
            while waiting:
                done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                failed += [line for future in done for line in future.result()]
                bar.update(sum(is_done(root, cell) for cell in cells) - bar.n)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def _check_finished(plan: Plan, cells: Sequence[Cell], root: Path) -> None:
    for cell in cells:
        if not is_done(root, cell):
            continue
        before = result_of(root, cell)["settings"]
        now = json.loads(json.dumps(settings_of(plan.arguments_of(cell, root / cell.path), cell)))
        changed = [
            f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in now if before.get(name) != now[name]
        ]
        if changed:
            raise ComparisonError(
                f"The finished run {root / cell.path} had other settings ({'; '.join(changed)}). Name another "
                "`output_dir`, or delete that run's folder to have it run again."
            )


def _jobs(cells: Sequence[Cell], workers: int) -> list[list[Cell]]:
    """Runs that share data, labels and seed are done one after another by one worker, which loads these once."""
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[(cell.data, cell.shots, cell.seed)].append(cell)
    for group in groups.values():  # those with a teacher first: they decode for both models
        group.sort(key=lambda cell: cell.teacher is None)
    jobs = list(groups.values())
    while len(jobs) < workers and max(map(len, jobs)) > 1:
        largest = max(jobs, key=len)
        jobs.remove(largest)
        jobs += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return jobs


@contextmanager
def _environment_of_workers(workers: int) -> Iterator[None]:
    """Threads shared out among the workers, and no progress bars but ours."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    wanted = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _start_worker() -> None:
    logging.getLogger("rd_hf").setLevel(logging.WARNING)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    keep_freed_memory()


def run_job(comparison: dict[str, Any], tuned: dict, paths: list[str]) -> list[str]:
    """Run cells that share a data set, its labels and a seed, in a worker; what failed, in words."""
    plan = Plan(ComparisonArguments(**comparison))
    plan.tuned = tuned
    known = {str(cell.path): cell for cell in [*plan.tuning_cells(), *map(plan.as_tuned, plan.cells())]}
    root, bench, failed = Path(plan.comparison.output_dir), None, []
    for path in paths:
        try:
            arguments = plan.arguments_of(known[path], root / path)
            bench = bench or Bench(arguments, start_accelerator(arguments))
            run_cell(plan, known[path], bench, root)
        except ArgumentError as error:
            failed.append(f"{path}: {error}")
        except OF_ONE_RUN as error:
            failed.append(f"{path}: {type(error).__name__}: {error}")
    return failed
