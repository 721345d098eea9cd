"""The trainings of a comparison: what each method makes of a bench's data, models and arguments."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..inference.rows import predict_rows
from ..models.backbone import Backbone
from ..models.modeling_rd_teacher import RDTeacher
from ..runtime.files import RUN_HISTORY
from ..runtime.memory import PeakMemory
from ..runtime.progress import hidden_progress
from ..training.assembly import build_inputs, build_objective, build_trainer, planned_steps, step_plan, training_data
from ..training.inputs import Inputs
from ..training.linear_probe import LIKELIHOOD, labelled_features, linear_probe
from ..training.mask_probe import ProbedSplit, mask_probe
from ..training.objective import Objective
from ..training.report import teacher_rows
from ..training.run_data import RunData
from ..training.run_models import LoadedTeacher, Models
from ..training.trainer import Trainer
from ..training.view_means import check_view_means, read_view_means
from .ablations import SeparateClassifier, reprogram_first
from .adaptation import AdaptedTeacher, with_lora
from .bench import Bench, as_teacher_task
from .plan import Cell, Plan
from .transfers import GuidedObjective, GuidedStudent, Setting

# Of masks: a student that no hybrid pass runs through is built as for the simplest of them.
NO_HYBRIDS = {"skips": "own", "hybrid_norms": "student"}


@dataclass
class Trained:
    """The result of a method.

    :param rows: what the task keeps of the model's answers on a split.
    :param teacher_rows: the same of the reprogrammed teacher, which shares the student's head; None without one.
    """

    rows: Callable[[OpenSplit], np.ndarray]
    run_data: RunData
    trained_parameters: int
    deployed_parameters: int
    details: dict[str, Any]
    teacher_rows: Callable[[OpenSplit], np.ndarray] | None = None


def train(plan: Plan, cell: Cell, bench: Bench, arguments: DistillationArguments) -> Trained:
    """Train a cell's method."""
    method = cell.entry.method
    if bench.has_masks and method.role != "reprogramming":
        arguments = arguments.with_values(**NO_HYBRIDS)
    if method.adaptation in ("lora", "full") and method.role == "teacher":
        return _adapt(cell, bench, arguments)
    if method.adaptation == "lora":
        with tempfile.TemporaryDirectory(prefix="rd_hf_features_") as folder:  # no other run reads this teacher
            adapted, loaded = _teacher_by_lora(plan, cell, bench, arguments)
            arguments = arguments.with_values(cache_dir=folder)
            return _guide(cell, bench, arguments, _models(cell, bench, arguments, loaded), adapted.head)
    models = _models(cell, bench, arguments)
    if method.transfer is not None:
        return _guide(cell, bench, arguments, models)
    if method.adaptation == "linear_probe":
        return _probe(bench, arguments, models)
    run_data, started = bench.open(arguments, models.transforms), time.perf_counter()
    module = None if method.classifier == "shared" else SeparateClassifier(models.teacher)
    trainer = build_trainer(arguments, bench.accelerator, run_data, models, Path(arguments.output_dir), module)
    if method.classifier == "first":
        reprogram_first(trainer)
    trained = _trained_student(trainer, models, run_data, bench, started)
    if method.classifier == "shared" and models.teacher is not None:
        trained.teacher_rows = lambda split: teacher_rows(models, split, trainer)
    return trained


def _models(cell: Cell, bench: Bench, arguments: DistillationArguments, loaded: LoadedTeacher | None = None) -> Models:
    """A new student and the teacher.

    For masks, a method that reads the last map of the teacher itself gets it as it is: a probe loses by a coarser one.
    """
    models, method = bench.models(arguments, loaded), cell.entry.method
    if bench.has_masks and method.role != "reprogramming" and method.loop == "rd":
        read_whole_map(models.teacher, models.backbone)
    return models


def read_whole_map(teacher: RDTeacher, backbone: Backbone) -> None:
    """Has a backbone give its maps as they are, not averaged to the grids of the student's stages.

    :param teacher: whose projectors are not used.
    """
    for projector, stage in zip(teacher.projectors, teacher.teacher_stages, strict=True):
        projector.input_grid = stage.grid
    teacher.tap(backbone)


def _trained_student(trainer: Trainer, models: Models, run_data: RunData, bench: Bench, started: float) -> Trained:
    """Train to the end, and keep the student that was best on validation.

    :param started: when the method began, by `time.perf_counter`: with its probe, or the start of its projectors.
    """
    details = _run(trainer, started)
    student, arguments = models.student, trainer.arguments

    def rows(split: OpenSplit) -> np.ndarray:
        return _rows(lambda pixels: student(pixel_values=pixels).logits, student, run_data, split, bench, arguments)

    trained = _count(parameter for parameter in trainer.module.parameters() if parameter.requires_grad)
    return Trained(rows, run_data, trained, _count(student.parameters()), details)


def _trainer(
    bench: Bench,
    arguments: DistillationArguments,
    run_data: RunData,
    module: nn.Module,
    inputs: Inputs,
    extend: Callable[[Objective], GuidedObjective] | None = None,
) -> Trainer:
    """A trainer of a module on the task's labels.

    :param extend: makes the loss from the supervised one; that one alone by default.
    """
    plan = step_plan(arguments, run_data, bench.accelerator)
    steps = planned_steps(arguments, run_data, plan)
    objective, data = build_objective(arguments, run_data, steps), training_data(arguments, run_data, plan)
    if extend is not None:
        objective = extend(objective)
    return Trainer(arguments, bench.accelerator, module, inputs, objective, data, steps, Path(arguments.output_dir))


def _run(trainer: Trainer, started: float) -> dict[str, Any]:
    """Train to the end, and return the facts to report about it."""
    with hidden_progress(), PeakMemory(trainer.accelerator.device) as memory:
        trainer.train()
    return {
        "steps": trainer.step,
        "best_step": trainer.best_step,
        "seconds": round(time.perf_counter() - started, 2),
        "training_memory_mib": memory.mib,
    }


def _guide(
    cell: Cell, bench: Bench, arguments: DistillationArguments, models: Models, head: nn.Module | None = None
) -> Trained:
    """A student trained with a transfer loss from the frozen teacher, which is probed first where that reads logits."""
    method, run_data = cell.entry.method, bench.open(arguments, models.transforms)
    inputs = build_inputs(arguments, run_data, models, bench.accelerator)
    details = {}
    if method.role == "logit":
        check_view_means(arguments, run_data)
    if method.adaptation == "linear_probe" and not bench.has_masks:
        bench.pooled_features(arguments, models, run_data.validation)  # kept, and so not a part of the time
    started = time.perf_counter()
    if method.adaptation == "linear_probe":
        head, details["teacher_C"] = _fitted_probe(bench, arguments, run_data, models, inputs, LIKELIHOOD)
    if method.role == "logit" and arguments.target_views == "mean":
        with hidden_progress():
            read_view_means(arguments, run_data, inputs, bench.accelerator)
        inputs.shows_means = True
    rows = len(run_data.labelled_rows) + len(run_data.unlabelled_rows)
    torch.manual_seed(arguments.seed)
    stages = models.teacher.teacher_stages, models.teacher.student_stages
    transfer = method.transfer(Setting(*stages, rows, bench.has_masks, head, cell.entry.temperature))
    guided = GuidedStudent(models.teacher, transfer).to(bench.accelerator.device)
    trainer = _trainer(
        bench, arguments, run_data, guided, inputs,
        lambda supervised: GuidedObjective(supervised, transfer, method.weight * cell.weight),
    )  # fmt: skip
    trained = _trained_student(trainer, models, run_data, bench, started)
    trained.details |= details
    return trained


def _fitted_probe(
    bench: Bench, arguments: DistillationArguments, run_data: RunData, models: Models, inputs: Inputs, metric: str
) -> tuple[nn.Module, float]:
    """The frozen teacher's linear probe, and its penalty's inverse."""
    if bench.has_masks:
        validation = ProbedSplit(arguments, models, run_data.validation, bench.accelerator)
        return mask_probe(arguments, run_data, inputs, validation, metric)
    of_validation = bench.pooled_features(arguments, models, run_data.validation)
    labelled = labelled_features(arguments, run_data, inputs, bench.accelerator)
    return linear_probe(arguments, run_data, labelled, of_validation, metric)


def _probe(bench: Bench, arguments: DistillationArguments, models: Models) -> Trained:
    """The frozen teacher with a linear probe."""
    run_data = bench.open(arguments, models.transforms)
    inputs = build_inputs(arguments, run_data, models, bench.accelerator)
    if not bench.has_masks:
        bench.pooled_features(arguments, models, run_data.validation)  # kept, and so not a part of the time
    started = time.perf_counter()
    with PeakMemory(bench.accelerator.device) as memory:
        metric = arguments.metric_for_best_model
        head, penalty = _fitted_probe(bench, arguments, run_data, models, inputs, metric)
    seconds = round(time.perf_counter() - started, 2)

    def rows(split: OpenSplit) -> np.ndarray:
        if bench.has_masks:
            return ProbedSplit(arguments, models, split, bench.accelerator).rows(head, run_data.task.full_row)
        with torch.no_grad():
            logits = head(torch.from_numpy(bench.pooled_features(arguments, models, split)))
            return run_data.task.row(logits, torch.from_numpy(split.labels[split.rows])).numpy()

    details = {"teacher_C": penalty, "seconds": seconds, "training_memory_mib": memory.mib}
    trained = _count(head.parameters())
    return Trained(rows, run_data, trained, trained + _count(models.backbone.tower.parameters()), details)


def _adapt(cell: Cell, bench: Bench, arguments: DistillationArguments) -> Trained:
    """The teacher itself, trained on the labels by LoRA or in full."""
    if bench.has_masks:
        arguments = arguments.with_values(**NO_HYBRIDS)
    loaded = bench.teacher(arguments)
    models = bench.models(arguments, loaded)
    run_data = as_teacher_task(bench.open(arguments, models.transforms))
    tower = copy.deepcopy(loaded.backbone.tower).float().requires_grad_(cell.entry.method.adaptation == "full")
    merge = with_lora(tower) if cell.entry.method.adaptation == "lora" else None
    torch.manual_seed(arguments.seed)
    adapted = AdaptedTeacher(
        tower,
        run_data.store.student.transform.size,
        len(run_data.task.names),
        models.teacher.teacher_stages[-1],
        models.teacher.projectors[-1].input_grid,
        bench.has_masks,
    )
    adapted.to(bench.accelerator.device)
    trained = _count(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    inputs = build_inputs(arguments, run_data, replace(models, backbone=None), bench.accelerator)
    started = time.perf_counter()
    details = _run(_trainer(bench, arguments, run_data, adapted, inputs), started)
    if merge is not None:
        merge()

    def rows(split: OpenSplit) -> np.ndarray:
        return _rows(lambda pixels: adapted(pixel_values=pixels).logits, adapted, run_data, split, bench, arguments)

    if cell.entry.method.adaptation == "lora":
        bench.adapted = {repr((cell, cell.entry.arguments)): adapted}
    return Trained(rows, run_data, trained, _count(adapted.parameters()), details)


def _teacher_by_lora(
    plan: Plan, cell: Cell, bench: Bench, arguments: DistillationArguments
) -> tuple[AdaptedTeacher, LoadedTeacher]:
    """The teacher with LoRA merged, trained by the comparison's run of LoRA or, where that was done before, again."""
    own = plan.adapting(cell)
    key = repr((own, own.entry.arguments))
    if key not in bench.adapted:
        run_data = bench.run_data
        adapting = plan.cell_arguments(own, Path(arguments.output_dir), run_data.task, run_data.volumes is not None)
        _adapt(own, bench, adapting)
        (Path(arguments.output_dir) / RUN_HISTORY).unlink(missing_ok=True)
    adapted, original = bench.adapted[key], bench.teacher(arguments)
    tower = copy.deepcopy(adapted.tower).to(original.backbone.dtype)
    backbone = Backbone.from_model(tower, original.backbone.batch_size)
    return adapted, LoadedTeacher(backbone.to(bench.accelerator.device), original.processor)


def _rows(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    run_data: RunData,
    split: OpenSplit,
    bench: Bench,
    arguments: DistillationArguments,
) -> np.ndarray:
    size = arguments.per_device_eval_batch_size
    return predict_rows(forward, run_data.task.full_row, model, split, size, bench.accelerator)


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)
