"""Feature maps as bytes: int8 values with a scale per image, view and channel.

A scale is that of its own entry, and none of a data set: an entry follows from its row and view alone, whatever was
stored before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 127  # symmetric: -128 is not used


def to_int8(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Round maps to the nearest of 255 evenly spaced values per image and channel.

    :param maps: (B, C, *grid).
    :return: int8 (B, C, *grid), and the float32 distance (B, C) of neighbouring values.
    """
    exact = maps.float()
    scales = (exact.flatten(2).abs().amax(dim=2) / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (exact / _over(scales, exact)).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def from_int8(values: Tensor, scales: Tensor) -> Tensor:
    """The maps of `to_int8` as float32 (B, C, *grid)."""
    return values.float() * _over(scales, values)


def saves_space(grid: Sequence[int]) -> bool:
    """Whether a map takes less in int8, with the float32 scale of each channel, than in float16."""
    positions = math.prod(grid)
    return positions + torch.float32.itemsize < positions * torch.float16.itemsize


def rounding_bound(grid: Sequence[int]) -> float:
    """The largest norm of a map's error, relative to the map's: half a step in each cell of every channel."""
    return math.sqrt(math.prod(grid)) / (2 * LARGEST)


def _over(scales: Tensor, maps: Tensor) -> Tensor:
    return scales.view(*scales.shape, *[1] * (maps.ndim - 2))
