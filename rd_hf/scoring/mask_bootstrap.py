"""95 % percentile bootstrap intervals of the scores of masks, over images or over groups of images.

A resample is a row of weights, how often each image was drawn, so all scores of a block of resamples are a few matrix
products. Images of one group, such as a patient, are drawn together, because they resemble each other. A resample in
which a value is undefined is left out of that value's interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .bootstrap import BLOCK_ELEMENTS, interval
from .metric import MetricError
from .segmentation import CLASS_MEANS, MaskRows, class_values, false_positive_images, mean_over_classes


def intervals(rows: MaskRows, whole: dict[str, np.ndarray], samples: int, seed: int, groups: Sequence | None) -> dict:
    """Intervals of every score.

    :param whole: values of each class of the sample as it is, under each of CLASS_MEANS.
    :param samples: number of resamples.
    :param seed: of the resampling; the same seed gives the same intervals, to the bit.
    :param groups: of the images; None if each is its own.
    :return: [low, high] under each of CLASS_MEANS and `false_positive_images`, and {class: [low, high]} under
        "dice_per_class" and so on; None where the value itself, or more than half of its resamples, is undefined.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in (*CLASS_MEANS, "false_positive_images")}
    draws |= {f"{name}_per_class": [] for name in CLASS_MEANS}
    for weights in resamples(len(rows.true_positives), samples, seed, groups):
        for name, values in class_values(weights, rows).items():
            draws[name].append(mean_over_classes(values, whole[name]))
            draws[f"{name}_per_class"].append(values)
        draws["false_positive_images"].append(false_positive_images(weights, rows))
    joined = {name: np.concatenate(blocks) for name, blocks in draws.items()}
    return {
        name: interval(values)
        if values.ndim == 1
        else {label: interval(values[:, k]) for k, label in enumerate(rows.names[1:])}
        for name, values in joined.items()
    }


def resamples(count: int, samples: int, seed: int, groups: Sequence | None) -> Iterator[np.ndarray]:
    """Blocks of (R, N) weights, `samples` rows in all: how often each of `count` images is in the resample.

    :raises MetricError: if there is not a group for each image.
    """
    if groups is not None and len(groups) != count:
        raise MetricError(f"there are {len(groups)} groups for {count} images; each image needs its own")
    number_of = np.arange(count) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    drawn_from = int(number_of.max()) + 1
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // count)
    for first in range(0, samples, block):
        size = min(block, samples - first)
        drawn = generator.integers(drawn_from, size=(size, drawn_from)) + np.arange(size)[:, None] * drawn_from
        weights = np.bincount(drawn.ravel(), minlength=size * drawn_from).reshape(size, drawn_from)
        yield weights[:, number_of].astype(np.float64)
