"""Assembles a training: models from their names, the order of the data, the loss and the trainer."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from .._version import __version__
from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.augmentation import AugmentationParameters
from ..data.order import RowOrder, StepPlan
from ..data.pixels import PixelTransform, Transforms, load_processor, whole_image_processor
from ..inference.model_names import loading, naming
from ..models.backbone import Backbone, BackboneError
from ..models.modeling_rd_teacher import RDTeacherForImageClassification
from ..models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation
from ..models.probe import UnfitImageError
from ..models.tape import input_channels
from ..runtime.checkpoint import list_checkpoints
from ..students.loading import load_student
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .checks import check_labels, check_student, unfit
from .cka import check_rows
from .inputs import Inputs
from .objective import Objective, ObjectiveWeights
from .positions import fewest
from .run_data import RunData
from .run_models import LoadedStudent, LoadedTeacher, Models
from .teacher_features import compare_entries, open_cache
from .trainer import Trainer, TrainingData

logger = logging.getLogger(__name__)

CALIBRATION_ROWS = 64  # labelled, and as many unlabelled ones
OBJECTIVE_ARGUMENTS = [field.name for field in fields(ObjectiveWeights) if field.name != "total_steps"]


def build_models(
    arguments: DistillationArguments, run_data: RunData, accelerator: Accelerator, loaded: LoadedTeacher | None = None
) -> Models:
    """Load the student and, unless the method is ce, the frozen teacher, and put new projectors between them.

    :param loaded: the teacher, where it is loaded already; it is taken for method ce too.
    """
    parts = load_models(arguments, run_data, accelerator, loaded)
    return assemble_models(*parts, arguments, run_data, accelerator)


def load_models(
    arguments: DistillationArguments, run_data: RunData, accelerator: Accelerator, loaded: LoadedTeacher | None = None
) -> tuple[LoadedStudent, LoadedTeacher | None]:
    """Student and teacher that the arguments name; method ce loads no teacher.

    :param loaded: the teacher, where it is loaded already.
    """
    torch.manual_seed(arguments.seed)
    with loading("student", str(arguments.student)) if isinstance(arguments.student, str) else nullcontext():
        student = load_student(
            arguments.student,
            run_data.task.names,
            run_data.task.problem_type,
            image_size=arguments.student_image_size,
            revision=arguments.student_revision,
            trust_remote_code=arguments.trust_remote_code,
        )
    if loaded is None and arguments.method != "ce":
        loaded = load_teacher(arguments, accelerator)
    return LoadedStudent(*student), loaded


def assemble_models(
    student: LoadedStudent,
    teacher: LoadedTeacher | None,
    arguments: DistillationArguments,
    run_data: RunData,
    accelerator: Accelerator,
) -> Models:
    """Put new projectors between student and teacher, and both on the device of the run."""
    student, processor, base = student
    with naming("student", str(arguments.student)):
        models = Models(student, processor, Transforms(PixelTransform(processor)))
    student.config.image_size = list(models.transforms.student.size)
    if arguments.sync_batch_norm:
        student.model = _with_synchronised_norms(student.model, accelerator)
    if arguments.gradient_checkpointing:
        student.activation_checkpointing_enable()
    if teacher is not None:
        _add_teacher(models, arguments, teacher, run_data.task, accelerator)
    student.config.provenance = {
        "method": arguments.method,
        "student_base": base,
        "teacher": None if models.backbone is None else models.backbone.source,
        "dataset": run_data.source,
        "rd_hf_version": __version__,
    }
    student.to(accelerator.device)
    return models


def _with_synchronised_norms(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    if accelerator.device.type == "cpu":
        raise ArgumentError(
            "`sync_batch_norm` needs GPUs, because PyTorch has no such layer for CPUs. Leave it out, or choose a "
            "student without batch norm (convnextv2, vit, swin)."
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def load_teacher(arguments: DistillationArguments, accelerator: Accelerator) -> LoadedTeacher:
    """The teacher that the arguments name.

    :raises ArgumentError: when several processes of one machine would each spread it over all of its devices.
    """
    options = {"revision": arguments.teacher_revision, "trust_remote_code": arguments.trust_remote_code}
    if arguments.teacher_device_map is not None and accelerator.local_process_index > 0:
        raise ArgumentError(
            "`teacher_device_map` splits the teacher over all GPUs of a machine: launch one process per machine."
        )
    with loading("teacher", arguments.teacher):
        backbone = Backbone.from_pretrained(
            arguments.teacher,
            dtype=arguments.teacher_dtype,
            batch_size=arguments.teacher_batch_size,
            device_map=arguments.teacher_device_map,
            **options,
        )
        return LoadedTeacher(backbone, load_processor(arguments.teacher, **options))


def _add_teacher(
    models: Models, arguments: DistillationArguments, loaded: LoadedTeacher, task: Task, accelerator: Accelerator
) -> None:
    models.backbone, models.teacher_processor = loaded
    kind, options = RDTeacherForImageClassification, {}
    with naming("teacher", arguments.teacher):
        channels = input_channels(models.backbone.tower)
        if isinstance(task, Segmentation):
            # The student's maps and the teacher's have to show the same places.
            models.teacher_processor = whole_image_processor(models.teacher_processor, channels)
            kind = RDTeacherForSemanticSegmentation
            options = {"skips": arguments.skips, "hybrid_norms": arguments.hybrid_norms}
        transform = PixelTransform(models.teacher_processor, channels)
    if channels == 1:
        logger.info("The teacher %r reads grey images, so it gets the mean of the three channels.", arguments.teacher)
    models.transforms = models.transforms._replace(teacher=transform)
    try:
        models.teacher = kind.from_parts(
            models.student,
            models.backbone,
            teacher_image_size=transform.size,
            stages="all" if arguments.method == "drd" else "last",
            hidden_channels=arguments.projector_channels,
            projector_layers=arguments.projector_layers,
            teacher_stages=arguments.teacher_stages,
            student_stages=arguments.student_stages,
            **options,
        )
    except UnfitImageError as error:
        raise unfit(error, models, arguments) from error
    models.backbone.to(accelerator.device)
    models.teacher.to(accelerator.device)


def open_trainer(
    arguments: DistillationArguments, accelerator: Accelerator, run_data: RunData, models: Models
) -> Trainer:
    """Decode the run's images, note the leaks they show, and build the run's trainer."""
    run_data.open_images(models.transforms, arguments.on_bad_image, arguments.on_leak)
    # again, with the leaks that showed when the images were read
    models.student.config.provenance = models.student.config.provenance | {"dataset": run_data.source}
    return build_trainer(arguments, accelerator, run_data, models, Path(arguments.output_dir))


def build_trainer(
    arguments: DistillationArguments,
    accelerator: Accelerator,
    run_data: RunData,
    models: Models,
    folder: Path,
    module: nn.Module | None = None,
) -> Trainer:
    """Put task and models together into a trainer.

    :param module: what is trained, where it is not the reprogrammed teacher or, without one, the student.
    """
    plan = step_plan(arguments, run_data, accelerator)
    max_steps = planned_steps(arguments, run_data, plan)
    objective = build_objective(arguments, run_data, max_steps)
    rows = plan.labelled_size + (plan.unlabelled_size if plan.unlabelled else 0)
    shared = plan.processes if arguments.sync_batch_norm else 1
    check_student(models, arguments, rows * shared)
    if models.teacher is not None and arguments.cka_weight:
        batches = plan.accumulation * plan.processes if arguments.cka_batch == "global" else 1
        positions = 1
        if arguments.cka_features == "positions":
            positions = fewest(arguments.cka_positions, [stage.grid for stage in models.teacher.student_stages])
        check_rows(rows * batches * positions, arguments.cka_estimator)
    data = training_data(arguments, run_data, plan)
    goes_on = arguments.resume and list_checkpoints(folder / "checkpoints")  # which hold the projectors
    if models.teacher is not None and not goes_on:
        calibrate_projectors(models, run_data, plan)
    model = module or models.teacher or models.student
    inputs = build_inputs(arguments, run_data, models, accelerator)
    return Trainer(arguments, accelerator, model, inputs, objective, data, max_steps, folder)


def step_plan(arguments: DistillationArguments, run_data: RunData, accelerator: Accelerator) -> StepPlan:
    """Which rows, in which views, make up each step of this process."""
    orders = [
        RowOrder(rows, arguments.seed, stream, arguments.views) if len(rows) else None
        for stream, rows in enumerate((run_data.labelled_rows, run_data.unlabelled_rows))
    ]
    return StepPlan(
        *orders,
        labelled_size=arguments.per_device_train_batch_size,
        unlabelled_size=arguments.per_device_unlabeled_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )


def planned_steps(arguments: DistillationArguments, run_data: RunData, plan: StepPlan) -> int:
    """Optimiser steps of the run: `max_steps`, or the steps of `num_train_epochs`."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    step_size = plan.labelled_size * plan.accumulation * plan.processes
    return math.ceil(arguments.num_train_epochs * len(run_data.labelled_rows) / step_size)


def build_objective(arguments: DistillationArguments, run_data: RunData, max_steps: int) -> Objective:
    """The loss with the arguments' weights."""
    settings = {name: getattr(arguments, name) for name in OBJECTIVE_ARGUMENTS}
    task = run_data.task.for_training(
        run_data.labels[run_data.labelled_rows], arguments.class_weights == "balanced", arguments.label_smoothing
    )
    return Objective(ObjectiveWeights(total_steps=max_steps, **settings), task)


def training_data(arguments: DistillationArguments, run_data: RunData, plan: StepPlan) -> TrainingData:
    """What the loop reads.

    :raises MetricError: where validation, without unreadable images, does not define the metric that chooses the model.
    """
    check_labels(arguments, run_data)
    source = run_data.source["fingerprint"]
    return TrainingData(run_data.task, run_data.store, run_data.labels, plan, run_data.validation, source)


def build_inputs(
    arguments: DistillationArguments, run_data: RunData, models: Models, accelerator: Accelerator
) -> Inputs:
    """The models' inputs, with the cache of the teacher's features if the arguments ask for one.

    :raises CacheError: when `verify_cache` finds features that are not the teacher's.
    """
    augmentation = AugmentationParameters.from_arguments(arguments) if arguments.augment else None
    cache = None
    if arguments.uses_cache:
        cache = open_cache(arguments, run_data, models, augmentation, accelerator)
    inputs = Inputs(run_data.store, augmentation, arguments.seed_of_views, models.backbone, cache, accelerator.device)
    if cache is not None and arguments.verify_cache and accelerator.is_main_process:
        rows = np.concatenate([run_data.labelled_rows, run_data.unlabelled_rows])
        largest = compare_entries(cache, inputs, rows, arguments.views, arguments.verify_cache)
        logger.info(
            "The teacher computed the checked features again. They differ from the cached ones by at most %.1g of "
            "their norm.",
            largest,
        )
    return inputs


@torch.no_grad()
def calibrate_projectors(models: Models, run_data: RunData, plan: StepPlan) -> None:
    """Start the projectors at the scale of the features at hand, from the first step's first rows, un-augmented.

    The rows are those of all processes and accumulated batches: the start does not depend on how these share them.
    It helps where a teacher has outlying channels, as vision transformers do; see docs/explanation/decisions.md.
    """
    batches = plan.accumulation * plan.processes
    visits = plan.labelled.visits(0, min(plan.labelled_size * batches, CALIBRATION_ROWS), True)
    if plan.unlabelled is not None:
        visits += plan.unlabelled.visits(0, min(plan.unlabelled_size * batches, CALIBRATION_ROWS), False)
    rows = sorted({visit.row for visit in visits})
    student_pixels, teacher_pixels = (
        pixels.transform.normalize(pixels.batch(rows).to(models.student.device))
        for pixels in (run_data.store.student, run_data.store.teacher)
    )
    models.teacher.train()
    buffers = {name: buffer.clone() for name, buffer in models.student.named_buffers()}
    _, tape = models.teacher.staged_student.forward(student_pixels)
    models.student.load_state_dict(buffers, strict=False)  # running statistics as they were
    features = zip(models.teacher.projectors, models.backbone.extract(teacher_pixels), tape.features, strict=True)
    for projector, of_teacher, of_student in features:
        if not of_teacher.map.isfinite().all():
            raise BackboneError(
                f"The teacher {models.backbone.name!r} gives features that are not finite (NaN or infinity). Download "
                "it again, because its weights may be damaged, or set teacher_dtype to float32 if they overflow in "
                "another."
            )
        projector.calibrate(of_teacher, of_student)
