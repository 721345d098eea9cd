"""Build arguments from names and values, and read and write them as YAML files."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import yaml

from .distillation import DistillationArguments
from .effects import OF_SAVED_RUN, Origin
from .options import annotations, names
from .values import ArgumentError, is_text, nearest
from .yaml_text import load_yaml

logger = logging.getLogger(__name__)


def arguments_from(values: dict[str, Any], kind: type = DistillationArguments):
    """Build an argument dataclass from names and values, with a helpful error for a name that does not exist.

    :raises ArgumentError: naming the unknown argument and the nearest one there is.
    """
    check_names(values, kind)
    arguments = kind(**values)
    if kind is DistillationArguments and set(values) >= OF_SAVED_RUN:
        arguments.origin = Origin.of(values, ())
    return arguments


def check_names(values: dict[str, Any], kind: type = DistillationArguments, where: str = "") -> None:
    """:raises ArgumentError: when a name in `values` is not a field of `kind`."""
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ArgumentError(f"Unknown argument `{name}`{where}.{nearest(name, known)}")


def read_config(path: str | Path, kind: type = DistillationArguments) -> dict[str, Any]:
    """Read a YAML file of the arguments of `kind`.

    :raises ArgumentError: when the file is missing, is not a YAML mapping, or has an unknown key.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"There is no configuration file {path}.")
    try:
        values = load_yaml(path.read_text(encoding="utf-8"), text_names())
    except yaml.YAMLError as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise ArgumentError(f"{path} is not a text file in UTF-8. Save it as UTF-8.") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path} must contain `name: value` lines, but it contains a {type(values).__name__}.")
    check_names(values, kind, f" in {path}")
    return values


def for_method(values: dict[str, Any], method: str) -> dict[str, Any]:
    """The values of a saved run without the settings of its method, if another method is to run.

    A run saves all of them, given or not, so they would take the place of the other method's own defaults.
    """
    if not set(values) >= OF_SAVED_RUN or values.get("method", method) == method:
        return values
    of_methods = names(DistillationArguments, lambda fact: fact.by_method is not None)
    left_out = {name: values[name] for name in of_methods if name in values}
    logger.info(
        "The configuration is that of a run with method %s, so its settings of that method are left out: %s.",
        values["method"], ", ".join(f"{name} {value}" for name, value in left_out.items()),
    )  # fmt: skip
    return {name: value for name, value in values.items() if name not in left_out}


def text_names() -> set[str]:
    """The names under which a file of a run or of a comparison has texts."""
    of_run = {name for name, annotation in annotations(DistillationArguments).items() if is_text(annotation)}
    return of_run | {"name", "reference"}  # of a method, in a comparison


def config_text(arguments: DistillationArguments) -> str:
    """Every argument as YAML, so that `--config` with a file of it runs the same job again."""
    values = arguments.to_dict() | {"resume": False, "overwrite_output_dir": False}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
