"""`rd_hf.distill`: from names to a student. Loads data and models, trains, and leaves the run's folder."""

from __future__ import annotations

import json
import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from ..arguments.config import arguments_from
from ..arguments.distillation import DistillationArguments
from ..arguments.options import public_values
from ..hub import push as hub
from ..hub.publication import published_config
from ..models.modeling_rd_student import RDStudentForImageClassification
from ..runtime.interrupts import Stopped
from ..runtime.processes import own_log, report_lost_process, start_accelerator
from .assembly import build_models, build_trainer
from .compilation import check_compiler, compiled_models
from .report import summary, write_report
from .run_data import RunData, load_run_data
from .run_folder import check_run_folder, open_run_folder
from .run_models import Models
from .trainer import Trainer

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
        run_data = load_run_data(arguments)
    folder = Path(arguments.output_dir)
    models = build_models(arguments, run_data, accelerator)
    if arguments.push_to_hub and accelerator.is_main_process:  # before hours of training, not after them
        _check_destinations(arguments, models)
    run_data.open_images(models.transforms, arguments.on_bad_image, arguments.on_leak)
    # again, with the leaks that showed when the images were read
    models.student.config.provenance = models.student.config.provenance | {"dataset": run_data.source}
    trainer = build_trainer(arguments, accelerator, run_data, models, folder)
    if accelerator.is_main_process:
        open_run_folder(resolved(arguments, run_data, models, trainer))
    accelerator.wait_for_everyone()
    if arguments.report_to is not None:
        _start_trackers(arguments, accelerator)
    try:
        with own_log(accelerator, folder), report_lost_process(accelerator):
            train_and_report(run_data, models, trainer, deadline)
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


def train_and_report(run_data: RunData, models: Models, trainer: Trainer, deadline: float | None) -> None:
    """Train and leave the report; no process goes before all are done."""
    started = time.perf_counter()
    with compiled_models(models) if trainer.arguments.torch_compile else nullcontext():
        trainer.train(deadline)
    folder, accelerator = trainer.output_dir, trainer.accelerator
    scores = write_report(folder, run_data, models, trainer, time.perf_counter() - started)
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


def resolved(
    arguments: DistillationArguments, run_data: RunData, models: Models, trainer: Trainer
) -> DistillationArguments:
    """The arguments with the steps and Hub commits that they came to, so that config.yaml gives the same run later."""
    found = {name: getattr(trainer, name) for name in ("max_steps", "eval_steps", "save_steps")}
    commits = {
        "dataset_revision": run_data.source["revision"],
        "student_revision": models.student.config.provenance["student_base"]["revision"],
        "teacher_revision": None if models.backbone is None else models.backbone.source["revision"],
    }
    return replace(arguments, **found, **{name: commit for name, commit in commits.items() if commit is not None})


def _start_trackers(arguments: DistillationArguments, accelerator: Accelerator) -> None:
    """Trackers get every argument but paths of this machine."""
    values = public_values(arguments)
    accelerator.init_trackers("rd_hf", config={name: str(value) for name, value in values.items()})
