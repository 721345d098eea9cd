"""How a run's student decides: its operating point and its temperature, both found on validation."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError, listed, nearest
from ..inference.decisions import calibration_values, operating_point_values, probabilities_and_truth
from ..scoring.metric import MetricError
from ..scoring.operating_point import MEASURES, choose_threshold
from ..scoring.temperature import fit_temperature
from ..tasks.classification import Classification

if TYPE_CHECKING:
    from .run_data import RunData

logger = logging.getLogger(__name__)

SHOWN_LABELS = 5  # on the screen


def check_operating_point(arguments: DistillationArguments, run_data: RunData) -> None:
    """Check before any training that validation can define what `operating_point` asks for.

    :raises ArgumentError: for masks, for a `positive_label` that is missing, unknown or out of place, and where
        validation lacks images with or without the class.
    """
    task = run_data.task
    if arguments.operating_point is None:
        return
    if not isinstance(task, Classification):
        raise ArgumentError("`operating_point` is of classes, but the data has masks: leave it out.")
    labels = _labels_with_thresholds(arguments, task)
    if task.exclusive and arguments.positive_label is None:
        logger.info("The operating point is of '%s', the last class in order. `positive_label` names another.", *labels)
    known = np.asarray(run_data.validation.used_labels)
    marks = task.marks(known)[:, [task.names.index(name) for name in labels]]
    negatives = (marks == 0) if task.exclusive else (known == 0)
    both = (marks > 0).any(axis=0) & negatives.any(axis=0)
    if not both.any():
        which = f"{labels[0]!r}" if task.exclusive else f"any of the labels {', '.join(map(repr, labels))}"
        raise ArgumentError(
            f"`operating_point` is chosen on validation, which has no {run_data.unit}s both with and without {which}. "
            "Add some to validation, or leave `operating_point` out."
        )


def _labels_with_thresholds(arguments: DistillationArguments, task: Classification) -> list[str]:
    """The classes that get a threshold: all labels, or of exclusive classes the positive one."""
    given = arguments.positive_label
    if not task.exclusive:
        if given is not None:
            raise ArgumentError(
                "`positive_label` is for one label per image, but here each image has several, and each gets its own "
                "threshold: leave it out."
            )
        return task.names
    if given is None:
        if len(task.names) > 2:
            raise ArgumentError(
                f"`operating_point` needs `positive_label`, because there are {len(task.names)} classes: name the one "
                f"that is to be found, of {listed(task.names)}."
            )
        return [task.names[-1]]
    if given not in task.names:
        raise ArgumentError(
            f"`positive_label` is {given!r}, which is no class of the data.{nearest(given, task.names)}"
        )
    return [given]


def found_decisions(
    arguments: DistillationArguments, task: Classification, splits: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choose both on the rows of validation; what cannot be chosen is left out, with a warning.

    :param splits: rows of validation and test, by these names.
    :return: the fields of the student's config, and the entries of metrics.json.
    """
    fields: dict[str, Any] = {"calibration_temperature": None, "operating_point": None}
    entries: dict[str, Any] = {}
    if arguments.operating_point is not None:
        point = _operating_point(arguments, task, splits["validation"])
        if point is not None:
            fields["operating_point"] = point
            entries["operating_point"] = operating_point_values(replace(task, operating_point=point), splits)
    rows = splits["validation"]
    try:
        temperature = fit_temperature(task.logits(rows), task.labels(rows), task.exclusive)
    except MetricError as error:
        logger.info("The student has no calibration temperature, because validation does not define it: %s.", error)
    else:
        fields["calibration_temperature"] = temperature
        entries["calibration"] = calibration_values(task, temperature, splits)
    return fields, entries


def _operating_point(arguments: DistillationArguments, task: Classification, rows: np.ndarray) -> dict[str, Any] | None:
    thresholds = {}
    for name in _labels_with_thresholds(arguments, task):
        try:
            thresholds[name] = choose_threshold(*probabilities_and_truth(task, rows, name), arguments.operating_point)
        except MetricError as error:
            instead = "the likeliest class is answered" if task.exclusive else "it is answered from 0.5 on"
            logger.warning(
                "Validation gives no threshold for '%s' with the rule %s, because %s; %s.",
                name, arguments.operating_point, error, instead,
            )  # fmt: skip
    return {"rule": arguments.operating_point, "thresholds": thresholds} if thresholds else None


def operating_point_in_words(entries: dict[str, Any] | list[dict[str, Any]]) -> list[str]:
    """Lines for the screen: the thresholds, and what they come to on test.

    :param entries: `operating_point` of metrics.json.
    """
    points = [entries] if isinstance(entries, dict) else entries
    lines = [f"Operating point {points[0]['rule']}, chosen on validation; on test:"]
    for point in points[:SHOWN_LABELS]:
        values = ", ".join(f"{name} {_with_interval(point['test'][name])}" for name in MEASURES)
        lines.append(f"  {point['label']} from {point['threshold']:.3g}: {values}")
    if len(points) > SHOWN_LABELS:
        lines.append(f"  and {len(points) - SHOWN_LABELS} more labels, in metrics.json")
    return lines


def _with_interval(measure: dict[str, Any]) -> str:
    if measure["value"] is None:
        return "undefined"
    return "{:.3f} ({:.2f}-{:.2f})".format(measure["value"], *measure["interval"])
