"""The labels of a data set: class indices or vectors of 0 and 1 per row, and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..columns import DataError
from .spellings import folded
from .values import clean, shown

LabelKind = Literal["auto", "single", "multi"]
Uncertain = Literal["ignore", "positive", "negative"]


@dataclass(frozen=True)
class Labels:
    """The labels of all splits.

    :param values: per split (N,) int64 class indices, -1 for a row without label; or (N, K) float32 of 0 and 1, NaN
        where it is not known.
    :param names: the K class names, in the order of the indices.
    :param problem_type: transformers' name of the problem.
    :param missing: per split (N,) bool, whether the row has no label at all.
    :param are_numbered: whether the names are only the data's own numbers.
    :param notes: sentences for the log about how the labels were read.
    :param uncertain: per split (N,) bool, which of the rows without label have one that is not known; empty if none.
    """

    values: dict[str, np.ndarray]
    names: list[str]
    problem_type: str
    missing: dict[str, np.ndarray]
    are_numbered: bool = False
    notes: list[str] = field(default_factory=list)
    uncertain: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of_numbers(cls, values: dict[str, np.ndarray], names: Sequence[str], are_numbered: bool = False) -> Labels:
        """One class index per row, -1 for none."""
        missing = {split: rows < 0 for split, rows in values.items()}
        return cls(values, list(names), "single_label_classification", missing, are_numbered)

    @classmethod
    def of_vectors(
        cls,
        values: dict[str, np.ndarray],
        names: Sequence[str],
        missing: dict[str, np.ndarray] | None = None,
        are_numbered: bool = False,
    ) -> Labels:
        """A vector of 0 and 1 per row."""
        if missing is None:
            missing = {split: np.zeros(len(rows), dtype=bool) for split, rows in values.items()}
        return cls(values, list(names), "multi_label_classification", missing, are_numbered)

    @property
    def are_vectors(self) -> bool:
        """Whether a row's label is a vector of 0 and 1, and not a class index."""
        return all(rows.ndim == 2 for rows in self.values.values())

    def counts(self) -> np.ndarray:
        """(K,) rows of each class, over all splits."""
        if self.are_vectors:
            return sum((rows > 0.5).sum(axis=0) for rows in self.values.values())
        return sum(np.bincount(rows[rows >= 0], minlength=len(self.names)) for rows in self.values.values())

    def noted(self, *notes: str | None) -> Labels:
        """With further notes; None is none."""
        return replace(self, notes=[*self.notes, *(note for note in notes if note is not None)])

    def renamed(self, names: Mapping[int, str]) -> Labels:
        """With other names, by the number of the class; one without another name keeps its own."""
        own = [names.get(number, name) for number, name in enumerate(self.names)]
        return replace(self, names=own, are_numbered=False)


def align_labels(labels: Labels, names: Sequence[str], are_columns: bool = False) -> Labels:
    """Number the labels as a trained model numbers its classes, matching them by name.

    :param labels: of the data.
    :param names: the model's class names, in its order.
    :param are_columns: whether the data has a column for each class. Then a class without a column is not known, and
        not scored. Elsewhere a class that no row names is absent.
    :return: the labels over `names`.
    :raises DataError: naming the classes with rows in the data that the model does not know.
    """
    # Models trained on names that were not cleaned know them by the clean name too.
    index = {clean(name): position for position, name in enumerate(names)}
    index |= {name: position for position, name in enumerate(names)}
    occurring = [name for name, count in zip(labels.names, labels.counts(), strict=True) if count]
    unknown = [name for name in occurring if name not in index]
    plain = [name.lstrip("0") or "0" if name.isdecimal() else name for name in labels.names]
    if unknown and set(plain) <= set(index) and len(set(plain)) == len(plain):  # earlier versions read 01 as 1
        note = f"The labels {shown(unknown)} are the model's {shown(plain)}, without the zeros in front."
        return align_labels(replace(labels, names=plain), names, are_columns).noted(note)
    if unknown:
        raise DataError(
            f"the data has labels that the model does not know: {shown(unknown)}; the model's classes are "
            f"{shown(names)}. Rename these labels in the data, or remove their rows{_hint(unknown, names)}"
        )
    positions = np.array([*(index.get(name, -1) for name in labels.names), -1], dtype=np.int64)  # the last one is -1's
    if not labels.are_vectors:
        values = {split: positions[rows] for split, rows in labels.values.items()}
        return replace(labels, values=values, names=list(names))
    positions = positions[:-1]
    known = positions >= 0
    absent = np.nan if are_columns else 0
    values = {split: np.full((len(rows), len(names)), absent, np.float32) for split, rows in labels.values.items()}
    for split, rows in labels.values.items():
        values[split][:, positions[known]] = rows[:, known]
    lacking = [name for number, name in enumerate(names) if number not in positions]
    note = f"The data has no column of {shown(lacking)}, which are not scored." if lacking and are_columns else None
    return replace(labels, values=values, names=list(names)).noted(note)


def names_of_numbers(labels: Labels, names: Sequence[str]) -> Labels | None:
    """Give numbers the names of a trained model that are the same numbers with zeros in front, such as 01 for 1.

    :return: None if a number has no such name, or several.
    """
    by_number: dict[str, list[str]] = {}
    for name in names:
        if name.isdecimal():
            by_number.setdefault(name.lstrip("0") or "0", []).append(name)
    found = {position: by_number.get(number, []) for position, number in enumerate(labels.names)}
    if any(len(same) != 1 for same in found.values()):
        return None
    renamed = labels.renamed({position: same[0] for position, same in found.items()})
    return renamed.noted(f"The labels {shown(labels.names)} are the model's {shown(renamed.names)}.")


def without_unused(labels: Labels) -> Labels:
    """Leave out the classes that no row of any split has; a model cannot learn them, nor be scored on them."""
    used = labels.counts() > 0
    unused = [name for name, is_used in zip(labels.names, used, strict=True) if not is_used]
    if not unused or not used.any():
        return labels
    names = [name for name, is_used in zip(labels.names, used, strict=True) if is_used]
    positions = np.where(used, np.cumsum(used) - 1, -1)
    values = {
        split: rows[:, used] if labels.are_vectors else np.where(rows < 0, -1, positions[rows])
        for split, rows in labels.values.items()
    }
    note = f"No row of any split has the class {shown(unused)}, so it is left out. The classes are {shown(names)}."
    return replace(labels, values=values, names=names).noted(note)


def check_shared(used: Mapping[str, Sequence[str]]) -> None:
    """Refuse splits that name their classes differently, such as 0 and 1 in train and names in test.

    :param used: the classes that rows of each split have.
    :raises DataError: where train and another split have none in common.
    """
    for split, names in used.items():
        if names and used["train"] and not {*names} & {*used["train"]}:
            raise DataError(
                f"train and {split} use different labels: train has {shown(used['train'])}, and {split} has "
                f"{shown(names)}. Write the labels alike in all splits"
            )


def _hint(unknown: Sequence[str], names: Sequence[str]) -> str:
    known = {folded(name): name for name in names}
    alike = [(name, known[folded(name)]) for name in unknown if folded(name) in known]
    if not alike:
        return ""
    return f". {alike[0][0]!r} differs from the model's {alike[0][1]!r} only in capitals, spaces or forms of a letter"
