"""Labels as lists and as vectors of 0 and 1: several per image, or one-hot rows for one per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import DatasetDict

from ...arguments.words import some_of
from ..columns import DataError, column_values
from .labels import LabelKind, Labels, Uncertain
from .values import NUMERIC_NAN_WORDS, clean, is_missing, refuse, shown, whole_number

_TRUTH = {"true": 1, "false": 0}


def from_columns(splits: DatasetDict, columns: Sequence[str], kind: LabelKind, uncertain: Uncertain | None) -> Labels:
    """Read several columns of 0 and 1, named by the columns.

    A row that is empty in every column has no label.

    :raises DataError: for any other value, or if there are -1 or empty cells and nothing says what they mean.
    """
    values = {}
    for name, split in splits.items():
        read = [_entries(column_values(split, column), name, column) for column in columns]
        values[name] = np.stack(read, axis=1)
    names = [clean(column) for column in columns]
    if len(set(names)) < len(names):
        raise DataError(
            f"label_column {list(columns)} has names that differ only in the spaces around them; rename one"
        )
    return _from_vectors(values, names, f"columns {', '.join(columns)}", kind, uncertain)


def from_lists(
    rows: dict[str, list],
    column: str,
    names: Sequence[str] | None,
    kind: LabelKind,
    uncertain: Uncertain | None,
    are_names: bool = False,
) -> Labels:
    """Read a list per row: of class names, of class indices, or of 0 and 1 for each class.

    :param rows: per split; a row without label has None.
    :param names: of the indices or entries, where the source gives them apart.
    :param are_names: whether entries are indices into `names` for certain, and never vectors.
    :raises DataError: if an entry is empty or outside the names.
    """
    everything = [label for labels in rows.values() for label in labels if label is not None]
    if not are_names and _are_vectors(everything):
        length = len(everything[0])
        if names is not None and len(names) != length:
            raise DataError(
                f"label column '{column}' has {length} entries per row, but there are {len(names)} names: {list(names)}"
            )
        empty = [None] * length
        filled = {split: [empty if label is None else label for label in labels] for split, labels in rows.items()}
        values = {split: np.array(labels, dtype=np.float32).reshape(-1, length) for split, labels in filled.items()}
        given = [str(position) for position in range(length)] if names is None else list(names)
        return _from_vectors(values, given, f"column '{column}'", kind, uncertain, names is None)
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            if label is not None and any(is_missing(entry) for entry in label):
                refuse(split, row, column, label, "has an empty entry")
    are_texts = any(isinstance(entry, str) for label in everything for entry in label)
    are_numbered = names is None and not are_texts
    if are_texts:
        rows, names = _number_names(rows)
    elif names is None:
        rows, names = _number_entries(rows, column)
    values = {split: np.zeros((len(labels), len(names)), dtype=np.float32) for split, labels in rows.items()}
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            for entry in label or ():
                check_index(entry, names, split, row, column)
            values[split][row, [int(entry) for entry in label or ()]] = 1
    missing = {split: np.array([label is None for label in labels], dtype=bool) for split, labels in rows.items()}
    labels = Labels.of_vectors(values, names, missing, are_numbered)
    if kind == "single":
        return _one_per_row(labels, f"column '{column}'")
    if kind == "auto" and _is_one_hot(labels):
        return labels.noted(
            f"Every row of column '{column}' lists exactly one label. A list is read as several labels per image; if "
            "each image has one, give `label_kind` single."
        )
    return labels


def as_vectors(labels: Labels) -> Labels:
    """Give class indices as vectors of 0 and 1."""
    if labels.are_vectors:
        return labels
    eye = np.eye(len(labels.names) + 1, len(labels.names), dtype=np.float32)  # the last row, -1, is all 0
    values = {split: eye[rows] for split, rows in labels.values.items()}
    return Labels.of_vectors(values, labels.names, labels.missing, labels.are_numbered).noted(*labels.notes)


def check_index(label: Any, names: Sequence[str], split: str, row: int, column: str) -> None:
    """:raises DataError: for anything but the index of a name."""
    number = None if is_missing(label) else whole_number(label)
    if number is None or not 0 <= number < len(names):
        refuse(split, row, column, label, f"is outside the {len(names)} names {shown(names)}")


def _entries(values: list, split: str, column: str) -> np.ndarray:
    """The cells of a column of 0 and 1: (N,) float32 of 0, 1, -1, and NaN for an empty cell."""
    entries = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        text = clean(value) if isinstance(value, str) else value
        if is_missing(text) or text in NUMERIC_NAN_WORDS:
            entries[row] = np.nan
            continue
        number = _TRUTH.get(text.casefold(), whole_number(text)) if isinstance(text, str) else whole_number(text)
        if number not in (0, 1, -1):
            refuse(split, row, column, value, "is neither 0 nor 1 (nor -1 for uncertain, nor empty)")
        entries[row] = number
    return entries


def _from_vectors(
    values: dict[str, np.ndarray],
    names: Sequence[str],
    where: str,
    kind: LabelKind,
    uncertain: Uncertain | None,
    are_numbered: bool = False,
) -> Labels:
    """Vectors of 0, 1, -1 and NaN as labels of either kind.

    What they mean is CheXpert's convention (Irvin et al. 2019, arXiv 1901.07031): -1 is uncertain, and an empty cell a
    finding that the report does not mention, which its authors count as negative.
    """
    missing = {split: np.isnan(rows).all(axis=1) for split, rows in values.items()}
    doubtful = {split: rows[~missing[split]] for split, rows in values.items()}
    uncertain_cells = sum((rows == -1).sum(axis=0) for rows in doubtful.values())
    empty_cells = sum(np.isnan(rows).sum(axis=0) for rows in doubtful.values())
    notes = []
    if uncertain_cells.any() or empty_cells.any():
        counted = _count_cells(names, uncertain_cells, empty_cells)
        if uncertain is None and not uncertain_cells.any():
            without = sum(int(rows.sum()) for rows in missing.values())
            raise DataError(
                f"{where}: {counted}. With `uncertain` negative an empty cell is read as 0, a finding that is not "
                f"mentioned, but a row that is empty in all columns has no label ({without} rows). If every empty cell "
                "means 0, write 0 into it"
            )
        if uncertain is None:
            raise DataError(
                f"{where}: {counted}. Say how -1 is read: `uncertain` ignore leaves it out of the loss and of the "
                "scores, positive reads it as 1, negative as 0. With each of them an empty cell is read as 0, a "
                "finding that is not mentioned"
            )
        values = {split: _resolve(rows, missing[split], uncertain) for split, rows in values.items()}
        meaning = {"ignore": "not known", "positive": "1", "negative": "0"}[uncertain]
        notes.append(f"In {where}, {counted}. Uncertain is read as {meaning}, empty as 0, not mentioned.")
    else:
        values = {split: np.where(np.isnan(rows), np.float32(0), rows) for split, rows in values.items()}
    labels = Labels.of_vectors(values, names, missing, are_numbered).noted(*notes)
    if kind == "single":
        return _one_per_row(labels, where)
    if kind == "auto" and _is_one_hot(labels):
        return _one_per_row(labels, where).noted(
            f"Every row of {where} has exactly one 1 (one-hot), so each image has one label of {len(names)}. If an "
            "image can have several, give `label_kind` multi."
        )
    return labels


def _resolve(rows: np.ndarray, missing: np.ndarray, uncertain: Uncertain) -> np.ndarray:
    meaning = {"ignore": np.nan, "positive": 1, "negative": 0}[uncertain]
    resolved = np.where(np.isnan(rows), 0, np.where(rows == -1, meaning, rows)).astype(np.float32)
    resolved[missing] = 0
    return resolved


def _count_cells(names: Sequence[str], uncertain: np.ndarray, empty: np.ndarray) -> str:
    cells = [
        f"{name}: {minus} uncertain (-1), {gap} empty"
        for name, minus, gap in zip(names, uncertain, empty, strict=True)
        if minus or gap
    ]
    return f"some cells are neither 0 nor 1 ({some_of(cells, 20, '; ', '; and ')})"


def _is_one_hot(labels: Labels) -> bool:
    rows = np.concatenate([rows[~labels.missing[split]] for split, rows in labels.values.items()])
    return len(labels.names) > 1 and len(rows) > 0 and bool((rows.sum(axis=1) == 1).all())


def _one_per_row(labels: Labels, where: str) -> Labels:
    """:raises DataError: naming a row that has not exactly one label."""
    numbers = {}
    for split, rows in labels.values.items():
        wrong = (rows.sum(axis=1) != 1) & ~labels.missing[split]
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            own = [name for name, value in zip(labels.names, rows[row], strict=True) if value == 1]
            unclear = " and some that are uncertain" if np.isnan(rows[row]).any() else ""
            raise DataError(
                f"split '{split}', row {row}, {where}: has {len(own)} labels {own}{unclear}, but each row needs "
                f"exactly one where one label per image is expected (label_kind single). {wrong.sum()} rows of this "
                "split are like that. Leave label_kind out, or set it to multi"
            )
        numbers[split] = np.where(labels.missing[split], -1, rows.argmax(axis=1)).astype(np.int64)
    return Labels.of_numbers(numbers, labels.names, labels.are_numbered).noted(*labels.notes)


def _are_vectors(everything: list[list]) -> bool:
    lengths = {len(label) for label in everything}
    if len(lengths) != 1 or min(lengths) < 2:
        return False
    entries = [entry for label in everything for entry in label]
    if any(isinstance(entry, str) for entry in entries):
        return False
    return all(is_missing(entry) or entry in (0, 1, -1) for entry in entries) and any(e in (0, 1) for e in entries)


def _number_names(rows: dict[str, list]) -> tuple[dict[str, list], list[str]]:
    cleaned = {
        split: [None if label is None else [clean(str(entry)) for entry in label] for label in labels]
        for split, labels in rows.items()
    }
    names = sorted({entry for labels in cleaned.values() for label in labels for entry in label or ()})
    index = {name: position for position, name in enumerate(names)}
    numbered = {
        split: [None if label is None else [index[entry] for entry in label] for label in labels]
        for split, labels in cleaned.items()
    }
    return numbered, names


def _number_entries(rows: dict[str, list], column: str) -> tuple[dict[str, list], list[str]]:
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            if any((whole_number(entry) if whole_number(entry) is not None else -1) < 0 for entry in label or ()):
                refuse(split, row, column, label, "has an entry that is not a whole number of at least 0")
    distinct = sorted({int(entry) for labels in rows.values() for label in labels for entry in label or ()})
    index = {entry: position for position, entry in enumerate(distinct)}
    numbered = {
        split: [None if label is None else [index[int(entry)] for entry in label] for label in labels]
        for split, labels in rows.items()
    }
    return numbered, [str(entry) for entry in distinct]
