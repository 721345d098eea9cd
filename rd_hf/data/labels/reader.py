"""Reads label columns of any usual kind, over all splits at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, DatasetDict, Json, LargeList, List, Value

from ..columns import DataError, column_values
from .labels import LabelKind, Labels, Uncertain
from .spellings import empty_words, leading_zeros
from .text import describe_split, has_shared_parts, hint_at_combinations, is_list, parse_list, parts, separator
from .values import (
    NAN_WORDS,
    NUMERIC_NAN_WORDS,
    clean,
    is_decimal,
    is_missing,
    is_text,
    refuse,
    shown,
    whole_number,
)
from .vectors import as_vectors, check_index, from_columns, from_lists

TRUE_WORDS, FALSE_WORDS = ("True", "TRUE", "true"), ("False", "FALSE", "false")


def read_labels(
    splits: DatasetDict,
    column: str | Sequence[str],
    names: Sequence[str] | None = None,
    kind: LabelKind = "auto",
    uncertain: Uncertain | None = None,
) -> Labels:
    """Read the labels of all splits, with one list of names for all of them.

    - `ClassLabel`: names kept. Text: names sorted. Whole numbers without names: the distinct values, as "0", "1", ...;
      a column of text is one of numbers if all its values are written like numbers and none has a leading zero.
    - A list of class names or of class indices per row, or text with `|` between names: multi-label. Rows of 0 and 1,
      one entry per class: multi-label, or single-label if every row has exactly one 1.
    - Several columns of 0 and 1: likewise, named by the columns.

    Names are cleaned (see `rd_hf.data.labels.values.clean`). None, NaN, an empty text and a -1 among class numbers are
    no label.

    :param splits: splits that all have the column(s).
    :param column: the label column, or a list of columns of 0 and 1.
    :param names: names for the integers or for the entries of the vectors, where the source gives them apart.
    :param kind: "single" or "multi" where the number of labels per image is known; "auto" finds out.
    :param uncertain: how -1 is read in columns of 0 and 1.
    :return: the labels.
    :raises DataError: if a label is outside the names (names split, row and value), if splits disagree about their
        names, or if the column is of a kind that holds no classes.
    """
    if not isinstance(column, str):
        return from_columns(splits, list(column), kind, uncertain)
    feature = _common_feature(splits, column)
    rows = {name: column_values(split, column) for name, split in splits.items()}
    if isinstance(feature, (List, LargeList)):
        return _from_list_column(rows, column, feature, names, kind, uncertain)
    if isinstance(feature, ClassLabel):
        labels = _from_indices(rows, column, feature.names)
    elif not isinstance(feature, Value):
        kind = "values of several kinds" if isinstance(feature, Json) else type(feature).__name__
        raise DataError(f"label column '{column}' contains {kind}; expected class names only, or integers only")
    elif is_text(feature):
        labels = _from_text(rows, column, names, kind, uncertain)
    elif names is not None:
        labels = _from_indices(rows, column, names)
    elif feature.dtype == "bool":
        labels = _from_truth_values(rows)
    else:
        labels = _from_numbers(rows, column, uncertain)
    return as_vectors(labels) if kind == "multi" else labels


def _from_list_column(
    rows: dict[str, list],
    column: str,
    feature: List | LargeList,
    names: Sequence[str] | None,
    kind: LabelKind,
    uncertain: Uncertain | None,
) -> Labels:
    inner = feature.feature
    if not isinstance(inner, (ClassLabel, Value)):
        raise DataError(f"label column '{column}' contains lists of {type(inner).__name__}; expected names or integers")
    if not isinstance(inner, ClassLabel):
        return from_lists(rows, column, names, kind, uncertain)
    names, positions = _unite(inner.names)
    united = {
        split: [None if label is None else [_renumbered(entry, positions) for entry in label] for label in labels]
        for split, labels in rows.items()
    }
    return from_lists(united, column, names, kind, uncertain, are_names=True)


def _from_text(
    rows: dict[str, list], column: str, names: Sequence[str] | None, kind: LabelKind, uncertain: Uncertain | None
) -> Labels:
    cleaned = {
        split: [None if is_missing(label) else clean(label) for label in labels] for split, labels in rows.items()
    }
    counts = Counter(label for labels in cleaned.values() for label in labels if label is not None)
    words = [label for label in counts if label not in NUMERIC_NAN_WORDS]
    if words and all(whole_number(label) is not None for label in words):
        numbers = _replaced(cleaned, {label: whole_number(label) for label in words}, NUMERIC_NAN_WORDS)
        labels = _from_indices(numbers, column, names) if names else _from_numbers(numbers, column, uncertain)
        return labels.noted(_note_on_gaps(counts, NUMERIC_NAN_WORDS, column))
    if words and all(whole_number(label) is not None or is_decimal(label) for label in words):
        _refuse_decimals(cleaned, column)
    if words and all(label in (*TRUE_WORDS, *FALSE_WORDS) for label in words):
        truth = dict.fromkeys(TRUE_WORDS, True) | dict.fromkeys(FALSE_WORDS, False)
        told = _replaced(cleaned, truth, NUMERIC_NAN_WORDS)
        return _from_indices(told, column, names) if names else _from_truth_values(told)
    notes = [_note_on_gaps(counts, NAN_WORDS, column), *_notes_on_text(rows, cleaned, counts, column)]
    cleaned = _replaced(cleaned, {label: label for label in counts}, NAN_WORDS)
    counts = {label: count for label, count in counts.items() if label not in NAN_WORDS}
    lists = _text_as_lists(cleaned, counts, column, kind)
    if lists is not None:
        labels = from_lists(lists, column, names, kind, uncertain)
        return labels.noted(*notes, f"The labels of column '{column}' are written as lists, and are read as lists.")
    sign = None if kind == "single" else separator(counts)
    if sign is not None and (kind == "multi" or (sign == "|" and has_shared_parts(counts, sign))):
        divided = {
            split: [None if label is None else parts(label, sign) for label in labels]
            for split, labels in cleaned.items()
        }
        return from_lists(divided, column, None, "multi", uncertain).noted(
            *notes, describe_split(list(counts), sign, kind == "multi")
        )
    hint = hint_at_combinations(list(counts)) if kind == "auto" else None
    return _from_values(cleaned).noted(*notes, hint)


def _note_on_gaps(counts: Counter, words: Sequence[str], column: str) -> str | None:
    gaps = sum(counts[word] for word in words)
    return f"{gaps} rows of column '{column}' contain the word nan, which is read as an empty cell." if gaps else None


def _notes_on_text(rows: dict[str, list], cleaned: dict[str, list], counts: Counter, column: str) -> list[str]:
    notes = []
    trimmed = [
        label
        for split, labels in rows.items()
        for label, text in zip(labels, cleaned[split], strict=True)
        if text is not None and text != label
    ]
    if trimmed:
        notes.append(
            f"{len(trimmed)} labels of column '{column}' are read without the spaces around them, or in Unicode's "
            f"composed form; the first is {trimmed[0]!r}."
        )
    zeros = leading_zeros(counts)
    if zeros:
        notes.append(
            f"Column '{column}' has the labels {shown(zeros)}, which differ only in zeros in front. They are different "
            "classes."
        )
    words = empty_words(counts)
    if words:
        notes.append(
            f"Column '{column}' has classes named {' and '.join(map(repr, words))}. Leave the cell empty where a row "
            "has no label."
        )
    return notes


def _text_as_lists(
    rows: dict[str, list], counts: dict[str, int], column: str, kind: LabelKind
) -> dict[str, list] | None:
    """Parse labels that are all written like lists; None if none is.

    :raises DataError: if only some are, or if one cannot be understood.
    """
    written = [label for label in counts if is_list(label)]
    if not written or (kind == "single" and len(written) < len(counts)):
        return None
    parsed = {label: parse_list(label) for label in written}
    unclear = next((label for label in counts if parsed.get(label) is None), None)
    if unclear is not None and kind != "single":
        other = "cannot be read as one" if unclear in written else "is not one"
        raise DataError(
            f"label column '{column}': {len(written)} of {len(counts)} different labels are written as lists, such as "
            f"{written[0]!r}, but {unclear!r} {other}. Write all rows as lists, as in \"['a', 'b']\", or join several "
            "labels with |; `label_kind` single reads each text as the name of a class"
        )
    if unclear is not None:
        return None
    return {split: [None if label is None else parsed[label] for label in labels] for split, labels in rows.items()}


def _refuse_decimals(rows: dict[str, list], column: str) -> None:
    for split, labels in rows.items():
        for row, label in enumerate(labels):
            if label is not None and whole_number(label) is None and is_decimal(label):
                refuse(split, row, column, label, _NO_CLASS)


_NO_CLASS = "is neither a class name nor a whole number of at least 0"


def _replaced(rows: dict[str, list], values: dict[str, Any], missing: Sequence[str]) -> dict[str, list]:
    """Replace each text by its value; those in `missing` become None."""
    return {
        split: [None if label is None or label in missing else values[label] for label in labels]
        for split, labels in rows.items()
    }


def _from_indices(rows: dict[str, list], column: str, given: Sequence[str]) -> Labels:
    """Read indices of names; None, NaN and -1 are no label, the last as the Hub's test splits have it."""
    names, positions = _unite(given)
    values = {}
    for split, labels in rows.items():
        numbers = np.full(len(labels), -1, dtype=np.int64)
        for row, label in enumerate(labels):
            if not is_missing(label) and label != -1:
                check_index(label, given, split, row, column)
                numbers[row] = positions[int(label)]
        values[split] = numbers
    found = Labels.of_numbers(values, names)
    if len(names) == len(given):
        return found
    united = [name for name in given if sum(clean(other) == clean(name) for other in given) > 1]
    return found.noted(
        f"The class names {shown(united)} of column '{column}' differ only in the spaces around them or in the form of "
        "a letter in Unicode. They are read as one class each."
    )


def _unite(given: Sequence[str]) -> tuple[list[str], list[int]]:
    """Clean class names: the different ones, and the position of each given one among them."""
    names = list(dict.fromkeys(clean(name) for name in given))
    return names, [names.index(clean(name)) for name in given]


def _renumbered(entry: Any, positions: Sequence[int]) -> Any:
    number = None if is_missing(entry) else whole_number(entry)
    return positions[number] if number is not None and 0 <= number < len(positions) else entry


def _from_numbers(rows: dict[str, list], column: str, uncertain: Uncertain | None) -> Labels:
    parsed = {split: [None if is_missing(label) else label for label in labels] for split, labels in rows.items()}
    for split, labels in parsed.items():
        for row, label in enumerate(labels):
            if label is not None and (whole_number(label) is None or label < -1):
                refuse(split, row, column, label, _NO_CLASS)
    parsed = {
        split: [None if label is None else whole_number(label) for label in labels] for split, labels in parsed.items()
    }
    others = {label for labels in parsed.values() for label in labels} - {None, -1}
    negative = sum(labels.count(-1) for labels in parsed.values())
    if negative and others == {1}:
        raise DataError(
            f"label column '{column}' contains only -1 and 1, and -1 usually means no label. Write 0 and 1, or names"
        )
    if not negative:
        return _from_values(parsed, are_numbered=True)
    if uncertain is None or not others <= {0, 1}:
        meaning, words = None, "which is read as no label"
        words += ". If it means uncertain, give `uncertain`" if others == {0, 1} else ""
    else:
        meaning = {"ignore": None, "positive": 1, "negative": 0}[uncertain]
        words = f"uncertain, which is read as {'no label' if meaning is None else meaning}"
    note = f"{negative} rows of column '{column}' are -1, {words}."
    values = {split: [meaning if label == -1 else label for label in labels] for split, labels in parsed.items()}
    found = _from_values(values, are_numbered=True).noted(note)
    if uncertain != "ignore" or not others <= {0, 1}:
        return found
    unsure = {split: np.array([label == -1 for label in labels], dtype=bool) for split, labels in parsed.items()}
    return replace(found, uncertain=unsure)


def _from_truth_values(rows: dict[str, list]) -> Labels:
    return _from_values(rows, are_numbered=True)


def _from_values(rows: dict[str, list], are_numbered: bool = False) -> Labels:
    """Number the distinct values in sorted order; None is no label."""
    distinct = sorted({label for labels in rows.values() for label in labels} - {None})
    index = {label: position for position, label in enumerate(distinct)} | {None: -1}
    values = {split: np.array([index[label] for label in labels], dtype=np.int64) for split, labels in rows.items()}
    return Labels.of_numbers(values, [str(label) for label in distinct], are_numbered)


def _common_feature(splits: DatasetDict, column: str) -> Any:
    features = {split: rows.features[column] for split, rows in splits.items()}
    typed = {split: feature for split, feature in features.items() if _describe_kind(feature) != "null"}
    if not typed:
        raise DataError(f"label column '{column}' is empty in every split; label some rows")
    first_split, first = next(iter(typed.items()))
    for split, feature in typed.items():
        names, first_names = _class_names(feature), _class_names(first)
        if names != first_names:
            raise DataError(
                f"the class names of label column '{column}' differ between split '{split}' ({names}) and "
                f"'{first_split}' ({first_names}); cast both to one ClassLabel"
            )
        if _describe_kind(feature) != _describe_kind(first):
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
    if is_text(feature):
        return "text"
    return feature.dtype if feature.dtype in ("bool", "null") else "numbers"


def _class_names(feature: Any) -> list[str] | None:
    inner = feature.feature if isinstance(feature, (List, LargeList)) else feature
    return inner.names if isinstance(inner, ClassLabel) else None
