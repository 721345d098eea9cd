"""Plain values of arguments: Python's own types in place of numpy's, enums and subclasses, as each annotation wants."""

from __future__ import annotations

import os
from datetime import date
from enum import Enum
from typing import Any, get_args

from .values import ArgumentError, is_text

OF_ARRAYS = ("numpy", "torch")  # packages, which are not imported for this
OF_DATA = "datasets"  # whose DatasetDict is a dict


def plain(value: Any) -> Any:
    """A value as YAML can write it: numbers, texts, lists and dicts; anything else, such as a model, as it is."""
    if isinstance(value, Enum):
        value = value.value
    package = type(value).__module__.partition(".")[0]
    if package in OF_ARRAYS and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict) and package != OF_DATA:
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    kind = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
    return value if kind is None else kind(value)


def plain_value(name: str, value: Any, annotation: Any) -> Any:
    """A value as its annotation wants it: numbers from YAML's text, text from paths and numbers, lists from tuples.

    :raises ArgumentError: when it is of another kind.
    """
    value = plain(value)
    if is_text(annotation):
        if type(value) in (list, dict) and type(value) not in get_args(annotation):
            raise ArgumentError(f"`{name}` is {value}; it must be one text.")
        value = [_text(name, item) for item in value] if isinstance(value, list) else _text(name, value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and value.startswith("~"):
        value = os.path.expanduser(value)
    if isinstance(value, dict):
        return value
    kinds = {kind for kind in (get_args(annotation) or (annotation,)) if kind in (int, float, bool)}
    if not kinds or (value is None and type(None) in get_args(annotation)):
        return value
    kind = kinds.pop()
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ArgumentError(f"`{name}` is {value!r}; it must be of type {kind.__name__}.")
    return value


def _text(name: str, value: Any) -> Any:
    """A number or a date as its text; data, models and mappings as they are.

    :raises ArgumentError: for a truth value, which YAML may have made of a name.
    """
    if isinstance(value, bool):
        raise ArgumentError(
            f"`{name}` is {str(value).lower()}, but it must be text. YAML reads yes, no, on, off, true and false as "
            f"truth values: put a name like that in quotes, or leave `{name}` out."
        )
    return str(value) if isinstance(value, int | float | date) else value
