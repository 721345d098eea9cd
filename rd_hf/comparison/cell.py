"""One run of a comparison: a model trained by one method, scored, and what is kept of it."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors.numpy import save_file
from torch import Tensor, nn

from .._version import __version__
from ..arguments.distillation import DistillationArguments
from ..arguments.options import names
from ..data.open_split import OpenSplit
from ..inference.rows import predict_rows
from ..models.backbone import Backbone
from ..runtime.checkpoint import file_digest
from ..runtime.files import write_json
from ..runtime.progress import hidden_progress
from ..training.assembly import build_inputs, build_objective, build_trainer, planned_steps, step_plan, training_data
from ..training.inputs import Inputs
from ..training.objective import Objective
from ..training.run_data import RunData
from ..training.run_folder import HISTORY_FILE
from ..training.run_models import LoadedTeacher, Models
from ..training.trainer import Trainer
from .ablations import SeparateClassifier, reprogram_first
from .adaptation import LIKELIHOOD, AdaptedTeacher, linear_probe, with_lora
from .bench import Bench, as_teacher_task
from .memory import PeakMemory
from .plan import Cell, Plan
from .transfers import GuidedObjective, GuidedStudent, Setting

RESULT_FILE, PREDICTIONS_FILE = "result.json", "predictions.safetensors"


@dataclass
class Trained:
    """The result of a method.

    :param rows: what the task keeps of the model's answers on a split.
    """

    rows: Callable[[OpenSplit], np.ndarray]
    run_data: RunData
    trained_parameters: int
    deployed_parameters: int
    details: dict[str, Any]


def run_cell(plan: Plan, cell: Cell, bench: Bench, root: Path) -> None:
    """Train and score one cell, and leave result.json and the predictions in its folder.

    A tuning cell is scored on validation alone.
    """
    folder = root / cell.path
    shutil.rmtree(folder, ignore_errors=True)  # of a run that did not get to its result
    folder.mkdir(parents=True)
    arguments = plan.cell_arguments(cell, folder)
    set_seed(cell.seed)
    trained = _train(plan, cell, bench, arguments)
    task = trained.run_data.task
    splits = [trained.run_data.validation] + ([] if cell.tuning else [trained.run_data.test])
    scores, kept = {}, {}
    for split in splits:
        rows = trained.rows(split)
        scores[split.name] = {name: round(value, 6) for name, value in task.point_scores(rows).items()}
        kept[f"{split.name}/probabilities"] = task.predicted(rows).astype(np.float32)
        kept[f"{split.name}/labels"] = task.labels(rows)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    save_file(kept, folder / PREDICTIONS_FILE)
    result = {
        "settings": cell_settings(plan, cell, arguments),
        "data": bench.run_data.source["fingerprint"],
        **scores,
        "label_names": task.names,
        "trained_parameters": trained.trained_parameters,
        "deployed_parameters": trained.deployed_parameters,
        **trained.details,
        "rd_hf_version": __version__,
    }
    write_json(result, folder / RESULT_FILE)
    bench.accelerator.free_memory()  # it keeps each model and optimiser that it has prepared


def is_done(root: Path, cell: Cell) -> bool:
    """Whether a run has left its result."""
    return (root / cell.path / RESULT_FILE).exists()


def read_result(root: Path, cell: Cell) -> dict[str, Any]:
    """What a finished run left in result.json."""
    return json.loads((root / cell.path / RESULT_FILE).read_text(encoding="utf-8"))


def cell_settings(plan: Plan, cell: Cell, arguments: DistillationArguments) -> dict[str, Any]:
    """Everything that a run's result depends on, as plain values. If it has changed, a finished run is not reused."""
    values, relevant = arguments.to_dict(), names(DistillationArguments, lambda fact: fact.affects_result)
    values = {name: values[name] for name in relevant}
    values |= {"comparison_method": cell.entry.method.name, "comparison_weight": cell.weight}
    for name in ("teacher", "student"):  # a checkpoint may be trained again and saved under the same name
        checkpoint = getattr(arguments, name)
        if isinstance(checkpoint, str) and Path(checkpoint).is_dir():
            files = sorted(Path(checkpoint).glob("*.safetensors")) or sorted(Path(checkpoint).glob("*.bin"))
            values[f"{name}_weights"] = [_digest(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    if cell.entry.method.adapts_by_training:
        own = plan.adapting(cell)
        of_its_own = [own.entry.arguments] if own.entry.arguments else []
        values |= {"adaptation": [own.entry.method.name, own.learning_rate, own.weight, *of_its_own]}
    return values


@functools.cache
def _digest(file: Path, changed: int, size: int) -> str:
    """sha256 of a file's content, read once as long as it does not change."""
    return file_digest(file)


def _train(plan: Plan, cell: Cell, bench: Bench, arguments: DistillationArguments) -> Trained:
    method = cell.entry.method
    if method.adaptation in ("lora", "full") and method.role == "teacher":
        return _adapt(cell, bench, arguments)
    if method.adaptation == "lora":
        with tempfile.TemporaryDirectory(prefix="rd_hf_features_") as folder:  # no other run reads this teacher
            adapted, loaded = _teacher_by_lora(plan, cell, bench, arguments)
            arguments = replace(arguments, cache_dir=folder)
            return _guide(cell, bench, arguments, bench.models(arguments, loaded), adapted.head)
    models = bench.models(arguments)
    if method.transfer is not None:
        return _guide(cell, bench, arguments, models)
    if method.adaptation == "linear_probe":
        return _probe(bench, arguments, models)
    run_data = bench.open(arguments, models.transforms)
    module = None if method.classifier == "shared" else SeparateClassifier(models.teacher)
    trainer = build_trainer(arguments, bench.accelerator, run_data, models, Path(arguments.output_dir), module)
    if method.classifier == "first":
        reprogram_first(trainer)
    return _trained_student(trainer, models, run_data, bench)


def _trained_student(trainer: Trainer, models: Models, run_data: RunData, bench: Bench) -> Trained:
    """Train to the end, and keep the student that was best on validation."""
    details = _run(trainer)
    student = models.student

    def rows(split: OpenSplit) -> np.ndarray:
        return _rows(lambda pixels: student(pixel_values=pixels).logits, student, run_data, split, bench)

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


def _run(trainer: Trainer) -> dict[str, Any]:
    """Train to the end, and return the facts to report about it."""
    started = time.perf_counter()
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
    if method.adaptation == "linear_probe":
        of_validation = bench.pooled_features(models, run_data.validation)
        head, details["teacher_C"] = linear_probe(arguments, run_data, inputs, of_validation, LIKELIHOOD)
    rows = len(run_data.labelled_rows) + len(run_data.unlabelled_rows)
    torch.manual_seed(arguments.seed)
    transfer = method.transfer(Setting(models.teacher.teacher_stages, models.teacher.student_stages, rows, head))
    guided = GuidedStudent(models.teacher, transfer).to(bench.accelerator.device)
    trainer = _trainer(
        bench, arguments, run_data, guided, inputs,
        lambda supervised: GuidedObjective(supervised, transfer, method.weight * cell.weight),
    )  # fmt: skip
    trained = _trained_student(trainer, models, run_data, bench)
    trained.details |= details
    return trained


def _probe(bench: Bench, arguments: DistillationArguments, models: Models) -> Trained:
    """The frozen teacher with a linear probe."""
    run_data = bench.open(arguments, models.transforms)
    inputs = build_inputs(arguments, run_data, models, bench.accelerator)
    of_validation = bench.pooled_features(models, run_data.validation)
    started = time.perf_counter()
    with PeakMemory(bench.accelerator.device) as memory:
        head, penalty = linear_probe(arguments, run_data, inputs, of_validation, arguments.metric_for_best_model)
    seconds = round(time.perf_counter() - started, 2)

    def rows(split: OpenSplit) -> np.ndarray:
        with torch.no_grad():
            logits = head(torch.from_numpy(bench.pooled_features(models, split)))
            return run_data.task.row(logits, torch.from_numpy(split.labels[split.rows])).numpy()

    details = {"teacher_C": penalty, "seconds": seconds, "training_memory_mib": memory.mib}
    trained = _count(head.parameters())
    return Trained(rows, run_data, trained, trained + _count(models.backbone.tower.parameters()), details)


def _adapt(cell: Cell, bench: Bench, arguments: DistillationArguments) -> Trained:
    """The teacher itself, trained on the labels by LoRA or in full."""
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
        [models.teacher.teacher_stages[-1].name],
        models.teacher.projectors[-1].input_grid,
    )
    adapted.to(bench.accelerator.device)
    trained = _count(parameter for parameter in adapted.parameters() if parameter.requires_grad)
    inputs = build_inputs(arguments, run_data, replace(models, backbone=None), bench.accelerator)
    details = _run(_trainer(bench, arguments, run_data, adapted, inputs))
    if merge is not None:
        merge()

    def rows(split: OpenSplit) -> np.ndarray:
        return _rows(lambda pixels: adapted(pixel_values=pixels).logits, adapted, run_data, split, bench)

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
        _adapt(own, bench, plan.cell_arguments(own, Path(arguments.output_dir)))
        (Path(arguments.output_dir) / HISTORY_FILE).unlink(missing_ok=True)
    adapted, original = bench.adapted[key], bench.teacher(arguments)
    tower = copy.deepcopy(adapted.tower).to(original.backbone.dtype)
    backbone = Backbone.from_model(tower, original.backbone.batch_size)
    return adapted, LoadedTeacher(backbone.to(bench.accelerator.device), original.processor)


def _rows(
    forward: Callable[[Tensor], Tensor], model: nn.Module, run_data: RunData, split: OpenSplit, bench: Bench
) -> np.ndarray:
    return predict_rows(forward, run_data.task.row, model, split, 64, bench.accelerator)


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)
