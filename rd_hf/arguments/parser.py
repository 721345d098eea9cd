"""The parser of a command's options, made from its dataclass; `--help` lists them by group."""

from __future__ import annotations

import re
import sys
from argparse import Action, HelpFormatter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import partial
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from .options import UNGROUPED, Option

EPILOG = "Names may be written with hyphens in place of underscores."
NEGATIVE_NUMBERS = re.compile(r"-[\d.]+,.*")  # which argparse takes for the name of an option
TRUTH = ("true", "false", "t", "f", "yes", "no", "y", "n", "1", "0")  # what string_to_bool reads
METAVARS = {int: "N", float: "X", str: "VALUE"}
TEXT_METAVARS = {"model": "ID_OR_PATH", "data": "ID_OR_PATH", "folder": "PATH"}


class OptionParser(HfArgumentParser):
    """transformers' parser of dataclasses, which hands on each field's metadata to `add_argument`.

    :param kind: a dataclass whose fields are made by `options.option`.
    :param first: the field whose value may come without its flag.
    """

    def __init__(self, kind: type, first: str | None = None, **settings: Any):
        self.headings: dict[str, Any] = {}
        self.first = first
        names = [field.name for field in fields(kind) if field.default is MISSING]
        needed = [name.upper() if name == first else f"--{name} {name.upper()}" for name in names]
        super().__init__(
            kind,
            usage=" ".join(["%(prog)s", *needed, "[options]"]),
            epilog=EPILOG,
            formatter_class=partial(HelpFormatter, max_help_position=30),
            allow_abbrev=False,
            **settings,
        )

    def add_argument(
        self, *names: str, group: str = UNGROUPED, option: Option | None = None, **settings: Any
    ) -> Action:
        """Add an option under the heading of its group; see `argparse.ArgumentParser.add_argument`.

        :param option: the facts of a dataclass's field; None for any other option.
        """
        add = super().add_argument
        if group != UNGROUPED:
            if group not in self.headings:
                self.headings[group] = self.add_argument_group(group)
            add = self.headings[group].add_argument
        action = add(*names, **settings if option is None else _described(option, settings))
        if option is not None:
            action.option_strings = list(names[:1])  # what help and errors show: one spelling
        return action

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """As in argparse, but for three kinds of words.

        Numbers with commas that begin with a minus are the value of the option before them. Where `first` is not named,
        the first word that no option takes is its value, also after a switch: a word that is neither true nor false.
        """
        joined: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if NEGATIVE_NUMBERS.fullmatch(word) and joined and joined[-1].startswith("--"):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return super().parse_known_args(self._with_flags(joined), namespace)

    def _with_flags(self, words: list[str]) -> list[str]:
        """The words with `first` named, and with the value of each switch that stands without one."""
        flag, made = f"--{self.first}", []
        is_open = self.first is not None and flag not in (word.split("=")[0] for word in words)
        takes: str | int | None = 0  # values that the option before may still take: argparse's nargs
        for word in words:
            if word.startswith("-"):
                action = self._option_string_actions.get(word)
                takes = 0 if action is None else action.nargs
                made.append(word)
                continue
            if is_open and takes == "?" and word.lower() not in TRUTH:
                made[-1] += "=true"
                takes = 0
            if is_open and takes == 0:
                made.append(flag)
                is_open = False
            made.append(word)
            takes = takes if takes in ("+", "*") else 0
        return made


def _described(option: Option, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an option with its help completed: what has to be given, and defaults that say something."""
    if settings.get("action") == "store_false":
        return settings | {"help": f"the same as --{settings['dest']} false"}
    shown = settings["help"].replace("%", "%%")
    default = settings.get("default")
    if option.required:
        shown += " (required)"
    elif default is True:
        shown += " (default: true)"
    elif option.by_method is not None:
        shown += f" (default: {option.defaults})"
    elif default is not None and default is not False:
        shown += " (default: %(default)s)"
    settings = settings | {"help": shown}
    if settings.get("const") is True or settings.get("type") is string_to_bool:  # a switch
        return settings | {"metavar": "true|false"}
    if "choices" in settings or "required" in settings:
        return settings
    return settings | {"metavar": TEXT_METAVARS.get(option.text) or METAVARS[settings["type"]]}
