"""What the values of voxels must be: finite, and of labels whole numbers from 0 on."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .source import VolumeError

_LARGEST_LABEL = 2**31
_ROUNDING = 1e-3  # of a slope in float32, at labels of some thousands
_MOST_ROUNDING = 0.05
_MOST_VOXELS = 2**30  # a CT of the whole body has about half as many


def check_voxels(shape: Sequence[int]) -> None:
    """:raises VolumeError: for a volume that would take more than 4 GiB, which a small compressed file may promise."""
    if prod(shape) > _MOST_VOXELS:
        sides = " x ".join(map(str, shape))
        raise VolumeError(f"it has {sides} voxels, which are more than 4 GiB when read: cut it, or make it smaller")


def count_broken(values: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    return 0 if values.dtype.kind != "f" else values.size - int(np.count_nonzero(np.isfinite(values)))


def check_finite(broken: int, size: int) -> None:
    """Refuse a volume with values that are not finite.

    :param broken: how many.
    :param size: number of all voxels.
    :raises VolumeError: if there are any.
    """
    if broken:
        raise VolumeError(
            f"{broken} of its {size} voxels {'is' if broken == 1 else 'are'} NaN or infinite: replace them, for "
            "example by the lowest value"
        )


def as_labels(values: np.ndarray, slope: float = 0.0) -> np.ndarray:
    """Give finite values as labels. Those of a scaled file may be off by a rounding error, such as 2.00000012.

    :param slope: by which stored numbers were multiplied. Labels were rounded to its multiples when they were saved.
    :return: whole numbers, in any type.
    :raises VolumeError: if one is not whole, below 0, or too large to number a class.
    """
    if values.dtype.kind == "f":
        whole = np.rint(values)
        between = np.abs(values - whole) > max(_ROUNDING, min(0.51 * abs(slope), _MOST_ROUNDING))
        if between.any():
            raise VolumeError(
                f"it holds {values[between].flat[0]:.9g}, but labels are whole numbers: save the labels themselves, "
                "and resample them by the nearest neighbour only"
            )
        values = whole
    if values.size and values.min() < 0:
        raise VolumeError(f"it holds {values.min():g}, but labels are whole numbers from 0 on: give these voxels one")
    if values.size and values.max() >= _LARGEST_LABEL:
        raise VolumeError(f"it holds {values.max():g}, which is too large for a label: is it a label volume?")
    return values
