"""What a classifier is worth: `compute_metrics` for a report with intervals, `validation_score` while training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .classification import METRIC_NAMES, MetricError, Predictions, validation_score

__all__ = ["METRIC_NAMES", "MetricError", "compute_metrics", "validation_score"]


def compute_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str],
    exclusive: bool,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> dict:
    """Score a classifier, through `rd_hf.scoring.evaluate_metric.ClassificationMetrics` (an `evaluate.Metric`).

    The first call imports evaluate, which takes seconds; importing this module does not. What each metric means for
    one and for several labels per image stands in `rd_hf.scoring.classification`, how intervals are drawn in
    `rd_hf.scoring.bootstrap`.

    :param probabilities: (N, K), softmax or sigmoid outputs.
    :param labels: (N,) class numbers, or (N, K) of 0 and 1 for several labels per image.
    :param label_names: K distinct names.
    :param exclusive: whether each image has exactly one class.
    :param bootstrap_samples: resamples behind the 95 % percentile intervals; 0 for none (`intervals` is then empty).
    :param seed: of the resampling.
    :return: plain Python values, ready for JSON: accuracy, balanced_accuracy, f1, auroc, average_precision,
        expected_calibration_error; sensitivity and specificity, each {class: value}; confusion_matrix, rows being the
        truth (a 2x2 matrix per label for several labels); intervals, {metric: [low, high]} and {class: [low, high]}
        for the two per class. A value that the split leaves undefined is None, and so is its interval; `undefined`
        says why, {metric or "metric/class": sentence}, and which labels a mean leaves out.
    :raises MetricError: if the inputs do not fit together or hold NaN.
    """
    from .evaluate_metric import ClassificationMetrics

    if len(set(label_names)) != len(label_names):
        raise MetricError(f"label_names {list(label_names)} repeat a name: results are keyed by name")
    # Checked here as well, since evaluate stores the rows first and its own errors are vague.
    checked = Predictions.check(probabilities, labels, label_names, exclusive)
    return ClassificationMetrics(exclusive).compute(
        predictions=checked.probabilities,
        references=np.asarray(labels).astype(np.int64),
        label_names=list(label_names),
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )
