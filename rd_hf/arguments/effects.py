"""Which arguments of a distillation have no effect under which others. A given value that nothing reads is refused.

`RULES` is the table: names, when nothing reads them, why, and the way out. A value that equals the default counts as
not given. A resumed run is not checked, because it has to repeat the arguments that it was begun with.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from .distillation import DistillationArguments, defaults_of
from .effect_rules import CHECKED, RULES, Known, Rule, Situation, Uses
from .options import OTHERS, defaults_under
from .values import ArgumentError

logger = logging.getLogger(__name__)

OF_SAVED_RUN = {"resume", "overwrite_output_dir"}  # which `config_text` has, and nobody puts into a file by hand


class Origin(NamedTuple):
    """Where the values of arguments come from that a file gives to several runs.

    :ivar of_file: names whose value comes from a file.
    :ivar typed: names that were given beside it, for this run alone.
    :ivar is_saved: whether a run wrote the file: then it has every argument, and did what this version does.
    """

    of_file: frozenset[str]
    typed: frozenset[str]
    is_saved: bool

    @classmethod
    def of(cls, in_file: Collection[str], typed: Collection[str]) -> Origin:
        """That of a file with these names, some of which are overridden."""
        return cls(frozenset(in_file) - frozenset(typed), frozenset(typed), set(in_file) >= OF_SAVED_RUN)

    def excuses(self, name: str, rule: Rule) -> bool:
        """Whether a value has an effect for other runs of its file: it has none because of what was typed."""
        return name in self.of_file and (self.is_saved or bool(self.typed & set(rule.causes)))


def without_effect(
    arguments: DistillationArguments,
    known: Known,
    uses: Uses | None = None,
    method: str | None = None,
    own: Collection[str] = (),
) -> Iterator[tuple[str, str, Rule]]:
    """Name, sentence and rule of each argument whose value is not the default and is not read.

    :param uses: of a method of a comparison; by default those of `arguments.method`.
    :param method: its name in the comparison.
    :param own: the arguments that are given to it alone, for which defaults of other methods do not count.
    """
    situation = Situation(arguments, uses or Uses.of(arguments.method), known.stated_by(arguments))
    it = f"method {arguments.method}" if method is None else "it"
    on = "" if method is None else f" on the method {method!r}"
    defaults = defaults_under(type(arguments), arguments.method)
    changed = _changed(arguments) | {name for name in CHECKED & set(own) if getattr(arguments, name) != defaults[name]}
    for rule in RULES:
        names = [name for name in rule.names if name in changed]
        if names and rule.holds(situation):
            because = rule.because.format(it=it, **vars(arguments))
            for name in names:
                yield name, f"`{name}` has no effect{on}, because {because}: {rule.instead}.", rule
            changed -= set(names)


def idle(arguments: DistillationArguments, known: Known, uses: Uses) -> set[str]:
    """The arguments that nothing reads, whatever their values are."""
    situation = Situation(arguments, uses, known.stated_by(arguments))
    return {name for rule in RULES if rule.holds(situation) for name in rule.names}


def _changed(arguments: DistillationArguments) -> set[str]:
    """The arguments whose value differs from their defaults, also from those for other data and methods."""
    defaults = [defaults_under(type(arguments), method) for method in (arguments.method, OTHERS)]
    defaults += [defaults_of(arguments.method, volumes, masks) for volumes in (False, True) for masks in (False, True)]
    return {name for name in CHECKED if all(getattr(arguments, name) != own[name] for own in defaults if name in own)}


def check_effects(arguments: DistillationArguments, known: Known | None = None, tell: bool = False) -> None:
    """Refuse what has no effect; what only a shared file gives, or method ce leaves idle, is left to the log.

    The student alone is the baseline of another run: the same command, with `method` ce.

    :param known: what is known beside the arguments.
    :param tell: whether to log what is not refused.
    :raises ArgumentError: naming the argument, the reason and the way out.
    """
    if arguments.resume:
        return
    of_other_methods = []
    for name, sentence, rule in without_effect(arguments, known or Known()):
        if arguments.method == "ce" and "method" in rule.causes:
            of_other_methods.append(name)
        elif arguments.origin is None or not arguments.origin.excuses(name, rule):
            raise ArgumentError(sentence)
        elif tell:
            logger.info("In the configuration file, %s", sentence)
    if tell and of_other_methods:
        words = "Method ce trains the student alone, on labels. It does not read: %s."
        logger.warning(words, ", ".join(of_other_methods))


def refuse_given(kind: type, values: Mapping[str, Any], because: str) -> None:
    """Refuse those of a command's arguments that are not the default.

    :param kind: the command's dataclass, which knows the defaults.
    :param values: what was given, by name.
    :raises ArgumentError: naming the first.
    """
    defaults = {field.name: field.default for field in fields(kind)}
    for name, value in values.items():
        if value != defaults[name]:
            raise ArgumentError(f"`{name}` has no effect, because {because}: leave it out.")
