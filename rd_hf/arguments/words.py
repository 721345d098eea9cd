"""Counts, long lists and missing packages as messages say them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_PACKAGE = re.compile(r"pip install (?:-\S+ )*'?(\w[\w.\-]*\w(?:\[[\w\-,]+\])?)")


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 row", "2 rows".

    :param plural: of the noun; by default it ends in s.
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def by(sides: Iterable[float], digits: int = 9) -> str:
    """Sides, or the distances of voxels along them: "96 x 96 x 64".

    :param digits: of each, at most.
    """
    return " x ".join(f"{side:.{digits}g}" for side in sides)


def some_of(names: Sequence[str], most: int, joint: str = ", ", last: str = " and ") -> str:
    """Names in a row, or the first ones of many, with the number of the others.

    :param most: that are named.
    :param joint: between names.
    :param last: in front of that number.
    """
    more = f"{last}{len(names) - most} more" if len(names) > most else ""
    return joint.join(names[:most]) + more


def package_needed(error: BaseException) -> str | None:
    """Say which package an error asks for: "it needs the package natten, which is not installed".

    :return: None for an error of another kind, and where it names no package.
    """
    if not isinstance(error, ImportError):
        return None
    found = _PACKAGE.search(str(error))
    missing = error.name if isinstance(error, ModuleNotFoundError) else None  # others name the module that is there
    package = found[1] if found else (missing or "").partition(".")[0]
    return f"it needs the package {package}, which is not installed: pip install {package}." if package else None
