"""What a comparison's file gives that no run reads. An argument that several runs share needs one that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..arguments.distillation import DistillationArguments
from ..arguments.effect_rules import CHECKED, Known, Uses
from ..arguments.effects import without_effect

OF_METHOD = "methods"


class Run(NamedTuple):
    """A run as it would be.

    :ivar make: all of its arguments; None where they contradict each other.
    :ivar uses: those of its method.
    :ivar method: its name in the comparison.
    :ivar given: what the file gives to it, by place, from what all runs share to what its method has of its own.
    """

    make: Callable[[], DistillationArguments | None]
    uses: Uses
    method: str
    given: Mapping[str, Mapping[str, Any]]

    def places(self) -> Iterator[tuple[str, str, str]]:
        """Where it has each value from: the place, the method where it is its own, and the name."""
        overridden: set[str] = set()
        for where, values in reversed(self.given.items()):
            for name in set(values) & CHECKED - overridden:
                yield where, self.method if where == OF_METHOD else "", name
            overridden |= set(values)


def unread(runs: Iterable[Run]) -> list[str]:
    """A sentence for each value that is read by none of the runs that it is given to."""
    found: dict[tuple[str, str, str], str | None] = {}  # None where a run reads it
    for run in runs:
        open_places = [place for place in run.places() if found.get(place, "") is not None]
        arguments = run.make() if open_places else None
        sentences = {}  # of a run that cannot be, it is not known what it would read
        if arguments is not None:
            own = run.given.get(OF_METHOD, {})
            found_of_run = without_effect(arguments, Known(), run.uses, run.method, own)
            sentences = {name: text for name, text, _ in found_of_run}
        for place in open_places:
            sentence = sentences.get(place[2])
            found[place] = sentence and found.get(place, sentence)  # what is said is about the first of the runs
    return [_sentence(where, name, text) for (where, _, name), text in found.items() if text is not None]


def _sentence(where: str, name: str, of_a_run: str) -> str:
    if where == OF_METHOD:
        return of_a_run
    start = f"`{name}` has no effect"
    return of_a_run.replace(start, f"`{name}` under `{where}` has no effect on any run. It has none", 1)
