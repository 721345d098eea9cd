"""`rd_hf.distill`: from names to a student. Loads data and models, trains, and leaves the run's folder."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ._version import __version__
from .allocator import keep_freed_memory
from .arguments import DistillationArguments, arguments_from
from .backbone import Backbone
from .data.order import RowOrder, StepPlan
from .data.pixel_store import PixelStore
from .data.pixels import PixelTransform, load_processor
from .metrics import validation_score
from .modeling_rd_student import RDStudentForImageClassification
from .modeling_rd_teacher import RDTeacherForImageClassification
from .objective import Objective, ObjectiveWeights
from .report import write_report
from .run_folder import open_run_folder
from .students import load_student
from .task import Task, load_task
from .trainer import Trainer, TrainingData

logger = logging.getLogger(__name__)


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
    """Run one distillation as `arguments` say; see `distill`."""
    accelerator = Accelerator(
        mixed_precision="bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        log_with=arguments.report_to,
        project_dir=arguments.output_dir,
    )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    set_seed(arguments.seed)
    task = load_task(arguments)
    if accelerator.is_main_process:
        folder = open_run_folder(arguments)
    accelerator.wait_for_everyone()
    folder = Path(arguments.output_dir)
    parts = build_models(arguments, task, accelerator)
    trainer = build_trainer(arguments, accelerator, task, parts, folder)
    started = time.perf_counter()
    trainer.train()
    if accelerator.is_main_process:
        write_report(arguments, task, parts, trainer, time.perf_counter() - started)
    accelerator.end_training()
    return parts.student


@dataclass
class Models:
    """The models of a run. `teacher` and `backbone` are None for method ce."""

    student: RDStudentForImageClassification
    student_processor: Any
    teacher: RDTeacherForImageClassification | None
    teacher_processor: Any
    backbone: Backbone | None
    transforms: list[PixelTransform]
