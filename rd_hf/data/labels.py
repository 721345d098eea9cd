"""Label columns of any usual kind as class indices or as vectors of 0 and 1, with the names of the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from datasets import ClassLabel, DatasetDict, LargeList, List, Value

from .columns import DataError


@dataclass(frozen=True)
class Labels:
    """The labels of all splits.

    :param values: per split (N,) int64 class indices, or (N, K) float32 of 0 and 1.
    :param names: the K class names, in the order of the indices.
    :param problem_type: transformers' name of the problem.
    """

    values: dict[str, np.ndarray]
    names: list[str]
    problem_type: str

    @classmethod
    def of_numbers(cls, values: dict[str, np.ndarray], names: Sequence[str]) -> Labels:
        """One class index per row."""
        return cls(values, list(names), "single_label_classification")

    @classmethod
    def of_vectors(cls, values: dict[str, np.ndarray], names: Sequence[str]) -> Labels:
        """A vector of 0 and 1 per row."""
        return cls(values, list(names), "multi_label_classification")

    @property
    def are_vectors(self) -> bool:
        """Whether a row's label is a vector of 0 and 1, and not a class index."""
        return all(rows.ndim == 2 for rows in self.values.values())


def read_labels(splits: DatasetDict, column: str | Sequence[str], names: Sequence[str] | None = None) -> Labels:
    """Read the labels of all splits, with one list of names for all of them.

    - `ClassLabel`: names kept. Text: names sorted. Integers without names: the distinct values, as "0", "1", ...
    - A list of class names or of class indices per row: multi-label. A list of one fixed length of at least two, with
      0 and 1 only, is read as one entry per class.
    - Several columns of 0 and 1: multi-label, named by the columns.

    :param splits: splits that all have the column(s).
    :param column: the label column, or a list of columns of 0 and 1.
    :param names: names for the integers or for the entries of the vectors, where the source gives them apart.
    :return: the labels.
    :raises DataError: if a label is missing or outside the names (names split, row and value), if splits disagree
        about their names, or if the column is of a kind that holds no classes.
    """
    if not isinstance(column, str):
        return _from_columns(splits, list(column))
    feature = _common_feature(splits, column)
    rows = {split: _column_values(splits, split, column) for split in splits}
    if isinstance(feature, (List, LargeList)):
        return _multi_label(rows, column, feature, names)
    if isinstance(feature, ClassLabel):
        return _single_from_indices(rows, column, feature.names)
    if not isinstance(feature, Value):
        raise DataError(f"label column '{column}' contains {type(feature).__name__}; expected class names or integers")
    if _is_text(feature):
        return _single_from_values(rows, column, lambda value: value if value else None)
    if names is not None:
        return _single_from_indices(rows, column, names)
    if feature.dtype == "bool":
        return _single_from_values(rows, column, lambda value: value)
    return _single_from_values(rows, column, _whole_number)


def align_labels(labels: Labels, names: Sequence[str]) -> Labels:
    """Number the labels as a trained model numbers its classes, matching them by name.

    :param labels: of the data.
    :param names: the model's class names, in its order.
    :return: the labels over `names`; multi-label classes that the data lacks are 0 throughout.
    :raises DataError: naming the classes with rows in the data that the model does not know.
    """
    index = {name: position for position, name in enumerate(names)}
    unknown = [name for position, name in enumerate(labels.names) if name not in index and _occurs(labels, position)]
    if unknown:
        raise DataError(
            f"the data has labels that the model does not know: {_abbreviate(unknown)}; the model's classes are "
            f"{_abbreviate(names)}. Rename these labels in the data, or remove their rows"
        )
    if not labels.are_vectors:
        numbers = np.array([index.get(name, -1) for name in labels.names], dtype=np.int64)
        return Labels.of_numbers({split: numbers[rows] for split, rows in labels.values.items()}, names)
    values = {split: np.zeros((len(rows), len(names)), dtype=np.float32) for split, rows in labels.values.items()}
    for position, name in enumerate(labels.names):
        if name in index:
            for split, rows in labels.values.items():
                values[split][:, index[name]] = rows[:, position]
    return Labels.of_vectors(values, names)


def has_names(feature: Any) -> bool:
    """Tell whether a label column's own values name classes (text or `ClassLabel`), rather than just number them."""
    inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
    return isinstance(inner, ClassLabel) or (isinstance(inner, Value) and _is_text(inner))


def _occurs(labels: Labels, position: int) -> bool:
    if not labels.are_vectors:
        return any((rows == position).any() for rows in labels.values.values())
    return any(rows[:, position].any() for rows in labels.values.values())


def _common_feature(splits: DatasetDict, column: str) -> Any:
    features = {split: rows.features[column] for split, rows in splits.items()}
    first_split, first = next(iter(features.items()))
    for split, feature in features.items():
        names, first_names = _class_names(feature), _class_names(first)
        if names != first_names:
            raise DataError(
                f"the class names of label column '{column}' differ between split '{split}' ({names}) and "
                f"'{first_split}' ({first_names}); cast both to one ClassLabel"
            )
        kinds = {_describe_kind(feature), _describe_kind(first)}
        kinds.discard("null")  # a column without any label in it has no kind
        if len(kinds) > 1:
            raise DataError(
                f"label column '{column}' contains {_describe_kind(feature)} in split '{split}', but "
                f"{_describe_kind(first)} in '{first_split}'; convert them to one type"
            )
    return first


def _describe_kind(feature: Any) -> str:
    """Describe a feature as far as splits must agree on it; integers become floats where a table has gaps."""
    if isinstance(feature, (List, LargeList)):
        return f"lists of {_describe_kind(feature.feature)}"
    if not isinstance(feature, Value):
        return type(feature).__name__
    if _is_text(feature):
        return "text"
    return feature.dtype if feature.dtype in ("bool", "null") else "numbers"


def _class_names(feature: Any) -> list[str] | None:
    inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
    return inner.names if isinstance(inner, ClassLabel) else None


def _column_values(splits: DatasetDict, split: str, column: str) -> list[Any]:
    return splits[split].select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def _single_from_indices(rows: dict[str, list], column: str, names: Sequence[str]) -> Labels:
    values = {}
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            _check_index(label, names, split, row, column)
        values[split] = np.array(labels, dtype=np.int64)
    return Labels.of_numbers(values, names)


def _single_from_values(rows: dict[str, list], column: str, parse: Any) -> Labels:
    """Number the distinct values in sorted order. :param parse: gives a value's canonical form, None if it is bad."""
    parsed = {}
    for split, labels in rows.items():
        parsed[split] = [None if _is_missing(label) else parse(label) for label in labels]
        for row, label in enumerate(parsed[split]):
            if label is None:
                _refuse(split, row, column, labels[row], "is neither a class name nor a whole number of at least 0")
    distinct = sorted({label for labels in parsed.values() for label in labels})
    index = {label: position for position, label in enumerate(distinct)}
    values = {split: np.array([index[label] for label in labels], dtype=np.int64) for split, labels in parsed.items()}
    return Labels.of_numbers(values, [str(label) for label in distinct])


def _multi_label(rows: dict[str, list], column: str, feature: Any, names: Sequence[str] | None) -> Labels:
    inner = feature.feature
    if not isinstance(inner, (ClassLabel, Value)):
        raise DataError(f"label column '{column}' contains lists of {type(inner).__name__}; expected names or integers")
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            if label is None or any(_is_missing(entry) for entry in label):
                _refuse(split, row, column, label, "is missing or has an empty entry")
    everything = [label for labels in rows.values() for label in labels]
    if isinstance(inner, Value) and _is_text(inner):
        names = sorted({entry for label in everything for entry in label})
        index = {name: position for position, name in enumerate(names)}
        rows = {split: [[index[entry] for entry in label] for label in labels] for split, labels in rows.items()}
    elif isinstance(inner, ClassLabel):
        names = inner.names
    elif _are_vectors(everything):
        return _from_vectors(rows, column, names)
    elif names is None:
        rows, names = _number_entries(rows, column)
    values = {split: np.zeros((len(labels), len(names)), dtype=np.float32) for split, labels in rows.items()}
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            for entry in label:
                _check_index(entry, names, split, row, column)
            values[split][row, [int(entry) for entry in label]] = 1
    return Labels.of_vectors(values, names)


def _are_vectors(everything: list[list]) -> bool:
    lengths = {len(label) for label in everything}
    return len(lengths) == 1 and min(lengths) >= 2 and all(entry in (0, 1) for label in everything for entry in label)


def _from_vectors(rows: dict[str, list], column: str, names: Sequence[str] | None) -> Labels:
    length = len(next(label for labels in rows.values() for label in labels))
    if names is not None and len(names) != length:
        raise DataError(
            f"label column '{column}' has {length} entries per row, but there are {len(names)} names: {list(names)}"
        )
    names = list(names) if names is not None else [str(position) for position in range(length)]
    values = {split: np.array(labels, dtype=np.float32).reshape(-1, length) for split, labels in rows.items()}
    return Labels.of_vectors(values, names)


def _number_entries(rows: dict[str, list], column: str) -> tuple[dict[str, list], list[str]]:
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            if any(_whole_number(entry) is None for entry in label):
                _refuse(split, row, column, label, "has an entry that is not a whole number of at least 0")
    distinct = sorted({int(entry) for labels in rows.values() for label in labels for entry in label})
    index = {entry: position for position, entry in enumerate(distinct)}
    numbered = {split: [[index[int(entry)] for entry in label] for label in labels] for split, labels in rows.items()}
    return numbered, [str(entry) for entry in distinct]


def _from_columns(splits: DatasetDict, columns: list[str]) -> Labels:
    values = {}
    for split in splits:
        vectors = []
        for column in columns:
            labels = _column_values(splits, split, column)
            for row, label in enumerate(labels):
                if label not in (0, 1):
                    _refuse(split, row, column, label, "is neither 0 nor 1")
            vectors.append(np.array(labels, dtype=np.float32))
        values[split] = np.stack(vectors, axis=1)
    return Labels.of_vectors(values, columns)


def _is_text(feature: Value) -> bool:
    return feature.dtype in ("string", "large_string")


def _is_missing(label: Any) -> bool:
    return label is None or label == "" or (isinstance(label, float) and math.isnan(label))


def _whole_number(label: Any) -> int | None:
    """Give 2.0 (what a csv reader makes of integers with gaps) as 2; anything but 0, 1, 2, ... as None."""
    is_whole = isinstance(label, int) or (isinstance(label, float) and label.is_integer())
    return int(label) if is_whole and label >= 0 else None


def _check_index(label: Any, names: Sequence[str], split: str, row: int, column: str) -> None:
    if _is_missing(label) or _whole_number(label) is None or label >= len(names):
        _refuse(split, row, column, label, f"is outside the {len(names)} names {_abbreviate(names)}")


def _abbreviate(names: Sequence[str]) -> str:
    return str(list(names)) if len(names) <= 20 else f"{list(names[:20])[:-1]} ... '{names[-1]}'"


def _refuse(split: str, row: int, column: str, value: Any, reason: str) -> NoReturn:
    hint = "; give unlabelled rows as unlabeled_dataset" if value is None or value == -1 else ""
    raise DataError(f"split '{split}', row {row}, column '{column}': label {value!r} {reason}{hint}")
