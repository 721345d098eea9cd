"""Values of arguments from text, YAML and Python, and the error that names a value that cannot be used."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import yaml

from .yaml_text import read_texts, read_yaml, why

LONGEST_HOURS = 10_000
COLOURS = 3
SIZE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
COLOR = re.compile(r"#([0-9a-f]{6})|\(?\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)?", re.IGNORECASE)

RULE = re.compile(r"youden|(?:sensitivity|specificity)=(?:0?\.\d*[1-9]\d*|1|1\.0*)")


# what other libraries call an argument
SYNONYMS = {
    "lr": "learning_rate", "epochs": "num_train_epochs", "max_epochs": "num_train_epochs", "steps": "max_steps",
    "batch_size": "per_device_train_batch_size", "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "image_size": "student_image_size",
    "resume_from_checkpoint": "resume", "val_fraction": "validation_fraction", "patience": "early_stopping_patience",
    "num_workers": "dataloader_num_workers", "workers": "dataloader_num_workers", "model": "student",
    "data": "dataset", "data_dir": "dataset", "train_dir": "dataset", "out_dir": "output_dir", "alpha": "kl_weight",
    "n_shots": "shots", "num_shots": "shots", "unlabelled_dataset": "unlabeled_dataset",
    "device_map": "teacher_device_map",
}  # fmt: skip


class ArgumentError(ValueError):
    """An argument or a key of a configuration file that cannot be used; the message names it and the way out."""


def nearest(name: str, known: list[str]) -> str:
    """A sentence that names the nearest known word, or lists some."""
    meant = SYNONYMS.get(str(name).lower().replace("-", "_"))
    if meant in known:
        return f" Did you mean `{meant}`?"
    close = difflib.get_close_matches(str(name), [str(word) for word in known], n=1, cutoff=0.5)
    if close:
        return f" Did you mean `{close[0]}`?"
    return f" Valid names: {', '.join(str(word) for word in known)}."


def parse_yaml_value(value: Any) -> Any:
    """Read a value as YAML if it is written as a mapping or a list.

    Typed on a command line, a mapping or a list arrives as text; a Hub id or path stays as it is.

    :raises ArgumentError: if it is not valid YAML.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return read_yaml(value)
        except yaml.YAMLError as error:
            raise ArgumentError(f"This is not a valid YAML value: {value}{why(error)}") from error
    return value


def parse_yaml_texts(value: Any, mappings: bool = False) -> Any:
    """Read a value as a YAML list of texts if it is written as a list; `[01, no]` has the texts 01 and no.

    :param mappings: read what is written as a mapping too.
    :raises ArgumentError: if it is not valid YAML.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{") if mappings else "["):
        try:
            return read_texts(value)
        except yaml.YAMLError as error:
            raise ArgumentError(f"This is not a valid YAML value: {value}{why(error)}") from error
    return value


def is_text(annotation: Any) -> bool:
    """Whether an argument takes text and no number."""
    kinds = get_args(annotation) or (annotation,)
    return str in kinds and not {int, float, bool} & set(kinds)


def paths_of(names: Any, kind: str, in_memory: str) -> list[str | os.PathLike]:
    """One path, or several, as a list.

    :param kind: what they are of, in the plural.
    :param in_memory: what may be given in place of paths.
    :raises ArgumentError: for anything but paths.
    """
    if isinstance(names, (str, os.PathLike)):
        return refuse_empty([names], f"The name of the {kind}")
    is_of_texts = getattr(getattr(names, "dtype", None), "kind", "U") in "UO"  # of numpy
    listed = list(names) if isinstance(names, Iterable) and is_of_texts else [names]
    others = [name for name in listed if not isinstance(name, (str, os.PathLike))]
    if others:
        raise ArgumentError(
            f"One of the {kind} is a {type(others[0]).__name__}: give paths of files, folders or globs, or {in_memory}."
        )
    return refuse_empty(listed, f"One of the {kind}")


def refuse_empty(paths: list[str | os.PathLike], what: str) -> list[str | os.PathLike]:
    """:raises ArgumentError: for a path that is empty, as from a variable that is not set: it would be "here"."""
    if "" in paths:
        raise ArgumentError(f"{what} is empty: give a path, or . for the working folder.")
    return paths


def window_of(value: str | None) -> tuple[float, float] | None:
    """The center and width that a DICOM window names in numbers; None for the other ways to choose one.

    :raises ArgumentError: when it is neither two numbers nor one of the words, or the width is below 1.
    """
    if value is None or value in ("none", "minmax"):
        return None
    try:
        center, width = (float(part) for part in value.split(","))
    except (ValueError, AttributeError):
        center, width = math.nan, math.nan
    if not (math.isfinite(center) and math.isfinite(width) and width >= 1):
        raise ArgumentError(
            f"`dicom_window` is {value!r}; it must be center,width (such as 40,400; a width of 1 or more), none or "
            "minmax."
        )
    return center, width


def rule_of(value: str | None) -> str | None:
    """The rule of an operating point, without spaces.

    :raises ArgumentError: when it is none.
    """
    if value is None:
        return None
    rule = "".join(value.lower().split())
    if not RULE.fullmatch(rule):
        raise ArgumentError(
            f"`operating_point` is {value!r}; it must be youden, or what is to be reached on validation, such as "
            "sensitivity=0.95 or specificity=0.9 (above 0 and up to 1)."
        )
    return rule


def columns_of(value: list[str] | str | None) -> list[str]:
    """The columns that one name, or a list of names, stands for."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def class_names(value: Any) -> list[str] | dict[str, str] | None:
    """The names of mask values: a list that begins with that of value 0, or a mapping of values to names.

    :raises ArgumentError: when it is neither.
    """
    if value is None:
        return None
    pairs = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    are_values = all(str(key).isdecimal() for key in pairs)
    are_names = all(isinstance(name, str) and name.strip() for name in pairs.values())
    if not pairs or not are_values or not are_names or (isinstance(value, list) and len(set(value)) < len(value)):
        raise ArgumentError(
            f"`label_names` is {value!r}; it must be a list of distinct names, which begins with that of value 0, such "
            "as '[background, lesion]', or a mapping of mask values to names, such as '{0: background, 255: lesion}'."
        )
    return value if isinstance(value, list) else {str(key): name for key, name in value.items()}


def color_names(value: Any) -> dict[str, str] | None:
    """The classes of colours, with each colour written as ``#ff0000``.

    :raises ArgumentError: when it is no mapping of colours to names.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value.values()):
        raise ArgumentError(
            f"`mask_colors` is {value!r}; it must be a mapping of colours to class names, such as "
            '\'{"#ff0000": tumour, "0,255,0": organ}\'.'
        )
    found: dict[str, str] = {}
    for color, name in value.items():
        written = f"#{color_of(color):06x}"
        if written in found:
            raise ArgumentError(f"`mask_colors` names the colour {written} twice: give each colour once.")
        found[written] = name
    return found


def color_of(text: str) -> int:
    """A colour as a number 0xRRGGBB, from ``#ff0000`` or ``255,0,0``.

    :raises ArgumentError: when it is written in another way.
    """
    found = COLOR.fullmatch(str(text).strip())
    if found is not None and found[1]:
        return int(found[1], 16)
    parts = [256] if found is None else [int(part) for part in found.groups()[1:]]
    if max(parts) > 255:
        raise ArgumentError(
            f"`mask_colors` has the colour {text!r}; it must be written as #ff0000 or as 255,0,0, in quotes."
        )
    return parts[0] << 16 | parts[1] << 8 | parts[2]


def colours_text(name: str, value: Any, above_zero: bool) -> str | None:
    """One number for each of red, green and blue as one text, such as ``0.5,0.5,0.5``; one number is all three.

    :raises ArgumentError: when it is not three numbers from 0 to 1.
    """
    if value is None:
        return None
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    try:
        numbers = [float(part) for part in (parts if isinstance(parts, list) else [parts])]
    except (TypeError, ValueError):
        numbers = []
    in_range = all((number > 0 if above_zero else number >= 0) and number <= 1 for number in numbers)
    if len(numbers) not in (1, COLOURS) or not in_range:
        least = "above 0 and at most 1" if above_zero else "from 0 to 1"
        raise ArgumentError(
            f"`{name}` is {value!r}; it must be three numbers {least} (of red, green and blue), such as 0.5,0.5,0.5."
        )
    return ",".join(f"{number:.10g}" for number in (numbers * COLOURS)[:COLOURS])


def number_of_views(value: Any) -> Any:
    """Read a number of views from command-line text; None means endless."""
    if value == "endless":
        return None
    if isinstance(value, str) and not value.isdecimal():
        raise ArgumentError(f"`num_views` is {value!r}; it must be a whole number above 0, or endless.")
    return int(value) if isinstance(value, str) else value


def seconds_of(value: Any) -> float:
    """A `max_run_time` in seconds.

    :raises ArgumentError: when it is neither hours nor HH:MM:SS.
    """
    parts = str(value).split(":")
    try:
        hours, minutes, seconds = (float(part) for part in (parts if len(parts) == 3 else [*parts, 0, 0]))
    except ValueError:
        hours = minutes = seconds = 0.0
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < 3600 * LONGEST_HOURS or minutes < 0 or seconds < 0:
        raise ArgumentError(
            f"`max_run_time` is {value!r}; it must be a number of hours below {LONGEST_HOURS}, or HH:MM:SS."
        )
    return total


def bytes_of(value: Any) -> int:
    """A `cache_limit` in bytes: 20GB is 20 x 1000^3, 20GiB is 20 x 1024^3; 20G is short for 20GB, 20Gi for 20GiB.

    :raises ArgumentError: when it is not a number with a unit.
    """
    text = str(value).strip()
    found = SIZE.fullmatch(text)
    if found is None or not text[-1].isalpha() or (found[3] and not found[2]):
        raise ArgumentError(
            f"`cache_limit` is {value!r}; it must be a number and a unit, such as 500MB, 20GB, 1.5TB or 20GiB."
        )
    number, prefix, binary = found[1], found[2].lower(), found[3]
    return int(Decimal(number) * (1024 if binary else 1000) ** " kmgtp".index(prefix or " "))


def nearest_name(path: Path) -> str:
    """Say which existing name is nearest to one that does not exist.

    :param path: a path that is not there, perhaps because it is too long.
    :return: a clause to put into an error message.
    """
    if os.path.islink(path):
        return f"it is a link to '{os.readlink(path)}', which does not exist"
    missing = path
    while not os.path.exists(missing.parent):
        missing = missing.parent
    if not missing.parent.is_dir():
        return f"{missing.parent} is a file"
    try:
        names = sorted(os.listdir(missing.parent))
    except OSError as error:
        return f"{missing.parent} cannot be read: {error.strerror}"
    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.5)
    return (
        f"the nearest name in {missing.parent} is '{close[0]}'"
        if close
        else f"nothing in {missing.parent} has a similar name"
    )


def listed(names: Iterable[str]) -> str:
    """Names in a row, in quotes where one of them has a comma of its own."""
    names = list(names)
    return ", ".join(f"'{name}'" for name in names) if any("," in name for name in names) else ", ".join(names)
