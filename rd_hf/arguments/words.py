"""Counts and long lists as messages say them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
