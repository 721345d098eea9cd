"""Complete the train, validation and test splits of a data set, and choose the train rows that keep their label.

Everything here is a function of the labels, the groups and the seed, the same in every process.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, DatasetDict

from ..arguments.words import counted, some_of
from .columns import DataError
from .image_column import files_of_rows
from .labels.labels import check_shared
from .leaks import report_leaks, shared_groups
from .split_tables import group_keys

if TYPE_CHECKING:
    from .sources import ImageData

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_SPLIT_STREAM, _LABEL_STREAM = 0, 1
Marks = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Labelled:
    """Which train rows keep their label; together the two hold every train row once.

    :param rows: (L,) int64, ascending.
    :param unlabelled_rows: (N - L,) int64, ascending.
    """

    rows: np.ndarray
    unlabelled_rows: np.ndarray


def complete_splits(
    data: ImageData, marks: Marks, validation_fraction: float, test_fraction: float, seed: int, on_leak: str = "warn"
) -> ImageData:
    """Make a missing validation and a missing test split from train, stratified by label.

    Stratification is `stratify`'s. Every class with enough rows (or groups) is in each split made here; one with
    fewer stays in train as a whole, with a warning. Where the data has a column ``group``, the rows of a group stay
    together, and otherwise those of one file. Groups that are also in another split that came with the data stay in
    train. A group on two sides of splits that came with the data is left there, counted and warned about, or refused.

    :param data: data with a train split.
    :param marks: of labels: (N, K), 1 where a row has a class.
    :param validation_fraction: share of train that becomes validation, if there is none.
    :param test_fraction: share of train (before anything is taken out) that becomes test, if there is none.
    :param seed: seed of the splits.
    :param on_leak: "warn" or "error", see `rd_hf.data.leaks.report_leaks`.
    :return: the data with splits train, validation and test; its rows keep their order.
    :raises DataError: if there is no train split, a split has no rows, a class is absent from train, there is one
        class only, or train is too small to be split.
    """
    _check(data, marks)
    report_leaks(shared_groups({name: _group_values(data, name) for name in SPLITS}), on_leak, data.source)
    missing = [name for name in SPLITS if name not in data.splits]
    if missing:
        wanted = {"validation": validation_fraction, "test": test_fraction}
        data = _split_train(data, marks, {name: wanted[name] for name in missing}, seed)
    sizes = ", ".join(f"{name} {len(data.splits[name])}" for name in SPLITS)
    made = f" ({' and '.join(missing)} made from train with seed {seed})" if missing else ""
    logger.info("Splits: %s%s", sizes, made)
    for name in SPLITS[1:]:
        counts = marks(data.labels(name)).sum(axis=0)
        absent = [label for label, count in zip(data.label_names, counts, strict=True) if count == 0]
        if absent:
            logger.warning("Split '%s' has no row of %s.", name, _listed(absent))
    return data


def choose_labelled(
    data: ImageData, marks: Marks, shots: int | None, label_fraction: float | None, seed: int
) -> Labelled:
    """Choose the train rows that keep their label; with neither `shots` nor `label_fraction` all of them do.

    `shots` goes through the classes from the rarest on and draws, among the rows of a class that are not chosen yet,
    as many as it still lacks. With one label per row that is exactly `shots` rows per class; with several labels per
    row, at least `shots` positive labels per class, and rows without any label are not drawn. `label_fraction`
    stratifies (see `stratify`) and gives each class at least one row.

    For masks `shots` is the number of images in all, see `draw_images`; `label_fraction` stratifies by the classes but
    the first, which is the background.

    :param data: data with a train split.
    :param marks: of labels: (N, K), 1 where a row has a class.
    :param shots: labels per class. A class with fewer rows gives all of them, with a warning.
    :param label_fraction: share of the train rows, between 0 and 1.
    :param seed: seed of the choice.
    :return: the rows with and without label.
    :raises ValueError: if both `shots` and `label_fraction` are given.
    """
    if shots is not None and label_fraction is not None:
        raise ValueError("shots and label_fraction both set how many labels are kept; give one of them")
    has_class = marks(data.labels("train"))
    chosen = np.ones(len(has_class), dtype=bool)
    generator = np.random.default_rng([seed, _LABEL_STREAM])
    if data.masks is not None:
        has_class = has_class[:, 1:]
    if shots is not None and data.masks is not None:
        chosen = draw_images(_with_unmarked(has_class), shots, generator)
        if len(chosen) < shots:
            logger.warning("train has %d rows with masks, fewer than shots = %d; all are used.", len(chosen), shots)
    elif shots is not None:
        chosen = _draw_shots(has_class, shots, generator)
        for name, count in zip(data.label_names, has_class.sum(axis=0), strict=True):
            if count < shots:
                logger.warning(
                    "Class '%s' has %d rows in train, fewer than shots = %d; all of them are used.", name, count, shots
                )
    elif label_fraction is not None:
        chosen = stratify(_with_unmarked(has_class), [label_fraction, 1 - label_fraction], 1, generator) == 0
    return Labelled(np.flatnonzero(chosen).astype(np.int64), np.flatnonzero(~chosen).astype(np.int64))


def draw_images(marks: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw so many images that each class has nearly its share of them, and at least one while there is room.

    Each image is drawn from the class that lacks most of its share, classes without any image first, the rarest of
    them first.

    :param marks: (N, C) whether an image has a class; every image has at least one.
    :param count: images to draw; all are drawn where there are fewer.
    :param generator: breaks the ties.
    :return: (N,) bool.
    """
    chosen = np.zeros(len(marks), dtype=bool)
    order = generator.permutation(len(marks))
    images = marks.sum(axis=0)
    wanted = images * min(count, len(marks)) / max(len(marks), 1)
    held, left = np.zeros_like(images), images.copy()
    for _ in range(min(count, len(marks))):
        lacking = wanted - held
        first = np.where((held == 0) & (images > 0), len(marks) + 1.0 - images / (len(marks) + 1), lacking)
        label = int(np.argmax(np.where(left > 0, first, -np.inf)))
        candidates = order[~chosen[order] & (marks[order, label] > 0)]
        chosen[candidates[0]] = True
        held, left = held + marks[candidates[0]], left - marks[candidates[0]]
    return chosen


def stratify(
    counts: np.ndarray,
    fractions: Sequence[float],
    required: int,
    generator: np.random.Generator,
    pinned: np.ndarray | None = None,
) -> np.ndarray:
    """Divide units (rows, or groups of rows) between sides so that each class is divided by `fractions`.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011, "On the stratification of multi-label data"),
    with units of several rows: the class with the fewest units left is shared out first, its largest units first,
    each to the side that lacks most rows of that class. A last row that is whole on no side goes where most rows are
    lacking in all, so that the sides' sizes do not drift with many small classes.

    :param counts: (U, C) rows of each class in each unit; every unit has at least one.
    :param fractions: (S,) the sides' shares, which add up to 1.
    :param required: the first so many sides get at least one unit of each class; where a class has fewer units than
        that, all of them go to side 0.
    :param generator: breaks the ties.
    :param pinned: (U,) True for the units that belong to side 0 whatever their class; None for none.
    :return: (U,) int64 side of each unit.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    side_of = np.full(len(counts), -1, dtype=np.int64)
    if pinned is not None:
        side_of[pinned] = 0
    held = np.zeros((len(shares), counts.shape[1]), dtype=np.int64)
    held[0] = counts[side_of == 0].sum(axis=0)
    wanted = shares[:, None] * counts.sum(axis=0)
    units_of_class = (counts > 0).sum(axis=0)
    sizes, rows_of_unit = held.sum(axis=1), counts.sum(axis=1)
    left = (counts[side_of < 0] > 0).sum(axis=0)
    order = generator.permutation(len(counts))
    while (side_of < 0).any():
        # Classes too small to share out go first, so that no other class takes their units away from side 0.
        turn = np.where(units_of_class < required, 0, left)
        label = int(np.argmin(np.where(left > 0, turn, len(counts) + 1)))
        units = order[(side_of[order] < 0) & (counts[order, label] > 0)]
        units = units[np.argsort(-counts[units, label], kind="stable")]
        left -= (counts[units] > 0).sum(axis=0)
        for position, unit in enumerate(units):
            sides = np.arange(len(shares))
            empty = np.flatnonzero(held[:required, label] == 0)
            if units_of_class[label] < required:
                sides = sides[:1]
            elif len(empty) >= len(units) - position:
                sides = empty
            lacking = wanted[:, label] - held[:, label]
            side = _neediest(sides, lacking, shares * sizes.sum() - sizes, counts[unit, label])
            side_of[unit] = side
            held[side] += counts[unit]
            sizes[side] += rows_of_unit[unit]
    return side_of


def _neediest(sides: np.ndarray, lacking: np.ndarray, lacking_in_all: np.ndarray, rows: int) -> int:
    """Choose the side that lacks most rows of the class; for a last single row, among those that lack a part of it."""
    in_class, in_all = lacking[sides], lacking_in_all[sides]
    if rows == 1 and 0 < in_class.max() < 1:
        return int(sides[np.argmax(np.where(in_class > 0, in_all, -np.inf))])
    return int(sides[np.lexsort((-in_all, -in_class))[0]])


def _split_train(data: ImageData, marks: Marks, fractions: dict[str, float], seed: int) -> ImageData:
    train = data.splits["train"]
    share = 1 - sum(fractions.values())
    if share <= 0:
        raise DataError(
            f"the shares of train for {' and '.join(fractions)} ({', '.join(map(str, fractions.values()))}) leave no "
            "rows for train; lower validation_fraction or test_fraction"
        )
    has_class = _with_unmarked(marks(data.labels("train")))
    groups = _group_values(data, "train") or _repeated_files(train)
    unit_of_row, pinned = _units(
        groups, {value for name in SPLITS[1:] for value in _group_values(data, name)}, len(train)
    )
    counts = np.zeros((len(pinned), has_class.shape[1]), dtype=np.int64)
    np.add.at(counts, unit_of_row, has_class)
    generator = np.random.default_rng([seed, _SPLIT_STREAM])
    sides = stratify(counts, [share, *fractions.values()], len(fractions) + 1, generator, pinned)
    _return_to_train(sides, counts[:, : len(data.label_names)])
    kind = "groups" if groups else "rows"
    rows_in_words = counted(len(train), "row") + (f" in {counted(len(pinned), 'group')}" if groups else "")
    splits = dict(data.splits)
    for side, name in enumerate(["train", *fractions]):
        rows = np.flatnonzero(sides[unit_of_row] == side)
        if len(rows) == 0:
            raise DataError(
                f"train has {rows_in_words}, but no class has enough {kind} to make a "
                f"'{name}' split; add rows, or give the data a '{name}' split"
            )
        splits[name] = train.select(rows)
    _warn_of_small_classes(data, counts, list(fractions), kind)
    others = [name for name in splits if name not in SPLITS]
    return dataclasses.replace(data, splits=DatasetDict({name: splits[name] for name in (*SPLITS, *others)}))


def _return_to_train(sides: np.ndarray, counts: np.ndarray) -> None:
    """Give train a unit of each class that overlapping labels left it without; changes `sides`."""
    for label in range(counts.shape[1]):
        units = np.flatnonzero(counts[:, label])
        if not (sides[units] == 0).any():
            sides[units[np.argmin(counts[units].sum(axis=1))]] = 0


def _units(groups: list, elsewhere: set, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Number what must stay together: (N,) unit of each row, and (U,) whether its group is in another split too."""
    if not groups:
        return np.arange(rows), np.zeros(rows, dtype=bool)
    number_of: dict = {}
    # A row without a group belongs to no other row.
    keys = [("row", row) if value is None else ("group", value) for row, value in enumerate(groups)]
    unit_of_row = np.array([number_of.setdefault(key, len(number_of)) for key in keys], dtype=np.int64)
    return unit_of_row, np.array([kind == "group" and value in elsewhere for kind, value in number_of], dtype=bool)


def _draw_shots(marks: np.ndarray, shots: int, generator: np.random.Generator) -> np.ndarray:
    chosen = np.zeros(len(marks), dtype=bool)
    order = generator.permutation(len(marks))
    for label in np.argsort(marks.sum(axis=0), kind="stable"):
        lacking = max(0, shots - int(marks[chosen, label].sum()))
        candidates = order[(marks[order, label] > 0) & ~chosen[order]]
        chosen[candidates[:lacking]] = True
    return chosen


def _with_unmarked(marks: np.ndarray) -> np.ndarray:
    """Count rows that are of no class (multi-label) as one more class, so that they are shared out alike."""
    unmarked = marks.sum(axis=1, keepdims=True) == 0
    return np.concatenate([marks, unmarked.astype(np.int64)], axis=1)


def _group_values(data: ImageData, split: str) -> list:
    """The group of each row, None where it names none; empty if the data has no groups or no such split."""
    if split not in data.splits or "group" not in data.splits[split].column_names:
        return []
    return group_keys(data.splits[split])


def _repeated_files(split: Dataset) -> list:
    """The file of each row that is not the only one of its file, None of the others; empty if there is no such row."""
    files = files_of_rows(split)
    rows_of = Counter(file for file in files if file is not None)
    repeated = [file if rows_of[file] > 1 else None for file in files]
    if not any(repeated):
        return []
    count = len(repeated) - repeated.count(None)
    logger.info("%d rows of train share their file with others. Rows of one file stay in one split.", count)
    return repeated


def _check(data: ImageData, marks: Marks) -> None:
    if "train" in data.without_labels:
        raise DataError("no row of split 'train' has a label; label some of its rows")
    if "train" not in data.splits:
        raise DataError(
            f"the data has no 'train' split, only {_listed(list(data.splits))}; rename the split or folder to train "
            "on to 'train', or put files into the folder that has this name"
        )
    for name in SPLITS:
        if name in data.splits and len(data.splits[name]) == 0:
            raise DataError(f"split '{name}' has no rows; add rows, or remove the split so that it is made from train")
    if len(data.label_names) < 2:
        raise DataError(f"the data has only one class ({_listed(data.label_names)}); at least two are needed")
    counts = marks(data.labels("train")).sum(axis=0)
    absent = [name for name, count in zip(data.label_names, counts, strict=True) if count == 0]
    if absent and data.labels("train").ndim == 1:
        of_splits = {name: np.unique(data.labels(name)) for name in SPLITS if name in data.splits}
        check_shared({name: [data.label_names[index] for index in found] for name, found in of_splits.items()})
    if absent and data.masks is not None:
        raise DataError(
            f"no mask of train has class {_listed(absent)}, so no model can learn it; add masks with it to train, or "
            "leave the class out where it is named: label_names, mask_colors, dataset.json or classes.txt"
        )
    if absent:
        raise DataError(
            f"train has no row of class {_listed(absent)}, so no model can learn it; add such rows to train, or leave "
            "the class out: its rows in the other splits, or its column in label_column"
        )


def _warn_of_small_classes(data: ImageData, counts: np.ndarray, made: list[str], kind: str) -> None:
    for name, units in zip(data.label_names, (counts > 0).sum(axis=0), strict=False):
        if units <= len(made):
            logger.warning(
                "Class '%s' has %s, too few to divide between train, %s; %s in train.",
                name, counted(units, kind.removesuffix("s")), ", ".join(made),
                "it stays" if units == 1 else "they stay",
            )  # fmt: skip


def _listed(names: list[str]) -> str:
    return some_of([f"'{name}'" for name in names], 20)
