"""Rows without a label: they leave train, and a split that has no other rows is not scored."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict

from .columns import DataError
from .image_column import files_of_rows
from .labels.labels import Labels
from .split_tables import group_keys

logger = logging.getLogger(__name__)


def without_label_column(splits: DatasetDict, columns: Sequence[str]) -> list[str]:
    """Give the splits other than train that lack the label column and have no column that could be meant instead."""
    if "train" not in splits or not set(columns) <= set(splits["train"].column_names):
        return []
    bare = [
        name
        for name, split in splits.items()
        if not set(columns) & set(split.column_names) and set(split.column_names) <= set(splits["train"].column_names)
    ]
    for name in bare:
        logger.warning("Split '%s' has no label column, so it is left out.", name)
    return bare


def divide_labelled(
    splits: DatasetDict, labels: Labels, column: str | Sequence[str], scored: Sequence[str]
) -> tuple[DatasetDict, Dataset | None, list[str]]:
    """Take the rows without label out of the splits.

    :param splits: with columns ``image``, ``label`` and perhaps ``group``.
    :param column: the label column(s), for messages.
    :param scored: splits in which either every row has a label or none; rows whose label is uncertain are left out.
    :return: splits of labelled rows only; the other rows of train, without the column ``label``, or None; and the
        names of the splits in which no row has a label, which are left out.
    :raises DataError: if only some rows of a scored split have a label or an uncertain one, or if no row of any split
        has a label.
    """
    found, unlabelled, empty = DatasetDict(), None, []
    for name, split in splits.items():
        missing = labels.missing[name]
        if missing.all():
            empty.append(name)
            continue
        unsure = labels.uncertain.get(name, np.zeros_like(missing))
        if (missing & ~unsure).any() and name in scored:
            raise DataError(_some_lack_labels(name, missing & ~unsure, column))
        if unsure.any() and name in scored:
            words = "%d of %d rows of split '%s' are uncertain, so they are not scored."
            logger.info(words, unsure.sum(), len(split), name)
        found[name] = split.select(np.flatnonzero(~missing)) if missing.any() else split
        if missing.any() and name == "train":
            unlabelled = split.select(np.flatnonzero(missing)).remove_columns("label")
    if not found:
        raise DataError(f"no row of {' or '.join(splits)} has a label in {_described(column)}; label some rows")
    for name in empty:
        logger.warning(
            "Split '%s' has no labels: all %d rows are empty or -1 in %s. It is left out.",
            name, len(splits[name]), _described(column),
        )  # fmt: skip
    return found, unlabelled, empty


def outside_scored(rows: Dataset, splits: DatasetDict, scored: Sequence[str]) -> Dataset:
    """Leave out the rows whose file or group (patient) is in a scored split, with a warning.

    :param rows: rows without label.
    :param scored: names of splits.
    """
    files = {file for name in scored for file in files_of_rows(splits[name])} - {None}
    rows = _left_out(rows, [file in files for file in files_of_rows(rows)], "file", scored)
    if "group" not in rows.column_names:
        return rows
    groups = {key for name in scored for key in group_keys(splits[name])} - {None}
    return _left_out(rows, [key in groups for key in group_keys(rows)], "group", scored)


def _left_out(rows: Dataset, are_scored: Sequence[bool], what: str, scored: Sequence[str]) -> Dataset:
    kept = [row for row, is_scored in enumerate(are_scored) if not is_scored]
    if len(kept) == len(rows):
        return rows
    logger.warning(
        "%d of %d rows without label are left out, because their %s is in %s.",
        len(rows) - len(kept), len(rows), what, " or ".join(scored),
    )  # fmt: skip
    return rows.select(kept)


def _some_lack_labels(name: str, missing: np.ndarray, column: str | Sequence[str]) -> str:
    return (
        f"{missing.sum()} of {len(missing)} rows of split '{name}' have no label in {_described(column)} (they are "
        f"empty, NaN or -1); the first is row {np.flatnonzero(missing)[0]}. This split is scored, so every row needs a "
        "label: add the labels, or remove these rows"
    )


def _described(column: str | Sequence[str]) -> str:
    return f"column '{column}'" if isinstance(column, str) else f"columns {', '.join(column)}"
