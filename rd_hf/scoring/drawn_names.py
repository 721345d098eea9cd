"""Names as text of a figure: in fonts that have their letters, without formulas, and in lines that fit."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

LINE = 30  # characters per line; half as many where letters are as wide as Chinese ones
LONGEST = 130  # a longer name loses its middle
HEAD, TAIL = 85, 40  # what is left of it


class DrawnNames(NamedTuple):
    """Names that can be drawn.

    :ivar texts: one per name, all different, in one or several lines.
    :ivar families: the fonts that have their letters, for matplotlib's `font.family`.
    :ivar note: what a figure has to say about them; empty for most.
    """

    texts: list[str]
    families: list[str]
    note: str = ""


def drawn_names(names: Sequence[str], kind: str = "class") -> DrawnNames:
    """Find fonts for some names, and break long ones into lines.

    The font of matplotlib's settings comes first, then any installed one that has the letters it lacks. A name with a
    letter that no font has is replaced by its number. Text that runs from right to left is shaped by matplotlib 3.11;
    earlier versions draw its letters apart, from left to right.

    :param kind: the word before such a number, which counts from 0 as in a model's config.json.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont

    families = list(rcParams["font.family"])
    letters = _letters(findfont(FontProperties()))
    shown = [_printable(name, letters) for name in names]
    missing = {ord(letter) for name in shown for letter in name} - letters
    fonts = _installed_fonts() if missing else {}
    while fonts and missing:
        family = max(fonts, key=lambda name: len(missing & _letters(fonts[name])))
        found = missing & _letters(fonts[family])
        if not found:
            break
        families.append(family)
        missing -= found
    unknown = [not name or not missing.isdisjoint(map(ord, name)) for name in shown]
    texts = [f"{kind} {number}" if unknown[number] else _shortened(name) for number, name in enumerate(shown)]
    texts = [f"{number}: {text}" if texts.count(text) > 1 else text for number, text in enumerate(texts)]
    note = f"Numbers stand for each {kind} whose name no installed font can show." if any(unknown) else ""
    return DrawnNames([_in_lines(text) for text in texts], families, note)


def lines_of(names: Sequence[str]) -> int:
    """The lines of the name with the most."""
    return max(name.count("\n") + 1 for name in names)


def longest_line(names: Sequence[str]) -> int:
    """The width of the widest line, in letters of usual width."""
    return max(_width(line) for name in names for line in name.split("\n"))


def _printable(name: str, letters: frozenset[int]) -> str:
    """A name without line breaks and without control characters."""
    one_line = " ".join(name.split())
    return "".join(
        letter for letter in one_line if unicodedata.category(letter) not in ("Cc", "Cf") or ord(letter) in letters
    )


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[:HEAD].rstrip()} … {name[-TAIL:].lstrip()}"


def _in_lines(text: str) -> str:
    width = LINE if _width(text) == len(text) else LINE // 2
    return "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1 for letter in text)


def _installed_fonts() -> dict[str, str]:
    """Files of the fonts of this machine by family, without those that come with matplotlib."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    own = Path(get_data_path())
    fonts = sorted(fontManager.ttflist, key=lambda font: font.name)
    return {font.name: font.fname for font in fonts if own not in Path(font.fname).parents}


@lru_cache(maxsize=256)
def _letters(font: str) -> frozenset[int]:
    """The code points that a font file has outlines of; none if it cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        opened = get_font(font)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(opened.get_charmap()) if opened.scalable else frozenset()
