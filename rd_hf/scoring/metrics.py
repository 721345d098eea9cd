"""Scores a classifier for a report, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .bootstrap import intervals
from .classification import (
    METRIC_NAMES,
    Predictions,
    label_matrices,
    point_values,
    undefined_reasons,
)
from .metric import MetricError, defined_or_none
from .units import units


def compute_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str],
    exclusive: bool,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    groups: Sequence | None = None,
) -> dict:
    """Score a classifier.

    What each metric means for one and for several labels per image stands in `rd_hf.scoring.classification`, how
    intervals are drawn in `rd_hf.scoring.bootstrap`. `rd_hf.scoring.evaluate_metric.ClassificationMetrics` gives the
    same as an `evaluate.Metric`.

    :param probabilities: (N, K), softmax or sigmoid outputs.
    :param labels: (N,) class numbers, or (N, K) of 0 and 1, or NaN where not known, for several labels per image.
    :param label_names: K distinct names.
    :param exclusive: whether each image has exactly one class.
    :param bootstrap_samples: resamples behind the 95 % percentile intervals; 0 for none (`intervals` is then empty).
    :param seed: of the resampling.
    :param groups: of the images, such as their patients, which resamples draw together; None where each is its own.
    :return: plain Python values, ready for JSON: accuracy, balanced_accuracy, f1, auroc, average_precision,
        expected_calibration_error; sensitivity and specificity, each {class: value}; confusion_matrix, rows being the
        truth (a 2x2 matrix per label for several labels); intervals, {metric: [low, high]} and {class: [low, high]}
        for the two per class. A value that the split leaves undefined is None, and so is its interval; `undefined`
        says why, {metric or "metric/class": sentence}, and which labels a mean leaves out. Where a group has several
        images, groups is the number that intervals drew from.
    :raises MetricError: if the inputs do not fit together or hold NaN.
    """
    checked = Predictions.check(probabilities, labels, label_names, exclusive)
    return scores_of(checked, bootstrap_samples, seed, groups)


def scores_of(predictions: Predictions, bootstrap_samples: int, seed: int, groups: Sequence | None = None) -> dict:
    """What `compute_metrics` gives, of predictions that are checked.

    :raises MetricError: if the number of resamples is negative.
    """
    from sklearn.metrics import confusion_matrix

    if bootstrap_samples < 0:
        raise MetricError(
            f"bootstrap_samples is {bootstrap_samples}; it must be a positive number, or 0 for no intervals"
        )
    values, per_class = point_values(predictions)
    names = predictions.label_names
    if predictions.exclusive:
        truth, decisions = predictions.truth.argmax(1), predictions.decisions.argmax(1)
        matrix = confusion_matrix(truth, decisions, labels=range(len(names)))
    else:
        matrix = label_matrices(predictions, predictions.decisions)
    result: dict = {name: defined_or_none(values[name]) for name in METRIC_NAMES}
    for name in ("sensitivity", "specificity"):
        result[name] = dict(zip(names, map(defined_or_none, per_class[name]), strict=True))
    result["confusion_matrix"] = matrix.tolist()
    unit_of = None if groups is None else units(len(predictions.truth), groups)
    if unit_of is not None and unit_of.max() + 1 == len(unit_of):  # of one image each
        unit_of = None
    if unit_of is not None:
        result["groups"] = int(unit_of.max()) + 1
    found = intervals(predictions, per_class, bootstrap_samples, seed, unit_of) if bootstrap_samples else {}
    result["intervals"] = found
    result["undefined"] = undefined_reasons(predictions, per_class)
    return result
