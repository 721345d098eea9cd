"""Names of the classes of masks from a file beside them: dataset.json, labels.json or classes.txt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ..columns import DataError
from ..labels.values import clean
from ..scanner import printable
from ..tables import read_json

logger = logging.getLogger(__name__)

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
        told = f"'{printable(path)}' names the classes. Other names are given by `label_names`."
        if path.suffix == ".txt":
            logger.info(told)
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            return names_of([line for line in lines if clean(line)], f"'{printable(path)}'")
        content = read_json(path)
        if isinstance(content, dict) and "labels" in content:
            content = content["labels"]
        elif name == "dataset.json":  # of something else
            continue
        logger.info(told)
        return names_of(content, f"'{printable(path)}'")
    return None


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
