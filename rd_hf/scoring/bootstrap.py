"""95 % percentile bootstrap intervals of the classification metrics, over images.

A resample is a row of weights, how often each image was drawn, so all metrics of a block of resamples are a few matrix
products, and AUROC and average precision a few cumulative sums over images sorted once. The weighted values equal
scikit-learn's on the resampled rows; a test holds them together.

With one label per image the resampling is stratified: each class keeps its number of images, as in the split (the
default of pROC, Robin et al. 2011). So no resample loses a rare class, and the interval is one for this prevalence.
With several labels per image there are no such strata: rows are drawn from all, and a resample in which a value is
undefined is left out of that value's interval. Groups of several images, such as patients, are drawn as wholes, from
all groups: their images resemble each other, so that an interval over images would be too narrow.

The expected calibration error of a resample is larger on average than that of the sample (repeated images look
overconfident), so its interval lies high, and may lie wholly above the point value on small splits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .classification import (
    CLASS_MEANS,
    METRIC_NAMES,
    Predictions,
    accuracy,
    expected_calibration_error,
    mean_over_classes,
)
from .metric import quotient
from .units import BLOCK_ELEMENTS
from .units import resamples as resamples_of_units

PERCENTILES = (2.5, 97.5)
FEWEST_FOR_INTERVAL = 5  # images, or groups of them; the interval of fewer would look exact


def intervals(
    predictions: Predictions, whole: dict[str, np.ndarray], samples: int, seed: int, unit_of: np.ndarray | None = None
) -> dict:
    """Intervals of every metric.

    :param whole: what `class_values` gives of the sample as it is.
    :param samples: number of resamples.
    :param seed: of the resampling; the same seed gives the same intervals, to the bit.
    :param unit_of: what `rd_hf.scoring.units.units` gives of groups of several images; None where there are none.
    :return: [low, high] under each of METRIC_NAMES, and {class: [low, high]} under `sensitivity` and `specificity`;
        None where the value itself, or more than half of its resamples, is undefined, and for fewer than
        FEWEST_FOR_INTERVAL images or groups.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in (*METRIC_NAMES, "sensitivity", "specificity")}
    drawn = resamples(predictions, samples, seed) if unit_of is None else resamples_of_units(unit_of, samples, seed)
    for weights in drawn:
        values = weighted_class_values(weights, predictions)
        for name in CLASS_MEANS:
            draws[name].append(mean_over_classes(values, whole, name, predictions.exclusive))
        draws["accuracy"].append(accuracy(weights, predictions))
        draws["expected_calibration_error"].append(expected_calibration_error(weights, predictions))
        for name in ("sensitivity", "specificity"):
            draws[name].append(values[name])
    joined = {name: np.concatenate(blocks) for name, blocks in draws.items()}
    count = len(predictions.truth) if unit_of is None else int(unit_of.max()) + 1
    found: dict = {name: interval(joined[name], count) for name in METRIC_NAMES}
    for name in ("sensitivity", "specificity"):
        found[name] = {label: interval(joined[name][:, k], count) for k, label in enumerate(predictions.label_names)}
    return found


def resamples(predictions: Predictions, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (R, N) weights, `samples` rows in all: how often each image is in the resample."""
    count = len(predictions.truth)
    strata = predictions.truth.argmax(axis=1) if predictions.exclusive else np.zeros(count, dtype=int)
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)[strata[order]]
    starts = np.searchsorted(strata[order], strata[order])
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // count)
    for first in range(0, samples, block):
        rows = min(block, samples - first)
        drawn = order[starts + (generator.random((rows, count)) * sizes).astype(int)]
        flat = drawn + np.arange(rows)[:, None] * count
        yield np.bincount(flat.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def weighted_class_values(weights: np.ndarray, predictions: Predictions) -> dict[str, np.ndarray]:
    """What `class_values` gives, under (R, N) weights of the images: (R, K) per name, NaN where undefined."""
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


def interval(values: np.ndarray, count: int) -> list[float] | None:
    """The percentiles of the resamples that define a value; None where fewer than half do.

    :param count: images, or groups of them, that are drawn from; None is returned below FEWEST_FOR_INTERVAL too.
    """
    defined = values[~np.isnan(values)]
    if count < FEWEST_FOR_INTERVAL or len(defined) * 2 < len(values):
        return None
    return [float(bound) for bound in np.percentile(defined, PERCENTILES)]
