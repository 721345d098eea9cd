"""Counts and long lists as messages say them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 row", "2 rows".

    :param plural: of the noun; by default it ends in s.
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def some_of(names: Sequence[str], most: int, joint: str = ", ", last: str = " and ") -> str:
    """Names in a row, or the first ones of many, with the number of the others.

    :param most: that are named.
    :param joint: between names.
    :param last: in front of that number.
    """
    more = f"{last}{len(names) - most} more" if len(names) > most else ""
    return joint.join(names[:most]) + more
