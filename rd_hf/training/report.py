"""Writes the results of a finished run: models, scores, predictions and plots.

Models come first and scores second. Each file that only shows them is written on its own: one that cannot be drawn or
rendered costs the run nothing else.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from ..arguments.values import columns_of
from ..cards.card import CARD_FILE, EVAL_RESULTS_FILE, IMAGES, eval_results, render_card, write_card
from ..data.volumes.store import VolumeStore
from ..inference.rows import predict_rows, scores_of_split
from ..inference.subgroups import scores_of_subgroups
from ..pages.facts import ScoredModel
from ..pages.report import REPORT_FILE
from ..runtime.checkpoint import checkpoint_step, list_checkpoints
from ..runtime.files import RUN_METRICS, share_weights, write_json, write_predictions
from ..scoring import plots
from ..scoring.bootstrap import FEWEST_FOR_INTERVAL
from ..tasks.classification import Classification
from ..tasks.segmentation import Segmentation
from .card_facts import card_facts
from .decisions import found_decisions, operating_point_in_words
from .mask_examples import EXAMPLES_FILE, draw_examples
from .page import write_page
from .run_folder import read_history
from .scored_features import features_of_split, whole_pixel_values
from .targets import targets_in_words
from .volume_teacher_rows import counted_rows, window_rows

if TYPE_CHECKING:
    from ..data.open_split import OpenSplit
    from ..tasks.task import Task
    from .run_data import RunData
    from .run_models import Models
    from .trainer import Trainer

logger = logging.getLogger(__name__)

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class ReportError(OSError):
    """The results of a finished training cannot be written. The message says what is kept and how to continue."""


def write_report(
    folder: Path,
    run_data: RunData,
    models: Models,
    trainer: Trainer,
    seconds: float | None,
    alone: ScoredModel | None = None,
) -> dict[str, Any]:
    """Save both models with their processors, score them on validation and test, and draw the plots.

    :param seconds: wall time of the training, None where it is not known.
    :param alone: the scores of a student that was trained alone, for report.html.
    :return: what metrics.json holds: the student's scores under `validation` and `test`, those of the reprogrammed
        teacher under `teacher`. Of several processes the main one makes the report, and the others give an empty dict.
    """
    if trainer.accelerator.is_main_process:
        with _told_what_is_kept(folder, trainer):
            _save_models(folder, models)
    task, splits = run_data.task, (run_data.validation, run_data.test)
    rows = {split.name: _student_rows(models, split, trainer) for split in splits}
    of_teacher = {} if models.teacher is None else {s.name: teacher_rows(models, s, trainer) for s in splits}
    if not trainer.accelerator.is_main_process:  # the others have given their share of the answers
        return {}
    scores: dict[str, Any] = {split.name: scores_of_split(task, rows[split.name], split) for split in splits}
    if of_teacher:
        scores["teacher"] = {split.name: scores_of_split(task, of_teacher[split.name], split) for split in splits}
    scores["training"] = _of_training(run_data, models, trainer, seconds)
    decisions: dict[str, Any] = {}
    if isinstance(task, Classification):
        decisions, entries = found_decisions(trainer.arguments, task, rows)
        task = replace(task, operating_point=decisions["operating_point"])
        scores |= entries
    columns = columns_of(trainer.arguments.subgroup_column)
    if columns:
        scores["subgroups"] = scores_of_subgroups(task, rows["test"], run_data.test, columns)
    if "leaks" in run_data.source:
        scores["leaks"] = run_data.source["leaks"]
    with _told_what_is_kept(folder, trainer):
        write_json(scores, folder / RUN_METRICS)
        if decisions:
            _keep_decisions(folder, models, decisions)
        _write_details(folder, run_data, task, models, rows["test"], scores["test"])
        _write_plots(folder, models, trainer)
        card = _write_cards(folder, run_data, models, trainer, scores)
        with _on_its_own(folder, REPORT_FILE):
            card = card or card_facts(folder, run_data, models, trainer, scores)["student"]
            write_page(folder, run_data, task, models, trainer, scores, rows["test"], card, alone)
    return scores


def _of_training(run_data: RunData, models: Models, trainer: Trainer, seconds: float | None) -> dict[str, Any]:
    """How the student was trained, in numbers and, with a teacher, its targets in words."""
    found = {
        "steps": trainer.step,
        "best_step": trainer.best_step,
        "seconds": None if seconds is None else round(seconds, 1),
        "labelled_images": len(run_data.labelled_rows),
        "unlabelled_images": len(run_data.unlabelled_rows),
        "student_parameters": models.student.num_parameters(),
    }
    if run_data.stream is not None:
        found["streamed_images"] = trainer.step * trainer.rows_a_step["unlabelled"]
    return found if models.teacher is None else found | {"targets": targets_in_words(trainer.arguments)}


@contextmanager
def _told_what_is_kept(folder: Path, trainer: Trainer) -> Iterator[None]:
    """A context for writing to the run's folder.

    :raises ReportError: when that is not possible, as on a full disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises the latter if the disk is full
        raise ReportError(_how_to_go_on(folder, trainer, error)) from error


@contextmanager
def _on_its_own(folder: Path, *names: str) -> Iterator[None]:
    """A context for writing files that only show results: whatever goes wrong is a warning, except on a full disk.

    A name, a value or a library's new release may break a drawing in ways that nobody foresees, and training has ended.

    :param folder: of the run.
    :param names: the files, relative to it.
    """
    try:
        yield
    except SafetensorError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        logger.warning(
            "%s could not be written (%s). The models and %s are complete. `rd-hf report %s` tries again.",
            " and ".join(names), reason, RUN_METRICS, folder,
        )  # fmt: skip
        logger.debug("", exc_info=True)


def _how_to_go_on(folder: Path, trainer: Trainer, error: Exception) -> str:
    kept = [checkpoint_step(path) for path in list_checkpoints(trainer.checkpoints)]
    if not kept:
        return (
            f"The run has ended, but neither its results in {folder} ({error}) nor a checkpoint could be written, so "
            "the run is lost."
        )
    way_out = f"run `rd-hf report {folder}`, which writes the report without training again"
    if kept[-1] != trainer.step:
        way_out = f"repeat the training with `resume`, which continues from step {kept[-1]}"
    return f"Step {trainer.step} is done, but {folder} cannot be written ({error}). Free some space, then {way_out}."


def _save_models(folder: Path, models: Models) -> None:
    models.student.save_pretrained(folder / "student")
    models.student_processor.save_pretrained(folder / "student")
    if models.teacher is not None:
        models.teacher.save_pretrained(folder / "teacher")
        models.teacher_processor.save_pretrained(folder / "teacher")
    share_weights(folder)


def _keep_decisions(folder: Path, models: Models, fields: dict[str, Any]) -> None:
    """Add to the saved student how it decides: it was saved before it was scored."""
    for name, value in fields.items():
        setattr(models.student.config, name, value)
    models.student.config.save_pretrained(folder / "student")


def _write_plots(folder: Path, models: Models, trainer: Trainer) -> None:
    history = read_history(folder, trainer.step)
    with _on_its_own(folder, "curves.png"):
        plots.plot_curves(history, folder / "curves.png")
    if models.teacher is not None:
        with _on_its_own(folder, "cka.png"):
            plots.plot_cka(history, folder / "cka.png")
        if trainer.arguments.stage_schedule != "all":
            with _on_its_own(folder, "stages.png"):
                plots.plot_stages(history, folder / "stages.png")


def _write_cards(
    folder: Path, run_data: RunData, models: Models, trainer: Trainer, scores: dict[str, Any]
) -> dict[str, Any] | None:
    """A card beside each model, with the plots that it shows.

    :return: the facts of the student's, if they could be collected.
    """
    kinds = ["student"] if models.teacher is None else ["student", "teacher"]
    of_student = None
    with _on_its_own(folder, *(f"{kind}/{CARD_FILE}" for kind in kinds)):
        cards = card_facts(folder, run_data, models, trainer, scores)
        of_student = cards["student"]
        for kind, facts in cards.items():
            if kind == "teacher":  # the run's folder has the student's
                own = run_data.task.figures_of_scores
                with _on_its_own(folder, *(f"{kind}/{name}" for name in own)):
                    run_data.task.draw_scores(facts["scores"], folder / kind)
            else:
                own = {}
            _copy_images([name for name in facts["images"] if name not in own], folder, folder / kind)
            for name in set(IMAGES) - set(facts["images"]):  # of patients, before `card_images` was taken back
                (folder / kind / name).unlink(missing_ok=True)
            facts["images"] = {n: title for n, title in facts["images"].items() if (folder / kind / n).is_file()}
            with _on_its_own(folder, f"{kind}/{CARD_FILE}"):
                _write_card(folder / kind, facts, trainer)
    return of_student


def _copy_images(names: list[str], source: Path, target: Path) -> None:
    """Copy the plots that could be drawn."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _write_card(folder: Path, facts: dict[str, Any], trainer: Trainer) -> None:
    repos = {"student": trainer.arguments.hub_model_id, "teacher": trainer.arguments.hub_teacher_id}
    name = (repos[facts["kind"]] or f"rd_hf-{facts['kind']}").split("/")[-1]
    if not write_card(folder, render_card(facts, name)):
        logger.warning("%s was edited by hand, so it is kept.", folder / CARD_FILE)
    results = eval_results(facts)
    if results is not None:
        (folder / EVAL_RESULTS_FILE).parent.mkdir(exist_ok=True)
        (folder / EVAL_RESULTS_FILE).write_text(results, encoding="utf-8")


def _student_rows(models: Models, split: OpenSplit, trainer: Trainer) -> np.ndarray:
    """What the task keeps of the student's outputs on a split."""
    return predict_rows(
        lambda pixels: models.student(pixel_values=pixels).logits,
        trainer.data.task.full_row,
        models.student,
        split,
        trainer.arguments.per_device_eval_batch_size,
        trainer.accelerator,
    )


def teacher_rows(models: Models, split: OpenSplit, trainer: Trainer) -> np.ndarray:
    """What the task keeps of the reprogrammed teacher's outputs on a split, (N, ...), as for the student."""
    task, accelerator = trainer.data.task, trainer.accelerator
    if split.in_windows:
        return window_rows(models, split, task, accelerator)
    teacher, features = models.teacher, features_of_split(trainer.arguments, models, split, accelerator)

    def read(rows: list[int]) -> dict[str, Any]:
        inputs: dict[str, Any] = {"teacher_features": features(rows)}
        if teacher.needs_student_pixels:
            inputs["student_pixel_values"] = whole_pixel_values(split.store, rows, accelerator.device)
        return inputs

    size, of_volumes = trainer.arguments.per_device_eval_batch_size, isinstance(split.store, VolumeStore)
    with counted_rows(task, split, accelerator) if of_volumes else nullcontext(task.full_row) as row:
        return predict_rows(lambda inputs: teacher(**inputs).logits, row, teacher, split, size, accelerator, read)


def _write_details(
    folder: Path, run_data: RunData, task: Task, models: Models, rows: np.ndarray, scores: dict[str, Any]
) -> None:
    """The student's predictions, figures and, of masks, examples on test, from its rows, and what was skipped.

    :param task: which decides as the student does.
    """
    with _on_its_own(folder, "predictions.csv"):
        test, columns = run_data.test, task.columns()
        write_predictions(folder / "predictions.csv", test.rows, columns, task.table(rows), test.files())
    with _on_its_own(folder, *task.figures_of_scores):
        task.draw_scores(scores, folder)
    with _on_its_own(folder, *task.figures_of_rows):
        task.draw_rows(rows, folder)
    if any(run_data.skipped.values()):
        write_json(run_data.skipped, folder / "skipped_images.json")
    if isinstance(task, Segmentation):
        with _on_its_own(folder, EXAMPLES_FILE):
            draw_examples(task, models.student, run_data.test, rows, folder)


def summary(scores: dict[str, Any], run_data: RunData, folder: Path) -> str:
    """The result in a few lines for the screen."""
    shown = run_data.task.metrics[:2]
    counts = {split.name: len(split.rows) for split in (run_data.validation, run_data.test)}
    rows = [(f"student, {split}", scores[split], counts[split]) for split in ("validation", "test")]
    if "teacher" in scores:
        rows.append(("reprogrammed teacher, test", scores["teacher"]["test"], counts["test"]))
    # intervals draw from groups where there are some
    rows = [(name, values, min(count, values.get("groups") or count)) for name, values, count in rows]
    fewest = min(count for *_, count in rows)
    are_all = fewest >= FEWEST_FOR_INTERVAL
    head = "(with 95 % intervals)" if are_all else f"(95 % intervals if n > {FEWEST_FOR_INTERVAL - 1})"
    if any(values.get("groups") for _, values, _ in rows):
        head = head.removesuffix(")") + ", n: groups)" if not are_all else head
    lines = [f"{head:28}" + "".join(f"{metric.title:>19}" for metric in shown)]
    for name, values, count in rows:
        lines.append(f"{name:28}" + "".join(_with_interval(values, metric.name, count) for metric in shown))
    training = scores["training"]
    lines.append(
        f"The weights are those of step {training['best_step']} of {training['steps']}, the best on validation."
    )
    if "targets" in training:
        lines.append(f"Targets: {training['targets']}.")
    if "operating_point" in scores:
        lines += operating_point_in_words(scores["operating_point"])
    return "\n".join([*lines, f"The student is in {folder / 'student'}, and everything else is beside it."])


def _with_interval(values: dict[str, Any], metric: str, count: int) -> str:
    if values[metric] is None:
        return f"{'undefined':>19}"
    if count < FEWEST_FOR_INTERVAL:
        return f"{values[metric]:.3f} (n = {count})".rjust(19)
    if values["intervals"][metric] is None:
        return f"{values[metric]:19.3f}"
    low, high = values["intervals"][metric]
    return f"  {values[metric]:.3f} ({low:.2f}-{high:.2f})".rjust(19)
