"""The difference of two methods over the same seeds and test images, with an interval and a p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ..bootstrap import resamples, weighted_class_values
from ..scores import CLASS_MEANS, SINGLE_LABEL, Predictions, accuracy, class_values, mean_over_classes

SAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A method's mean score minus the reference's, over seeds, with its 95 % interval.

    :ivar p_value: two-sided, uncorrected.
    """

    mean: float
    low: float
    high: float
    p_value: float


def score_resamples(runs: Sequence[tuple[np.ndarray, np.ndarray]], metric: str) -> np.ndarray:
    """Scores of one method under resamples of the test images: (1 + SAMPLES, seeds), the first row of all images.

    The same images are drawn for every method and, where the seeds share a test split, for every seed.

    :param runs: of each seed, probabilities (N, K) and class numbers (N,).
    """
    columns = []
    for probabilities, labels in runs:
        names = [str(k) for k in range(probabilities.shape[1])]
        predictions = Predictions.check(probabilities, labels, names, SINGLE_LABEL)
        whole = class_values(predictions)
        every = np.ones((1, len(labels)))
        blocks = [every, *resamples(predictions, SAMPLES, seed=0)]
        columns.append(np.concatenate([_scores(weights, predictions, whole, metric) for weights in blocks]))
    return np.stack(columns, axis=1)


def paired_difference(method: np.ndarray, reference: np.ndarray) -> Difference:
    """The mean difference over seeds, with what both sources of chance do to it: the seed and the test images.

    Its variance is that of the seeds' differences, over their number n, plus that of the mean under resamples of the
    images. Interval and p-value are Student's, with the degrees of freedom of such a sum (Satterthwaite 1946; those of
    the images' part are taken as endless): n - 1 where seeds decide, many where images do. The seeds' differences hold
    a part of the images' chance too, which so counts twice. Of equal methods it calls .05 to .08 different at a level
    of .05 (simulated, 3 and 5 seeds). One seed tells nothing of seeds, so there is no interval then.

    :param method: what `score_resamples` gives for the method.
    :param reference: the same for the reference, of the same seeds.
    :return: NaN where there is one seed, or a score that the test split does not define.
    """
    differences = method - reference
    seeds, mean = differences.shape[1], float(differences[0].mean())
    if seeds < 2 or np.isnan(differences).any():
        return Difference(mean, np.nan, np.nan, np.nan)
    of_seeds = differences[0].var(ddof=1) / seeds
    variance = of_seeds + differences[1:].mean(axis=1).var(ddof=1)
    if variance == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    freedom = (seeds - 1) * (variance / of_seeds) ** 2 if of_seeds else np.inf
    distance = t.ppf(0.975, freedom) * variance**0.5
    p_value = 2 * float(t.sf(abs(mean) / variance**0.5, freedom))
    return Difference(mean, mean - distance, mean + distance, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _scores(weights: np.ndarray, predictions: Predictions, whole: dict, metric: str) -> np.ndarray:
    if metric == "accuracy":
        return accuracy(weights, predictions)
    assert metric in CLASS_MEANS
    return mean_over_classes(weighted_class_values(weights, predictions), whole, metric, predictions.exclusive)
