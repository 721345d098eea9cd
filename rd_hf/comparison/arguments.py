"""The arguments of a comparison: one dataclass serves the command line, YAML files and Python."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..arguments import ArgumentError, parse_yaml_value


def _argument(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class ComparisonArguments:
    """What `rd-hf compare` takes.

    :raises ArgumentError: naming what cannot be used.
    """

    # fmt: off
    data: dict | str | None = _argument(None, "data sets: name to the arguments of its runs, such as '{busi: {dataset: busi.npz}}'")
    arguments: dict | str | None = _argument(None, "arguments of rd-hf distill that hold for every run")
    teachers: dict | str | None = _argument(None, "teachers: name to the arguments of its runs, such as '{vit: {teacher: google/vit-base-patch16-224}}'")
    methods: list | str | None = _argument(None, "names of methods, or mappings with a name, a method and arguments of its own; by default ce, lp_kd, rd and drd")
    shots: list | str | None = _argument(None, "labels a class, or all; by default 20")
    seeds: list | str | None = _argument(None, "seeds; by default 0, 1, 2")
    use_unlabeled: list | str | None = _argument(None, "whether train rows without label are learnt from: [true], [false] or both; by default [true]")
    tuning: dict | str | None = _argument(None, "grid of learning_rate and weight (a factor of the method's own), chosen for each method on validation with `shots` and `seeds` of its own; none by default")
    output_dir: str | None = _argument(None, "folder of the runs, tables and plots; finished runs in it are not run again")
    workers: int | None = _argument(None, "runs at a time, each in a process of its own; by default 1, or one for each processor core without a GPU")
    table_only: bool = _argument(False, "run nothing: tables and plots from the runs that are there")
    # fmt: on

    def __post_init__(self):
        defaults = {
            "arguments": {}, "teachers": {}, "methods": ["ce", "lp_kd", "rd", "drd"], "shots": [20], "seeds": [0, 1, 2],
            "use_unlabeled": [True],
        }  # fmt: skip
        for field_ in fields(self):
            value = parse_yaml_value(getattr(self, field_.name))
            setattr(self, field_.name, defaults.get(field_.name) if value is None else value)
        self._check_kinds()
        self.workers = None if self.workers is None else int(self.workers)

    def _check_kinds(self) -> None:
        if not self.data or not self.output_dir:
            raise ArgumentError(f"`{'data' if not self.data else 'output_dir'}` is missing.")
        for name in ("data", "teachers", "arguments", "tuning"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), dict):
                raise ArgumentError(f"`{name}` must be a mapping, not {getattr(self, name)!r}.")
        for name in ("methods", "shots", "seeds", "use_unlabeled"):
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, list) else [value])
        for seed in self.seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise ArgumentError(f"`seeds` has {seed!r}; they must be numbers from 0 on.")
        for shots in self.shots:
            if shots != "all" and (not isinstance(shots, int) or shots < 1):
                raise ArgumentError(f"`shots` has {shots!r}; it must be a number above 0, or all.")
        for value in self.use_unlabeled:
            if not isinstance(value, bool):
                raise ArgumentError(f"`use_unlabeled` has {value!r}; it must be true or false.")
        if self.workers is not None and self.workers < 1:
            raise ArgumentError(f"`workers` is {self.workers}; it must be above 0.")
