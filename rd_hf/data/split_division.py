"""Divides a table, or a data set of one split, by its column of splits or by the folders in its paths."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from .columns import IMAGE_NAMES, MASK_NAMES, DataError, column_values, named_values, usual_columns
from .image_column import written_paths
from .labels.values import is_text
from .scanner import LONGEST_PATH
from .split_names import SPLIT_NAMES, split_of_folder, standard_split_name

logger = logging.getLogger(__name__)

COLUMN = "split"
_SIMILAR_COLUMNS = ("subset", "partition", "set", "fold", "phase", "usage", "data_split", "split_name", "dataset")


def split_column(features: Features) -> str | None:
    """The column ``split``, written in any case."""
    names = [name for name in features if name.strip().lower() == COLUMN]
    names = [name for name in names if isinstance(features[name], Value | ClassLabel)]
    return COLUMN if COLUMN in names else next(iter(names), None)


def stated_splits(rows: Dataset) -> set[str]:
    """The splits that a table's column ``split`` names; empty where it lacks the column, or it has another meaning."""
    column = split_column(rows.features)
    return set() if column is None else {standard_split_name(word) for word in {*_words(rows, column)}} - {None}


def check_stated_splits(splits: Mapping[str, Dataset]) -> None:
    """:raises DataError: where there are tables of several splits, and one's column ``split`` names another split."""
    for name, rows in splits.items() if len(splits) > 1 else ():
        others = stated_splits(rows) - {name}
        if others:
            raise DataError(
                f"the table of {name} has rows of {' and '.join(sorted(others))} in its column 'split', and there are "
                f"tables of {' and '.join(splits)}; give one table of all splits, or remove the column or these rows"
            )


def divide_table(rows: Dataset, name: str, is_metadata: bool, is_named: bool) -> dict[str, Dataset]:
    """Divide a table by its column ``split``, or else by the split folders in which all its paths lie.

    :param rows: the whole table.
    :param name: what the log calls it.
    :param is_metadata: whether it is the metadata file of a folder of images.
    :param is_named: whether the name of the file says which split the table is.
    :return: the splits that occur, or all rows as `train` if nothing divides them.
    :raises DataError: if the column ``split`` holds anything but names of splits.
    """
    if len(rows) == 0:
        return {"train": rows}
    if split_column(rows.features) is not None:
        return _divided(rows, _split_words(rows))
    _tell_similar_columns(rows)
    column = _path_column(rows)
    if column is None:
        return {"train": rows}
    folders = [_folders(value) for value in column_values(rows, column)]
    firsts = [standard_split_name(of[0]) if of else None for of in folders]
    if is_metadata and None not in firsts:
        return _divided(rows, firsts)
    ends = zip(min(folders), max(folders), strict=False)
    start = sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], ends))  # of the folders that all share
    below = [standard_split_name(of[start]) if len(of) > start else None for of in folders]
    if not is_named and None not in below and len({*below}) > 1 and "train" in below:
        divided = _divided(rows, below)
        sizes = ", ".join(f"{split} {len(part)}" for split, part in divided.items())
        logger.info("The paths of '%s' lie in folders of splits, which divide it: %s.", name, sizes)
        return divided
    found = [next(filter(None, map(standard_split_name, of)), None) for of in folders]
    splits = [split for split in SPLIT_NAMES if split in found]
    if len(splits) > 1:
        logger.warning(
            "The paths of '%s' lie in folders of splits (%s), but no column split divides them, so all of them are in "
            "one split. Add a column split.", name, ", ".join(splits),
        )  # fmt: skip
    return {"train": rows}


def divide_loaded(splits: DatasetDict) -> dict[str, Dataset]:
    """Divide a data set that came as one split, train, by its column ``split``; warn where several contradict theirs.

    :raises DataError: if the column holds names of splits and something else.
    """
    stated = {name: stated_splits(rows) for name, rows in splits.items()}
    if [*splits] == ["train"] and stated["train"]:
        rows = splits["train"]
        return _divided(rows, _split_words(rows))
    for name, rows in splits.items():
        others = stated[name] - {name}
        if others:
            logger.warning(
                "Split '%s' has rows of %s in its column '%s'. They stay in '%s'.",
                name, " and ".join(sorted(others)), split_column(rows.features), name,
            )  # fmt: skip
    return dict(splits)


def _split_words(rows: Dataset) -> list[str]:
    """The split of each row as its column states it.

    :raises DataError: if a row states none, or something else.
    """
    column = split_column(rows.features)
    words = _words(rows, column)
    gaps = words.count("")
    if 0 < gaps < len(words):
        raise DataError(
            f"{gaps} of {len(words)} rows have nothing in column '{column}'; the first is row {words.index('')}. "
            "Write train, validation or test into each, or remove these rows"
        )
    unknown = sorted({word for word in words if standard_split_name(word) is None})
    if unknown:
        raise DataError(
            f"column '{column}' contains {unknown[:5]}; expected train, validation and test. Rename the column if it "
            "has another meaning"
        )
    return [standard_split_name(word) for word in words]


def _divided(rows: Dataset, names: Sequence[str]) -> dict[str, Dataset]:
    found = np.array(names)
    return {split: rows.select(np.flatnonzero(found == split)) for split in SPLIT_NAMES if split in names}


def _words(rows: Dataset, column: str) -> list[str]:
    return ["" if value is None else str(value).strip() for value in named_values(rows, column)]


def _path_column(rows: Dataset) -> str | None:
    """The column of text that holds the paths of images, by its name or by what is written there."""
    usual = [name for name in usual_columns(rows.features, IMAGE_NAMES) if is_text(rows.features[name])]
    masks = usual_columns(rows.features, MASK_NAMES)
    return next(iter([*usual, *(name for name in written_paths(rows) if name not in masks)]), None)


def _folders(path: str | None) -> list[str]:
    """The folders of a path, of which `train_images` is named `train`."""
    if path is None or len(path) > LONGEST_PATH:
        return []
    parts = posixpath.normpath(path.strip().replace("\\", "/")).split("/")
    return [split_of_folder(part) for part in parts[:-1] if part]


def _tell_similar_columns(rows: Dataset) -> None:
    for name in usual_columns(rows.features, _SIMILAR_COLUMNS):
        words = {*_words(rows, name)} if is_text(rows.features[name]) else set()
        if len(words) > 1 and None not in map(standard_split_name, words):
            logger.warning(
                "Column '%s' names splits (%s), but only a column split divides a table. Rename it to split if it is "
                "meant.", name, ", ".join(sorted(words)),
            )  # fmt: skip
