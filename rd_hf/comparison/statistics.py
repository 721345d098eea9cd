"""The difference of two methods over the same seeds and test images, with an interval and a p-value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from ..scoring import segmentation, units
from ..scoring.bootstrap import resamples, weighted_class_values
from ..scoring.classification import CLASS_MEANS, Predictions, accuracy, class_values, mean_over_classes

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


def score_resamples(
    runs: Sequence[tuple[np.ndarray, np.ndarray]], metric: str, unit_of: np.ndarray | None = None
) -> np.ndarray:
    """Scores of one method under resamples of the test images: (1 + SAMPLES, seeds), the first row of all images.

    The same images are drawn for every method and, where the seeds share a test split, for every seed.

    :param runs: of each seed, probabilities (N, K) and class numbers (N,).
    :param unit_of: what `rd_hf.scoring.units.units` gives: images of one group are drawn together, not stratified. A
        class that a resample lacks keeps its value of all images there. None where each image is its own.
    """
    has_groups = unit_of is not None and unit_of.max() + 1 < len(unit_of)
    columns = []
    for probabilities, labels in runs:
        names = [str(k) for k in range(probabilities.shape[1])]
        predictions = Predictions.check(probabilities, labels, names, exclusive=True)
        whole = class_values(predictions)
        every = np.ones((1, len(labels)))
        drawn = units.resamples(unit_of, SAMPLES, seed=0) if has_groups else resamples(predictions, SAMPLES, seed=0)
        blocks = [every, *drawn]
        columns.append(np.concatenate([_scores(weights, predictions, whole, metric) for weights in blocks]))
    return np.stack(columns, axis=1)


def mask_score_resamples(rows: np.ndarray, unit_of: np.ndarray, names: Sequence[str], metric: str) -> np.ndarray:
    """`score_resamples` of masks, of one seed: (1 + SAMPLES, 1).

    A class that no image of a resample defines keeps its value of all images there.

    :param rows: of the test images, (N, S), as `rd_hf.tasks.segmentation.Segmentation` makes them.
    :param unit_of: what `rd_hf.scoring.units.units` gives: images of one group are drawn together.
    :param names: of the K classes.
    """
    read = segmentation.MaskRows.of(rows, names)
    every = np.ones((1, len(rows)))
    whole = segmentation.class_values(every, read)[metric][0]
    blocks = [every, *units.resamples(unit_of, SAMPLES, seed=0)]
    values = np.concatenate([segmentation.class_values(weights, read)[metric] for weights in blocks])
    return segmentation.mean_over_classes(np.where(np.isnan(values), whole, values), whole)[:, None]


def paired_differences(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Difference]:
    """Mean differences over seeds, with intervals that cover the spread of both seeds and test images.

    The variance of a mean difference has two parts: the variance of the seeds' differences, divided by their number n,
    and the variance of the mean under resamples of the images. A few seeds that happen to agree would make the first
    part far too small. The variance of the seeds is therefore at least its mean over all pairs of this call, and
    Student's degrees of freedom are those of all pairs together. The seeds' differences also contain some of the
    images' spread, which therefore counts twice.

    Simulations had 2 to 5 seeds, an image spread of at least .3 of the seed spread, and 1 to 56 equal methods whose
    spreads differed by up to a factor of three. At a level of .05 with Holm's correction, at most .07 of the tables
    (mostly fewer) had a significant difference. If the reference alone had the threefold spread, which enters every
    pair, it was .13 (2 seeds), .09 (3) and .06 (5). With one seed there is no interval, since nothing is known about
    the spread of seeds.

    :param pairs: what `score_resamples` gives for a method and for the reference, of the same seeds.
    :return: NaN where there is one seed, or a score that the test split does not define.
    """
    all_differences = [method - reference for method, reference in pairs]
    usable = [own for own in all_differences if own.shape[1] > 1 and not np.isnan(own).any()]
    freedom = sum(own.shape[1] - 1 for own in usable)
    pooled = sum((own.shape[1] - 1) * own[0].var(ddof=1) for own in usable) / max(freedom, 1)
    return [_difference(own, pooled, freedom) for own in all_differences]


def _difference(differences: np.ndarray, pooled: float, freedom: int) -> Difference:
    seeds, mean = differences.shape[1], float(differences[0].mean())
    if seeds < 2 or np.isnan(differences).any():
        return Difference(mean, np.nan, np.nan, np.nan)
    of_seeds = max(differences[0].var(ddof=1), pooled) / seeds
    return _tested(mean, (of_seeds + differences[1:].mean(axis=1).var(ddof=1)) ** 0.5, freedom)


def _tested(mean: float, deviation: float, freedom: int) -> Difference:
    if deviation == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    distance = t.ppf(0.975, freedom) * deviation
    return Difference(mean, mean - distance, mean + distance, 2 * float(t.sf(abs(mean) / deviation, freedom)))


def difference_over_cells(blocks: Sequence[Sequence[np.ndarray]]) -> Difference:
    """The mean difference over all cells of a comparison: a cell is a data set with a number of labels.

    A data set is a block. Its cells share the test images, and with one seed the labels of one cell are often among
    those of the next. So a seed's differences are averaged over the cells of a block first, and the variance of these
    means is divided by the number of seeds. To it comes the variance under resamples of the images, as in
    `paired_differences`. Blocks are independent of each other, and count by their cells.

    Simulations of equal methods had 1 to 4 blocks of 1 to 3 cells, 2 to 8 seeds, and seed and image spreads that
    differed threefold between blocks. At a level of .05, at most .04 of them had a significant difference, and with 2
    seeds .005.

    :param blocks: per data set and cell the differences from the reference, (1 + SAMPLES, seeds), with the seeds of a
        block in the same order; see `score_resamples`.
    :return: NaN for interval and p-value where a block has one seed.
    """
    cells = sum(map(len, blocks))
    mean, variance, freedom = 0.0, 0.0, 0
    for block in blocks:
        share, of_seeds = len(block) / cells, np.mean(block, axis=0)
        seeds = of_seeds.shape[1]
        mean += share * float(of_seeds[0].mean())
        spread = of_seeds[0].var(ddof=1) if seeds > 1 else np.nan
        variance += share**2 * (spread / seeds + of_seeds[1:].mean(axis=1).var(ddof=1))
        freedom += seeds - 1
    if np.isnan(variance):
        return Difference(mean, np.nan, np.nan, np.nan)
    return _tested(mean, variance**0.5, freedom)


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
    values = weighted_class_values(weights, predictions)
    values = {name: np.where(np.isnan(own), whole[name], own) for name, own in values.items()}
    return mean_over_classes(values, whole, metric, predictions.exclusive)
