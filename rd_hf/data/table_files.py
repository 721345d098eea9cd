"""Reads tables of images, and whatever else `datasets` loads from local files."""

from __future__ import annotations

import glob
import logging
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from tarfile import TarError
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, config, load_dataset
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable

from ..runtime.stand_ins import HEAD_BYTES, stand_in
from .columns import DataError
from .folders import METADATA_STEM, ImageFolder
from .raw_data import RawData, in_order
from .scanner import TABLE_LOADERS, printable
from .split_division import check_stated_splits, divide_table, stated_splits
from .split_names import split_of_file
from .tables import read_json_lines, read_table

logger = logging.getLogger(__name__)

# Of parts of one table, and of versions or copies of one.
_NUMBER = re.compile(r"\d+")
_OF_ONE = re.compile(r"(?<![a-z])v(er(sion)?)?[_\-. ]?\d|\(\d+\)|copy", re.IGNORECASE)
IN_MEMORY_BYTES = 4 * 2**30
# What loaders raise on files that are damaged, mislabelled or at odds with one another, and the Hub's client on names
# and connections (RuntimeError where the data set is a script, which `datasets` no longer runs).
LOADING_ERRORS = (
    DatasetsError, OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, TarError, pa.ArrowException,
)  # fmt: skip


def tables_by_split(found: ImageFolder) -> dict[str, list[Path]]:
    """Find the tables of a folder itself, or (as in a copy of a Hub repository) .parquet files at any depth."""
    every = found.found.tables
    files = [file for file in every if len(file.parts) == 1]
    files = files or [file for file in every if file.suffix.lower() == ".parquet"]
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of_file(file), []).append(found.root / file)
    unclear = by_split.pop(None, [])
    if unclear and by_split:
        raise DataError(
            f"'{found.root}' has a table for {' and '.join(by_split)}, and also '{unclear[0].name}', whose name does "
            "not tell which split it is; rename it, move it elsewhere, or give one file"
        )
    return by_split or ({"train": unclear} if unclear else {})


def read_tables(files: Mapping[str, Sequence[Path]], found: ImageFolder | None = None) -> RawData:
    """Read tables whose image paths are relative to the table's own folder.

    :param found: the folder that the user gave, if it was not the table itself.
    """
    kinds = sorted({TABLE_LOADERS[file.suffix.lower()] for paths in files.values() for file in paths})
    first = next(iter(files.values()))[0]
    if len(kinds) > 1:
        raise DataError(f"'{first.parent}' has tables of several formats ({', '.join(kinds)}); give one file")
    splits = {split: _read_split(paths, kinds[0]) for split, paths in files.items()}
    folders = {split: paths[0].absolute().parent for split, paths in files.items()}
    check_stated_splits(splits)
    name = next(iter(splits))
    if len(splits) == 1 and (name == "train" or stated_splits(splits[name])):
        is_named = split_of_file(PurePath(first.name)) is not None
        splits = divide_table(splits[name], printable(first), first.stem == METADATA_STEM, is_named)
        folders = dict.fromkeys(splits, folders[name])
    images = None if found is None else [found.found.path_of(file) for file in found.images]
    return RawData(in_order(splits), folders=folders, images=images)


def _read_split(paths: Sequence[Path], kind: str) -> Dataset:
    if kind == "parquet":
        for path in paths:
            with path.open("rb") as file:
                if reason := stand_in(file.read(HEAD_BYTES)):
                    raise DataError(f"'{printable(path)}' is no table: {reason}")
        patterns = {"train": [glob.escape(str(path.absolute())) for path in paths]}
        return _load(kind, paths[0], patterns, sum(path.stat().st_size for path in paths))["train"]
    _check_are_one(paths)
    tables = [read_table(path) if kind == "csv" else read_json_lines(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            raise DataError(
                f"'{printable(path)}' and '{printable(paths[0])}' name different columns, so they cannot be one table; "
                "give the one that lists the images, or move the other elsewhere"
            )
    together = [table.select(tables[0].column_names) for table in tables]
    return Dataset(InMemoryTable(pa.concat_tables(together, promote_options="permissive")))


def _check_are_one(files: Sequence[Path]) -> None:
    """Let the numbered parts of one table pass, which the log says.

    :raises DataError: for tables that may be copies or versions of one, or list different things.
    """
    if len(files) < 2:
        return
    folder = printable(files[0].parent)
    names = ", ".join(f"'{printable(file.name)}'" for file in files[:5]) + (" ..." if len(files) > 5 else "")
    if len({_NUMBER.sub("#", file.stem) for file in files}) > 1 or any(_OF_ONE.search(file.stem) for file in files):
        raise DataError(
            f"'{folder}' has several tables, and their names do not say that they are one: {names}. Give the one that "
            "is meant, move the others elsewhere, name them by splits (train.csv, test.csv), or number the parts of "
            "one table, as in labels_1.csv and labels_2.csv"
        )
    logger.info("%d tables of '%s' are read as one: %s.", len(files), folder, names)


def _load(loader: str, named: Path, files: dict[str, list[str]], size: int, **options: Any) -> DatasetDict:
    """Run a packaged loader on local files of `size` bytes in all.

    It writes an Arrow copy, and of embedded images that is a copy of patients' images. So the copy goes to a folder
    that is gone right after loading, unless the data may not fit in memory.
    """
    if size > IN_MEMORY_BYTES:
        logger.warning("'%s' is large. `datasets` stores a copy in its cache, %s", named, config.HF_DATASETS_CACHE)
        return loading(named, lambda: load_dataset(loader, data_files=files, **options))
    with tempfile.TemporaryDirectory(prefix="rd_hf_data_") as scratch:
        return loading(
            named, lambda: load_dataset(loader, data_files=files, cache_dir=scratch, keep_in_memory=True, **options)
        )


def loading(named: Path, load: Callable[[], Any]) -> Any:
    """Give what `load` gives.

    :raises DataError: if it fails; names the file or folder.
    """
    try:
        return load()
    except LOADING_ERRORS as error:
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        raise DataError(f"'{named}' cannot be read: {reason}") from error
