"""The usual names of splits, as `datasets` knows them, and what they say about files."""

from __future__ import annotations

import re
from pathlib import PurePath

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_OF_IMAGES = re.compile(rf"(?P<split>{'|'.join(sum(SPLIT_NAMES.values(), ()))})[_\-. ]?(?:images?|imgs?)", re.I)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of `test_labels`, `testLabels` and `TEST`


def standard_split_name(name: str) -> str | None:
    """Give `train`, `validation` or `test` for a usual name of a split, in any case; None for any other name."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def split_of_file(path: PurePath) -> str | None:
    """Give the split that a relative path names: ``test.csv``, ``testLabels.csv``, ``val/0.parquet``.

    :param path: a path below the folder that the user gave; the last part with exactly one split's name in it decides.
    :return: `train`, `validation`, `test`, or None if no part names one.
    """
    for part in (path.stem, *reversed(path.parts[:-1])):
        found = {standard_split_name(word) for word in _WORD.findall(part)} - {None}
        if len(found) == 1:
            return found.pop()
    return None


def split_of_folder(name: str) -> str:
    """The part of a folder's name that names a split: `train` of `train_images`; else the whole name."""
    match = _OF_IMAGES.fullmatch(name)
    return name if match is None else match["split"]
