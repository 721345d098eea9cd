"""The usual names of splits, as `datasets` knows them, and what they say about files and rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from datasets import ClassLabel, Dataset, Value

from .columns import DataError

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def standard_split_name(name: str) -> str | None:
    """Give `train`, `validation` or `test` for a usual name of a split, in any case; None for any other name."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_of_file(path: PurePath) -> str | None:
    """Give the split that a relative path names: ``test.csv``, ``train-00000-of-00002.parquet``, ``val/0.parquet``.

    :param path: a path below the folder that the user gave; the last part with exactly one split's name in it decides.
    :return: `train`, `validation`, `test`, or None if no part names one.
    """
    for part in (path.stem, *reversed(path.parts[:-1])):
        found = {standard_split_name(word) for word in re.findall("[A-Za-z]+", part)} - {None}
        if len(found) == 1:
            return found.pop()
    return None


def stated_splits(rows: Dataset) -> set[str]:
    """The splits that a table's column ``split`` names; empty where it lacks the column, or it has another meaning."""
    if not isinstance(rows.features.get("split"), Value | ClassLabel):
        return set()
    values = rows.unique("split")
    if isinstance(rows.features["split"], ClassLabel):
        values = [rows.features["split"].names[value] for value in values if value is not None and value >= 0]
    return {standard_split_name(str(value).strip()) for value in values} - {None}


def check_stated_splits(splits: Mapping[str, Dataset]) -> None:
    """:raises DataError: where there are tables of several splits, and one's column ``split`` names another split."""
    for name, rows in splits.items() if len(splits) > 1 else ():
        others = stated_splits(rows) - {name}
        if others:
            raise DataError(
                f"the table of {name} has rows of {' and '.join(sorted(others))} in its column 'split', and there are "
                f"tables of {' and '.join(splits)}; give one table of all splits, or remove the column or these rows"
            )


def divide_by_split(rows: Dataset, is_metadata: bool) -> dict[str, Dataset]:
    """Divide a table by its column ``split``, or a metadata file by the split folders that its file names start with.

    :param rows: the whole table.
    :param is_metadata: whether it is the metadata file of a folder of images.
    :return: the splits that occur, or all rows as `train` if nothing divides them.
    :raises DataError: if the column ``split`` holds anything but names of splits.
    """
    if "split" in rows.column_names:
        words = [str(value).strip() if value is not None else "" for value in rows["split"]]
        gaps = words.count("")
        if 0 < gaps < len(words):
            raise DataError(
                f"{gaps} of {len(words)} rows have nothing in column 'split'; the first is row {words.index('')}. "
                "Write train, validation or test into each, or remove these rows"
            )
        unknown = sorted({word for word in words if standard_split_name(word) is None})
        if unknown:
            raise DataError(
                f"column 'split' contains {unknown[:5]}; expected train, validation and test. Rename the column if it "
                "has another meaning"
            )
    elif is_metadata and "file_name" in rows.column_names:
        words = [str(value).replace("\\", "/").split("/")[0] for value in rows["file_name"]]
        if any(standard_split_name(word) is None for word in words):
            return {"train": rows}
    else:
        return {"train": rows}
    names = [standard_split_name(word) for word in words]
    return {
        split: rows.select([row for row, name in enumerate(names) if name == split])
        for split in SPLIT_NAMES
        if split in names
    }
