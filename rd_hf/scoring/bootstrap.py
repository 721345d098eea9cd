"""95 % percentile bootstrap intervals of the classification metrics, over images.

A resample is a row of weights, how often each image was drawn, so all metrics of a block of resamples are a few matrix
products, and AUROC and average precision a few cumulative sums over images sorted once.

With one label per image the resampling is stratified: each class keeps its number of images, as in the split (the
default of pROC, Robin et al. 2011). So no resample loses a rare class, and the interval is one for this prevalence.
With several labels per image there are no such strata: rows are drawn from all, and a resample in which a value is
undefined is left out of that value's interval. Groups of several images, such as patients, are drawn as wholes, from
all groups: their images resemble each other, so that an interval over images would be too narrow.

Sensitivity and specificity are shares of images. Where no images are drawn together they have Wilson's interval,
because resamples of images that are all right, or all wrong, do not vary.

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
    summand,
    weighted_class_values,
)
from .operating_point import wilson
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
        None where the value itself, or more than half of its resamples, is undefined; for fewer than
        FEWEST_FOR_INTERVAL images or groups, of sensitivity with the class and of specificity without it; and of a mean
        over classes where half of them or more have fewer with or without the class.
    """
    shares = () if unit_of is None else ("sensitivity", "specificity")
    draws: dict[str, list[np.ndarray]] = {name: [] for name in (*METRIC_NAMES, *shares)}
    drawn = resamples(predictions, samples, seed) if unit_of is None else resamples_of_units(unit_of, samples, seed)
    for weights in drawn:
        values = weighted_class_values(weights, predictions)
        for name in CLASS_MEANS:
            draws[name].append(mean_over_classes(values, whole, name, predictions.exclusive))
        draws["accuracy"].append(accuracy(weights, predictions))
        draws["expected_calibration_error"].append(expected_calibration_error(weights, predictions))
        for name in shares:
            draws[name].append(values[name])
    joined = {name: np.concatenate(blocks) for name, blocks in draws.items()}
    unit_of = np.arange(len(predictions.truth)) if unit_of is None else unit_of
    with_class = units_with(predictions.truth, unit_of)
    without = units_with(predictions.known & ~predictions.truth, unit_of)
    count = {name: int(unit_of.max()) + 1 for name in METRIC_NAMES}
    for name in CLASS_MEANS:
        averaged = ~np.isnan(summand(whole, name, predictions.exclusive))
        count[name] = most_have(np.minimum(with_class, without)[averaged])
    found: dict = {name: interval(joined[name], count[name]) for name in METRIC_NAMES}
    for name, counts in (("sensitivity", with_class), ("specificity", without)):
        found[name] = {
            label: interval(joined[name][:, k], counts[k]) if shares else _of_share(whole[name][k], int(counts[k]))
            for k, label in enumerate(predictions.label_names)
        }
    return found


def _of_share(value: float, images: int) -> list[float] | None:
    """Wilson's interval of a share of images; None for fewer than FEWEST_FOR_INTERVAL."""
    return wilson(round(value * images), images) if images >= FEWEST_FOR_INTERVAL else None


def units_with(marks: np.ndarray, unit_of: np.ndarray) -> np.ndarray:
    """(K,) of how many images, or groups, at least one image is marked; marks are (N, K)."""
    return np.array([len(np.unique(unit_of[column])) for column in marks.T])


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


def most_have(counts: np.ndarray) -> int:
    """The number that more than half of the classes have at least, of the images that each has; 0 of none."""
    return int(np.sort(counts)[(len(counts) - 1) // 2]) if len(counts) else 0


def interval(values: np.ndarray, count: int) -> list[float] | None:
    """The percentiles of the resamples that define a value; None where fewer than half do.

    :param count: images, or groups of them, that are drawn from; None is returned below FEWEST_FOR_INTERVAL too.
    """
    defined = values[~np.isnan(values)]
    if count < FEWEST_FOR_INTERVAL or len(defined) * 2 < len(values):
        return None
    return [float(bound) for bound in np.percentile(defined, PERCENTILES)]
