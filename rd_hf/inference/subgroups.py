"""Scores of a split for each value of some of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.open_split import OpenSplit
from ..data.subgroups import rows_of_subgroups, subgroup_values
from ..scoring.bootstrap import FEWEST_FOR_INTERVAL
from ..tasks.classification import Classification
from ..tasks.task import Task
from .decisions import operating_point_values


def scores_of_subgroups(task: Task, rows: np.ndarray, split: OpenSplit, columns: Sequence[str]) -> dict[str, Any]:
    """The task's scores of the images with each value.

    :param rows: of `split.rows`, in their order.
    :return: by column and value `images`, the value of each metric (None where the group leaves it undefined), and
        under `intervals` their 95 % bootstrap intervals; None where a group is too small for one. Where the task has
        an operating point, what it comes to in the group is under `operating_point`, by class.
    """
    groups = split.groups()
    patients = None if groups is None else np.asarray(groups, dtype=object)
    found: dict[str, Any] = {}
    for column in columns:
        positions = rows_of_subgroups(subgroup_values(split.images, column, split.rows))
        found[column] = {
            value: _scores(task, rows[own], None if patients is None else patients[own].tolist())
            for value, own in positions.items()
        }
    return found


def _scores(task: Task, rows: np.ndarray, patients: list | None) -> dict[str, Any]:
    samples = 1000 if len(rows) >= FEWEST_FOR_INTERVAL else 0
    scores = task.scores(rows, bootstrap_samples=samples, groups=patients)
    names = [metric.name for metric in task.metrics]
    found = {"images": len(rows)} | {name: scores[name] for name in names}
    found["intervals"] = {name: scores["intervals"].get(name) for name in names}
    if isinstance(task, Classification) and task.operating_point is not None:
        points = operating_point_values(task, {"group": rows})
        found["operating_point"] = {p["label"]: p["group"] for p in ([points] if task.exclusive else points)}
    return found
