"""What one cell of a label column says: a clean text, a whole number, or no label."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any, NoReturn

from datasets import Value

from ..columns import DataError

# White space, with the no-break ones, and characters without a width: joiners, soft hyphens, the byte order mark.
_EDGE = "[\\s\u00ad\u200b-\u200f\u2060\ufeff]+"
_EDGES = re.compile(f"^{_EDGE}|{_EDGE}$")
_WHOLE = re.compile(r"(0|-?[1-9]\d*)([.,]0+)?")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)[.,]\d+")
NAN_WORDS = ("nan", "NaN")
NUMERIC_NAN_WORDS = (*NAN_WORDS, "<NA>")


def clean(text: str) -> str:
    """Give a text in Unicode's form NFC, without white space and characters without a width at its ends."""
    return _EDGES.sub("", unicodedata.normalize("NFC", text))


def is_text(feature: Any) -> bool:
    """Tell whether a column holds texts, in any of Arrow's types for them."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "string_view")


def is_missing(value: Any) -> bool:
    """Tell whether a cell is empty: None, NaN, or a text of nothing but white space."""
    if isinstance(value, str):
        return not clean(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def names_nothing(value: Any) -> bool:
    """Tell whether a cell that names a group or a kind is empty, or holds the word nan as some writers of tables do."""
    return is_missing(value) or (isinstance(value, str) and clean(value) in NUMERIC_NAN_WORDS)


def whole_number(value: Any) -> int | None:
    """Give 2 for 2, 2.0 and the texts "2", "2.0" and "2,0"; None for anything else, such as 0.5 or "02".

    Readers of tables write integers of a column with gaps as 2.0.
    """
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value)
        return None if found is None else int(found[1])
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if is_whole else None


def is_decimal(text: str) -> bool:
    """Tell whether a text is a number with decimals, such as "0.5"."""
    return _DECIMAL.fullmatch(text) is not None


def shown(values: Any) -> str:
    """List values for a message, the first nineteen and the last one of many."""
    values = list(values)
    return str(values) if len(values) <= 20 else f"{values[:19]} ... {values[-1]!r}"


def refuse(split: str, row: int, column: str, value: Any, reason: str) -> NoReturn:
    """Refuse a label.

    :raises DataError: naming its place.
    """
    raise DataError(f"split '{split}', row {row}, column '{column}': label {value!r} {reason}")
