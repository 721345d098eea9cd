"""Columns of a split laid side by side, without a copy of what the split holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetInfo, Features
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, Table, concat_tables

from .columns import DataError, column_values, columns_found, named_values
from .image_column import selected_rows
from .labels.values import clean, is_missing, is_text, names_nothing, whole_number


def check_splits(splits: Mapping[str, Dataset], columns: Sequence[str]) -> None:
    """:raises DataError: if a split lacks one of the columns or has no rows."""
    for name, split in splits.items():
        for column in columns:
            if column not in split.features:
                others = ", or leave this split out of the data" if len(splits) > 1 else ""
                raise DataError(
                    f"split '{name}' has no column '{column}'; its columns are: {columns_found(split.features)}. "
                    f"Rename the column that is meant{others}"
                )
        if len(split) == 0:
            raise DataError(f"split '{name}' has no rows")


def label_table(split: Dataset, values: np.ndarray) -> Table:
    """Give values as a column ``label`` with the rows of ``split.data``; those that the split does not show get a zero.

    :param values: (N,) or (N, K), of the rows that the split shows.
    """
    selected = selected_rows(split)
    if selected is not None:
        stored = np.zeros((split.data.num_rows, *values.shape[1:]), dtype=values.dtype)
        stored[selected] = values
        values = stored
    column = pa.array(values.ravel())
    if values.ndim == 2:
        column = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
    return InMemoryTable(pa.table({"label": column}))


def group_table(split: Dataset, column: str, name: str) -> Table:
    """Give a split's groups as a column ``group``; texts are cleaned as labels are.

    :raises DataError: if a row has none; names the row.
    """
    values = column_values(split, column)
    row = next((row for row, value in enumerate(values) if names_nothing(value)), None)
    if row is not None:
        word = "" if is_missing(values[row]) else f" ({values[row]!r})"
        raise DataError(f"split '{name}', row {row}: group column '{column}' is empty{word}; give every row a group")
    groups = split.data.select([column]).rename_columns(["group"])
    stored = groups.column("group")
    if not is_text(split.features[column]):
        return groups
    cleaned = [None if text is None else clean(text) for text in stored.to_pylist()]
    return InMemoryTable(pa.table({"group": pa.array(cleaned, stored.type)}))


def check_groups(splits: Mapping[str, Dataset], column: str) -> None:
    """:raises DataError: where groups are numbers in one split and names in another, which cannot be compared."""
    are_named = {name: _are_named(split.features[column]) for name, split in splits.items()}
    numbered = [name for name, is_named in are_named.items() if not is_named]
    for name, split in splits.items() if numbered else ():
        values = column_values(split, column) if are_named[name] else []
        if isinstance(split.features[column], ClassLabel):
            values = split.features[column].names
        text = next((text for text in values if not names_nothing(text) and whole_number(clean(text)) is None), None)
        if text is not None:
            raise DataError(
                f"group column '{column}' has numbers in split '{numbered[0]}', but text such as {text!r} in '{name}', "
                "so that one patient in both would not be found; convert them to one type"
            )


def group_keys(split: Dataset) -> list[Any]:
    """What tells the groups of a split's column ``group`` apart, in any split: 1, 1.0, "1" and "1.0" are one.

    :return: None for a row that names none.
    """
    values = [None if names_nothing(value) else value for value in named_values(split, "group")]
    numbers = [None if value is None else whole_number(value) for value in values]
    return [value if number is None else number for value, number in zip(values, numbers, strict=True)]


def _are_named(feature: Any) -> bool:
    return is_text(feature) or isinstance(feature, ClassLabel)


def assemble(split: Dataset, tables: list[Table], columns: dict[str, Any]) -> Dataset:
    """Lay columns side by side under the split's own selection of rows; `map` would write into the user's folder."""
    return Dataset(
        concat_tables(tables, axis=1),
        info=DatasetInfo(features=Features(columns)),
        split=split.split,
        indices_table=split._indices,
        fingerprint=Hasher.hash([split._fingerprint, columns]),
    )


def without_masks(images: Dataset, labelled_rows: np.ndarray) -> Dataset:
    """The volumes of train without the masks of rows that keep no label: crops must not be drawn to what these show."""
    stored, shown = images.data, selected_rows(images)
    bare = np.ones(stored.num_rows, dtype=bool)
    bare[labelled_rows if shown is None else shown[labelled_rows]] = False
    masks = stored.column("mask").take(pa.array(np.arange(len(bare)), mask=bare))
    others = [name for name in images.column_names if name != "mask"]  # stay where they are, perhaps on disk
    tables = [stored.select(others), InMemoryTable(pa.table({"mask": masks}))]
    return assemble(images, tables, {name: images.features[name] for name in (*others, "mask")})
