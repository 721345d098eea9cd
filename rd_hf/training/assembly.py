"""Assembles a training: models from their names, the order of the data, the loss and the trainer."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from .._version import __version__
from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.augmentation import AugmentationParameters
from ..data.order import RowOrder, StepPlan
from ..data.pixels import PixelTransform, Transforms
from ..data.stream_order import StreamOrder
from ..data.volumes.transform import VolumeTransform
from ..data.volumes.views import VolumeViews
from ..inference.model_names import loading, naming
from ..models.timm_models import TIMM
from ..runtime.checkpoint import list_checkpoints
from ..runtime.files import CHECKPOINTS
from ..students.loading import LoadedStudent, load_student
from .calibration import calibrate_projectors
from .checks import check_dist, check_labels, check_student, warn_of_few_cka_images
from .cka import check_rows
from .inputs import Inputs
from .objective import Objective, ObjectiveWeights
from .positions import fewest
from .run_data import RunData
from .run_models import LoadedTeacher, Models, recompute_activations
from .stage_schedule import StageSchedule
from .target_start import open_targets
from .task_loss import TaskLoss
from .teacher_features import compare_entries, open_cache
from .teachers import add_teacher, load_teacher
from .trainer import Trainer, TrainingData
from .volume_inputs import VolumeInputs

logger = logging.getLogger(__name__)

DEFAULT_PASSES, FEWEST_STEPS = 60, 300  # over the labelled rows, where no number of steps or passes is given
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
            volumes=run_data.volume_student,
            colours=arguments.student_colours,
        )
    if loaded is None and arguments.method != "ce":
        loaded = load_teacher(arguments, accelerator)
    return student, loaded


def assemble_models(
    student: LoadedStudent,
    teacher: LoadedTeacher | None,
    arguments: DistillationArguments,
    run_data: RunData,
    accelerator: Accelerator,
) -> Models:
    """Put new projectors between student and teacher, and both on the device of the run."""
    student, processor, base = student
    if run_data.volumes is not None:
        processor = run_data.volume_processor
        models = Models(student, processor, Transforms(VolumeTransform(processor)))
    else:
        with naming("student", str(arguments.student)):
            models = Models(student, processor, Transforms(PixelTransform(processor)))
    student.config.image_size = list(models.transforms.student.size)
    if arguments.sync_batch_norm:
        student.model = _with_synchronised_norms(student.model, accelerator)
    if arguments.gradient_checkpointing:
        # timm recomputes blocks by their own code, where a resumed pass has put a feature in place of one
        if not student.supports_gradient_checkpointing or student.model.config.model_type == TIMM:
            raise ArgumentError(
                f"`gradient_checkpointing` is not possible with the student ({type(student.model).__name__}), which "
                "has no blocks that can be recomputed: leave it out."
            )
        recompute_activations(student, True)
    if teacher is not None:
        add_teacher(models, arguments, teacher, run_data, accelerator)
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


def open_trainer(
    arguments: DistillationArguments,
    accelerator: Accelerator,
    run_data: RunData,
    models: Models,
    is_trained: bool = False,
) -> Trainer:
    """Decode the run's images, note the leaks they show, and build the run's trainer.

    :param is_trained: see `build_trainer`.
    """
    accelerator.wait_for_everyone()  # all look for room on the disk before one fills it
    run_data.open_images(models.transforms, arguments.on_bad_image, arguments.on_leak, arguments.bytes_for_volumes())
    # again, with the leaks that showed when the images were read
    models.student.config.provenance = models.student.config.provenance | {"dataset": run_data.source}
    folder = Path(arguments.output_dir)
    return build_trainer(arguments, accelerator, run_data, models, folder, is_trained=is_trained)


def build_trainer(
    arguments: DistillationArguments,
    accelerator: Accelerator,
    run_data: RunData,
    models: Models,
    folder: Path,
    module: nn.Module | None = None,
    is_trained: bool = False,
) -> Trainer:
    """Put task and models together into a trainer.

    :param module: what is trained, where it is not the reprogrammed teacher or, without one, the student.
    :param is_trained: whether the weights of a finished training are put in, so that no start has to be fitted.
    """
    plan = step_plan(arguments, run_data, accelerator)
    max_steps = planned_steps(arguments, run_data, plan)
    objective = build_objective(arguments, run_data, max_steps)
    rows = plan.labelled_size + (plan.unlabelled_size if plan.unlabelled else 0)
    shared = plan.processes if arguments.sync_batch_norm else 1
    check_student(models, arguments, rows * shared)
    batches = plan.accumulation * plan.processes if arguments.cka_batch == "global" else 1
    if models.teacher is not None:
        check_dist(arguments, rows * batches, run_data.masks is not None)
    if models.teacher is not None and arguments.cka_weight:
        positions = 1
        if arguments.cka_features == "positions":
            positions = fewest(arguments.cka_positions, [stage.grid for stage in models.teacher.student_stages])
        check_rows(rows * batches * positions, arguments.cka_estimator)
        if accelerator.is_main_process:
            warn_of_few_cka_images(arguments, plan, batches, positions, run_data.masks is not None, run_data.unit)
    data = training_data(arguments, run_data, plan)
    # a checkpoint holds the projectors
    goes_on = is_trained or (arguments.resume and bool(list_checkpoints(folder / CHECKPOINTS)))
    if models.teacher is not None and not goes_on:
        calibrate_projectors(models, run_data, plan)
    model = module or models.teacher or models.student
    inputs, targets = build_inputs(arguments, run_data, models, accelerator), None
    if models.teacher is not None:
        targets = open_targets(arguments, run_data, models, plan, inputs, max_steps, accelerator, goes_on)
    stages = None
    if model is models.teacher:
        loss = TaskLoss(models.student, objective.task, inputs, data, accelerator, arguments.seed)
        number = len(models.teacher.config.hybrid_stages)
        needs_hybrids = objective.needs_hybrids if targets is None else lambda step: True
        stages = StageSchedule(
            arguments.stage_schedule, number, arguments.seed, needs_hybrids, loss, accelerator.device
        )
    return Trainer(arguments, accelerator, model, inputs, objective, data, max_steps, folder, stages, targets)


def step_plan(arguments: DistillationArguments, run_data: RunData, accelerator: Accelerator) -> StepPlan:
    """Which rows, in which views, make up each step of this process."""
    orders = [
        RowOrder(rows, arguments.seed, stream, run_data.views(arguments)) if len(rows) else None
        for stream, rows in enumerate((run_data.labelled_rows, run_data.unlabelled_rows))
    ]
    if run_data.stream is not None:
        batches = arguments.gradient_accumulation_steps * accelerator.num_processes
        orders[1] = StreamOrder(
            run_data.stream,
            rows_a_step=arguments.per_device_unlabeled_batch_size * batches,
            first_row=len(run_data.train),
            seed=arguments.seed,
            buffer_size=arguments.stream_buffer_size,
            skip_bad=arguments.on_bad_image == "skip",
        )
    return StepPlan(
        *orders,
        labelled_size=arguments.per_device_train_batch_size,
        unlabelled_size=arguments.per_device_unlabeled_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )


def planned_steps(arguments: DistillationArguments, run_data: RunData, plan: StepPlan) -> int:
    """Optimiser steps of the run: `max_steps`, or the steps of `num_train_epochs`, or the default's."""
    if arguments.max_steps > 0:
        return arguments.max_steps
    steps_of_a_pass = len(run_data.labelled_rows) / (plan.labelled_size * plan.accumulation * plan.processes)
    if arguments.num_train_epochs is not None:
        return math.ceil(arguments.num_train_epochs * steps_of_a_pass)
    return max(math.ceil(DEFAULT_PASSES * steps_of_a_pass), FEWEST_STEPS)


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
    if run_data.shards is not None:  # whose number the order follows from
        source = source | {"shards": run_data.shards.fingerprint()}
    stream = None if run_data.stream is None else plan.unlabelled
    if stream is not None:
        source = source | {"stream": stream.fingerprint}
    return TrainingData(run_data.task, run_data.store, run_data.labels, plan, run_data.validation, source, stream)


def build_inputs(
    arguments: DistillationArguments, run_data: RunData, models: Models, accelerator: Accelerator
) -> Inputs:
    """The models' inputs, with the cache of the teacher's features if the arguments ask for one.

    :raises CacheError: when `verify_cache` finds features that are not the teacher's.
    """
    augmentation = AugmentationParameters.from_arguments(arguments) if arguments.augment else None
    cache, store, seed = None, run_data.store, arguments.seed_of_views
    if run_data.volumes is not None:
        store.views = VolumeViews(augmentation, seed, run_data.volume_processor.crop_size)
    if arguments.uses_cache and run_data.views(arguments) is not None:
        cache = open_cache(arguments, run_data, models, augmentation, accelerator)
    if run_data.volumes is not None:
        inputs = VolumeInputs(store, models.transforms.teacher, models.backbone, cache, accelerator.device)
    else:
        inputs = Inputs(store, augmentation, seed, models.backbone, cache, accelerator.device)
    if cache is not None and cache.has_folder and arguments.verify_cache and accelerator.is_main_process:
        rows = run_data.kept_rows
        largest = compare_entries(cache, inputs, rows, run_data.views(arguments), arguments.verify_cache)
        logger.info(
            "The teacher computed the checked features again. They differ from the cached ones by at most %.1g of "
            "their norm.",
            largest,
        )
    return inputs
