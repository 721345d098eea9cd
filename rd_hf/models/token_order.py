"""Tokens that do not lie row by row: Hiera's, which keep mask units together, and GroupViT's, which stand for groups.

Hiera (arXiv 2306.00989) takes its tokens apart before the first block, stride by stride, so that those that it pools
later lie together. Each pooling uses up a stride; the strides that are left say where a token lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from .grids import Grid

GROUPED = ("groupvit", "groupvit_vision_model")  # model types whose blocks hand on tokens of groups of patches


def has_groups(model: nn.Module) -> bool:
    """Whether a model gathers its patches in groups, which lie on no grid."""
    return any(isinstance(m, PreTrainedModel) and m.config.model_type in GROUPED for m in model.modules())


def kept_strides(model: nn.Module, name: str, grid: Grid, image_size: Grid) -> tuple[Grid, ...]:
    """The strides by which the tokens behind a module are still apart; empty where they lie row by row.

    :param model: that may have a Hiera of transformers or timm in it.
    :param name: path of the module.
    :param grid: of its tokens.
    :param image_size: of the images that give this grid.
    """
    for path, module in model.named_modules():
        blocks, patch, strides = _schedule(module)
        inside = f"{path}.{blocks}" if path else blocks
        if strides and (name in (path, inside) or name.startswith(f"{inside}.")):
            tokens = math.prod(side // step for side, step in zip(image_size, patch, strict=True))
            while strides and tokens > math.prod(grid):
                tokens, strides = tokens // math.prod(strides[0]), strides[1:]
            return strides
    return ()


def _schedule(module: nn.Module) -> tuple[str, Sequence[int], tuple[Grid, ...]]:
    """Of a Hiera: the name of its blocks, the sides of a patch and all strides; no strides for other modules."""
    attributes = vars(module)
    if "unroll_schedule" in attributes:  # HieraModel of transformers
        blocks, patch, strides = "encoder", module.config.patch_stride, attributes["unroll_schedule"]
    elif "patch_stride" in attributes and hasattr(getattr(module, "unroll", None), "schedule"):  # Hiera of timm
        blocks, patch, strides = "blocks", module.patch_stride, module.unroll.schedule
    else:
        blocks, patch, strides = "", (), ()
    return blocks, patch, tuple(map(tuple, strides))


def row_by_row(tokens: Tensor, grid: Grid, strides: Sequence[Grid]) -> Tensor:
    """Tokens (B, prod(grid), C) that are apart by these strides, in the grid's order; a permutation."""
    if not strides:
        return tokens
    sides, axes = _sides_and_axes(grid, strides)
    return tokens.reshape(len(tokens), *sides, -1).permute(0, *axes, len(axes) + 1).reshape(tokens.shape)


def apart(tokens: Tensor, grid: Grid, strides: Sequence[Grid]) -> Tensor:
    """The inverse of `row_by_row`."""
    if not strides:
        return tokens
    sides, axes = _sides_and_axes(grid, strides)
    split = tokens.reshape(len(tokens), *(sides[axis - 1] for axis in axes), -1)
    back = [axes.index(axis) + 1 for axis in range(1, len(axes) + 1)]
    return split.permute(0, *back, len(axes) + 1).reshape(tokens.shape)


def _sides_and_axes(grid: Grid, strides: Sequence[Grid]) -> tuple[list[int], list[int]]:
    """The sides of tokens that are apart, and which of these, counted from 1, make up the sides of the grid in order.

    The first stride is the outermost: of a row's number it is the remainder, and the cells are what is left of it.
    """
    cells = list(grid)
    for stride in strides:
        cells = [side // step for side, step in zip(cells, stride, strict=True)]
    sides = [side for part in (*strides, cells) for side in part]
    rank, last = len(grid), len(strides)
    return sides, [1 + part * rank + side for side in range(rank) for part in range(last, -1, -1)]
