"""What a finished run leaves: models, scores, predictions and plots."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import plots
from .inference import predict_logits, probabilities
from .metrics import compute_metrics
from .run_folder import read_history, write_json, write_predictions

if TYPE_CHECKING:
    from .distillation import Models
    from .task import Split, Task
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def write_report(folder: Path, task: Task, models: Models, trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Save both models with their processors, score them on validation and test, and draw the plots.

    :param seconds: wall time of the training.
    :return: what metrics.json holds: the student's scores under `validation` and `test`, the reprogrammed teacher's under
        `teacher`.
    """
    models.student.save_pretrained(folder / "student")
    models.student_processor.save_pretrained(folder / "student")
    if models.teacher is not None:
        models.teacher.save_pretrained(folder / "teacher")
        models.teacher_processor.save_pretrained(folder / "teacher")
    scores: dict[str, Any] = {}
    for split in (task.validation, task.test):
        student = _student_probabilities(models, split, trainer)
        scores[split.name] = _score(student, split.labels, task)
        if split is task.test:
            _write_test_details(folder, task, student, scores["test"])
    if models.teacher is not None:
        scores["teacher"] = {
            split.name: _score(_teacher_probabilities(models, split, trainer), split.labels, task)
            for split in (task.validation, task.test)
        }
    scores["training"] = {
        "steps": trainer.step,
        "best_step": trainer.best_step,
        "seconds": round(seconds, 1),
        "labelled_images": len(task.labelled_rows),
        "unlabelled_images": len(task.unlabelled_rows),
        "student_parameters": models.student.num_parameters(),
    }
    write_json(scores, folder / "metrics.json")
    history = read_history(folder)
    plots.plot_curves(history, folder / "curves.png")
    if models.teacher is not None:
        plots.plot_cka(history, folder / "cka.png")
    return scores


def _student_probabilities(models: Models, split: Split, trainer: Trainer) -> np.ndarray:
    logits = predict_logits(
        lambda pixels: models.student(pixel_values=pixels).logits,
        models.student,
        split.store,
        trainer.arguments.per_device_eval_batch_size,
        trainer.accelerator,
    )
    return probabilities(logits, trainer.data.problem_type)


def _teacher_probabilities(models: Models, split: Split, trainer: Trainer) -> np.ndarray:
    def forward(pixels):
        return models.teacher(teacher_features=models.backbone.extract(pixels)).logits

    size = trainer.arguments.per_device_eval_batch_size
    logits = predict_logits(forward, models.teacher, split.store, size, trainer.accelerator, transform=1)
    return probabilities(logits, trainer.data.problem_type)


def _score(predicted: np.ndarray, labels: np.ndarray, task: Task) -> dict[str, Any]:
    return compute_metrics(predicted, labels, task.label_names, task.problem_type)


def _write_test_details(folder: Path, task: Task, predicted: np.ndarray, scores: dict[str, Any]) -> None:
    labels, names = task.test.labels, task.label_names
    multi_label = task.problem_type == "multi_label_classification"
    write_predictions(folder / "predictions.csv", task.test.rows, labels, predicted, names, multi_label)
    plots.plot_confusion_matrix(scores["confusion_matrix"], names, folder / "confusion_matrix.png")
    plots.plot_roc(predicted, labels, names, task.problem_type, folder / "roc.png")
