"""The difference of two methods over the same seeds and test images, with an interval and a p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..bootstrap import PERCENTILES, resamples, weighted_class_values
from ..scores import CLASS_MEANS, SINGLE_LABEL, Predictions, accuracy, class_values, mean_over_classes

SAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """A method's mean score minus the reference's, over seeds.

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
    """Percentile bootstrap over seeds and, within them, test images.

    Both sources of chance are drawn anew in each resample: which seeds, and which images of the test split. With few
    seeds the spread over seeds is a little too small (by the factor (n - 1) / n of a variance), so p-values close to
    the threshold deserve doubt.

    :param method: what `score_resamples` gives for the method.
    :param reference: the same for the reference, of the same seeds.
    """
    differences = method - reference
    seeds = differences.shape[1]
    counts = np.random.default_rng(0).multinomial(seeds, [1 / seeds] * seeds, size=len(differences) - 1)
    draws = (counts * differences[1:]).sum(axis=1) / seeds
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    low, high = np.percentile(draws, PERCENTILES)
    return Difference(
        float(differences[0].mean()), float(low), float(high), min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    )


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
