"""Scores of masks, per image and class, and their means; users call `rd_hf.scoring.mask_metrics`.

Class 0 is the background. Every metric is of the other classes, and of the pixels that have a label. Of volumes, images
are volumes and pixels are voxels here, and distances are in millimetres.

=====================  ========================================================================================
metric                 meaning
=====================  ========================================================================================
dice, iou              mean over the images of which truth or prediction has the class, 0 where one of them lacks
                       it; as in nnU-Net. Then mean over the classes.
hd95, surface_dice     mean over the images of which both have the class; see `rd_hf.scoring.mask_rows`
pooled_dice            of all pixels of the split together
false_positive_images  of the images whose truth is background alone, the share whose prediction is not
=====================  ========================================================================================

A class's value is undefined where no image is left. The mean is over the classes that the truth of the split has, so
that it is of the same classes for every model: one invented pixel of another class would add a 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .metric import Metric, MetricError, check_names, quotient


class Measured(NamedTuple):
    """What masks are of, in words.

    :ivar image: what one mask belongs to.
    :ivar pixel: what has a class.
    :ivar unit: of distances.
    """

    image: str
    pixel: str
    unit: str


IMAGES = Measured("image", "pixel", "pixels")
VOLUMES = Measured("volume", "voxel", "mm")


def mask_metrics(measured: Measured) -> tuple[Metric, ...]:
    """The metrics of masks of images or volumes, whose titles name the unit of distances."""
    return (
        Metric("dice", "Dice"),
        Metric("iou", "IoU", hub_name="mean_iou"),
        Metric("hd95", f"HD95, {measured.unit}", higher_is_better=False),
        Metric("surface_dice", "surface Dice"),
    )


METRICS = mask_metrics(IMAGES)
IGNORED_LABEL = 255  # a pixel without a label, as in transformers' segmenters
SURFACE_TOLERANCE = 1.0  # pixels of images, millimetres of volumes
NO_DISTANCE = -1.0  # in a row, where a distance is undefined
COUNTS = ("true_positives", "false_positives", "false_negatives")
DISTANCES = ("hd95", "surface_dice")
METRIC_NAMES = tuple(metric.name for metric in METRICS)
CLASS_MEANS = (*METRIC_NAMES, "pooled_dice")


@dataclass(frozen=True)
class MaskRows:
    """Rows of N images and K classes, as `rd_hf.scoring.mask_rows` makes them.

    :param names: of the K classes.
    :param measured: whether they are images or volumes, in words.
    :ivar per_image: (N, K - 1) values of each metric, NaN where undefined.
    """

    names: tuple[str, ...]
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    hd95: np.ndarray
    surface_dice: np.ndarray
    measured: Measured = IMAGES

    @classmethod
    def of(cls, rows: np.ndarray, names: Sequence[str], measured: Measured = IMAGES) -> MaskRows:
        """Read rows (N, 3K), whose distances are undefined, or full rows (N, 5K).

        :raises MetricError: if they are of other classes, there are none or one is not finite.
        """
        check_names(names)
        rows, classes = np.asarray(rows, dtype=np.float64), len(names)
        lengths = [classes * len(COUNTS), classes * len(COUNTS + DISTANCES)]
        if rows.ndim != 2 or not len(rows) or rows.shape[1] not in lengths:
            raise MetricError(
                f"rows of masks have shape {rows.shape}; expected ({measured.image}s, {lengths[0]}) or "
                f"({measured.image}s, {lengths[1]}) for {classes} classes, and at least one {measured.image}"
            )
        if not np.isfinite(rows).all():
            first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise MetricError(f"the model's output for {measured.image} {first} is not finite (NaN or infinite)")
        blocks = list(rows.reshape(len(rows), -1, classes).swapaxes(0, 1))
        unmeasured = np.full((len(rows), classes), np.nan)
        distances = [np.where(block == NO_DISTANCE, np.nan, block) for block in blocks[len(COUNTS) :]]
        return cls(tuple(names), *blocks[: len(COUNTS)], *(distances or [unmeasured, unmeasured]), measured)

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
    def in_truth(self) -> np.ndarray:
        """(K - 1,) whether the truth of any image has the foreground class."""
        return (self.true_positives + self.false_negatives)[:, 1:].any(axis=0)

    @cached_property
    def is_empty(self) -> np.ndarray:
        """(N,) whether an image's labelled pixels are background alone."""
        in_truth = (self.true_positives + self.false_negatives) > 0
        return in_truth[:, 0] & ~in_truth[:, 1:].any(axis=1)

    @cached_property
    def has_false_positives(self) -> np.ndarray:
        """(N,) whether an image's prediction has a foreground class although its truth has none."""
        return self.is_empty & (self.false_positives[:, 1:] > 0).any(axis=1)


def class_values(weights: np.ndarray, rows: MaskRows) -> dict[str, np.ndarray]:
    """The values of each foreground class under (R, N) weights of the images: (R, K - 1) under each of CLASS_MEANS."""
    values = {}
    for name, own in rows.per_image.items():
        defined = ~np.isnan(own)
        values[name] = quotient(weights @ np.where(defined, own, 0), weights @ defined)
    agree = weights @ rows.true_positives[:, 1:]
    differ = weights @ (rows.false_positives + rows.false_negatives)[:, 1:]
    return values | {"pooled_dice": quotient(2 * agree, 2 * agree + differ)}


def mean_over_classes(values: np.ndarray, whole: np.ndarray, rows: MaskRows) -> np.ndarray:
    """The mean over the last axis of the classes that the truth has and the whole sample defines.

    :param values: (..., K - 1).
    :param whole: (K - 1,) values of the sample as it is.
    :param rows: the sample.
    :return: NaN where one of these classes is undefined, or there is none.
    """
    defined = ~np.isnan(whole) & rows.in_truth
    return values[..., defined].mean(axis=-1) if defined.any() else np.full(values.shape[:-1], np.nan)


def false_positive_images(weights: np.ndarray, rows: MaskRows) -> np.ndarray:
    """(R,) shares under (R, N) weights of the images."""
    return quotient(weights @ rows.has_false_positives.astype(float), weights @ rows.is_empty.astype(float))


def point_values(rows: MaskRows) -> dict[str, float]:
    """The value alone of each of METRICS; NaN where undefined."""
    values = class_values(np.ones((1, len(rows.true_positives))), rows)
    return {name: float(mean_over_classes(values[name][0], values[name][0], rows)) for name in METRIC_NAMES}


def undefined_reasons(rows: MaskRows, values: dict[str, np.ndarray]) -> dict[str, str]:
    """Which values are undefined or leave out a class, and why: name or name/class to a sentence."""
    reasons: dict[str, str] = {}
    image = rows.measured.image
    for name, own in values.items():
        undefined, why = np.isnan(own), "has {}, neither in the truth nor in the prediction"
        if name in DISTANCES:
            why = "has {} in both truth and prediction"
        for label in np.array(rows.names[1:])[undefined]:
            reasons[f"{name}/{label}"] = f"undefined: no {image} of the split {why.format(repr(str(label)))}"
        left_out = undefined if name in DISTANCES else ~rows.in_truth
        if left_out.any():
            listed = " or ".join(repr(str(label)) for label in np.array(rows.names[1:])[left_out])
            others = "undefined" if left_out.all() else "mean over the other classes"
            what = why.format(listed) if name in DISTANCES else f"has {listed} in its truth"
            reasons[name] = f"{others}: no {image} of the split {what}"
    if not rows.is_empty.any():
        reasons["false_positive_images"] = f"undefined: every {image} of the split has foreground in its truth"
    return reasons
