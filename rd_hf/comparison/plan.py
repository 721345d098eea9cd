"""What a comparison runs: the grid of its YAML file as cells, each with the arguments of one training.

    arguments: {student: ..., max_steps: 200}        # of rd-hf distill, for every run
    data: {busi: {dataset: ../shared/data/busi_128.npz}}                     # arguments of runs on that data set
    teachers: {mobilenet: {teacher: google/mobilenet_v2_1.0_224}}
    methods: [ce, lp_kd, rd, {name: rd biased, method: rd, cka_estimator: biased}]
    shots: [10, 20, all]
    seeds: [0, 1, 2]

To write an ablation, give a method another name and arguments of its own.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..arguments.config import check_names
from ..arguments.distillation import DistillationArguments
from ..arguments.effect_rules import Uses
from ..arguments.options import options
from ..arguments.values import ArgumentError, listed, nearest
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .arguments import ComparisonArguments, tuning_grid
from .effects import OF_METHOD, Run, unread
from .methods import METHODS, Method, Target

logger = logging.getLogger(__name__)

NAME = re.compile(r"(?!\.\.?$)[^/\\]+")
NO_TEACHER = "no_teacher"
NEVER = 10**9  # steps
NO_STREAM = (
    "`compare` shows every method the same decoded images, so `unlabeled_dataset` cannot be a stream: download it, and "
    "leave `unlabeled_streaming` out."
)
TARGETS: dict[str, Target] = {"classification": "classes", "segmentation": "masks"}  # of the argument `task`


@dataclass(frozen=True)
class Entry:
    """A method as the comparison names it, with the arguments that are its own."""

    name: str
    method: Method
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def uses(self) -> Uses:
        """Of what arguments may be about."""
        return self.method.uses(self.arguments)

    @property
    def temperature(self) -> float | None:
        """That of its loss of logits: its own or its paper's. Reprogramming has that of the arguments."""
        return self.method.temperature and float(self.arguments.get("temperature", self.method.temperature))


@dataclass(frozen=True)
class Cell:
    """One training: a method on a data set from a teacher, with so many labels, under a seed.

    :ivar teacher: its name in the comparison; None for methods that take none.
    :ivar shots: labels per class, of masks labelled images; None for all.
    :ivar learning_rate: None for that of the arguments.
    :ivar weight: factor of the method's own weight of its loss (of the weight decay, where it has none).
    """

    data: str
    teacher: str | None
    entry: Entry
    unlabelled: bool
    shots: int | None
    seed: int
    learning_rate: float | None = None
    weight: float = 1.0
    tuning: bool = False

    @property
    def path(self) -> Path:
        """Its folder, relative to the comparison's."""
        shots = "all" if self.shots is None else f"{self.shots}_shots"
        name = self.entry.name.replace(" ", "_") + ("+unlabelled" if self.unlabelled else "")
        if self.tuning:
            rate = "" if self.learning_rate is None else f",learning_rate={self.learning_rate:g}"
            name += f"{rate},weight={self.weight:g}"
        kind = "tuning" if self.tuning else "runs"
        return Path(kind, self.data, self.teacher or NO_TEACHER, shots, name, f"seed_{self.seed}")

    @property
    def setting(self) -> tuple[str | None, str, bool]:
        """What is tuned together: all runs of an entry with one teacher, over data sets, labels and seeds."""
        return self.teacher, self.entry.name, self.unlabelled


class Plan:
    """The cells of a comparison.

    :param is_checked: whether what no run reads is refused already.
    :raises ArgumentError: where a method, data set or argument is not known.
    """

    def __init__(self, comparison: ComparisonArguments, is_checked: bool = False):
        self.comparison = comparison
        self.entries = [_entry(value) for value in comparison.methods]
        if not self.entries:
            raise ArgumentError("`methods` is empty: name the methods to compare, such as [ce, rd].")
        for name in [*(entry.name for entry in self.entries), *comparison.data, *comparison.teachers]:
            if not NAME.fullmatch(name) or name == NO_TEACHER:
                raise ArgumentError(f"{name!r} cannot be the name of a folder: choose another name.")
        if any(entry.method.needs_teacher for entry in self.entries) and not comparison.teachers:
            raise ArgumentError("`teachers` is missing: every method except ce needs a teacher.")
        names = [entry.name for entry in self.entries]
        if comparison.reference is not None and comparison.reference not in names:
            raise ArgumentError(
                f"`reference` is {comparison.reference!r}, which is not one of the compared methods {listed(names)}: "
                "choose one of them, or add it to `methods`."
            )
        check_names(comparison.arguments, where=" under `arguments`")
        for kind in ("data", "teachers"):
            for name, values in getattr(comparison, kind).items():
                if not isinstance(values, dict):
                    raise ArgumentError(f"`{kind}: {name}` must be a mapping of arguments, not {values!r}.")
                check_names(values, where=f" under `{kind}: {name}`")
        self._refuse_arguments()
        self._refuse_methods()
        self.tuning = tuning_grid(comparison)
        self.tuned: dict[tuple, tuple[float | None, float]] = {}  # learning rate and weight of each setting
        if not is_checked:
            self._refuse_unread()

    def _refuse_arguments(self) -> None:
        """:raises ArgumentError: for an argument in a place where it does not belong."""
        comparison, entries = self.comparison, [entry.arguments for entry in self.entries]
        common, of_data, of_teachers = [comparison.arguments], comparison.data.values(), comparison.teachers.values()
        of = {name: stated.compare for name, stated in options(DistillationArguments).items()}
        for name in itertools.chain(*common, *of_data, *of_teachers, *entries):
            if of[name] == "grid":
                raise ArgumentError(
                    f"`{name}` cannot be given for the runs, because the comparison sets it from its own `methods`, "
                    "`shots`, `seeds`, `use_unlabeled` and `output_dir`."
                )
            if name == "unlabeled_streaming":
                raise ArgumentError(NO_STREAM)
            if of[name] == "never":
                raise ArgumentError(f"`{name}` is not supported in a comparison: leave it out.")
        for name in itertools.chain(*common, *of_data, *entries):
            if of[name] == "teachers":
                raise ArgumentError(f"`{name}` belongs under `teachers`: move it there.")
        for name in itertools.chain(*of_teachers, *entries):
            if of[name] == "data":
                raise ArgumentError(f"`{name}` must be the same for all methods: put it under `data`.")

    def _refuse_unread(self) -> None:
        """What a file gives that flags override is only logged. So it is where a comparison goes on as it was begun.

        :raises ArgumentError: for an argument that no run reads.
        """
        sentences = unread(self._runs())
        if sentences and not (self.comparison.is_overridden or self.comparison.table_only or self._is_begun()):
            raise ArgumentError(sentences[0])
        for sentence in sentences:
            logger.info("%s", sentence)

    def _is_begun(self) -> bool:
        return any(Path(self.comparison.output_dir, kind).is_dir() for kind in ("runs", "tuning"))

    def _runs(self) -> Iterator[Run]:
        """The runs that differ in their arguments."""
        comparison, seen = self.comparison, set()
        for cell in self._every_cell():
            kind = (cell.data, cell.teacher, cell.entry.name, cell.unlabelled, cell.shots is None)
            if kind in seen:
                continue
            seen.add(kind)
            given = {"arguments": comparison.arguments, f"data: {cell.data}": comparison.data[cell.data]}
            if cell.teacher is not None:
                given[f"teachers: {cell.teacher}"] = comparison.teachers[cell.teacher]
            given[OF_METHOD] = cell.entry.arguments
            yield Run(partial(self._whole, cell, given), cell.entry.uses, cell.entry.name, given)

    def _whole(self, cell: Cell, given: dict[str, dict[str, Any]]) -> DistillationArguments | None:
        """The arguments of a cell, with what `cell_arguments` leaves out where its method does not read it."""
        try:
            arguments = self.cell_arguments(cell, cell.path)
        except ArgumentError:  # is told with the path of the run, before the first one
            return None
        for values in given.values():
            arguments.teacher_features = values.get("teacher_features", arguments.teacher_features)
        return arguments

    def _every_cell(self) -> Iterator[Cell]:
        """Those of one seed, and those that are tuned."""
        shots = [None if number == "all" else number for number in self.comparison.shots]
        for data, number in itertools.product(self.comparison.data, shots):
            yield from self._of(data, number, self.comparison.seeds[0])
        yield from self.tuning_cells()

    def _refuse_methods(self) -> None:
        """:raises ArgumentError: for a method that does not learn what a data set is said to have."""
        for data in self.comparison.data.values():
            arguments = self.comparison.arguments | data
            task, of_volumes = arguments.get("task"), str(arguments.get("dimensions")) == "3"
            for entry in self.entries:
                if task in TARGETS:
                    entry.method.check_target(TARGETS[task])
                if of_volumes:
                    entry.method.check_volumes()

    def cells(self) -> list[Cell]:
        """Every run of the comparison, in the order in which they are done; settings as they are untuned."""
        shots = [None if number == "all" else number for number in self.comparison.shots]
        grid = itertools.product(self.comparison.data, shots, self.comparison.seeds)
        cells = [cell for data, number, seed in grid for cell in self._of(data, number, seed)]
        paths = Counter(cell.path for cell in cells)
        for cell in cells:
            if paths[cell.path] > 1:
                raise ArgumentError(
                    f"Two methods are named {cell.entry.name!r}, or have names too similar to tell apart: rename one."
                )
        return cells

    def as_tuned(self, cell: Cell) -> Cell:
        """A cell with the learning rate and weight that were chosen for its method.

        Where every label is used there are no unlabelled rows: then what was chosen with such rows holds. Where the
        tuning uses every label it is the other way round.
        """
        teacher, name, unlabelled = cell.setting
        for setting in ((teacher, name, unlabelled), (teacher, name, not unlabelled)):
            if setting in self.tuned:
                rate, weight = self.tuned[setting]
                return replace(cell, learning_rate=rate, weight=weight)
        return cell

    def adapting(self, cell: Cell) -> Cell:
        """The run of LoRA whose teacher a two-stage method starts from; that of the entry "lora", if there is one."""
        method = METHODS[cell.entry.method.adaptation]
        own = next((entry for entry in self.entries if entry.name == method.name), Entry(method.name, method))
        return self.as_tuned(replace(cell, entry=own, unlabelled=False, learning_rate=None, weight=1.0))

    def _of(self, data: str, shots: int | None, seed: int) -> Iterator[Cell]:
        for entry in self.entries:
            for teacher in self.comparison.teachers if entry.method.needs_teacher else (None,):
                for unlabelled in self._unlabelled(entry.method, data, shots):
                    yield Cell(data, teacher, entry, unlabelled, shots, seed)

    def _unlabelled(self, method: Method, data: str, shots: int | None) -> Iterable[bool]:
        """Whether to use unlabelled rows, per run. A method that cannot use them, or finds none, runs once."""
        if not method.uses_unlabelled or not self.has_unlabelled(data, shots):
            return (False,)
        return tuple(dict.fromkeys(self.comparison.use_unlabeled))

    def has_unlabelled(self, data: str, shots: int | None) -> bool:
        """Whether there are unlabelled rows: train rows whose label is withheld, or an unlabelled data set."""
        return shots is not None or "unlabeled_dataset" in self.comparison.arguments | self.comparison.data[data]

    def tuning_cells(self) -> list[Cell]:
        """The runs from which each method's learning rate and weight are chosen."""
        if self.tuning is None:
            return []
        grid = itertools.product(self.tuning["data"], self.tuning["seeds"])
        cells = [cell for data, seed in grid for cell in self._of(data, self.tuning["shots"], seed)]
        own = [replace(cell, tuning=True) for cell in cells]
        own = [replace(self.adapting(cell), tuning=True) for cell in own if cell.entry.method.adapts_by_training] + own
        tried = [
            replace(cell, learning_rate=rate, weight=weight) for cell in own for rate, weight in self._tries(cell.entry)
        ]
        return list(dict.fromkeys(tried))

    def _tries(self, entry: Entry) -> list[tuple[float | None, float]]:
        """The learning rates and weights over which an entry is tuned, unless it sets them itself."""
        method, named = entry.method, entry.arguments
        if method.name == "linear_probe":  # chooses its own penalty, on validation
            return []
        rates = [None] if "learning_rate" in named else self.tuning["learning_rate"]
        has_weight = method.transfer is not None or not set(method.weight_arguments) <= set(named)
        tries = list(itertools.product(rates, self.tuning["weight"] if has_weight else [1.0]))
        return [] if tries == [(None, 1.0)] else tries

    def cell_arguments(
        self, cell: Cell, folder: Path, task: Task | None = None, of_volumes: bool = False
    ) -> DistillationArguments:
        """The arguments of a cell's training; its own method has to be set for what the loop calls `method`.

        :param task: of the data, once it is known. Then the data's defaults stand in place of what is not given, and
            the metric that chooses the model is named.
        :param of_volumes: whether that data are volumes.
        :raises ArgumentError: when they contradict each other.
        """
        comparison, method = self.comparison, cell.entry.method
        values = dict(comparison.arguments) | comparison.data[cell.data]
        if cell.teacher is not None:
            values |= comparison.teachers[cell.teacher]
        values |= cell.entry.arguments
        values |= {"method": method.loop, "seed": cell.seed, "shots": cell.shots, "output_dir": str(folder)}
        values |= {"use_unlabeled": cell.unlabelled and cell.shots is not None, "save_steps": NEVER}
        if method.reads_maps:
            values.pop("teacher_features", None)
        if not cell.unlabelled:
            values.pop("unlabeled_dataset", None)
        if cell.learning_rate is not None and "learning_rate" not in cell.entry.arguments:
            values["learning_rate"] = cell.learning_rate
        values = {"view_seed": 0, "split_seed": 0} | values  # the same images and views for every seed
        arguments = DistillationArguments(**values)
        if task is not None:  # before a weight is scaled, which gives it
            arguments = arguments.with_defaults(of_volumes, isinstance(task, Segmentation))
        named = set(cell.entry.arguments) | ({"kl_weight_end"} if "kl_weight" in cell.entry.arguments else set())
        scaled = [name for name in method.weight_arguments if name not in named]  # the one follows the other
        changed: dict[str, Any] = {name: getattr(arguments, name) * cell.weight for name in scaled}
        if task is not None:
            changed["metric_for_best_model"] = task.selection_metric(arguments.metric_for_best_model)
        return arguments.with_values(**changed)


def _entry(value: Any) -> Entry:
    values = {"method": value} if isinstance(value, str) else dict(value) if isinstance(value, dict) else {}
    name = values.pop("method", None)
    if name not in METHODS:
        raise ArgumentError(
            f"`methods` contains {value!r}, which is not the name of a method.{nearest(str(name), list(METHODS))}"
        )
    label = str(values.pop("name", name))
    if label in METHODS and label != name:
        raise ArgumentError(f"{label!r} is the name of another method than {name}: choose another name.")
    check_names(values, where=f" of the method {label!r}")
    return Entry(label, METHODS[name], values)
