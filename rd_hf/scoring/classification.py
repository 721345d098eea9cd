"""Point values of the classification metrics; users call `rd_hf.scoring.metrics`.

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

from .metric import Metric, MetricError, check_names, quotient

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
NEVER_KNOWN = "no image of the split has a known label for "


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

        :raises MetricError: if shapes or values do not fit together, or a name is there twice.
        """
        check_names(label_names)
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
    """Each class against the rest: (K,) per name, NaN where undefined."""
    whole = np.ones((1, len(predictions.truth)))
    return {name: values[0] for name, values in weighted_class_values(whole, predictions).items()}


def weighted_class_values(weights: np.ndarray, predictions: Predictions) -> dict[str, np.ndarray]:
    """What `class_values` gives, under (R, N) weights of the images: (R, K) per name, NaN where undefined.

    The values equal scikit-learn's on rows that are repeated as often as the weights say; a test holds them together.
    """
    known = predictions.known
    truth, decisions = predictions.truth.astype(np.float64), (predictions.decisions & known).astype(np.float64)
    total = weights @ known.astype(np.float64)
    hits, positives, decided = weights @ (truth * decisions), weights @ truth, weights @ decisions
    ranked = []
    for k in range(truth.shape[1]):
        rows = slice(None) if known[:, k].all() else known[:, k]
        ranked.append(
            weighted_ranking_values(weights[:, rows], predictions.probabilities[rows, k], predictions.truth[rows, k])
        )
    return {
        "sensitivity": quotient(hits, positives),
        "specificity": quotient(total - positives - decided + hits, total - positives),
        "f1": np.where(positives > 0, quotient(2 * hits, positives + decided), np.nan),
        "auroc": np.stack([area for area, _ in ranked], axis=1),
        "average_precision": np.stack([precision for _, precision in ranked], axis=1),
    }


def weighted_ranking_values(
    weights: np.ndarray, scores: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve, and average precision, under many weightings of the same images.

    :param weights: (R, N) non-negative.
    :param scores: (N,) higher meaning positive; ties count half in the area and stand together in the precision.
    :param truth: (N,) bool.
    :return: two (R,) arrays, NaN where a weighting has one class only, or there is no image.
    """
    if not len(scores):
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    ordered = weights[:, order]
    all_above = np.cumsum(ordered, axis=1)[:, ends]
    positives_above = np.cumsum(ordered * truth[order], axis=1)[:, ends]
    positives_here = np.diff(positives_above, axis=1, prepend=0)
    negatives_here = np.diff(all_above, axis=1, prepend=0) - positives_here
    positives, total = positives_above[:, -1], all_above[:, -1]
    negatives = total - positives
    area = quotient((negatives_here * (positives_above - positives_here / 2)).sum(axis=1), positives * negatives)
    precision = np.divide(positives_above, all_above, out=np.zeros_like(all_above), where=all_above > 0)
    average = quotient((positives_here * precision).sum(axis=1), positives)
    return area, np.where(negatives > 0, average, np.nan)


def label_matrices(predictions: Predictions, decided: np.ndarray) -> np.ndarray:
    """With several labels per image a 2 x 2 matrix per label, (K, 2, 2), rows being the truth, of known labels alone.

    :param decided: (N, K) bool.
    """
    known, truth = predictions.known, predictions.truth
    parts = [[known & ~truth & ~decided, known & ~truth & decided], [truth & ~decided, truth & decided]]
    return np.array([[part.sum(axis=0) for part in row] for row in parts]).transpose(2, 0, 1)


def mean_over_classes(
    per_class: dict[str, np.ndarray], whole: dict[str, np.ndarray], name: str, exclusive: bool
) -> np.ndarray:
    """The mean over classes of one of CLASS_MEANS.

    :param per_class: (..., K) per name.
    :param whole: (K,) per name: the values of the whole sample, which say which labels a mean is over.
    :return: (...) means, NaN where undefined.
    """
    values, reference = summand(per_class, name, exclusive), summand(whole, name, exclusive)
    columns = np.ones(len(reference), dtype=bool) if exclusive else ~np.isnan(reference)
    if not columns.any():
        return np.full(values.shape[:-1], np.nan)
    return values[..., columns].mean(axis=-1)


def summand(per_class: dict[str, np.ndarray], name: str, exclusive: bool) -> np.ndarray:
    """What one of CLASS_MEANS is the mean of: (..., K), NaN where undefined."""
    if name != "balanced_accuracy":
        return per_class[name]
    return per_class["sensitivity"] if exclusive else (per_class["sensitivity"] + per_class["specificity"]) / 2


def accuracy(weights: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(R,) accuracies under (R, N) weights of the images."""
    right = predictions.truth == predictions.decisions
    if not predictions.known.all():
        return quotient(weights @ (right & predictions.known).sum(axis=1), weights @ predictions.known.sum(axis=1))
    right = right.all(axis=1) if predictions.exclusive else right.mean(axis=1)
    return weights @ right.astype(np.float64) / weights.sum(axis=1)


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin (lower, upper] that each probability lies in."""
    return np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)


def expected_calibration_error(weights: np.ndarray, predictions: Predictions) -> np.ndarray:
    """(R,) expected calibration errors under (R, N) weights: sum over bins of |accuracy - confidence| times the share.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 equal bins (lower, upper].
    """
    confidence, truth = predictions.probabilities, predictions.truth
    if predictions.exclusive:
        confidence, truth = confidence.max(axis=1, keepdims=True), (truth & predictions.decisions).any(1, keepdims=True)
    bins = calibration_bins(confidence)
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
    is_known = predictions.known.any(axis=0)
    for name in CLASS_MEANS:
        missing = np.isnan(summand(per_class, name, predictions.exclusive))
        if missing.any():
            names = ", ".join(repr(predictions.label_names[k]) for k in np.flatnonzero(missing))
            if predictions.exclusive:
                only = np.isnan(per_class["specificity"])
                alone = [label for label, is_only in zip(predictions.label_names, only, strict=True) if is_only]
                found = f"only images of {alone[0]!r}" if alone else f"no image of {names}"
                reasons[name] = f"undefined: the split has {found}"
            elif not is_known.any():
                reasons[name] = "undefined: no image of the split has a known label"
            elif missing.all():
                reasons[name] = "undefined: no label has both positive and negative images in this split"
            else:
                reasons[name] = f"mean over the other labels: {_left_out(predictions, missing)}"
    for name, lacking in (("sensitivity", "with"), ("specificity", "without")):
        for k in np.flatnonzero(np.isnan(per_class[name])):
            label = predictions.label_names[k]
            found = f"the split has no image {lacking} {label!r}" if is_known[k] else NEVER_KNOWN + repr(label)
            reasons[f"{name}/{label}"] = f"undefined: {found}"
    return reasons


def _left_out(predictions: Predictions, missing: np.ndarray) -> str:
    """Why a mean leaves out some of several labels.

    :param missing: (K,) which ones.
    """
    is_known = predictions.known.any(axis=0)
    alike, unknown = (
        ", ".join(repr(predictions.label_names[k]) for k in np.flatnonzero(missing & kind))
        for kind in (is_known, ~is_known)
    )
    found = f"the split has only positive or only negative images of {alike}" if alike else ""
    return " and ".join(filter(None, [found, NEVER_KNOWN + unknown if unknown else ""]))


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
