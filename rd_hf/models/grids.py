"""Arithmetic on grids of two or three dimensions: a map is (B, C, *grid), and the grid's length is its rank."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, ...]

CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision in float32, anything wider as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool(features: Tensor, grid: Grid) -> Tensor:
    """Average a map down to a grid.

    :param features: (B, C, *any grid).
    :param grid: Of the same rank, no side longer.
    :return: (B, C, *grid); the map itself where it has that grid.
    """
    return features if tuple(features.shape[2:]) == grid else _POOL[len(grid)](features, grid)


def resize(features: Tensor, grid: Grid) -> Tensor:
    """Interpolate a map linearly to a grid, which may be smaller or larger.

    :param features: (B, C, *any grid).
    :param grid: Of the same rank.
    :return: (B, C, *grid); the map itself where it has that grid.
    """
    if tuple(features.shape[2:]) == grid:
        return features
    return F.interpolate(features, size=grid, mode=_LINEAR[len(grid)], align_corners=False)


def mean(features: Tensor) -> Tensor:
    """The mean over the grid of a map (B, C, *grid): (B, C)."""
    return features.mean(dim=tuple(range(2, features.ndim)))


def channels_first(features: Tensor) -> Tensor:
    """A view (B, C, *grid) of a map (B, *grid, C)."""
    return features.movedim(-1, 1)


def channels_last(features: Tensor) -> Tensor:
    """A view (B, *grid, C) of a map (B, C, *grid)."""
    return features.movedim(1, -1)


def written(grid: Grid) -> str:
    """A grid in words, e.g. "14x14"."""
    return "x".join(str(side) for side in grid)
