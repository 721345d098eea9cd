"""`rd_hf.report`: writes the report of a finished or killed run from its folder, without training."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import set_seed

from ..arguments.config import arguments_from, read_config
from ..arguments.distillation import IN_MEMORY, MODEL_IN_MEMORY, DistillationArguments
from ..arguments.values import ArgumentError, listed
from ..runtime.checkpoint import CheckpointError, checkpoint_step, list_checkpoints, load_latest
from ..runtime.files import CHECKPOINTS, RUN_CONFIG, RUN_METRICS
from ..runtime.processes import end_run, report_lost_process, start_accelerator
from ..runtime.progress import console
from .assembly import build_models, open_trainer
from .decisions import check_operating_point
from .page import scores_alone
from .report import summary, write_report
from .run_data import load_run_data
from .run_folder import read_history, replace_config

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .run_models import Models
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def report(
    run: str | Path,
    *,
    operating_point: str | None = None,
    positive_label: str | None = None,
    subgroup_column: str | list[str] | None = None,
    report_images: bool | None = None,
    student_alone: str | Path | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Write the report of a run again, or that of a killed run as far as it got. No step is trained.

    Weights are the best ones of the last checkpoint; where there is none, or an earlier report is of a later step,
    those in `student/` and `teacher/`.
    The command overwrites what it writes, but never a model card that was edited.

    :param run: the run's folder. Data and models are opened as its config.yaml names them.
    :param operating_point: see `DistillationArguments`; by default that of the run. What is given here is kept in its
        config.yaml, so that later reports are made in the same way.
    :param positive_label: likewise.
    :param subgroup_column: likewise.
    :param report_images: whether report.html shows images, which may be of patients, and file names; by default as in
        the training.
    :param student_alone: the folder of a run with method ce on the same data, whose scores report.html shows too.
    :param verbose: whether log lines and progress are shown, as by `rd-hf report`.
    :return: what metrics.json holds.
    :raises ArgumentError: when the folder holds no run, nothing that was trained, or names what is not there any more.
    :raises CheckpointError: when no checkpoint can be read, or data or teacher have changed.
    """
    if not isinstance(run, str | os.PathLike):
        raise ArgumentError(f"`run` is {run!r}; it must be the folder of a run.")
    folder = Path(os.path.expanduser(run))
    with console(verbose):
        given = {"operating_point": operating_point, "positive_label": positive_label}
        given |= {"subgroup_column": subgroup_column}
        given = {name: value for name, value in given.items() if value is not None}
        arguments = _arguments_of(folder, given)
        if report_images is not None:
            arguments.report_images = report_images
        accelerator = start_accelerator(arguments)
        with report_lost_process(accelerator):
            scores = _report(folder, arguments, given, student_alone, accelerator)
            end_run(accelerator)
        return scores


def _report(
    folder: Path,
    arguments: DistillationArguments,
    given: Mapping[str, Any],
    student_alone: str | os.PathLike[str] | None,
    accelerator: Accelerator,
) -> dict[str, Any]:
    set_seed(arguments.seed)
    with accelerator.main_process_first():
        run_data = load_run_data(arguments)
    check_operating_point(arguments, run_data)
    alone = None if student_alone is None else scores_alone(Path(student_alone), run_data.source)
    if given and accelerator.is_main_process:
        replace_config(arguments_from(read_config(folder / RUN_CONFIG) | given), folder)
    models = build_models(arguments, run_data, accelerator)
    trainer = open_trainer(arguments, accelerator, run_data, models, is_trained=True)
    kept, reported = list_checkpoints(trainer.checkpoints), _reported_training(folder)
    if kept and checkpoint_step(kept[-1]) >= reported["steps"]:
        trainer.restore_weights(load_latest(trainer.checkpoints))
        trainer.restore_best()
    else:
        _restore_saved(folder, models, trainer, run_data.task.names, reported)
    seconds = reported["seconds"] if reported["steps"] == trainer.step else None
    logger.info("%s", _where_it_stands(trainer, has_ended=seconds is not None))
    accelerator.wait_for_everyone()  # all have read the models, which the main process saves again
    scores = write_report(folder, run_data, models, trainer, seconds, alone)
    if accelerator.is_main_process:
        logger.info("%s", summary(scores, run_data, folder))
    accelerator.wait_for_everyone()
    return scores


def _arguments_of(folder: Path, given: dict[str, Any]) -> DistillationArguments:
    """The run's arguments, without those that only matter in training.

    :param given: in place of the run's own.
    :raises ArgumentError: when there is nothing to report on, or what config.yaml names cannot be opened again.
    """
    if not (folder / RUN_CONFIG).is_file():
        raise ArgumentError(
            f"{folder} is not the folder of a run, because it has no {RUN_CONFIG}. Give the `output_dir` of a run."
        )
    if not list_checkpoints(folder / CHECKPOINTS) and not (folder / "student" / "config.json").is_file():
        raise ArgumentError(
            f"The run in {folder} has neither a checkpoint nor a student yet, so there is nothing to report on. "
            "Continue it with `resume`."
        )
    values = read_config(folder / RUN_CONFIG)
    for name in ("teacher", "student", "dataset", "unlabeled_dataset"):
        value = values.get(name)
        if value in (IN_MEMORY, MODEL_IN_MEMORY):
            raise ArgumentError(
                f"The `{name}` of the run in {folder} was given in memory, and no report can be made without it. Save "
                f"it in a file or folder, and enter that path in {folder / RUN_CONFIG}."
            )
        looks_local = isinstance(value, str) and value.startswith((".", "/", "~"))
        if looks_local and not os.path.exists(os.path.expanduser(value)):
            raise ArgumentError(
                f"The `{name}` of the run in {folder}, {value}, does not exist. Put it back, repeat the command in "
                f"the folder that the run was started in, or correct `{name}` in {folder / RUN_CONFIG}."
            )
    own = {"output_dir": str(folder), "resume": True, "verify_cache": None, "report_to": None}
    return arguments_from(values | own | given)


def _restore_saved(
    folder: Path, models: Models, trainer: Trainer, names: Sequence[str], reported: dict[str, Any]
) -> None:
    """Take the weights of the saved student and teacher, and from metrics.jsonl which steps these are.

    :param names: of the data's classes.
    :param reported: see `_reported_training`.
    :raises CheckpointError: where the student has others, or has them in another order.
    """
    saved = type(models.student).from_pretrained(folder / "student")
    own = [saved.config.id2label[number] for number in range(saved.config.num_labels)]
    if own != list(names):
        raise CheckpointError(
            f"The student in {folder / 'student'} has the classes {listed(own)}, but the data now has {listed(names)}, "
            "in this order. `rd-hf evaluate` scores the student by its own."
        )
    models.student.load_state_dict(saved.state_dict())
    if models.teacher is not None:
        saved = type(models.teacher).from_pretrained(folder / "teacher", backbone=models.backbone)
        models.teacher.load_state_dict(saved.state_dict(), strict=False)  # the backbone is not a part of it here
        models.teacher.tap(models.backbone)
    if reported["steps"] and "streamed_images" in reported:
        trainer.rows_a_step = trainer.rows_a_step | {"unlabelled": reported["streamed_images"] // reported["steps"]}
    history = read_history(folder)
    metric = f"validation/{trainer.arguments.metric_for_best_model}"
    scored = [row for row in history if metric in row]
    trainer.step = max((row["step"] for row in history), default=0)
    if scored:
        best = max(scored, key=lambda row: row[metric])  # the first of equals, as in training
        trainer.best_step, trainer.best_score = best["step"], best[metric]


def _where_it_stands(trainer: Trainer, has_ended: bool) -> str:
    if has_ended or trainer.step == trainer.max_steps:
        stands = f"The run has ended at step {trainer.step}"
    else:
        stands = f"The run is at step {trainer.step} of {trainer.max_steps}"
    return f"{stands}. This report is about its best weights, those of step {trainer.best_step or trainer.step}."


def _reported_training(folder: Path) -> dict[str, Any]:
    """What an earlier report says of the training, such as its step and its duration; step 0 if there is none."""
    path = folder / RUN_METRICS
    if not path.is_file():
        return {"steps": 0, "seconds": None}
    return json.loads(path.read_text(encoding="utf-8"))["training"]
