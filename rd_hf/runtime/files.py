"""Writes files completely or not at all, with the permissions of other new files."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from stat import S_IMODE
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from ..arguments.values import ArgumentError

logger = logging.getLogger(__name__)

RUN_CONFIG, RUN_HISTORY, RUN_METRICS = "config.yaml", "metrics.jsonl", "metrics.json"
CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints
EXPORT_REPORT = "export.json"
_FORMULA = re.compile(r"[=+\-@\t\r](?!(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$|inf$|nan$)", re.IGNORECASE)  # but no number
LOCK_FILE = ".lock"
ASIDE = ".rd_hf."  # before the name of a folder that is being written


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A context in which a library writes the file that it is given, which is then renamed to `path`.

    Where that fails or is interrupted, no part of it is left.

    :raises OSError: with the name of `path`, which the system does not give for a write.
    """
    # libraries go by the end of the name, and the system bounds its length; process ids repeat across machines
    aside = path.with_name(f".writing-{uuid4().hex}{''.join(path.suffixes[-2:])}")
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(aside)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, in_use: Exception) -> Iterator[None]:
    """A context that one process at a time is in; the system ends it with the process, for whatever reason.

    :param in_use: raised where another process is in it.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise in_use from error
    except (NotImplementedError, OSError) as error:
        logger.info("%s cannot be locked (%s): let no other run write there.", folder, error)
    try:
        yield
    finally:
        lock.release()


def check_folder(folder: Path) -> None:
    """:raises ArgumentError: where a folder to write to is a file, or would lie in one."""
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None:
        inside = "is a file" if file == folder else f"lies in {file}, which is a file"
        raise ArgumentError(f"`output_dir` {folder} {inside}: give a folder.")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder, which becomes `target` if everything succeeds.

    An empty `target` stays, since it may be a mount, a link or the working folder, and is filled.

    :raises ArgumentError: where `target` holds something.
    """
    check_folder(target)
    is_there = target.exists()
    for left in target.glob(f"{ASIDE}*/") if is_there else ():  # by an export that was killed
        shutil.rmtree(left)
    if is_there and any(target.iterdir()):
        raise ArgumentError(f"`output_dir` {target} is not empty. Choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = (target if is_there else target.parent) / f"{ASIDE}{uuid4().hex}"
    aside.mkdir()  # not by tempfile, whose folders are for their owner alone
    try:
        yield aside
        share_weights(aside)
        if is_there:
            for path in aside.iterdir():
                path.replace(target / path.name)
            aside.rmdir()
        else:
            aside.replace(target)
    except BaseException:
        shutil.rmtree(aside)
        raise


def check_is_new(file: str | None, argument: str) -> None:
    """:raises ArgumentError: where a file that is to be written exists, or its folder does not."""
    if file is None:
        return
    if Path(file).exists():
        raise ArgumentError(f"`{argument}` {file} exists already: choose another name, or move it.")
    folder = Path(file).parent
    if not folder.is_dir():
        raise ArgumentError(f"`{argument}` is {file}, but there is no folder {folder}. Make it, or name another.")


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write plain values as JSON, completely or not at all."""
    write_text(json.dumps(values, indent=2) + "\n", path)


def write_all(handle: int, content: memoryview, offset: int) -> None:
    """Write bytes at a place of an open file; the system may take them in several parts."""
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """With None in place of numbers that JSON does not have: infinite ones, and NaN."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}


def write_text(text: str, path: Path) -> None:
    """Write a text, completely or not at all."""
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_predictions(
    path: Path, rows: list[int], columns: list[str], table: Iterable[list[str]], files: list[str] | None = None
) -> None:
    """Write a CSV file with one line per image.

    No text in it is a formula to a spreadsheet: where one begins like a formula, an apostrophe comes first, as
    spreadsheets write texts, and before a file `./`, by which it is still found.

    :param rows: the images' numbers in the split, the first column.
    :param columns: the names of the others.
    :param table: each image's cells under these.
    :param files: the images' files, the second column; None leaves it out.
    """
    with written_whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *([] if files is None else ["file"]), *_texts(columns)])
        names = [[]] * len(rows) if files is None else [_texts([file], "./") for file in files]
        writer.writerows([row, *name, *_texts(cells)] for row, name, cells in zip(rows, names, table, strict=True))


def _texts(cells: Iterable[str], before: str = "'") -> list[str]:
    return [before + cell if _FORMULA.match(str(cell)) else cell for cell in cells]


def share_weights(folder: Path) -> None:
    """Give weights the permissions of other new files; safetensors makes them for their owner alone."""
    probe = folder / f".{uuid4().hex}"  # asking for the umask would change it for other threads
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(S_IMODE(mode))
