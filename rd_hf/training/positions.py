"""Positions of feature maps as the rows of CKA: for a model whose output is a map, an image is many samples.

Each image has positions of its own, which both sides share. They are a function of (seed, optimiser step, data row,
view): row and view go with an image wherever it is computed, whereas its place depends on how the rows are divided. So
one large batch, accumulated batches and several processes draw the same positions, in each pass over a batch, and a
resumed run draws those of an uninterrupted one. If a row is in a step twice, its two views have different positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.augmentation import Counted
from ..models.grids import Grid, at_least_float32, channels_last, written

# Second word of the generator's key: views (augmentation.py) have 0 there and orders (order.py) less than this.
KEY = 1 << 63


def draw(seed: int, step: int, rows: Sequence[int], views: Sequence[int], count: int) -> np.ndarray:
    """Draw the numbers from which an image's positions at every stage follow.

    :param seed: The run's.
    :param step: Optimiser step, counted from 0.
    :param rows: B data rows.
    :param views: The view of each.
    :param count: Positions P of an image.
    :return: (B, P) float64, uniform in [0, 1).
    """
    counted = Counted(seed, KEY)
    return np.stack([counted.draw((0, view, step, row), count) for row, view in zip(rows, views, strict=True)])


def choose(draws: np.ndarray, cells: int) -> Tensor:
    """Choose cells of a grid for each image, without replacement and each subset equally likely.

    Floyd's algorithm (Bentley and Floyd 1987, Communications of the ACM 30:9), for all images at once.

    :param draws: (B, P), as `draw` gives them. Grids of the same number of cells get the same choice.
    :param cells: Cells of the grid.
    :return: (B, P) int64, or (B, cells) with every cell where the grid has no more than P.
    """
    count = min(draws.shape[1], cells)
    chosen = np.empty((len(draws), count), dtype=np.int64)
    for index, highest in enumerate(range(cells - count, cells)):
        cell = (draws[:, index] * (highest + 1)).astype(np.int64)
        taken = (chosen[:, :index] == cell[:, None]).any(axis=1)
        chosen[:, index] = np.where(taken, highest, cell)
    return torch.from_numpy(chosen)


def fewest(count: int, grids: Iterable[Grid]) -> int:
    """The fewest positions of an image at any stage.

    :param count: Positions P that are asked for.
    :param grids: The stages' grids.
    """
    return min(count, *map(math.prod, grids))


def at_positions(features: tuple[Tensor, Tensor], draws: np.ndarray) -> tuple[Tensor, Tensor]:
    """Two maps of the same images at the same positions, in float32 or wider.

    :param features: Maps (B, C, *grid) and (B, D, *grid), of any rank.
    :param draws: (B, P), as `draw` gives them.
    :return: (B, P, C) and (B, P, D); `choose` says when there are fewer than P.
    :raises ValueError: If the grids differ.
    """
    grids = [tuple(side.shape[2:]) for side in features]
    if grids[0] != grids[1]:
        raise ValueError(
            f"CKA compares positions of one grid, but the grids are {written(grids[0])} and {written(grids[1])}; "
            "set cka_features to pooled"
        )
    positions = choose(draws, math.prod(grids[0])).to(features[0].device, non_blocking=True)[:, :, None]
    return tuple(
        at_least_float32(channels_last(side).flatten(1, -2).take_along_dim(positions, dim=1)) for side in features
    )
