"""Several labels in one text: lists as Python and numpy print them, and names with a bar between them."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from .values import clean, shown

SEPARATORS = ("|", ";", ",")
OTHER_SEPARATORS = ("/", "+", "&")
_LIST = re.compile(r"\[.*\]|\(\s*['\"].*\)|\{\s*['\"].*\}", re.DOTALL)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_NUMBER = re.compile(r"-?\d+\.?\d*")
_WORDS = {"True": 1, "False": 0, "nan": float("nan"), "None": float("nan")}


def is_list(text: str) -> bool:
    """Tell whether a text is written like a list: "['a', 'b']", "[0 1 0]", "('a', 'b')", "{'a', 'b'}"."""
    return _LIST.fullmatch(text) is not None


def parse_list(text: str) -> list[str | float] | None:
    """Give the entries of a text for which `is_list` holds; None if it cannot be understood.

    Entries in quotes are texts. Others are numbers if they look like numbers. Commas are optional between quotes and
    between numbers, as numpy prints arrays without them.
    """
    body = clean(text[1:-1])
    quoted = _QUOTED.findall(body)
    if quoted:
        if clean(_QUOTED.sub("", body).replace(",", " ")):
            return None
        try:
            return [clean(ast.literal_eval(entry)) for entry in quoted]
        except (ValueError, SyntaxError):  # a wrong escape, such as '\x'
            return None
    words = body.replace(",", " ").split()
    if all(_NUMBER.fullmatch(word) or word in _WORDS for word in words):
        return [_WORDS[word] if word in _WORDS else float(word) for word in words]
    return [entry for entry in map(clean, body.split(",")) if entry]


def separator(names: Iterable[str]) -> str | None:
    """Give the first of SEPARATORS that joins two parts in any of the names; None if none does."""
    names = list(names)
    return next((sign for sign in SEPARATORS if any(len(parts(name, sign)) > 1 for name in names)), None)


def parts(name: str, sign: str) -> list[str]:
    """Give the parts of a name between separators, without empty ones."""
    return [part for part in map(clean, name.split(sign)) if part]


def has_shared_parts(names: Iterable[str], sign: str) -> bool:
    """Tell whether a part occurs in two different names, so that the names are combinations of the parts."""
    counts = Counter(part for name in names for part in set(parts(name, sign)))
    return max(counts.values(), default=0) > 1


def hint_at_combinations(names: Sequence[str]) -> str | None:
    """Say how to have names split that look like several labels in one text; None if none do."""
    for sign in (*SEPARATORS, *OTHER_SEPARATORS):
        joined = [name for name in names if len(parts(name, sign)) > 1]
        if not joined:
            continue
        found = f"{len(joined)} of {len(names)} labels contain '{sign}', such as {joined[0]!r}"
        if sign == "|" and not has_shared_parts(names, sign):
            return (
                f"{found}, but no part of them occurs in two labels, so each is read as one class. If they are several "
                "labels per image, give `label_kind` multi."
            )
        if sign in SEPARATORS and has_shared_parts(names, sign):
            return (
                f"{found}, and parts of them occur in several labels. Each is read as one class; if they are several "
                "labels per image, give `label_kind` multi, which splits them there."
            )
        if sign in OTHER_SEPARATORS and any(set(parts(name, sign)) <= set(names) for name in joined):
            return (
                f"{found}, whose parts are labels too. Each is read as one class; if they are several labels per "
                "image, write | between them."
            )
    return None


def describe_split(names: Sequence[str], sign: str, is_certain: bool) -> str:
    """Say that names were split into several labels, with an example.

    :param is_certain: whether several labels per image are known to be meant.
    """
    joined = [name for name in names if len(parts(name, sign)) > 1]
    way_out = "" if is_certain else " `label_kind` single reads each as one class."
    return (
        f"{len(joined)} of {len(names)} different labels contain '{sign}', such as {joined[0]!r}, and are read as "
        f"several labels per image ({shown(parts(joined[0], sign))}).{way_out}"
    )
