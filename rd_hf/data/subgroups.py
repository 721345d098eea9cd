"""Columns beside the images of a split: groups, and those such as sex or scanner whose values have own scores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value
from datasets.table import Table

from ..arguments.values import nearest
from .columns import DataError, column_values, columns_found
from .labels.values import names_nothing

logger = logging.getLogger(__name__)

PREFIX = "subgroup "  # of the column's name beside the images
MISSING = "(missing)"
MOST_VALUES = 20


def check_subgroup_columns(splits: Mapping[str, Dataset], columns: Sequence[str]) -> None:
    """:raises DataError: for a column that no split has, or that holds no plain values."""
    for column in columns:
        features = [split.features[column] for split in splits.values() if column in split.features]
        if not features:
            raise DataError(_unknown(column, "`subgroup_column` names", splits))
        if not all(isinstance(feature, Value | ClassLabel) for feature in features):
            raise DataError(f"`subgroup_column` '{column}' holds no plain values; name a column of texts or numbers")


def choose_group_column(
    splits: Mapping[str, Dataset], given: str | None, recorded: str | None = None, made_again: str | None = None
) -> str | None:
    """The column of groups: the given one, or that of a model's training if every row of the data has it.

    :param made_again: the split that is made of train again, as for the model's training, and so by its column.
    :raises DataError: for a given column, or one that a split is made by, that no split has.
    """
    if made_again is not None and recorded is not None:
        of = f"the model's training had, and by which its split '{made_again}' was made of train"
        return _known(recorded, of, splits)
    if given is not None:
        return _known(given, "`group_column` names", splits)
    if recorded is None or all(_is_whole(split, recorded) for split in splits.values()):
        return recorded
    logger.info(
        "The model's training had the groups of '%s'. Some rows here have none, so intervals take each image alone.",
        recorded,
    )  # fmt: skip
    return None


def _known(column: str, of: str, splits: Mapping[str, Dataset]) -> str:
    if not any(column in split.features for split in splits.values()):
        raise DataError(_unknown(column, of, splits))
    return column


def _is_whole(split: Dataset, column: str) -> bool:
    if column not in split.features:
        return False
    return not any(map(names_nothing, column_values(split, column)))


def subgroup_tables(split: Dataset, columns: Sequence[str]) -> tuple[list[Table], dict[str, Any]]:
    """The columns that a split has, under own names, and their features."""
    own = [column for column in columns if column in split.features]
    tables = [split.data.select([column]).rename_columns([PREFIX + column]) for column in own]
    return tables, {PREFIX + column: split.features[column] for column in own}


def check_subgroups(split: Dataset, columns: Sequence[str], name: str) -> None:
    """Check that a split can be scored by the values of the columns.

    :raises DataError: when it lacks one, or one has more than `MOST_VALUES` values.
    """
    for column in columns:
        if PREFIX + column not in split.features:
            raise DataError(
                f"split '{name}', which is scored, lacks the column '{column}' that `subgroup_column` names; add it "
                "there, or leave it out of `subgroup_column`"
            )
        found = set(subgroup_values(split, column, range(len(split))))
        if len(found) > MOST_VALUES:
            raise DataError(
                f"`subgroup_column` '{column}' has {len(found)} values in split '{name}', and at most {MOST_VALUES} "
                "are scored apart; add a column of ranges or kinds to the data, such as age_group with 0-39, 40-59 and "
                "60+, and name that one"
            )


def subgroup_values(split: Dataset, column: str, rows: Sequence[int]) -> list[str]:
    """The value of each of some rows as text, and `MISSING` where it is empty.

    :param split: with the column of `subgroup_tables`.
    """
    name = PREFIX + column
    values = column_values(split, name)
    feature = split.features[name]
    names = feature.names if isinstance(feature, ClassLabel) else None
    return [_text(values[row], names) for row in rows]


def _text(value: Any, names: list[str] | None) -> str:
    if names_nothing(value) or (names is not None and value < 0):
        return MISSING
    if names is not None:
        return names[value]
    if isinstance(value, float) and value.is_integer():  # of whole numbers where some are missing
        value = int(value)
    return " ".join(str(value).split()) or MISSING


def rows_of_subgroups(values: Sequence[str]) -> dict[str, np.ndarray]:
    """The positions of each value, sorted by it, and what is missing at the end."""
    found = np.asarray(values)
    return {
        str(value): np.flatnonzero(found == value) for value in sorted(set(values), key=lambda v: (v == MISSING, v))
    }


def _unknown(column: str, why: str, splits: Mapping[str, Dataset]) -> str:
    first = next(iter(splits.values())).features
    return (
        f"no split has the column '{column}' that {why}; the columns are: {columns_found(first)}."
        f"{nearest(column, list(first))}"
    )
