"""`rd-hf students`: the ready students within a budget, counted without weights and timed on this machine's CPU."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..arguments.plain_values import plain
from ..arguments.values import ArgumentError
from ..models.configuration_monai import DEFAULT_SIDE
from ..runtime.memory import PeakMemory
from ..runtime.progress import Progress
from ..tasks.classification import SingleLabel
from ..tasks.segmentation import Segmentation
from .cost import Cost, measure_cost
from .cost import threads as threads_in_words
from .loading import load_student
from .volumes import VolumeStudent
from .zoo import SMALLEST_SIDE, ReadyStudent, config_text
from .zoo_masks import READY_SEGMENTERS
from .zoo_timm import INSTALLED_STUDENTS
from .zoo_volumes import READY_VOLUME_CLASSIFIERS, READY_VOLUME_SEGMENTERS

logger = logging.getLogger(__name__)

COUNT = re.compile(r"(.*\S)\s*([kKmM])")
UNITS = {"k": 1e3, "m": 1e6}
PROBLEM_TYPES = {"classification": SingleLabel.problem_type, "segmentation": Segmentation.problem_type}
WORDS = {"parameters": "parameters", "gflop": "GFLOP per {}", "milliseconds": "ms per {}"}
SMALLEST_CUBE = 16


class BudgetError(ValueError):
    """No ready student stays within the budget; the message names the one that comes nearest."""


@dataclass(frozen=True)
class MeasuredStudent:
    """A ready student and what one image costs it.

    :param parameters: those of the student with its head.
    :param gflop: 1e9 floating-point operations, a multiplication and an addition being two.
    :param milliseconds: median time on this machine's CPU.
    :param student: the inline config that `distill` takes as its `student`.
    :param pretrained: Hub id of weights of this architecture, which `distill` takes instead; None: none are known that
        fit the image size.
    """

    name: str
    parameters: int
    gflop: float
    milliseconds: float
    student: dict[str, Any]
    pretrained: str | None


@dataclass(frozen=True)
class MeasuredVolumeStudent(MeasuredStudent):
    """A ready student of volumes and what one window, a cube of one channel, costs it.

    :param peak_mib: weights and highest use of memory in the forward pass on this machine's CPU, in MiB; None where the
        system does not tell (not Linux).
    """

    peak_mib: float | None


def students_within(
    max_params: int | float | str | None = None,
    max_latency_ms: float | None = None,
    max_gflop: float | None = None,
    image_size: int | None = None,
    num_labels: int = 2,
    threads: int | None = None,
    task: str = "classification",
    dimensions: int = 2,
) -> list[MeasuredStudent]:
    """The ready students within a budget, most parameters first. Only those are timed that are small enough.

    :param max_params: most parameters: a number, or text such as 1M, 500k or 1e6.
    :param max_latency_ms: longest median time of one image on this machine's CPU, in milliseconds.
    :param max_gflop: most operations for one image, in 1e9.
    :param image_size: side of the square image in pixels, 224 by default; of volumes side of the cube in voxels, 96 by
        default.
    :param threads: CPU threads while time is measured; by default torch's.
    :param task: "classification" or "segmentation".
    :param dimensions: 2 for images, 3 for volumes.
    :return: students of volumes are `MeasuredVolumeStudent`, with their memory.
    :raises ArgumentError: for a value that is out of range.
    :raises BudgetError: when none stays within the budget.
    """
    image_size, num_labels, threads, dimensions = map(plain, (image_size, num_labels, threads, dimensions))
    budgets = {
        "parameters": _count("max_params", max_params),
        "gflop": _count("max_gflop", max_gflop),
        "milliseconds": _count("max_latency_ms", max_latency_ms),
    }
    if task not in PROBLEM_TYPES:
        raise ArgumentError(f"`task` is {task!r}; it must be {' or '.join(PROBLEM_TYPES)}.")
    if dimensions not in DEFAULT_SIDE:
        raise ArgumentError(f"`dimensions` is {dimensions!r}; it must be 2 (images) or 3 (volumes).")
    image_size = DEFAULT_SIDE[dimensions] if image_size is None else image_size
    _check("image_size", image_size, SMALLEST_SIDE if dimensions == 2 else SMALLEST_CUBE)
    _check("num_labels", num_labels, 1)
    _check("threads", threads, 1)
    every = _every(task, dimensions)
    ready = [student for student in every if student.takes(image_size)]
    if not ready:
        sizes = ", ".join(sorted({str(student.side_step) for student in every}, key=int))
        raise BudgetError(f"No ready student runs on sides of {image_size}: they run on multiples of {sizes}.")
    students = [(student, Cost(_parameters(student, image_size, num_labels), math.nan, None)) for student in ready]
    students = _keep(students, "parameters", budgets, image_size, len(every))
    with Progress("counting operations", len(students), "student") as progress:
        for number, (student, _) in enumerate(students):
            students[number] = student, _cost(student, image_size, num_labels, "meta")
            progress.advance()
    students = _keep(students, "gflop", budgets, image_size, len(every))
    timed = {}
    with _threads(threads), Progress("timing", len(students), "student") as progress:
        for student, cost in students:
            timed[student.name] = _timed(student, cost, image_size, num_labels)
            progress.advance()
        used = torch.get_num_threads()
    students = _keep([(student, timed[student.name][0]) for student, _ in students], "milliseconds", budgets,
                     image_size, len(every))  # fmt: skip
    size = "student_image_size" if dimensions == 2 else {"segmentation": "crop_size"}.get(task, "volume_size")
    logger.info(
        "Students are sorted by parameters, most first. ms is measured on this CPU with %s. Train with `%s` %d.",
        threads_in_words(used), size, image_size,
    )  # fmt: skip
    students.sort(key=lambda pair: -pair[1].parameters)
    return [_measured(student, cost, image_size, timed[student.name][1]) for student, cost in students]


def _every(task: str, dimensions: int) -> Sequence[ReadyStudent]:
    """All ready students for a task."""
    if dimensions == 3:
        return READY_VOLUME_SEGMENTERS if task == "segmentation" else READY_VOLUME_CLASSIFIERS
    return READY_SEGMENTERS if task == "segmentation" else INSTALLED_STUDENTS


def students_table(students: list[MeasuredStudent]) -> str:
    """The students as aligned text; the last column is to be pasted after `rd-hf distill --student`."""
    of_volumes = bool(students) and isinstance(students[0], MeasuredVolumeStudent)
    rows = [["name", "parameters", "GFLOP", "ms", *(["MiB"] if of_volumes else []), "pretrained", "--student"]]
    for student in students:
        row = [student.name, f"{student.parameters / 1e6:.2f}M", f"{student.gflop:.3f}", f"{student.milliseconds:.1f}"]
        if of_volumes:
            row.append("-" if student.peak_mib is None else f"{student.peak_mib:.0f}")
        rows.append([*row, student.pretrained or "-", f"'{config_text(student.student)}'"])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligns = "<>>>><<" if of_volumes else "<>>><<"
    lines = ["  ".join(f"{c:{a}{w}}" for c, a, w in zip(row, aligns, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _count(name: str, value: int | float | str | None) -> float | None:
    """A budget as a number, from 1M, 500k, 1e6, 1000000 or a number."""
    if value is None:
        return None
    text = str(value).strip()
    with_unit = COUNT.fullmatch(text) if name == "max_params" else None
    try:
        number = float(with_unit[1]) * UNITS[with_unit[2].lower()] if with_unit else float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        examples = ", such as 1M, 500k, 1e6 or 1000000" if name == "max_params" else ""
        raise ArgumentError(f"`{name}` is {value!r}; it must be a number above 0{examples}.")
    return number


def _check(name: str, value: int | None, least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise ArgumentError(f"`{name}` is {value!r}; it must be a whole number, and at least {least}.")


def _keep(
    students: list[tuple[ReadyStudent, Cost]],
    measure: str,
    budgets: dict[str, float | None],
    image_size: int,
    every: int,
) -> list[tuple[ReadyStudent, Cost]]:
    """Those whose `measure`, a field of Cost, is within its budget.

    :param every: ready students of the task.
    """
    budget = math.inf if budgets[measure] is None else budgets[measure]
    kept = [(student, cost) for student, cost in students if getattr(cost, measure) <= budget]
    if not kept:
        least, cost = min(students, key=lambda pair: getattr(pair[1], measure))
        of = "" if len(students) == every else f" among the {len(students)} that the other limits leave"
        is_volume = least.dimensions == 3
        words = WORDS[measure].format("window" if is_volume else "image")
        found = getattr(cost, measure)
        shown = f"{found:,}" if measure == "parameters" else _rounded_up(found)
        size = f"{image_size} voxels per side" if is_volume else f"{image_size} px"
        raise BudgetError(
            f"No ready student has at most {budget:,.10g} {words} at {size}. The nearest{of} is "
            f"{least.name}, with {shown} {words}."
        )
    return kept


def _rounded_up(value: float) -> str:
    """Three digits of a cost; a budget of this much is enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / unit - 1e-9) * unit:.3g}"


def _build(student: ReadyStudent, image_size: int, num_labels: int, device: str):
    """The student that `distill` would start from, in eval mode; on the device "meta" it has no weights."""
    labels = [str(number) for number in range(num_labels)]
    volumes = VolumeStudent(1, (image_size,) * 3) if student.dimensions == 3 else None
    with torch.device(device), torch.random.fork_rng(devices=[]):
        return load_student(student.config, labels, PROBLEM_TYPES[student.task], image_size, volumes=volumes)[0].eval()


def _parameters(student: ReadyStudent, image_size: int, num_labels: int) -> int:
    return sum(p.numel() for p in _build(student, image_size, num_labels, "meta").parameters())


def _cost(student: ReadyStudent, image_size: int, num_labels: int, device: str) -> Cost:
    model = _build(student, image_size, num_labels, device)
    return measure_cost(lambda pixels: model(pixel_values=pixels), model, (image_size,) * student.dimensions)


def _timed(student: ReadyStudent, counted: Cost, image_size: int, num_labels: int) -> tuple[Cost, float | None]:
    """The cost with time; of a student of volumes also weights and highest use of memory in MiB."""
    memory = PeakMemory(torch.device("cpu"))
    with memory if student.dimensions == 3 else nullcontext():
        milliseconds = _cost(student, image_size, num_labels, "cpu").milliseconds
    # Keep the operations that were compared with the budget.
    return replace(counted, milliseconds=milliseconds), memory.mib


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measured(student: ReadyStudent, cost: Cost, image_size: int, peak_mib: float | None) -> MeasuredStudent:
    facts = (
        student.name, cost.parameters, round(cost.gflop, 6), round(cost.milliseconds, 3),
        copy.deepcopy(student.config), student.pretrained_for(image_size),
    )  # fmt: skip
    if student.dimensions == 2:
        return MeasuredStudent(*facts)
    return MeasuredVolumeStudent(*facts, None if peak_mib is None else round(peak_mib, 1))
