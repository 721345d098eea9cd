"""Runs a comparison in worker processes, which share the CPU cores."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from ..arguments.effect_rules import Known
from ..arguments.effects import idle
from ..arguments.values import ArgumentError
from ..runtime.allocator import keep_freed_memory
from ..runtime.interrupts import Stopped, with_more
from ..runtime.processes import start_accelerator
from ..runtime.progress import Progress
from .arguments import ComparisonArguments
from .bench import Bench
from .cell import arguments_now, cell_settings, is_done, read_result, run_cell
from .plan import Cell, Plan

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TUNED = {"learning_rate", "comparison_weight", "adaptation"}
_stop: Event | None = None  # of a worker
_running: str = ""  # the run that a worker does now


class ComparisonError(ValueError):
    """Runs of a comparison failed, or belong to another one; the message names them."""


def run_cells(plan: Plan, cells: Sequence[Cell], root: Path, title: str, stops_at_failure: bool = False) -> list[str]:
    """Run what is not finished, and return a line about each failure.

    :param stops_at_failure: whether no other run begins when one has failed.
    :raises ComparisonError: when a finished run had other settings.
    """
    check_finished(plan, cells, root)
    left = [cell for cell in cells if not is_done(root, cell)]
    if not left:
        return []
    workers = plan.comparison.workers or (1 if torch.accelerator.is_available() else _cores())
    jobs = split_into_jobs(left, workers)
    failed: list[str] = []
    progress = Progress(title, len(cells), "run", len(cells) - len(left))
    with _environment_of_workers(workers), progress:
        context = _context()
        stop = context.Event()
        pool = ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=context, initializer=_start_worker, initargs=(stop,)
        )
        try:
            settings = (asdict(plan.comparison), plan.tuned)
            paths = [[str(cell.path) for cell in job] for job in jobs]
            waiting = {pool.submit(run_job, *settings, own, stops_at_failure) for own in paths}
            while waiting:
                done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                failed += [line for future in done for line in future.result()]
                progress.advance(sum(is_done(root, cell) for cell in cells) - progress.done)
        except BrokenProcessPool as error:
            raise ComparisonError(
                "A worker died before it finished its runs. In a Python script, call rd_hf.compare under "
                '`if __name__ == "__main__":`, because each worker imports the script. Otherwise the system has '
                "probably killed it for lack of memory: repeat the command with a smaller `workers`. Finished runs are "
                "kept, and the command continues with the others."
            ) from error
        except KeyboardInterrupt as interrupt:
            logger.warning(
                "Interrupted: no other run begins. Waiting for the workers. Press Ctrl-C again to stop immediately."
            )
            kept = "Finished runs are kept. Repeat the command to continue with the others."
            raise with_more(interrupt, kept) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return failed


def check_finished(plan: Plan, cells: Sequence[Cell], root: Path) -> None:
    """:raises ComparisonError: when a finished run had other settings than it would have now."""
    for cell in cells:
        if not is_done(root, cell):
            continue
        result = read_result(root, cell)
        before, arguments = result["settings"], arguments_now(plan, cell, root / cell.path, result)
        now = json.loads(json.dumps(cell_settings(plan, cell, arguments)))
        unread = idle(arguments, Known(), cell.entry.uses)
        compared = [name for name in now if name in before and name not in unread]  # a later version knows more
        names = [name for name in compared if before[name] != now[name]]
        changed = [f"{name} was {before[name]!r}, is {now[name]!r}" for name in names]
        if changed:
            was_chosen = plan.tuning and not cell.tuning and TUNED & set(names)
            tuned = "`tuning` may now choose other values than before. " if was_chosen else ""
            raise ComparisonError(
                f"The finished run {root / cell.path} had other settings ({'; '.join(changed)}). {tuned}Choose "
                "another `output_dir`, or delete that run's folder to repeat the run."
            )


def split_into_jobs(cells: Sequence[Cell], workers: int) -> list[list[Cell]]:
    """Runs that share data, labels and seed are done one after another by one worker, which loads these once."""
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[(cell.data, cell.shots, cell.seed)].append(cell)
    for group in groups.values():  # jobs with a teacher first, because they decode the images for both models
        group.sort(key=lambda cell: cell.teacher is None)
    jobs = list(groups.values())
    while len(jobs) < workers and max(map(len, jobs)) > 1:
        largest = max(jobs, key=len)
        jobs.remove(largest)
        jobs += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return jobs


def _cores() -> int:
    """Processor cores that this process may use, which a cluster's scheduler keeps below the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _environment_of_workers(workers: int) -> Iterator[None]:
    """Divide the threads among the workers."""
    threads = str(max(1, _cores() // workers))
    wanted = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _context() -> multiprocessing.context.BaseContext:
    """Fork workers from a clean process that has imported the libraries, if the system supports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(stop: Event) -> None:
    """What a worker does first.

    :param stop: set when it should begin no other run.
    """
    global _stop
    _stop = stop
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    logging.getLogger("rd_hf").setLevel(logging.WARNING)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_name_the_run)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    keep_freed_memory()


def _name_the_run(record: logging.LogRecord) -> bool:
    """Put the run before what a worker says of it."""
    if _running and record.name.startswith("rd_hf") and not hasattr(record, "of_run"):
        record.msg, record.args, record.of_run = f"{_running}: {record.getMessage()}", (), _running
    return True


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def run_job(comparison: dict[str, Any], tuned: dict, paths: list[str], stops_at_failure: bool = False) -> list[str]:
    """Run cells that share a data set, its labels and a seed in a worker, and return a line about each failure."""
    global _running
    plan = Plan(ComparisonArguments(**comparison), is_checked=True)
    plan.tuned = tuned
    known = {str(cell.path): cell for cell in [*plan.tuning_cells(), *map(plan.as_tuned, plan.cells())]}
    root, bench, failed = Path(plan.comparison.output_dir), None, []
    for path in paths:
        if _stop is not None and _stop.is_set():
            break
        try:
            _running = path
            if bench is None:
                bench = _open_bench(plan, known[path], known.values(), root)
            run_cell(plan, known[path], bench, root)
        except (ArgumentError, ComparisonError) as error:
            failed.append(f"{path}: {error}")
        except Stopped as error:
            failed.append(f"{path}: {error}")
            break
        except Exception as error:  # whatever the error is, the other runs may still succeed
            logger.debug("", exc_info=True)
            failed.append(f"{path}: {type(error).__name__}: {error}")
        if failed and stops_at_failure and _stop is not None:
            _stop.set()  # for all workers
    return failed


def _open_bench(plan: Plan, cell: Cell, cells: Iterable[Cell], root: Path) -> Bench:
    """:raises ComparisonError: when a finished one of `cells` was on images or labels that have changed since."""
    every_row = replace(cell, unlabelled=plan.has_unlabelled(cell.data, cell.shots))
    arguments = plan.cell_arguments(every_row, root / cell.path)
    bench = Bench(arguments, start_accelerator(arguments))
    for other in cells:
        is_same = other.data == cell.data and is_done(root, other)
        if is_same and read_result(root, other)["data"] != bench.run_data.source["fingerprint"]:
            raise ComparisonError(
                f"The images or labels of {cell.data} have changed since the run {root / other.path}. Choose another "
                "`output_dir`, or delete the folders of that data set in this one."
            )
    if cell.shots is None and bench.run_data.passed_over and True in plan.comparison.use_unlabeled:
        logger.warning(
            "The %d rows of train of %s that have no label are left out, because `shots` is all, which is every "
            "labelled row and no other. Name their images as `unlabeled_dataset` to train on them.",
            bench.run_data.passed_over, cell.data,
        )  # fmt: skip
    return bench
