"""Numbers and names as a page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNDEFINED = "undefined"
LONGEST_OF_MANY = 48  # letters of a class's name where there are very many
MANY = 50  # classes
LONGEST_SENTENCE = 300  # letters


def number(value: float | None, digits: int = 3) -> str:
    """A number with its decimals; "undefined" for None and whatever is not finite."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """Bounds as "0.812 to 0.934"; empty where there are none."""
    if bounds is None or not all(map(math.isfinite, bounds)):
        return ""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def count(value: float) -> str:
    """A whole number with thin separators."""
    return f"{value:,.0f}".replace(",", "\u202f")


def cut(sentence: str) -> str:
    """A sentence without its end where that would fill the page, such as a list of a thousand classes."""
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE].rstrip()} …"


def duration(seconds: float | None) -> str:
    """A time in the unit that is read at once."""
    if seconds is None:
        return "not recorded"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def shown_names(names: Sequence[str]) -> list[str]:
    """The names of classes; where there are very many, long ones without their middle, each still its own."""
    if len(names) <= MANY:
        return list(names)
    half = LONGEST_OF_MANY // 2
    cut = [name if len(name) <= LONGEST_OF_MANY else f"{name[:half]} … {name[-half:]}" for name in names]
    seen: dict[str, int] = {}
    for name in cut:
        seen[name] = seen.get(name, 0) + 1
    return [f"{name} ({number})" if seen[name] > 1 else name for number, name in enumerate(cut)]
