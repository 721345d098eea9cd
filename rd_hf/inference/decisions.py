"""What a stored operating point and a stored temperature come to on images with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..models.configuration_rd import checked_operating_point
from ..scoring.classification import Predictions, expected_calibration_error
from ..scoring.operating_point import values_at
from ..tasks.classification import Classification
from ..tasks.task import Task


def with_decisions(task: Task, decisions: Mapping[str, Any]) -> Task:
    """The task that decides as a model's config says.

    :param decisions: `operating_point`, if the model has one; see `rd_hf.cards.provenance.read_decisions`.
    :raises ValueError: for an operating point that is none, or of other classes.
    """
    point = decisions.get("operating_point")
    if point is None or not isinstance(task, Classification):
        return task
    return replace(task, operating_point=checked_operating_point(point, task.names, task.problem_type))


def operating_point_values(task: Classification, splits: Mapping[str, np.ndarray]) -> dict[str, Any] | list[Any]:
    """What the task's operating point comes to.

    :param splits: rows of each, by name.
    :return: `rule`, `label`, `threshold`, and under the name of each split what
        `rd_hf.scoring.operating_point.values_at` gives; with several labels per image a list of these.
    """
    found = []
    for name, threshold in task.operating_point["thresholds"].items():
        entry = {"rule": task.operating_point["rule"], "label": name, "threshold": threshold}
        for split, rows in splits.items():
            probabilities, truth = probabilities_and_truth(task, rows, name)
            entry[split] = values_at(probabilities >= threshold, truth)
        found.append(entry)
    return found[0] if task.exclusive else found


def probabilities_and_truth(task: Classification, rows: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the images of which it is known whether they have a class: its uncalibrated probabilities, and whether."""
    number, labels = task.names.index(name), task.labels(rows)
    probabilities = task.uncalibrated(rows)[:, number]
    if task.exclusive:
        return probabilities, labels == number
    known = ~np.isnan(labels[:, number])
    return probabilities[known], labels[known, number] == 1


def calibration_values(task: Classification, temperature: float, splits: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The expected calibration errors before and after.

    :param splits: rows of each, by name.
    :return: `temperature`, and under the name of each split `ece_before` and `ece_after`.
    """
    forms = {"ece_before": replace(task, temperature=None), "ece_after": replace(task, temperature=temperature)}
    errors = {
        split: {name: _calibration_error(form, rows) for name, form in forms.items()} for split, rows in splits.items()
    }
    return {"temperature": temperature} | errors


def _calibration_error(task: Classification, rows: np.ndarray) -> float:
    checked = Predictions.check(task.predicted(rows), task.labels(rows), task.names, task.exclusive)
    return float(expected_calibration_error(np.ones((1, len(rows))), checked)[0])
