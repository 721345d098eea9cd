"""Facts about an argument, stated once at its field, and the queries and checks that read them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .values import ArgumentError

UNGROUPED = "options"
OTHERS = "others"


@dataclass(frozen=True)
class Option:
    """What holds for one argument besides its type and default.

    Defaults are the careful answer: a fact that nobody states keeps a value to this machine and refuses a change.

    :ivar by_method: the default under each method, where that depends on the method and the field's own is None: values
        by the method's name, and under `OTHERS` that of the methods that are not named.
    :ivar group: heading under which `--help` and the reference list it.
    :ivar above: the value must be greater.
    :ivar at_least: the value must not be less.
    :ivar below: the value must be less.
    :ivar at_most: the value must not be greater.
    :ivar required: whether None is refused, although the field has a default.
    :ivar text: what a text stands for: the Hub id or path of a "model" or of "data", a "folder" of this machine, or
        "words", which name nothing on this machine's disk. None for numbers, switches and choices, and only for them.
    :ivar loading: whether it says which model or data is loaded, or how; refused where these are given in memory.
    :ivar card: whether model cards show the value. By default they show all but texts.
    :ivar resume: what a resumed run with another value meets: it is "refused" as another training, "allowed" and
        logged, or the difference is "ignored".
    :ivar affects_result: whether the result of a training can depend on it; a finished run of a comparison is not used
        again under another value.
    :ivar compare: where a comparison takes it from: its own "grid"; "teachers"; "data" or the common arguments, so
        that it is the same for all methods; "any" place; any, but not a method without "reprogramming", which does not
        read it; or "never".
    """

    group: str = UNGROUPED
    by_method: Mapping[str, Any] | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    required: bool = False
    text: Literal["model", "data", "folder", "words"] | None = None
    loading: bool = False
    card: bool | None = None
    resume: Literal["refused", "allowed", "ignored"] = "refused"
    affects_result: bool = True
    compare: Literal["grid", "teachers", "data", "any", "reprogramming", "never"] = "data"

    @property
    def in_card(self) -> bool:
        """Whether model cards show the value."""
        return self.text is None if self.card is None else self.card

    @property
    def defaults(self) -> str:
        """The defaults under the methods in words, such as "kl; rd_plus: dist"; empty where there is one for all."""
        if self.by_method is None:
            return ""
        named = [f"{method}: {value}" for method, value in self.by_method.items() if method != OTHERS]
        return "; ".join([str(self.by_method[OTHERS]), *named])

    @property
    def range(self) -> str:
        """The bounds in words, such as "above 0 and below 1"; empty where there are none."""
        bounds = {"above": self.above, "at least": self.at_least, "below": self.below, "at most": self.at_most}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

    def admits(self, value: float) -> bool:
        """Whether a number lies within the bounds; NaN lies within none."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field for an argument.

    :param default: `dataclasses.MISSING` where a value has to be given.
    :param help: what `--help` and the reference say.
    :param facts: of `Option`.
    """
    stated = Option(**facts)
    return dataclasses.field(default=default, metadata={"help": help, "group": stated.group, "option": stated})


def options(kind: type) -> dict[str, Option]:
    """The facts of all arguments of a dataclass, by name, in order."""
    return {field.name: field.metadata["option"] for field in fields(kind)}


@functools.cache
def annotations(kind: type) -> dict[str, Any]:
    """The types of all arguments of a dataclass, by name. Python evaluates them anew each time it is asked."""
    return get_type_hints(kind)


def defaults_under(kind: type, method: str) -> dict[str, Any]:
    """The defaults of all arguments of a dataclass under a method, by name, in order."""
    of_methods = {name: stated.by_method for name, stated in options(kind).items() if stated.by_method is not None}
    found = {name: values.get(method, values[OTHERS]) for name, values in of_methods.items()}
    return {field.name: field.default for field in fields(kind)} | found


def preset_in_words(arguments: Any, of_data: Mapping[str, Any] | None = None) -> str | None:
    """What a method presets, and what is given in its place, for the log; None where it presets nothing.

    :param of_data: defaults that depend on the data, which hold before those of the method.
    """
    stated = options(type(arguments))
    of_methods = {name: one.by_method for name, one in stated.items() if one.by_method is not None}
    usual = {name: values[OTHERS] for name, values in of_methods.items()}
    presets = {name: values.get(arguments.method, values[OTHERS]) for name, values in of_methods.items()}
    presets |= {name: value for name, value in (of_data or {}).items() if name in presets}
    if presets == usual:
        return None
    now = {name: getattr(arguments, name) for name in presets}
    given = {n: value for n, value in now.items() if n not in arguments.not_given and value != presets[n]}
    kept = ", ".join(f"{name} {value}" for name, value in now.items() if name not in given and value != usual[name])
    words = f"Method {arguments.method} sets {kept or 'nothing'}"
    return words + (f". Given in its place: {', '.join(f'{n} {v}' for n, v in given.items())}." if given else ".")


def names(kind: type, condition: Callable[[Option], bool]) -> list[str]:
    """The arguments of a dataclass for which a condition holds, in order."""
    return [name for name, stated in options(kind).items() if condition(stated)]


def public_values(arguments: Any) -> dict[str, Any]:
    """Replace every local path in the result of `to_dict` by the word "local"."""
    values = arguments.to_dict()
    for name, stated in options(type(arguments)).items():
        if isinstance(values[name], str) and _is_path(stated, values[name]):
            values[name] = "local"
    return values


def _is_path(stated: Option, value: str) -> bool:
    return stated.text == "folder" or (stated.text in ("model", "data") and Path(value).exists())


def check_values(arguments: Any) -> None:
    """Check that required values are given, that numbers are in range, and that choices are valid.

    :raises ArgumentError: naming the argument, its value and the rule.
    """
    for name, stated in options(type(arguments)).items():
        value = getattr(arguments, name)
        if stated.required and value is None:
            raise ArgumentError(f"`{name}` is missing: give it, or `{name}:` in the configuration file.")
        if value is not None and stated.range and not stated.admits(value):
            raise ArgumentError(f"`{name}` is {value}; it must be {stated.range}.")
        if isinstance(value, float) and math.isinf(value):
            raise ArgumentError(f"`{name}` is {value}; it must be a finite number.")
    for name in annotations(type(arguments)):
        check_choice(arguments, name)


def check_choice(arguments: Any, name: str) -> None:
    """:raises ArgumentError: where an argument has choices, and its value is none of them."""
    choices, value = choices_of(annotations(type(arguments))[name]), getattr(arguments, name)
    if choices and value not in choices:
        words = ", ".join(choice for choice in choices if choice is not None)
        raise ArgumentError(f"`{name}` is {value!r}; it must be one of {words}.")


def choices_of(annotation: Any) -> tuple[str | None, ...]:
    """The values that a `Literal` leaves, with None where it is optional; empty for other annotations."""
    kinds = [annotation, *get_args(annotation)]
    literal = next((kind for kind in kinds if get_origin(kind) is Literal), None)
    if literal is None:
        return ()
    return get_args(literal) + ((None,) if type(None) in kinds else ())
