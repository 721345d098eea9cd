"""Names of the classes of masks from a file beside them: dataset.json, labels.json or classes.txt."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ...arguments.words import some_of
from ..columns import DataError
from ..labels.values import clean
from ..scanner import names_image, printable
from ..tables import read_json

logger = logging.getLogger(__name__)

MOST_TOLD = 20
NAME_FILES = ("dataset.json", "labels.json", "classes.txt", "labels.txt")


def read_names(folder: Path) -> dict[int, str] | None:
    """Read the names from the first of `NAME_FILES` that a folder has.

    :return: the class of each value; None if no file names them.
    :raises DataError: if the file cannot be read as names, or names a class of several values.
    """
    for name in NAME_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix == ".txt":
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            lines = [line for line in lines if clean(line)]
            listed = next((line for line in lines if any(map(names_image, re.split(r"[\s,;]+", line)))), None)
            if listed is None:
                return _told(names_of(lines, f"'{printable(path)}'"), path)
            logger.info("'%s' lists files, such as %r, and so does not name the classes.", printable(path), listed[:60])
            continue
        content = read_json(path)
        if isinstance(content, dict) and "labels" in content:
            content = content["labels"]
        elif name == "dataset.json":  # of something else
            continue
        return _told(names_of(content, f"'{printable(path)}'"), path)
    return None


def _told(names: dict[int, str], path: Path) -> dict[int, str]:
    pairs = [f"{value} is {name}" for value, name in names.items()]
    logger.info(
        "'%s' names the classes: %s. Other names are given by `label_names`.",
        printable(path), some_of(pairs, MOST_TOLD, last=", and "),
    )  # fmt: skip
    return names


def names_of(content: Any, where: str) -> dict[int, str]:
    """The class of each value, from a list, a mapping of values to names, or one of names to values.

    :param where: what an error calls the source.
    :raises DataError: if it is none of these.
    """
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        names = [clean(name) for name in content]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{where} names two classes {twice!r}; the classes of a list need different names")
        return dict(enumerate(names))
    if isinstance(content, dict) and content:
        if any(isinstance(value, list) for value in content.values()):
            raise DataError(
                f"{where} gives a class several values, which are regions that overlap; only classes that exclude each "
                "other are read. Give every class one value"
            )
        if all(_is_value(key) and isinstance(name, str) for key, name in content.items()):
            return {int(key): clean(name) for key, name in content.items()}
        if all(not _is_value(key) and _is_value(value) for key, value in content.items()):
            return {int(value): clean(key) for key, value in content.items()}
    raise DataError(
        f"{where} does not name classes; expected a list of names, which begins with that of value 0, or a mapping "
        'such as {"0": "background", "1": "tumour"}'
    )


def _is_value(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())
