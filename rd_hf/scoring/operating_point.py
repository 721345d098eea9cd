"""Chooses the probability from which on a class is answered, decides by it, and says how well that does.

A rule names what a threshold must reach on the images that it is chosen on (validation):

=================  =================================================================================================
rule               threshold
=================  =================================================================================================
sensitivity=0.95   the one with the highest specificity among those with a sensitivity of at least 0.95
specificity=0.9    the one with the highest sensitivity among those with a specificity of at least 0.9
youden             the one with the largest sensitivity + specificity - 1 (Youden 1950)
=================  =================================================================================================

Of equals it is the most sensitive one. It lies half way between the lowest probability that is answered with the class
and the next lower one, so that a difference in the last digits, as between two libraries, changes no decision on these
images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .metric import MetricError

MEASURES = ("sensitivity", "specificity", "ppv", "npv")
CONFIDENCE = 0.95
HALF = 0.5  # from which on one of several labels is answered, where an operating point has no threshold of it


def choose_threshold(probabilities: np.ndarray, truth: np.ndarray, rule: str) -> float:
    """The threshold that a rule asks for; a class is answered where its probability is at least that.

    :param probabilities: (N,) of the class.
    :param truth: (N,) bool, whether an image has it.
    :param rule: see the module.
    :raises MetricError: where there are no images with or without the class, or no threshold that meets the rule tells
        images apart: it would answer all of them, or none, with the class.
    """
    from sklearn.metrics import roc_curve

    truth = np.asarray(truth, dtype=bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        raise MetricError(f"there is no image {'with' if not positives else 'without'} it")
    false, true, thresholds = roc_curve(truth, probabilities, drop_intermediate=False)
    hits, alarms = np.rint(true * positives), np.rint(false * negatives)
    sensitivity, specificity = hits / positives, (negatives - alarms) / negatives
    name, _, least = rule.partition("=")
    if name == "youden":
        allowed, gain = np.ones(len(thresholds), dtype=bool), sensitivity + specificity
    elif name == "sensitivity":
        allowed, gain = sensitivity >= float(least), specificity
    else:
        allowed, gain = specificity >= float(least), sensitivity
    allowed &= (sensitivity > 0) & (specificity > 0) & (sensitivity + specificity > 1)
    if not allowed.any():
        raise MetricError("no threshold meets it and finds the class better than chance")
    best = np.flatnonzero(allowed & (gain >= gain[allowed].max() - 1e-12))
    chosen = best[sensitivity[best].argmax()]  # the strictest of those with the highest sensitivity
    return _half_way(float(thresholds[chosen]), float(thresholds[chosen + 1]))


def _half_way(threshold: float, lower: float) -> float:
    """Between two probabilities, and above the lower one."""
    middle = (threshold + lower) / 2
    return middle if middle > lower else threshold


def margins(probabilities: np.ndarray, names: Sequence[str], point: Mapping[str, Any] | None) -> np.ndarray:
    """How far each label's probability lies from where its answer changes, (N, K); with several labels per image.

    :param probabilities: (N, K), uncalibrated.
    :param point: an operating point; a label without a threshold is answered from 0.5 on.
    """
    thresholds = {} if point is None else point["thresholds"]
    return np.abs(probabilities - np.array([thresholds.get(name, HALF) for name in names]))


def decisions(
    probabilities: np.ndarray, names: Sequence[str], exclusive: bool, point: Mapping[str, Any] | None
) -> np.ndarray:
    """What a model answers: (N,) class numbers, or (N, K) bool with several labels per image.

    With one label per image an operating point has a threshold of one label: it is answered from there on, and else the
    likeliest of the others. Without one the likeliest is answered, and of several labels those from 0.5 on.

    :param probabilities: (N, K), uncalibrated.
    :param exclusive: whether each image has one label.
    :param point: `thresholds` by label name; None for none.
    """
    thresholds = {} if point is None else point["thresholds"]
    if not exclusive:
        return probabilities >= np.array([thresholds.get(name, HALF) for name in names])
    if not thresholds:
        return probabilities.argmax(axis=1)
    name, threshold = next(iter(thresholds.items()))
    label = list(names).index(name)
    others = np.where(np.arange(len(names)) == label, -np.inf, probabilities).argmax(axis=1)
    return np.where(probabilities[:, label] >= threshold, label, others)


def values_at(answered: np.ndarray, truth: np.ndarray) -> dict[str, dict]:
    """Sensitivity, specificity and predictive values of decisions about one class, at the prevalence of these images.

    :param answered: (N,) bool, whether an image was answered with the class.
    :param truth: (N,) bool, whether it has it.
    :return: under each of MEASURES `value`, `interval` (see `wilson`) and `count` [k, n], value being k / n; value and
        interval are None where n is 0.
    """
    answered, truth = np.asarray(answered, dtype=bool), np.asarray(truth, dtype=bool)
    hits, rejections = int((answered & truth).sum()), int((~answered & ~truth).sum())
    wholes = (truth.sum(), (~truth).sum(), answered.sum(), (~answered).sum())
    counts = zip((hits, rejections, hits, rejections), map(int, wholes), strict=True)
    return {name: _share(*count) for name, count in zip(MEASURES, counts, strict=True)}


def _share(part: int, whole: int) -> dict:
    return {
        "value": part / whole if whole else None,
        "interval": wilson(part, whole) if whole else None,
        "count": [part, whole],
    }


def wilson(part: int, whole: int) -> list[float]:
    """95 % score interval of a share (Wilson 1927, J. Am. Stat. Assoc. 22, 209), by scipy, without its continuity term.

    :param part: of `whole` images.
    :param whole: at least 1.
    """
    from scipy.stats import binomtest

    found = binomtest(part, whole).proportion_ci(CONFIDENCE, method="wilson")
    return [float(found.low), float(found.high)]
