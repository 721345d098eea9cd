"""Where stages end among the calls of one pass: after the last block, or the last module, of each resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from .grids import Grid
from .probe import Call


def group(blocks: list[Call], image_size: Grid, num_stages: int) -> list[Call]:
    """The last block of every stage: where the resolution drops, or evenly where it never does.

    A block that reduces the resolution begins a stage, so the drop is looked for in the output grids. Models that list
    whole stages may reduce it at a stage's end instead (swin, levit): there the last two output grids are equal, but
    each stage reads a smaller input than the one before.
    """
    outputs = [math.prod(block.form.grid) for block in blocks]
    rise = next((i for i in range(1, len(blocks)) if outputs[i] > outputs[i - 1]), len(blocks))
    blocks, outputs = blocks[:rise], outputs[:rise]  # a decoder belongs to the rest of the model
    inputs = [
        output if block.input_grid in (None, image_size) else math.prod(block.input_grid)
        for block, output in zip(blocks, outputs, strict=True)
    ]
    every_block_a_stage = len(_before_drops(inputs)) == len(blocks)
    last = _before_drops(inputs if every_block_a_stage else outputs)
    if len(last) == 1:
        count = min(num_stages, len(blocks))
        last = [index - 1 for index in ((i + 1) * len(blocks) // count for i in range(count))]
    return [blocks[i] for i in last]


def _before_drops(sizes: Sequence[int]) -> list[int]:
    """Indices after which a sequence of sizes drops, and the last index."""
    return [i for i in range(len(sizes) - 1) if sizes[i + 1] < sizes[i]] + [len(sizes) - 1]


def level_ends(calls: Sequence[Call]) -> list[Call]:
    """The last call at each resolution, down to the first rise; none contains another.

    What runs inside a module that changes the resolution is part of the next level, whatever its own resolution.

    :param calls: in the order in which they end.
    """
    levels = [list(level) for _, level in groupby(calls, key=lambda call: call.form.grid)]
    sizes = [math.prod(level[0].form.grid) for level in levels]
    rise = next((i for i in range(1, len(levels)) if sizes[i] > sizes[i - 1]), len(levels))
    ends: list[Call] = []
    for index, level in enumerate(levels[:rise]):
        around = ends[-1].callers() if ends else []
        level = [call for call in level if call not in around and not _inside_last_narrowing(call, calls)]
        if index + 1 < len(levels):
            start = _change(levels[index][0].form.grid, levels[index + 1][0]).started
            level = [call for call in level if call.finished < start]
        ends += level[-1:]
    return ends


def _inside_last_narrowing(call: Call, calls: Sequence[Call]) -> bool:
    """Whether a call runs inside a module that takes its grid, and no other, to a single position."""
    grid = call.form.grid
    narrowing = [c for c in call.callers() if c.input_grid == grid and c.form and math.prod(c.form.grid) == 1]
    return any(all(other.form.grid == grid for other in calls if c in other.callers()) for c in narrowing)


def _change(grid: Grid, first: Call) -> Call:
    """The outermost module that takes `grid` to that of the call `first`, in which it runs."""
    around = [*first.callers(), first]
    return next((c for c in around if c.input_grid == grid and c.form and c.form.grid == first.form.grid), first)
