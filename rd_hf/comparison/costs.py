"""What the models of a comparison cost where they are deployed: arithmetic and time of one image, measured once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from ..data.pixels import PixelTransform, whole_image_processor
from ..runtime.files import write_json
from ..students.cost import Cost, measure_cost
from ..students.loading import load_student
from ..training.assembly import load_teacher
from .adaptation import AdaptedTeacher
from .plan import Cell, Plan

if TYPE_CHECKING:
    from .runs import Run

COSTS_FILE = "costs.json"
COUNTED_AS = 2  # with attention; to be raised when the same model comes to other numbers


def measure_costs(plan: Plan, runs: Sequence[Run], root: Path) -> dict[str, Cost]:
    """The cost of every deployed model, by `Run.cost_key`; costs found in costs.json are not measured again."""
    path = root / COSTS_FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if found.pop("counted_as", None) != COUNTED_AS:
        found = {}
    for run in runs:
        if run.cost_key not in found:
            found[run.cost_key] = asdict(_cost(plan, run.cell, run, root))
    write_json({"counted_as": COUNTED_AS} | found, path)
    return {key: Cost(**values) for key, values in found.items()}


def _cost(plan: Plan, cell: Cell, run: Run, root: Path) -> Cost:
    arguments = plan.cell_arguments(cell, root)
    if cell.entry.method.role == "teacher":
        loaded = load_teacher(arguments, Accelerator(cpu=True))
        processor = whole_image_processor(loaded.processor) if run.has_masks else loaded.processor
        size, classes = PixelTransform(processor).size, len(run.task.names)
        tower, stages = loaded.backbone.tower.float(), arguments.teacher_stages
        model = AdaptedTeacher(tower, size, classes, stages, has_masks=run.has_masks).eval()
    else:
        model, processor, _ = load_student(
            arguments.student, run.task.names, run.task.problem_type, arguments.student_image_size,
            arguments.student_revision, arguments.trust_remote_code,
        )  # fmt: skip
        size = PixelTransform(processor).size
    with torch.random.fork_rng():
        return measure_cost(lambda pixels: model(pixel_values=pixels), model.eval(), size)
