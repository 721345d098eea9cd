"""`rd_hf.distill`: from names to a student. Loads data and models, trains, and leaves the run's folder."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers.image_processing_utils import BaseImageProcessor

from . import hub
from ._version import __version__
from .arguments import ArgumentError, DistillationArguments, arguments_from
from .backbone import Backbone
from .cka import check_rows
from .compilation import check_compiler, compiled_models
from .data.augmentation import AugmentationParameters
from .data.order import RowOrder, StepPlan
from .data.pixels import PixelTransform, load_processor
from .inputs import Inputs
from .interrupts import Stopped
from .metrics import validation_score
from .model_names import loading
from .modeling_rd_student import RDStudentForImageClassification
from .modeling_rd_teacher import RDTeacherForImageClassification
from .objective import Objective, ObjectiveWeights
from .processes import naming_the_silent, own_log, start_accelerator
from .publication import published_config
from .report import summary, write_report
from .run_folder import check_run_folder, open_run_folder
from .students import load_student
from .task import Task, load_task
from .teacher_cache import compare_entries, open_cache
from .trainer import Trainer, TrainingData

logger = logging.getLogger(__name__)

CALIBRATION_ROWS = 64  # labelled, and as many unlabelled ones
OBJECTIVE_ARGUMENTS = [field.name for field in fields(ObjectiveWeights) if field.name != "total_steps"]


def distill(
    teacher: str | None = None, student: str | dict | None = None, dataset: Any = None, **arguments
) -> RDStudentForImageClassification:
    """Distil a student from a frozen teacher.

    :param teacher: Hub id or folder of the foundation model; None with `method="ce"`.
    :param student: Hub id, folder, or inline transformers config (a dict with `model_type`).
    :param dataset: Hub id, folder, file, or a `datasets.DatasetDict` in memory.
    :param arguments: any other field of `DistillationArguments`; without `output_dir` the run goes to `runs/<time>`.
    :return: the student with the weights that were best on validation. The run's folder holds it too, with the teacher,
        scores, predictions and plots.
    :raises ArgumentError: for an unknown or contradictory argument.
    """
    arguments.setdefault("output_dir", f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    return run_distillation(arguments_from({"teacher": teacher, "student": student, "dataset": dataset} | arguments))


def run_distillation(arguments: DistillationArguments) -> RDStudentForImageClassification:
    """Run one distillation as `arguments` say; see `distill`.

    :raises Stopped: after a signal, or when `max_run_time` is over.
    """
    seconds = arguments.seconds_to_run()
    deadline = None if seconds is None else time.monotonic() + seconds
    accelerator = start_accelerator(arguments)
    set_seed(arguments.seed)
    check_run_folder(arguments)
    if arguments.torch_compile:
        check_compiler()
    with accelerator.main_process_first():
        task = load_task(arguments)
    folder = Path(arguments.output_dir)
    models = build_models(arguments, task, accelerator)
    if arguments.push_to_hub and accelerator.is_main_process:  # before hours of training, not after them
        _check_destinations(arguments, models)
    task.open_images(models.transforms, arguments.on_bad_image, arguments.on_leak)
    # again, with the leaks that showed when the images were read
    models.student.config.provenance = models.student.config.provenance | {"dataset": task.source}
    trainer = build_trainer(arguments, accelerator, task, models, folder)
    if accelerator.is_main_process:
        open_run_folder(resolved(arguments, task, models, trainer))
    accelerator.wait_for_everyone()
    if arguments.report_to is not None:
        _start_trackers(arguments, accelerator)
    try:
        with own_log(accelerator, folder), naming_the_silent(accelerator):
            train_and_report(task, models, trainer, deadline)
    except Stopped:
        accelerator.end_training()
        raise
    accelerator.end_training()
    if arguments.push_to_hub and accelerator.is_main_process:
        for kind, repo_id in _repos(arguments).items():
            logger.info("Published: %s", hub.push(folder / kind, repo_id, private=arguments.hub_private_repo))
    models.student.name_or_path = str((folder / "student").absolute())  # what `push_to_hub` publishes
    if arguments.gradient_checkpointing:
        models.student.activation_checkpointing_disable()
    return models.student.eval()


def train_and_report(task: Task, models: Models, trainer: Trainer, deadline: float | None) -> None:
    """Train and leave the report; no process goes before all are done."""
    started = time.perf_counter()
    with compiled_models(models) if trainer.arguments.torch_compile else nullcontext():
        trainer.train(deadline)
    folder, accelerator = trainer.output_dir, trainer.accelerator
    scores = write_report(folder, task, models, trainer, time.perf_counter() - started)
    if accelerator.is_main_process:
        logger.info("%s", summary(scores, folder))
    accelerator.wait_for_everyone()


def _repos(arguments: DistillationArguments) -> dict[str, str]:
    """Where the run's student and teacher are published, by the names of their folders."""
    repos = {"student": arguments.hub_model_id, "teacher": arguments.hub_teacher_id}
    return {kind: repo_id for kind, repo_id in repos.items() if repo_id is not None}


def _check_destinations(arguments: DistillationArguments, models: Models) -> None:
    """:raises PushError: when a model of this run may not be published where it is to go."""
    for kind, repo_id in _repos(arguments).items():
        model = models.student if kind == "student" else models.teacher
        config = json.loads(model.config.to_json_string(use_diff=False))
        hub.check_destination(repo_id, published_config(config, None))


def resolved(arguments: DistillationArguments, task: Task, models: Models, trainer: Trainer) -> DistillationArguments:
    """The arguments with the steps and Hub commits that they came to, so that config.yaml gives the same run later."""
    found = {name: getattr(trainer, name) for name in ("max_steps", "eval_steps", "save_steps")}
    commits = {
        "dataset_revision": task.source["revision"],
        "student_revision": models.student.config.provenance["student_base"]["revision"],
        "teacher_revision": None if models.backbone is None else models.backbone.source["revision"],
    }
    return replace(arguments, **found, **{name: commit for name, commit in commits.items() if commit is not None})


def _start_trackers(arguments: DistillationArguments, accelerator: Accelerator) -> None:
    """Trackers get every argument but paths of this machine."""
    values = arguments.to_dict() | {"output_dir": "local"}
    for name in ("teacher", "student", "dataset", "unlabeled_dataset", "cache_dir"):
        if isinstance(values[name], str) and Path(values[name]).exists():
            values[name] = "local"
    accelerator.init_trackers("rd_hf", config={name: str(value) for name, value in values.items()})


@dataclass
class Models:
    """The models of a run, and the pixels each is shown: `transforms` of student and teacher, in this order.

    `teacher` and `backbone` are None for method ce. `teacher` holds the projectors and the student, not the backbone.
    """

    student: RDStudentForImageClassification
    student_processor: BaseImageProcessor
    teacher: RDTeacherForImageClassification | None = None
    teacher_processor: BaseImageProcessor | None = None
    backbone: Backbone | None = None
    transforms: list[PixelTransform] = field(default_factory=list)


def build_models(arguments: DistillationArguments, task: Task, accelerator: Accelerator) -> Models:
    """Load the student and, unless the method is ce, the frozen teacher with new projectors between them."""
    torch.manual_seed(arguments.seed)
    with loading("student", str(arguments.student)) if isinstance(arguments.student, str) else nullcontext():
        student, processor, base = load_student(
            arguments.student,
            task.label_names,
            task.problem_type,
            image_size=arguments.student_image_size,
            revision=arguments.student_revision,
            trust_remote_code=arguments.trust_remote_code,
        )
    models = Models(student, processor, transforms=[PixelTransform(processor)])
    student.config.image_size = list(models.transforms[0].size)
    if arguments.sync_batch_norm:
        student.model = _with_synchronised_norms(student.model, accelerator)
    if arguments.gradient_checkpointing:
        student.activation_checkpointing_enable()
    if arguments.method != "ce":
        _add_teacher(models, arguments, accelerator)
    student.config.provenance = {
        "method": arguments.method,
        "student_base": base,
        "teacher": None if models.backbone is None else models.backbone.source,
        "dataset": task.source,
        "rd_hf_version": __version__,
    }
    student.to(accelerator.device)
    return models


def _with_synchronised_norms(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    if accelerator.device.type == "cpu":
        raise ArgumentError(
            "`sync_batch_norm` needs GPUs, since PyTorch has no such layer on a CPU. Leave it out, or take a student "
            "without batch norm (convnextv2, vit, swin)."
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def _add_teacher(models: Models, arguments: DistillationArguments, accelerator: Accelerator) -> None:
    options = {"revision": arguments.teacher_revision, "trust_remote_code": arguments.trust_remote_code}
    if arguments.teacher_device_map is not None and accelerator.local_process_index > 0:
        raise ArgumentError(
            "`teacher_device_map` spreads the teacher over the GPUs of a machine: launch one process a machine."
        )
    with loading("teacher", arguments.teacher):
        models.backbone = Backbone.from_pretrained(
            arguments.teacher,
            dtype=arguments.teacher_dtype,
            batch_size=arguments.teacher_batch_size,
            device_map=arguments.teacher_device_map,
            **options,
        )
        models.teacher_processor = load_processor(arguments.teacher, **options)
    models.transforms.append(PixelTransform(models.teacher_processor))
    models.teacher = RDTeacherForImageClassification.from_parts(
        models.student,
        models.backbone,
        teacher_image_size=models.transforms[1].size,
        stages="last" if arguments.method == "rd" else "all",
        hidden_channels=arguments.projector_channels,
        teacher_stages=arguments.teacher_stages,
        student_stages=arguments.student_stages,
    )
    models.backbone.to(accelerator.device)
    models.teacher.to(accelerator.device)


def build_trainer(
    arguments: DistillationArguments, accelerator: Accelerator, task: Task, models: Models, folder: Path
) -> Trainer:
    """Put task and models together into a trainer."""
    orders = [
        RowOrder(rows, arguments.seed, stream, arguments.views) if len(rows) else None
        for stream, rows in enumerate((task.labelled_rows, task.unlabelled_rows))
    ]
    plan = StepPlan(
        *orders,
        labelled_size=arguments.per_device_train_batch_size,
        unlabelled_size=arguments.per_device_unlabeled_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    max_steps = arguments.max_steps
    if max_steps <= 0:
        step_size = plan.labelled_size * plan.accumulation * plan.processes
        max_steps = math.ceil(arguments.num_train_epochs * len(task.labelled_rows) / step_size)
    settings = {name: getattr(arguments, name) for name in OBJECTIVE_ARGUMENTS}
    weights = task.weights_of_classes() if arguments.class_weights == "balanced" else {}
    objective = Objective(ObjectiveWeights(total_steps=max_steps, **settings), task.problem_type, **weights)
    if models.teacher is not None and arguments.cka_weight:
        batches = plan.accumulation * plan.processes if arguments.cka_batch == "global" else 1
        rows = plan.labelled_size + (plan.unlabelled_size if plan.unlabelled else 0)
        check_rows(rows * batches, arguments.cka_estimator)
    metric = arguments.metric_for_best_model
    validation_labels = task.validation.labels[task.validation.rows]
    guess = np.full((len(validation_labels), len(task.label_names)), 1 / len(task.label_names))
    validation_score(guess, validation_labels, task.problem_type, metric)  # raises now what it would during training
    data = TrainingData(
        task.store, task.labels, plan, task.validation.store, task.validation.rows,
        validation_labels, task.problem_type, task.source["fingerprint"],
    )  # fmt: skip
    if models.teacher is not None:
        calibrate_projectors(models, task, plan)
    model = models.student if models.teacher is None else models.teacher
    inputs = build_inputs(arguments, task, models, accelerator)
    return Trainer(arguments, accelerator, model, inputs, objective, data, max_steps, folder)


def build_inputs(arguments: DistillationArguments, task: Task, models: Models, accelerator: Accelerator) -> Inputs:
    """What the models are shown, with the cache of the teacher's features where views are limited and it is wanted.

    :raises CacheError: when `verify_cache` finds features that are not the teacher's.
    """
    augmentation = AugmentationParameters.from_arguments(arguments) if arguments.augment else None
    cache = None
    if arguments.uses_cache:
        cache = open_cache(arguments, task, models, augmentation, accelerator)
    inputs = Inputs(task.store, augmentation, arguments.seed, models.backbone, cache, accelerator.device)
    if cache is not None and arguments.verify_cache and accelerator.is_main_process:
        rows = np.concatenate([task.labelled_rows, task.unlabelled_rows])
        largest = compare_entries(cache, inputs, rows, arguments.views, arguments.verify_cache)
        logger.info("Cached features computed again: they differ by %.1g of their norm at most.", largest)
    return inputs


@torch.no_grad()
def calibrate_projectors(models: Models, task: Task, plan: StepPlan) -> None:
    """Start the projectors at the scale of the features at hand, from the first step's first rows, un-augmented.

    The rows are those of all processes and accumulated batches: the start does not depend on how these share them.

    With two outlying teacher channels, as vision transformers have, the hybrid loss after 40 steps was half of what it
    was without (BUSI, hybrid path alone, test AUROC .920 against .905, 4 seeds); with ordinary channels nothing changed
    beyond the seeds' spread.
    """
    batches = plan.accumulation * plan.processes
    visits = plan.labelled.visits(0, min(plan.labelled_size * batches, CALIBRATION_ROWS), True)
    if plan.unlabelled is not None:
        visits += plan.unlabelled.visits(0, min(plan.unlabelled_size * batches, CALIBRATION_ROWS), False)
    rows = sorted({visit.row for visit in visits})
    pixels = [torch.stack(one_model) for one_model in zip(*(task.store[row] for row in rows), strict=True)]
    inputs = [t.normalize(p.to(models.student.device)) for t, p in zip(models.transforms, pixels, strict=True)]
    models.teacher.train()
    buffers = {name: buffer.clone() for name, buffer in models.student.named_buffers()}
    _, tape = models.teacher.staged_student.forward(inputs[0])
    models.student.load_state_dict(buffers, strict=False)  # running statistics as they were
    features = zip(models.teacher.projectors, models.backbone.extract(inputs[1]), tape.features, strict=True)
    for projector, of_teacher, of_student in features:
        projector.calibrate(of_teacher, of_student)
