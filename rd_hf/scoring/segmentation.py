"""Scores of masks, per image and class, and their means; users call `segmentation_scores`.

Class 0 is the background. Every metric is of the other classes, and of the pixels that have a label:

=====================  ========================================================================================
metric                 meaning
=====================  ========================================================================================
dice, iou              mean over the images of which truth or prediction has the class, 0 where one of them lacks
                       it; as in nnU-Net. Then mean over the classes.
hd95, surface_dice     mean over the images of which both have the class; see `rd_hf.scoring.mask_rows`
pooled_dice            of all pixels of the split together
false_positive_images  of the images whose truth is background alone, the share whose prediction is not
=====================  ========================================================================================

A class's value is undefined where no image is left, and the mean is then over the other classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .mask_rows import COUNTS, DISTANCES, SURFACE_TOLERANCE
from .metric import Metric, MetricError

METRICS = (
    Metric("dice", "Dice"),
    Metric("iou", "IoU", hub_name="mean_iou"),
    Metric("hd95", "HD95, pixels", higher_is_better=False),
    Metric("surface_dice", "surface Dice"),
)
METRIC_NAMES = tuple(metric.name for metric in METRICS)
CLASS_MEANS = (*METRIC_NAMES, "pooled_dice")


@dataclass(frozen=True)
class MaskRows:
    """Rows of N images and K classes, as `rd_hf.scoring.mask_rows` makes them.

    :param names: of the K classes.
    :ivar per_image: (N, K - 1) values of each metric, NaN where undefined.
    """

    names: tuple[str, ...]
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    hd95: np.ndarray
    surface_dice: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, names: Sequence[str]) -> MaskRows:
        """Read rows (N, 3K), whose distances are undefined, or full rows (N, 5K).

        :raises MetricError: if they are of other classes, there are none or one is not finite.
        """
        rows, classes = np.asarray(rows, dtype=np.float64), len(names)
        lengths = [classes * len(COUNTS), classes * len(COUNTS + DISTANCES)]
        if rows.ndim != 2 or not len(rows) or rows.shape[1] not in lengths:
            raise MetricError(
                f"rows of masks have shape {rows.shape}; expected (images, {lengths[0]}) or (images, {lengths[1]}) for "
                f"{classes} classes, and at least one image"
            )
        if not np.isfinite(rows).all():
            first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise MetricError(f"the model's output for image {first} is not finite (NaN or infinite)")
        blocks = list(rows.reshape(len(rows), -1, classes).swapaxes(0, 1))
        unmeasured = np.full((len(rows), classes), np.nan)
        distances = [np.where(block < 0, np.nan, block) for block in blocks[len(COUNTS) :]]
        return cls(tuple(names), *blocks[: len(COUNTS)], *(distances or [unmeasured, unmeasured]))

    @cached_property
    def per_image(self) -> dict[str, np.ndarray]:
        """The values of each image and foreground class."""
        agree, differ = self.true_positives, self.false_positives + self.false_negatives
        values = {
            "dice": quotient(2 * agree, 2 * agree + differ),
            "iou": quotient(agree, agree + differ),
            "hd95": self.hd95,
            "surface_dice": self.surface_dice,
        }
        return {name: value[:, 1:] for name, value in values.items()}

    @cached_property
    def is_empty(self) -> np.ndarray:
        """(N,) whether an image's labelled pixels are background alone."""
        in_truth = (self.true_positives + self.false_negatives) > 0
        return in_truth[:, 0] & ~in_truth[:, 1:].any(axis=1)

    @cached_property
    def has_false_positives(self) -> np.ndarray:
        """(N,) whether an image's prediction has a foreground class although its truth has none."""
        return self.is_empty & (self.false_positives[:, 1:] > 0).any(axis=1)


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def class_values(weights: np.ndarray, rows: MaskRows) -> dict[str, np.ndarray]:
    """The values of each foreground class under (R, N) weights of the images: (R, K - 1) under each of CLASS_MEANS."""
    values = {}
    for name, own in rows.per_image.items():
        defined = ~np.isnan(own)
        values[name] = quotient(weights @ np.where(defined, own, 0), weights @ defined)
    agree = weights @ rows.true_positives[:, 1:]
    differ = weights @ (rows.false_positives + rows.false_negatives)[:, 1:]
    return values | {"pooled_dice": quotient(2 * agree, 2 * agree + differ)}


def mean_over_classes(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The mean over the last axis of the classes that the whole sample defines; NaN where one of them is undefined.

    :param values: (..., K - 1).
    :param whole: (K - 1,) values of the sample as it is.
    """
    defined = ~np.isnan(whole)
    return values[..., defined].mean(axis=-1) if defined.any() else np.full(values.shape[:-1], np.nan)


def false_positive_images(weights: np.ndarray, rows: MaskRows) -> np.ndarray:
    """(R,) shares under (R, N) weights of the images."""
    return quotient(weights @ rows.has_false_positives.astype(float), weights @ rows.is_empty.astype(float))


def point_values(rows: MaskRows) -> dict[str, float]:
    """The value alone of each of METRICS; NaN where undefined."""
    values = class_values(np.ones((1, len(rows.true_positives))), rows)
    return {name: float(mean_over_classes(values[name][0], values[name][0])) for name in METRIC_NAMES}


def segmentation_scores(
    rows: MaskRows, bootstrap_samples: int = 1000, seed: int = 0, groups: Sequence | None = None
) -> dict[str, Any]:
    """Score the masks of a split.

    :param rows: of its images.
    :param bootstrap_samples: resamples behind the 95 % percentile intervals; 0 for none (`intervals` is then empty).
    :param seed: of the resampling.
    :param groups: of the images, such as their patients, which resamples draw together; by default each is its own.
    :return: plain Python values, ready for JSON: dice, iou, hd95, surface_dice, pooled_dice (means over the foreground
        classes) and false_positive_images; the first five by class under "dice_per_class" and so on; images, {class:
        {"in_truth", "in_prediction", "scored", "left_out", "in_both"}}, of which Dice and IoU are means over the scored
        and distances over those in both; surface_tolerance in pixels; intervals, {name: [low, high]} and {class: [low,
        high]}. A value that the split leaves undefined is None, and so is its interval; `undefined` says why, {name or
        "name/class": sentence}, and which classes a mean leaves out.
    :raises MetricError: if the number of resamples is negative or there is not a group for each image.
    """
    from .mask_bootstrap import intervals

    if bootstrap_samples < 0:
        raise MetricError(
            f"bootstrap_samples is {bootstrap_samples}; it must be a positive number, or 0 for no intervals"
        )
    everything = np.ones((1, len(rows.true_positives)))
    values = {name: own[0] for name, own in class_values(everything, rows).items()}
    names = rows.names[1:]
    result: dict[str, Any] = {name: _number(mean_over_classes(own, own)) for name, own in values.items()}
    result["false_positive_images"] = _number(false_positive_images(everything, rows)[0])
    for name, own in values.items():
        result[f"{name}_per_class"] = dict(zip(names, map(_number, own), strict=True))
    result["images"] = _images(rows)
    result["surface_tolerance"] = SURFACE_TOLERANCE
    result["intervals"] = intervals(rows, values, bootstrap_samples, seed, groups) if bootstrap_samples else {}
    result["undefined"] = undefined_reasons(rows, values)
    return result


def undefined_reasons(rows: MaskRows, values: dict[str, np.ndarray]) -> dict[str, str]:
    """Which values are undefined or leave out a class, and why: name or name/class to a sentence."""
    reasons: dict[str, str] = {}
    for name, own in values.items():
        missing = [label for label, value in zip(rows.names[1:], own, strict=True) if np.isnan(value)]
        if not missing:
            continue
        why = "has {}, neither in the truth nor in the prediction"
        if name in DISTANCES:
            why = "has {} in both truth and prediction"
        listed = " or ".join(map(repr, missing))
        others = "undefined" if len(missing) == len(own) else "mean over the other classes"
        reasons[name] = f"{others}: no image of the split {why.format(listed)}"
        for label in missing:
            reasons[f"{name}/{label}"] = f"undefined: no image of the split {why.format(repr(label))}"
    if not rows.is_empty.any():
        reasons["false_positive_images"] = "undefined: every image of the split has foreground in its truth"
    return reasons


def _images(rows: MaskRows) -> dict[str, dict[str, int]]:
    """How many images each class's means are over."""
    in_truth = (rows.true_positives + rows.false_negatives)[:, 1:] > 0
    in_prediction = (rows.true_positives + rows.false_positives)[:, 1:] > 0
    counted = {
        "in_truth": in_truth,
        "in_prediction": in_prediction,
        "scored": in_truth | in_prediction,
        "left_out": ~(in_truth | in_prediction),
        "in_both": in_truth & in_prediction,
    }
    return {
        name: {kind: int(of_images[:, k].sum()) for kind, of_images in counted.items()}
        for k, name in enumerate(rows.names[1:])
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
