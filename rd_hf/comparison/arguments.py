"""The arguments of a comparison: one dataclass serves the command line, YAML files and Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import yaml

from ..arguments.config import text_names
from ..arguments.options import option
from ..arguments.plain_values import plain, plain_value
from ..arguments.training_fields import LARGEST_SEED
from ..arguments.values import ArgumentError, nearest
from ..arguments.yaml_text import load_yaml, why

_grid = partial(option, group="what is compared")
_runs = partial(option, group="runs")
_output = partial(option, group="output")

OF_GRID = {"arguments", "data", "teachers", "methods", "shots", "use_unlabeled", "tuning"}  # which say what is run


@dataclass
class ComparisonArguments:
    """What `rd-hf compare` takes.

    :ivar is_overridden: whether flags choose other runs than its file, which then has more than these runs read.
    :raises ArgumentError: naming what cannot be used.
    """

    data: dict | str | None = _grid(
        None,
        "data sets: each name maps to the arguments of its runs, such as '{busi: {dataset: busi.npz}}'",
        required=True,
    )
    arguments: dict | str | None = _runs(None, "arguments of rd-hf distill that hold for every run")
    teachers: dict | str | None = _grid(
        None,
        "teachers: each name maps to the arguments of its runs, such as "
        "'{vit: {teacher: google/vit-base-patch16-224}}'",
    )
    methods: list | str | None = _grid(
        None,
        "names of methods, or mappings with a name, a method and its own arguments; by default ce, lp_kd, rd and drd",
    )
    shots: list | str | None = _grid(None, "labels per class (of masks: labelled images), or all; by default 20")
    seeds: list | str | None = _grid(None, "seeds, one run each; by default '[0, 1, 2]'")
    use_unlabeled: list | str | None = _grid(
        None, "whether unlabelled train rows are used: [true], [false] or both; by default [true]"
    )
    tuning: dict | str | None = _grid(
        None,
        "grid of learning_rate and weight (a factor on the method's own weight), chosen per method on validation with "
        "its own `shots` and `seeds`; none by default",
    )
    reference: str | None = _output(
        None,
        "name of the method to which the tables give the others' differences; by default rd, else another RD, else DRD",
    )
    output_dir: str | None = _output(
        None,
        "folder of the runs, tables and plots; runs that are finished there are not repeated",
        required=True,
    )
    workers: int | None = _runs(
        None, "runs at a time, each in its own process; by default 1, or without a GPU one per available CPU core"
    )
    table_only: bool = _output(False, "run nothing; make tables and plots from the finished runs")

    is_overridden = False

    def __post_init__(self):
        defaults = {
            "arguments": {}, "teachers": {}, "methods": ["ce", "lp_kd", "rd", "drd"], "shots": [20], "seeds": [0, 1, 2],
            "use_unlabeled": [True],
        }  # fmt: skip
        for field_ in fields(self):
            value = plain(_parsed(field_.name, getattr(self, field_.name)))
            setattr(self, field_.name, defaults.get(field_.name) if value is None else value)
        for name in ("output_dir", "reference"):
            setattr(self, name, plain_value(name, getattr(self, name), str | None))
        self._check_kinds()

    def _check_kinds(self) -> None:
        for name in ("data", "output_dir"):
            if not getattr(self, name):
                raise ArgumentError(f"`{name}` is missing: give it, or `{name}:` in the configuration file.")
        for name in ("data", "teachers", "arguments", "tuning"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, dict):
                raise ArgumentError(f"`{name}` is {value!r}; it must be a mapping.")
            if value is not None:
                setattr(self, name, {str(key): item for key, item in value.items()})
        for name in ("methods", "shots", "seeds", "use_unlabeled"):
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, list) else [value])
        _check_seeds("seeds", self.seeds)
        for shots in self.shots:
            _check_shots("shots", shots)
        for value in self.use_unlabeled:
            if not isinstance(value, bool):
                raise ArgumentError(f"`use_unlabeled` contains {value!r}; each value must be true or false.")
        for name in ("shots", "seeds", "use_unlabeled"):
            setattr(self, name, list(dict.fromkeys(getattr(self, name))))
        if self.workers is not None and not _is_number(self.workers, 1):
            raise ArgumentError(f"`workers` is {self.workers!r}; it must be a whole number above 0.")


TUNING_DEFAULTS = {"learning_rate": [None], "weight": [1.0], "shots": 20, "seeds": [100]}


def tuning_grid(comparison: ComparisonArguments) -> dict[str, Any] | None:
    """The values of `tuning` with its defaults, each a list except `shots` (None for all); None if nothing is tuned.

    :raises ArgumentError: naming what cannot be used.
    """
    if comparison.tuning is None:
        return None
    names = [*TUNING_DEFAULTS, "data"]
    for name in comparison.tuning:
        if name not in names:
            raise ArgumentError(f"Unknown name `{name}` under `tuning`.{nearest(name, names)}")
    found = TUNING_DEFAULTS | {"data": list(comparison.data)} | comparison.tuning
    found = {name: value if isinstance(value, list) or name == "shots" else [value] for name, value in found.items()}
    found["weight"] = [_positive("weight", value) for value in found["weight"]]
    found["learning_rate"] = [
        None if value is None else _positive("learning_rate", value) for value in found["learning_rate"]
    ]
    _check_seeds("tuning: seeds", found["seeds"])
    _check_shots("tuning: shots", found["shots"])
    if set(found["seeds"]) & set(comparison.seeds):
        raise ArgumentError(
            "`tuning: seeds` and `seeds` have a seed in common. Tune on other seeds than those that are reported."
        )
    for name in found["data"]:
        if name not in comparison.data:
            raise ArgumentError(f"`tuning: data` contains {name!r}.{nearest(name, list(comparison.data))}")
    if not {"learning_rate", "weight"} & set(comparison.tuning):
        raise ArgumentError(
            "`tuning` has nothing to choose from: give values of `learning_rate` or `weight` there, or leave `tuning` "
            "out."
        )
    _check_tries(found)
    return found | {"shots": None if found["shots"] == "all" else found["shots"]}


def _check_tries(grid: dict[str, list]) -> None:
    """:raises ArgumentError: for an empty list, or a name of a folder that stands there twice."""
    for name in ("learning_rate", "weight", "data"):
        if not grid[name]:
            raise ArgumentError(f"`tuning: {name}` is empty: give at least one value, or leave it out.")
    for name in ("learning_rate", "weight"):
        values = {value for value in grid[name] if value is not None}
        if len({f"{value:g}" for value in values}) < len(values):
            raise ArgumentError(f"`tuning: {name}` has two values that are the same in six digits: leave one out.")


def _parsed(name: str, value: Any) -> Any:
    """Read a value typed as text as YAML: `--shots 20` as well as `--shots '[10, 20]'`."""
    if not isinstance(value, str) or name in ("output_dir", "reference"):
        return value
    if name == "methods" and not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return load_yaml(value, text_names())
    except yaml.YAMLError as error:
        raise ArgumentError(f"`{name}` is not a valid YAML value: {value}{why(error)}") from error


def _check_seeds(name: str, seeds: list) -> None:
    if not seeds:
        raise ArgumentError(f"`{name}` is empty: give at least one seed.")
    for seed in seeds:
        if not _is_number(seed, 0) or seed > LARGEST_SEED:
            raise ArgumentError(
                f"`{name}` contains {seed!r}; each seed must be a whole number from 0 to {LARGEST_SEED}."
            )


def _check_shots(name: str, shots: Any) -> None:
    if shots != "all" and not _is_number(shots, 1):
        raise ArgumentError(f"`{name}` contains {shots!r}; each value must be a whole number above 0, or all.")


def _is_number(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _positive(name: str, value: Any) -> float:
    try:
        number = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ArgumentError(f"`tuning: {name}` contains {value!r}; each value must be a number above 0.")
    return number
