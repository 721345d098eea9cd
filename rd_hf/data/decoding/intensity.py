"""The one rule by which values deeper than eight bits become bytes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

STRIP = 2**18  # values that are computed with at a time


def stretch(
    array: np.ndarray,
    white_is_zero: bool = False,
    left_out: np.ndarray | None = None,
    bounds: tuple[float, float] | None = None,
) -> np.ndarray:
    """Map an array's own minimum..maximum, over all channels, linearly to 0..255; a constant array becomes black.

    No percentiles: a microcalcification covers far less than the 0.5 % of pixels that a percentile would clip. NaN and
    infinities become the bound that they lie at, NaN black.

    :param array: bool, integers or floats of any shape.
    :param white_is_zero: whether the smallest value is white.
    :param left_out: mask of values that do not count for the bounds and become black.
    :param bounds: the values that become 0 and 255, in place of the array's own.
    :return: uint8 of the same shape.
    :raises ValueError: if the values are of another type, or none is finite.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the pixels are of type {array.dtype}; expected bool, integers or floats")
    strips = list(_strips(array.shape))
    found = [_bounds(array[strip], None if left_out is None else left_out[strip]) for strip in strips]
    found = [pair for pair in found if pair is not None]
    if not found:
        raise ValueError("it has no finite pixel")
    low, high = bounds or (min(low for low, _ in found), max(high for _, high in found))
    is_turned = white_is_zero and high > low
    made = np.empty(array.shape, dtype=np.uint8)
    for strip in strips:
        made[strip] = _scaled(array[strip].astype(np.float64), low, high, is_turned)
        if left_out is not None:
            made[strip][left_out[strip]] = 0
    return made


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an array, so many at a time that float64 copies of them take little memory."""
    rows = max(1, STRIP * shape[0] // max(prod(shape), 1))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _bounds(values: np.ndarray, left_out: np.ndarray | None) -> tuple[np.float64, np.float64] | None:
    """The least and the greatest of the finite values that count; None where there are none."""
    counted = np.isfinite(values) if left_out is None else np.isfinite(values) & ~left_out
    finite = values[counted]
    return (np.float64(finite.min()), np.float64(finite.max())) if finite.size else None


def _scaled(values: np.ndarray, low: float, high: float, is_turned: bool) -> np.ndarray:
    """Bytes of float64 values, of which `low` becomes 0 and `high` 255, or the other way round."""
    if is_turned:
        values, low, high = -values, -high, -low
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = np.clip((values - low) / max(high - low, np.finfo(np.float64).tiny) * 255, 0, 255)
    return np.rint(scaled).astype(np.uint8)
