"""Point values of the classification metrics, by numpy and scikit-learn; users call `rd_hf.scoring.metrics`.

Every problem is looked at one class (or label) against the rest, as (N, K) tables of truth and decisions:

=============================  =============================================  ======================================
metric                         one label per image                            several labels per image
=============================  =============================================  ======================================
decision                       the most probable class                        each probability >= 0.5
accuracy                       share of images decided rightly                share of (image, label) pairs
balanced_accuracy              mean of sensitivity                            mean of (sensitivity + specificity) / 2
f1, auroc, average_precision   mean over classes, each against the rest       mean over labels
expected_calibration_error     of the decided class's probability             of each label's probability, averaged
=============================  =============================================  ======================================

A class's value is undefined where the split lacks what it is a share of: no image of the class (sensitivity, F1), none
of any other (specificity), or either (AUROC, average precision). With one label per image a mean over classes is then
undefined too; with several, the mean is over the other labels. Both are told in words.

With several labels per image a label may be NaN, which is not known. All shares of a label are then of the images of
which it is known, and accuracy is the share of the known pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metric import Metric, MetricError, quotient

METRICS = (
    Metric("auroc", "AUROC", hub_name="roc_auc"),
    Metric("accuracy", "accuracy", hub_name="accuracy"),
    Metric("balanced_accuracy", "balanced accuracy"),
    Metric("f1", "F1, mean over classes", hub_name="f1"),
    Metric("average_precision", "average precision, mean over classes"),
    Metric("expected_calibration_error", "expected calibration error", higher_is_better=False),
)
METRIC_NAMES = tuple(metric.name for metric in METRICS)
CALIBRATION_BINS = 15
ROUNDING = 1e-5  # by which a softmax in low precision may leave 0..1
CLASS_MEANS = ("balanced_accuracy", "f1", "auroc", "average_precision")


@dataclass(frozen=True)
class Predictions:
    """Checked probabilities and labels of N images and K classes.

    :param probabilities: (N, K) float64.
    :param truth: (N, K) bool, whether the image has the class; False where that is not known.
    :param decisions: (N, K) bool, whether the model says so.
    :param label_names: K names.
    :param exclusive: whether each image has exactly one class.
    :param known: (N, K) bool, whether the truth is known.
    """

    probabilities: np.ndarray
    truth: np.ndarray
    decisions: np.ndarray
    label_names: tuple[str, ...]
    exclusive: bool
    known: np.ndarray

    @classmethod
    def check(
        cls, probabilities: np.ndarray, labels: np.ndarray, label_names: Sequence[str], exclusive: bool
    ) -> Predictions:
        """Check what came from a model and a data set; arguments as in `rd_hf.scoring.metrics.compute_metrics`.

        :raises MetricError: if shapes or values do not fit together.
        """
        probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
        if probabilities.ndim != 2 or 0 in probabilities.shape or probabilities.shape[1] != len(label_names):
            raise MetricError(
                f"probabilities have shape {probabilities.shape}; expected (images, {len(label_names)}) for the "
                f"{len(label_names)} label names, with at least one image"
            )
        if not ((probabilities >= -ROUNDING) & (probabilities <= 1 + ROUNDING)).all():
            raise MetricError("probabilities are NaN or outside 0 to 1: give softmax or sigmoid outputs, not logits")
        probabilities = probabilities.clip(0, 1)
        if exclusive:
            truth, known = _one_hot(labels, probabilities.shape), np.ones(probabilities.shape, dtype=bool)
            decisions = _one_hot(probabilities.argmax(axis=1), probabilities.shape)
        else:
            unknown = np.isnan(labels) if labels.dtype.kind == "f" else np.zeros(labels.shape, dtype=bool)
            if labels.shape != probabilities.shape or not (np.isin(labels, (0, 1)) | unknown).all():
                raise MetricError(
                    f"with several labels per image, labels must be 0 or 1 (or NaN, not known), of shape "
                    f"{probabilities.shape}"
                )
            truth, decisions, known = (labels == 1), probabilities >= 0.5, ~unknown
        return cls(probabilities, truth, decisions, tuple(label_names), exclusive, known)


def point_values(predictions: Predictions) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The scores of the sample as it is.

    :return: the value of each of METRIC_NAMES, and (K,) `sensitivity` and `specificity`; NaN where undefined.
    """
    per_class = class_values(predictions)
    whole = np.ones((1, len(predictions.truth)))
    values = {name: mean_over_classes(per_class, per_class, name, predictions.exclusive) for name in CLASS_MEANS}
    values["accuracy"] = accuracy(whole, predictions)[0]
    values["expected_calibration_error"] = expected_calibration_error(whole, predictions)[0]
    return {name: float(values[name]) for name in METRIC_NAMES}, per_class


def class_values(predictions: Predictions) -> dict[str, np.ndarray]:
    """Each class against the rest: (K,) per name, NaN where undefined. Areas are scikit-learn's."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, known, probabilities = predictions.truth, predictions.known, predictions.probabilities
    decided, absent = predictions.decisions & known, known & ~truth
    hits, positives, negatives = (table.sum(axis=0) for table in (truth & decided, truth, absent))
    both = (positives > 0) & (negatives > 0)

    def each(score):
        of_known = ((truth[known[:, k], k], probabilities[known[:, k], k]) for k in range(len(both)))
        return np.array([score(*pair) if ranked else np.nan for pair, ranked in zip(of_known, both, strict=True)])

    return {
        "sensitivity": quotient(hits, positives),
        "specificity": quotient((absent & ~decided).sum(axis=0), negatives),
        "f1": np.where(positives > 0, quotient(2 * hits, positives + decided.sum(axis=0)), np.nan),
        "auroc": each(roc_auc_score),
        "average_precision": each(average_precision_score),
    }


def mean_over_classes(
    per_class: dict[str, np.ndarray], whole: dict[str, np.ndarray], name: str, exclusive: bool
) -> np.ndarray:
    """The mean over classes of one of CLASS_MEANS.

    :param per_class: (..., K) per name.
    :param whole: (K,) per name: the values of the whole sample, which say which labels a mean is over.
    :return: (...) means, NaN where undefined.
    """
    values, reference = _summand(per_class, name, exclusive), _summand(whole, name, exclusive)
    columns = np.ones(len(reference), dtype=bool) if exclusive else ~np.isnan(reference)
    if not columns.any():
        return np.full(values.shape[:-1], np.nan)
    return values[..., columns].mean(axis=-1)


def accuracy(weights: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(R,) accuracies under (R, N) weights of the images."""
    right = predictions.truth == predictions.decisions
    if not predictions.known.all():
        return quotient(weights @ (right & predictions.known).sum(axis=1), weights @ predictions.known.sum(axis=1))
    right = right.all(axis=1) if predictions.exclusive else right.mean(axis=1)
    return weights @ right.astype(np.float64) / weights.sum(axis=1)


def expected_calibration_error(weights: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(R,) expected calibration errors under (R, N) weights: sum over bins of |accuracy - confidence| times the share.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 equal bins (lower, upper].
    """
    confidence, truth = predictions.probabilities, predictions.truth
    if predictions.exclusive:
        confidence, truth = confidence.max(axis=1, keepdims=True), (truth & predictions.decisions).any(1, keepdims=True)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    gaps = truth - confidence
    if not predictions.known.all():
        gaps = np.where(predictions.known, gaps, 0)
    errors = [
        np.abs(weights @ (np.eye(CALIBRATION_BINS)[bins[:, k]] * gaps[:, k, None])).sum(axis=1)
        for k in range(gaps.shape[1])
    ]
    if not predictions.known.all():
        shares = quotient(np.stack(errors, axis=1), weights @ predictions.known.astype(np.float64))
        return _mean_of_defined(shares)
    return np.mean(errors, axis=0) / weights.sum(axis=1)


def undefined_reasons(predictions: Predictions, per_class: dict[str, np.ndarray]) -> dict[str, str]:
    """Which metrics are undefined on this split or leave out a label, and why: metric or metric/class to a sentence."""
    reasons: dict[str, str] = {}
    for name in CLASS_MEANS:
        missing = np.isnan(_summand(per_class, name, predictions.exclusive))
        if missing.any():
            names = ", ".join(repr(predictions.label_names[k]) for k in np.flatnonzero(missing))
            if predictions.exclusive:
                only = np.isnan(per_class["specificity"])
                alone = [label for label, is_only in zip(predictions.label_names, only, strict=True) if is_only]
                found = f"only images of {alone[0]!r}" if alone else f"no image of {names}"
                reasons[name] = f"undefined: the split has {found}"
            elif missing.all():
                reasons[name] = "undefined: no label has both positive and negative images in this split"
            else:
                reasons[name] = (
                    f"mean over the other labels: the split has only positive or only negative images of {names}"
                )
    for name, lacking in (("sensitivity", "with"), ("specificity", "without")):
        for k in np.flatnonzero(np.isnan(per_class[name])):
            label = predictions.label_names[k]
            reasons[f"{name}/{label}"] = f"undefined: the split has no image {lacking} {label!r}"
    return reasons


def validation_score(probabilities: np.ndarray, labels: np.ndarray, exclusive: bool, metric_name: str) -> float:
    """One score without intervals, quick enough for every evaluation during training.

    :param probabilities: (N, K).
    :param labels: (N,) class numbers, or (N, K) of 0 and 1 for several labels per image.
    :param exclusive: whether each image has exactly one class.
    :param metric_name: one of METRIC_NAMES.
    :raises MetricError: if the name is unknown, the inputs do not fit or this split leaves the score undefined.
    """
    if metric_name not in METRIC_NAMES:
        raise MetricError(f"metric {metric_name!r} is unknown: choose one of {', '.join(METRIC_NAMES)}")
    names = [str(k) for k in range(np.shape(probabilities)[-1])]
    predictions = Predictions.check(probabilities, labels, names, exclusive)
    values, per_class = point_values(predictions)
    if np.isnan(values[metric_name]):
        reason = undefined_reasons(predictions, per_class)[metric_name]
        raise MetricError(f"{metric_name} of the validation split is {reason}. Accuracy is defined for any labels")
    return values[metric_name]


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return quotient(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def _one_hot(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if labels.shape != shape[:1] or not np.isin(labels, np.arange(shape[1])).all():
        raise MetricError(f"labels must be class numbers from 0 to {shape[1] - 1}, of shape ({shape[0]},)")
    return labels[:, None] == np.arange(shape[1])


def _summand(per_class: dict[str, np.ndarray], name: str, exclusive: bool) -> np.ndarray:
    if name != "balanced_accuracy":
        return per_class[name]
    return per_class["sensitivity"] if exclusive else (per_class["sensitivity"] + per_class["specificity"]) / 2
