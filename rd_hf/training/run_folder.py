"""The folder of a run: whether a run may write into it, and how it is opened."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from ..arguments.config import config_text, read_config
from ..arguments.distillation import DistillationArguments
from ..arguments.options import defaults_under, names, options
from ..arguments.values import ArgumentError
from ..cards.card import IMAGES
from ..pages.report import REPORT_FILE
from ..runtime.files import (
    LOCK_FILE,
    RUN_CONFIG,
    RUN_HISTORY,
    RUN_METRICS,
    alone_in,
    check_folder,
    write_text,
)
from .earlier_run import WRITTEN, remove_earlier_run

logger = logging.getLogger(__name__)

FILES = (
    RUN_CONFIG, RUN_HISTORY, RUN_METRICS, REPORT_FILE, "predictions.csv", "skipped_images.json", *IMAGES
)  # fmt: skip


def check_run_folder(arguments: DistillationArguments) -> None:
    """Check that the run may use its folder, before anything is loaded or written.

    :raises ArgumentError: when the folder is a file, lies in the data's, or holds something and neither `resume` nor
        `overwrite_output_dir` is set, or when a resumed run would be another one.
    """
    folder = Path(arguments.output_dir)
    check_folder(folder)
    is_run = (folder / RUN_CONFIG).is_file()
    if arguments.resume:
        if not is_run:
            raise ArgumentError(f"{folder} has no run to resume, because it has no {RUN_CONFIG}.")
        return
    _keep_data_apart(folder, arguments)
    if arguments.overwrite_output_dir and _holds_something(folder):
        if not is_run:
            raise ArgumentError(
                f"`output_dir` {folder} has no earlier run (no {RUN_CONFIG}) to overwrite: choose another folder."
            )
        _keep_inputs(folder, arguments)
    elif _holds_something(folder) and not arguments.overwrite_output_dir:
        raise ArgumentError(
            f"`output_dir` {folder} is not empty. Choose another folder, continue the run there with `resume`, or "
            "replace it with `overwrite_output_dir`."
        )


def _keep_data_apart(folder: Path, arguments: DistillationArguments) -> None:
    """:raises ArgumentError: when a run would write into a folder that is read as data."""
    for name in names(DistillationArguments, lambda fact: fact.text == "data"):
        data = getattr(arguments, name)
        if isinstance(data, str) and Path(data).is_dir() and folder.resolve().is_relative_to(Path(data).resolve()):
            raise ArgumentError(
                f"`output_dir` {folder} lies in the folder of `{name}`, {data}, so that what the run writes would be "
                "read as data: choose a folder outside it."
            )


def _holds_something(folder: Path) -> bool:
    """Whether there is more than what a process leaves that is killed as it opens the folder."""
    left = (f".{RUN_CONFIG}.writing", LOCK_FILE)
    return folder.exists() and any(path.name not in left for path in folder.iterdir())


@contextmanager
def open_run_folder(arguments: DistillationArguments) -> Iterator[None]:
    """Make the run's folder and write config.yaml; with `overwrite_output_dir` the earlier run's files go first.

    In this context no other run writes into the folder.

    :param arguments: resolved, so that config.yaml says what the run does.
    :raises ArgumentError: when a resumed run would be another one, or another run has begun in the folder meanwhile.
    """
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        check_run_folder(arguments)  # again: data and models may have taken long to load
        if arguments.resume:
            _check_same_run(folder, arguments)
        else:
            remove_earlier_run(folder, FILES)
            replace_config(arguments, folder)
        yield


def check_not_in_use(folder: Path) -> None:
    """:raises ArgumentError: where a run is writing into the folder; nothing is made there."""
    if (folder / LOCK_FILE).exists():
        with _alone_in(folder):
            pass


def _alone_in(folder: Path) -> AbstractContextManager[None]:
    """A context that one run at a time is in.

    :raises ArgumentError: where another one is in it.
    """
    in_use = f"Another run is writing into `output_dir` {folder}. Wait for it to end, or choose another folder."
    return alone_in(folder, ArgumentError(in_use))


def replace_config(arguments: DistillationArguments, folder: Path) -> None:
    """Write config.yaml, completely or not at all."""
    write_text(config_text(arguments), folder / RUN_CONFIG)


def _check_same_run(folder: Path, arguments: DistillationArguments) -> None:
    # A run of an earlier version did what the default of a later argument does.
    defaults = defaults_under(type(arguments), arguments.method)
    before, now = defaults | read_config(folder / RUN_CONFIG), arguments.to_dict()
    lines: dict[bool, str] = {True: "", False: ""}
    for name, stated in options(DistillationArguments).items():
        if before[name] != now[name] and stated.resume != "ignored":
            line = f"\n  {name}: {before[name]!r} then, {now[name]!r} now"
            lines[stated.resume == "allowed"] += line
    if lines[False]:
        allowed = f"\nThese arguments may differ:{lines[True]}" if lines[True] else ""
        raise ArgumentError(
            f"The run in {folder} cannot be resumed with other arguments:{lines[False]}{allowed}\nGive those of then, "
            "or begin another run in another folder."
        )
    if lines[True]:
        logger.info("The run is resumed with other arguments, which may differ:%s", lines[True])


def _keep_inputs(folder: Path, arguments: DistillationArguments) -> None:
    """:raises ArgumentError: when what the new run reads is part of what it would overwrite."""
    for name in names(DistillationArguments, lambda fact: fact.text in ("model", "data")):
        value = getattr(arguments, name)
        for own in (*WRITTEN, *FILES):
            if isinstance(value, str) and Path(value).resolve().is_relative_to((folder / own).resolve()):
                raise ArgumentError(
                    f"`{name}` {value} would be deleted together with the earlier run in {folder}: choose another "
                    "folder."
                )


def read_history(folder: Path, until: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a half-written last line of a killed process is ignored.

    :param until: the last step that counts, as a killed run may have logged others after its last checkpoint.
    """
    rows = [json.loads(line) for line in _whole_lines(folder / RUN_HISTORY)]
    return [row for row in rows if until is None or row["step"] <= until]


def forget_rows_after(folder: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl that an interrupted run wrote after its last checkpoint."""
    path = folder / RUN_HISTORY
    if path.exists():
        write_text("".join(line for line in _whole_lines(path) if json.loads(line)["step"] <= step), path)


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]
