"""Writes report.html of a run: what was trained, its scores, the images behind them, and the training's course."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.config import read_config
from ..arguments.values import ArgumentError
from ..cards.image_notes import image_remarks
from ..inference.page import add_decisions, data_of, facts_of_split, origins_of, title_of
from ..inference.page_pictures import add_pictures
from ..inference.rows import evaluating
from ..pages.facts import Curve, ReportFacts, ScoredModel
from ..pages.report import REPORT_FILE, render_report
from ..pages.text import duration
from ..runtime.files import RUN_CONFIG, RUN_METRICS, write_text
from ..scoring.plots import LOSS_TERMS, METRIC_TITLES
from .run_folder import read_history

if TYPE_CHECKING:
    from ..tasks.task import Task
    from .run_data import RunData
    from .run_models import Models
    from .trainer import Trainer


def scores_alone(folder: Path, source: dict[str, Any]) -> ScoredModel:
    """Read the test scores of a run with method ce, a column of the table of scores.

    :param source: what is recorded of the data that the other columns are scored on.
    :raises ArgumentError: where it is no such run, has not ended, or has other data or splits.
    """
    for name in (RUN_CONFIG, RUN_METRICS, "student/config.json"):
        if not (folder / name).is_file():
            raise ArgumentError(f"`student_alone` {folder} has no {name}. Name the folder of a run that has ended.")
    method = read_config(folder / RUN_CONFIG)["method"]
    if method != "ce":
        raise ArgumentError(
            f"`student_alone` {folder} is a run with method {method}. Name one with method ce, which has no teacher."
        )
    scores, config = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in (RUN_METRICS, "student/config.json")
    )
    for name in ("fingerprint", "made_splits"):
        if config["provenance"]["dataset"].get(name) != source.get(name):
            raise ArgumentError(
                f"`student_alone` {folder} was scored on other data ({name} differs), so it cannot stand beside this "
                "run. Name a run with method ce on the same data and splits."
            )
    return ScoredModel("student alone", scores["test"])


def write_page(
    folder: Path,
    run_data: RunData,
    task: Task,
    models: Models,
    trainer: Trainer,
    scores: dict[str, Any],
    rows: np.ndarray,
    card: dict[str, Any],
    alone: ScoredModel | None = None,
) -> None:
    """Write `REPORT_FILE` into the run's folder.

    :param task: decides at the student's operating point, where it has one.
    :param scores: what metrics.json holds.
    :param rows: what the task keeps of the student's answers on test.
    :param card: the facts of the student's card.
    :param alone: the scores of a student that was trained alone.
    """
    arguments, student = trainer.arguments, models.student
    title = "student" if models.teacher is not None else "student, trained alone"
    scored = [ScoredModel(title, scores["test"])]
    if "teacher" in scores:
        scored.append(ScoredModel("reprogrammed teacher", scores["teacher"]["test"]))
    if alone is not None:
        scored.append(alone)
    provenance, images = student.config.provenance, arguments.report_images
    temperature = student.config.calibration_temperature
    facts = facts_of_split(task, run_data.test, rows, scored, title_of(provenance), images, temperature)
    add_decisions(facts, scores)
    facts.origins = [(label, value) for label, value in origins_of(provenance) if label != "trained on"]
    facts.origins += [("seed", str(arguments.seed)), *_targets(scores), *data_of(run_data.source)]
    facts.splits, facts.arguments, facts.versions = card["splits"], card["arguments"], card["versions"]
    facts.leaks = run_data.source.get("leaks", [])
    facts.remarks = _remarks(facts, run_data)
    facts.course = course_of(read_history(folder, trainer.step))
    facts.costs = [{"name": name, **vars(cost)} for name, cost in card["costs"].items()]
    facts.training = _training(scores["training"], card, facts.unit)
    if images:
        forward, device = (lambda pixels: student(pixel_values=pixels).logits), student.device
        with evaluating(student):
            add_pictures(facts, task, forward, device, run_data.test, has_gradients=True)
    write_text(render_report(facts), folder / REPORT_FILE)


def course_of(history: list[dict[str, Any]]) -> dict[str, list[Curve]]:
    """The curves of a training by chart.

    :param history: rows of metrics.jsonl.
    """
    losses = {**LOSS_TERMS, "validation/loss": "validation"}
    keys = sorted({key for row in history for key in row})
    scores = {
        key: METRIC_TITLES.get(key.removeprefix("validation/"), key.removeprefix("validation/"))
        for key in keys
        if key.startswith("validation/") and key != "validation/loss"
    }
    stages = sorted((key for key in keys if key.startswith("cka/")), key=lambda key: (len(key), key))
    named = {key: f"stage {key.removeprefix('cka/')}" if len(stages) > 1 else "last stage" for key in stages}
    charts = {
        "Loss and its terms": losses,
        "Validation": scores,
        "CKA, reprogrammed teacher features against student features": named,
    }
    return {title: [_curve(history, key, name) for key, name in own.items()] for title, own in charts.items()}


def _curve(history: list[dict[str, Any]], key: str, title: str) -> Curve:
    points = sorted((row["step"], row[key]) for row in history if row.get(key) is not None)
    return Curve(title, [step for step, _ in points], [value for _, value in points])


def _targets(scores: dict[str, Any]) -> list[tuple[str, str]]:
    return [("targets", scores["training"]["targets"])] if "targets" in scores["training"] else []


def _training(training: dict[str, Any], card: dict[str, Any], unit: str) -> list[tuple[str, str]]:
    unlabelled = (f"{unit}s without label", str(training["unlabelled_images"]))
    if "streamed_images" in training:
        unlabelled = (f"{unit}s without label, read from a stream", str(training["streamed_images"]))
    return [
        ("optimiser steps", str(training["steps"])),
        ("step of these weights", str(training["best_step"])),
        ("time of the training", duration(training["seconds"])),
        ("hardware", card["hardware"]),
        (f"labelled {unit}s", str(training["labelled_images"])),
        unlabelled,
    ]


def _remarks(facts: ReportFacts, run_data: RunData) -> list[str]:
    """Made splits, skipped images, and what is remarkable about the others."""
    found = image_remarks(run_data.source)
    made = run_data.source.get("made_splits")
    if made:
        of_groups = f", with all {facts.unit}s of a patient in one split" if made["group_column"] else ""
        splits = " and ".join(made["names"])
        found.insert(0, f"The data had no split {splits}: made from train with seed {made['seed']}{of_groups}.")
    skipped = sum(len(own) for own in run_data.skipped.values())
    if skipped:
        found.append(f"{skipped} unreadable {facts.unit}s were left out.")
    return found
