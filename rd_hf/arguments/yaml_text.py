"""YAML whose texts stay as they are written: YAML takes 0123 for 83, 12:30 for 750 and 2024-01-15 for a date."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import yaml

MERGE = "<<"  # which takes other mappings in, and may stand twice


class TwiceError(yaml.YAMLError):
    """A key that a mapping has twice, of which PyYAML takes the last."""


class _OfEachKeyOnce:
    """The part of a loader that refuses a key that is written twice."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == MERGE:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in seen:
                where = f"line {line}" if line == seen[name] else f"lines {seen[name]} and {line}"
                raise TwiceError(f"`{key.value}` is given twice, in {where}: give it once.")
            seen[name] = line
        return node


class _Loader(_OfEachKeyOnce, yaml.SafeLoader):
    """Reads numbers such as 1e-05, which JSON and Python write, as numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class _TextLoader(_OfEachKeyOnce, yaml.BaseLoader):
    """Reads texts only."""


def why(error: yaml.YAMLError) -> str:
    """What to add to the message about a value that cannot be read, where that fits into a line."""
    return f" ({str(error).rstrip('.')})." if isinstance(error, TwiceError) else ""


def read_texts(text: str) -> Any:
    """Read YAML with every value as the text that is written.

    :raises yaml.YAMLError: when it is not valid, or has a key twice.
    """
    return yaml.load(text, Loader=_TextLoader)


def read_yaml(text: str) -> Any:
    """Read YAML, or JSON.

    :raises yaml.YAMLError: when it is not valid, or has a key twice.
    """
    return yaml.load(text, Loader=_Loader)


def load_yaml(text: str, texts: set[str]) -> Any:
    """Read YAML, with numbers and dates as text where text is meant: under some names, and as a mapping's key.

    A truth value (no, yes, on, off, true, false) under such a name stays one, so that whoever checks it can ask for
    quotes; in a list of texts it is text. A mapping under such a name, such as a model's config, is read as usual.

    :param texts: the names.
    :raises yaml.YAMLError: when it is not valid.
    """
    return _as_written(read_yaml(text), read_texts(text), texts)


def _as_written(value: Any, written: Any, texts: set[str]) -> Any:
    """:param written: the same value as the file writes it."""
    if isinstance(value, list) and len(value) == len(written):
        return [_as_written(item, own, texts) for item, own in zip(value, written, strict=True)]
    if not isinstance(value, dict) or len(value) != len(written):  # merged mappings have more names than are written
        return value
    found = {}
    for (name, item), (key, own) in zip(value.items(), written.items(), strict=True):
        name = key if _is_number(name) or isinstance(name, bool) else name
        found[name] = _text(item, own) if name in texts else _as_written(item, own, texts)
    return found


def _text(value: Any, written: Any) -> Any:
    if isinstance(value, list):
        return [
            own if _is_number(item) or isinstance(item, bool) else item
            for item, own in zip(value, written, strict=True)
        ]
    return written if _is_number(value) else value


def _is_number(value: Any) -> bool:
    """Whether YAML made a number or a date of what may have been a name."""
    return isinstance(value, int | float | date) and not isinstance(value, bool)
