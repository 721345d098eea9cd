"""Looks at the set of class names as a person would: two spellings of one name, and names beside numbers."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from datasets import DatasetDict

from ...arguments.words import counted, some_of
from ..columns import DataError, column_values
from .values import clean, is_missing, is_text, shown

NAME_WORDS = ("label", "class", "diagnos", "finding", "categor", "target", "disease", "patholog")
# Words that readers of tables take for an empty cell, and that may as well be the name of a class.
EMPTY_WORDS = ("none", "na", "n/a", "null", "n.a.", "<na>", "-", "-1", "?")


def folded(name: str) -> str:
    """Give a name without what a reader overlooks: capitals, kinds and runs of white space, signs without a width."""
    text = unicodedata.normalize("NFKC", name).casefold()
    visible = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).split())


def check_spellings(counts: Mapping[str, int], where: str) -> None:
    """Refuse names that are the same but for their spelling.

    :param counts: rows of each name.
    :param where: the column, for the message.
    :raises DataError: with all spellings and their rows.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name, count in counts.items():
        if count:
            spellings[folded(name)].append(name)
    double = [names for names in spellings.values() if len(names) > 1]
    if double:
        written = [" and ".join(f"{name!r} ({counted(counts[name], 'row')})" for name in names) for names in double]
        raise DataError(
            f"{where} has labels that differ only in capitals, spaces or forms of a letter: "
            f"{some_of(written, 5, '; ', '; and ')}. Use one spelling, or, if they are different classes, names that "
            "differ in more than that"
        )


def leading_zeros(names: Iterable[str]) -> list[str]:
    """Give the names that are the same number but for zeros in front, such as "1" and "01"."""
    numbers: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.isdecimal():
            numbers[name.lstrip("0")].append(name)
    return [name for same in numbers.values() if len(same) > 1 for name in same]


def empty_words(counts: Mapping[str, int]) -> list[str]:
    """Give the names that other readers of tables take for an empty cell, such as "None" or "NA"."""
    return [name for name in counts if name.casefold() in EMPTY_WORDS]


def names_beside(
    splits: DatasetDict, column: str, given: Sequence[str], numbers: Mapping[str, Sequence[int]], used: Sequence[str]
) -> tuple[dict[int, str] | None, str | None]:
    """Look for a text column that names the numbers of a label column.

    It must give each number one name, and each name to one number, over all splits. The column's own name decides
    between several: `{column}_name` is better than one that speaks of labels, classes or diagnoses. A column whose name
    says nothing of the kind is only pointed out.

    :param column: the label column.
    :param given: the numbers as they are written, by class index.
    :param numbers: of each split, the class index of each row; negative for a row without label.
    :param used: columns that have another use.
    :return: the name of each class index, or None; and a sentence for the log, or None.
    """
    distinct = {int(number) for values in numbers.values() for number in values if number >= 0}
    rows = sum(number >= 0 for values in numbers.values() for number in values)
    if len(distinct) in (0, rows):
        return None, None
    found: dict[int, dict[str, dict[int, str]]] = defaultdict(dict)
    unclear = None
    for other in _text_columns(splits, (column, *used)):
        names = _names_by_number(splits, other, numbers)
        rank = _rank(other, column)
        single = {number: next(iter(own)) for number, own in names.items() if len(own) == 1}
        if len(single) == len(distinct) and len(set(single.values())) == len(distinct):
            found[rank][other] = single
        elif rank == 0:
            unclear = (
                f"Column '{other}' does not give each number of '{column}' one name of its own, so it is not used: "
                f"{_disagreement(names, distinct, given)}."
            )
    best = found[min(found)] if found else {}
    if not best or (unclear and min(found) > 0):
        return None, unclear
    name, names = next(iter(best.items()))
    if min(found) == 2 or any(own != names for own in best.values()):
        others = ", ".join(f"'{name}'" for name in best)
        return None, (
            f"The classes are numbers, and {others} could name them. Rename the right column to '{column}_name' to use "
            "its names."
        )
    pairs = ", ".join(f"{given[number]} is {names[number]!r}" for number in sorted(names)[:20])
    return names, f"The numbers of '{column}' get their names from column '{name}': {pairs}."


def _text_columns(splits: DatasetDict, used: Sequence[str]) -> list[str]:
    first = next(iter(splits.values()))
    return [
        name
        for name in first.column_names
        if name not in used and all(is_text(split.features.get(name)) for split in splits.values())
    ]


def _names_by_number(splits: DatasetDict, column: str, numbers: Mapping[str, Sequence[int]]) -> dict[int, set[str]]:
    names: dict[int, set[str]] = defaultdict(set)
    for split, values in numbers.items():
        texts = column_values(splits[split], column)
        for number, text in zip(values, texts, strict=True):
            if number >= 0 and not is_missing(text):
                names[int(number)].add(clean(text))
    return names


def _rank(name: str, column: str) -> int:
    """Rank a column's name as that of names: 0 says so, 1 may mean it, 2 says nothing of the kind."""
    name, column = name.casefold().replace(" ", "_"), column.casefold().replace(" ", "_")
    stem = column.removesuffix("_id").removesuffix("_index").removesuffix("_number")
    suffixes = ("_name", "_names", "_text", "name")
    if name in {f"{word}{suffix}" for word in (column, stem, "label", "class") for suffix in suffixes}:
        return 0
    words = (*NAME_WORDS, stem) if len(stem) > 2 else NAME_WORDS
    return 1 if name == "name" or any(word in name for word in words) else 2


def _disagreement(names: Mapping[int, set[str]], distinct: set[int], given: Sequence[str]) -> str:
    for number in sorted(distinct):
        if len(names.get(number, ())) != 1:
            return f"{given[number]} has the names {shown(sorted(names.get(number, ())))}"
    return f"its names are {shown(sorted(name for own in names.values() for name in own))}"
