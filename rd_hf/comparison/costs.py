"""What the models of a comparison cost where they are deployed: arithmetic and time, measured once.

They are those of one image, of one crop of a volume, or of one volume where it has one class as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor

from ..arguments.distillation import DistillationArguments
from ..data.pixels import PixelTransform, whole_image_processor
from ..models.backbone import Backbone
from ..models.features import Stage
from ..models.grids import Grid
from ..models.tape import input_channels
from ..runtime.files import write_json
from ..students.cost import Cost, measure_cost
from ..students.loading import load_student
from ..training.linear_probe import linear_head
from ..training.objective import comparable
from ..training.teachers import load_teacher, reads_volumes, slice_reading
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
    if cell.entry.method.role == "teacher" and run.volumes is not None:
        return _cost_of_probed_volumes(arguments, run)
    if cell.entry.method.role == "teacher":
        loaded = load_teacher(arguments, Accelerator(cpu=True))
        processor = whole_image_processor(loaded.processor) if run.has_masks else loaded.processor
        size, classes = PixelTransform(processor).size, len(run.task.names)
        tower, stage = loaded.backbone.tower.float(), _read_stage(loaded.backbone, size, arguments)
        model = AdaptedTeacher(tower, size, classes, stage, has_masks=run.has_masks).eval()
    else:
        model, processor, _ = load_student(
            arguments.student, run.task.names, run.task.problem_type, arguments.student_image_size,
            arguments.student_revision, arguments.trust_remote_code, run.volumes,
        )  # fmt: skip
        size = PixelTransform(processor).size if run.volumes is None else run.volumes.size
    with torch.random.fork_rng():
        return measure_cost(lambda pixels: model(pixel_values=pixels), model.eval(), size)


def _cost_of_probed_volumes(arguments: DistillationArguments, run: Run) -> Cost:
    """That of the frozen teacher, which may read volumes slice by slice, and a linear head."""
    loaded, size = load_teacher(arguments, Accelerator(cpu=True)), tuple(run.volumes.size)
    backbone = loaded.backbone
    backbone.tower.float()
    if not reads_volumes(backbone.tower):
        backbone.slices = slice_reading(loaded.processor, input_channels(backbone.tower), arguments.slice_axis)
    last = _read_stage(backbone, size, arguments)
    backbone.tap([last], [last.grid], size)
    head = linear_head(last, len(run.task.names), run.has_masks)

    def forward(volumes: Tensor) -> Tensor:
        feature = backbone.extract(volumes)[-1]
        return head(feature.map if run.has_masks else comparable(feature, "pooled"))

    with torch.random.fork_rng():
        return measure_cost(forward, backbone.tower, size)


def _read_stage(backbone: Backbone, size: Grid, arguments: DistillationArguments) -> Stage:
    """What a probe reads of the teacher."""
    if arguments.teacher_features == "stage":
        return backbone.find_stages(size, arguments.teacher_stages)[-1]
    return backbone.find_pooled(size, arguments.teacher_features, arguments.teacher_stages)
