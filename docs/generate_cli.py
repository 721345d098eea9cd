"""Writes docs/reference/cli.md from the argument dataclasses: `python docs/generate_cli.py`."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rd_hf.arguments.commands import (
    CacheClearArguments,
    CacheInfoArguments,
    CacheVerifyArguments,
    EvaluationArguments,
    ExportArguments,
    InfoArguments,
    PredictionArguments,
    PushArguments,
    ReportArguments,
    StudentsArguments,
)
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.options import OTHERS
from rd_hf.cli import CACHE_COMMANDS, COMMANDS
from rd_hf.comparison.arguments import ComparisonArguments

ARGUMENTS = {
    "distill": DistillationArguments,
    "compare": ComparisonArguments,
    "students": StudentsArguments,
    "report": ReportArguments,
    "evaluate": EvaluationArguments,
    "predict": PredictionArguments,
    "export": ExportArguments,
    "info": InfoArguments,
    "push": PushArguments,
    "cache info": CacheInfoArguments,
    "cache build": None,
    "cache verify": CacheVerifyArguments,
    "cache clear": CacheClearArguments,
}
CONFIG = """`--config FILE` reads arguments from a YAML file. Flags override the file.

An argument that nothing reads under the others is refused, and the error says why. Where a flag makes it so, the log
says which arguments of the file have no effect. With `--method ce` it also says what only other methods read."""
NOTES = {
    "distill": CONFIG,
    "compare": CONFIG,
    "cache build": "It takes the arguments of [`rd-hf distill`](#rd-hf-distill).",
}
OF_COMMANDS = {"dataset": str}  # which in Python is also data in memory
TYPES = {str: "text", int: "integer", float: "number", list: "YAML list", dict: "YAML mapping"}
PAGE = Path(__file__).parent / "reference" / "cli.md"
HEAD = """# Command line

<!-- Written by docs/generate_cli.py. Change the argument dataclasses, not this page. -->

`python -m rd_hf` does the same as `rd-hf`. Answers go to stdout, and everything else goes to stderr.

Write a YAML list or mapping in quotes, such as `--label_column '[effusion, nodule]'`. A flag also takes `true`
or `false`, and one that is on by default has a second form, which turns it off. Names may be written with hyphens in
place of underscores.
"""


def type_text(annotation: Any) -> str:
    """A field's type in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join("`true`, `false`" if kind is bool else type_text(kind) for kind in kinds)
    if get_origin(annotation) is list:
        return f"{type_text(get_args(annotation)[0])}, one or more"
    return "flag" if annotation is bool else TYPES[annotation]


def default_text(field: dataclasses.Field) -> str:
    """A field's default in words; empty for None."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    if field.default is dataclasses.MISSING or field.metadata["option"].required:
        return "required"
    by_method = field.metadata["option"].by_method
    if by_method is not None:
        return "; ".join(f"`{value}`" + f" with {name}" * (name != OTHERS) for name, value in by_method.items())
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "" if field.default is None else f"`{field.default}`"


def table(fields: list[dataclasses.Field], hints: dict[str, Any]) -> Iterator[str]:
    """The lines of a table, a row per field."""
    yield from ("", "| Flag | Type | Default | Meaning |", "|---|---|---|---|")
    for field in fields:
        flag = f"`--{field.name}`" + (f", `--no_{field.name}`" if field.default is True else "")
        cells = [flag, type_text(hints[field.name]), default_text(field), field.metadata["help"]]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def tables(kind: type) -> Iterator[str]:
    """The tables of a dataclass: one per group, with headings if there are several."""
    fields, hints = dataclasses.fields(kind), get_type_hints(kind) | OF_COMMANDS
    groups = list(dict.fromkeys(field.metadata["group"] for field in fields))
    for group in groups:
        if len(groups) > 1:
            yield from ("", f"### {group}")
        yield from table([field for field in fields if field.metadata["group"] == group], hints)


def page() -> str:
    """The text of the page."""
    lines = [HEAD.rstrip()]
    for command, kind in ARGUMENTS.items():
        about = COMMANDS.get(command) or CACHE_COMMANDS[command.split()[1]]
        lines += ["", f"## rd-hf {command}", "", f"{about[0].upper()}{about[1:]}."]
        lines += ["", NOTES[command]] if command in NOTES else []
        lines += tables(kind) if kind is not None else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
