"""Scores masks: `segmentation_scores` for a report with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .mask_bootstrap import intervals
from .metric import MetricError, defined_or_none
from .segmentation import (
    SURFACE_TOLERANCE,
    MaskRows,
    class_values,
    false_positive_images,
    mean_over_classes,
    undefined_reasons,
)
from .units import units


def segmentation_scores(
    rows: MaskRows, bootstrap_samples: int = 1000, seed: int = 0, groups: Sequence | None = None
) -> dict[str, Any]:
    """Score the masks of a split.

    :param rows: of its images.
    :param bootstrap_samples: resamples behind the 95 % percentile intervals; 0 for none (`intervals` is then empty).
    :param seed: of the resampling.
    :param groups: of the images, such as their patients, which resamples draw together; by default, and where one is
        None, an image is its own.
    :return: plain Python values, ready for JSON: dice, iou, hd95, surface_dice, pooled_dice (means over the foreground
        classes that the truth has) and false_positive_images; the first five by class under "dice_per_class" and so on;
        images, {class: {"in_truth", "in_prediction", "scored", "left_out", "in_both"}}, of which Dice and IoU are means
        over the scored and distances over those in both; surface_tolerance and its unit, "pixels" of images or "mm" of
        volumes; intervals, {name: [low, high]} and {class: [low, high]}; groups, the number that intervals drew from,
        None without any. A value that the split leaves undefined is None, and so is its interval; `undefined` says why,
        {name or "name/class": sentence}, and which classes a mean leaves out.
    :raises MetricError: if the number of resamples is negative or there is not a group for each image.
    """
    if bootstrap_samples < 0:
        raise MetricError(
            f"bootstrap_samples is {bootstrap_samples}; it must be a positive number, or 0 for no intervals"
        )
    everything = np.ones((1, len(rows.true_positives)))
    values = {name: own[0] for name, own in class_values(everything, rows).items()}
    names = rows.names[1:]
    result: dict[str, Any] = {n: defined_or_none(mean_over_classes(own, own, rows)) for n, own in values.items()}
    result["false_positive_images"] = defined_or_none(false_positive_images(everything, rows)[0])
    for name, own in values.items():
        result[f"{name}_per_class"] = dict(zip(names, map(defined_or_none, own), strict=True))
    result["images"] = _images(rows)
    result |= {"surface_tolerance": SURFACE_TOLERANCE, "unit": rows.measured.unit}
    unit_of = units(len(rows.true_positives), groups)
    result["intervals"] = intervals(rows, values, bootstrap_samples, seed, unit_of) if bootstrap_samples else {}
    result["groups"] = None if groups is None else int(unit_of.max()) + 1
    result["undefined"] = undefined_reasons(rows, values)
    return result


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
