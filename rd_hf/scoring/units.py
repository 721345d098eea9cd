"""What a bootstrap draws together: an image, or all images of a group, such as a patient, which resemble each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .metric import MetricError

BLOCK_ELEMENTS = 500_000


def units(count: int, groups: Sequence | None) -> np.ndarray:
    """(count,) the number of what each image is drawn with: its group, or itself where it has none.

    :param groups: of the images, None for one without; or None if no image has one.
    :raises MetricError: if there is not a group for each image.
    """
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise MetricError(f"there are {len(groups)} groups for {count} images; each image needs its own")
    keys = [("image", row) if group is None else ("group", group) for row, group in enumerate(groups)]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([number_of[key] for key in keys])


def resamples(unit_of: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (R, N) weights, `samples` rows in all: how often each of N images is in the resample.

    :param unit_of: what `units` gives.
    """
    drawn_from = int(unit_of.max()) + 1
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // len(unit_of))
    for first in range(0, samples, block):
        size = min(block, samples - first)
        drawn = generator.integers(drawn_from, size=(size, drawn_from)) + np.arange(size)[:, None] * drawn_from
        weights = np.bincount(drawn.ravel(), minlength=size * drawn_from).reshape(size, drawn_from)
        yield weights[:, unit_of].astype(np.float64)
