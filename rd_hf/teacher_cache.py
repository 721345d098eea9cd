"""The teacher's features of a run with a limited number of views, computed once for each (image, view)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .data.pixel_store import scratch
from .features import StageFeature


class FeatureCache:
    """What the frozen teacher gave for each (row, view) of train, in its own precision: keeping it changes nothing.

    Arrays live in unlinked temporary files mapped into memory: they outgrow neither memory nor the run.

    :param num_rows: rows of train.
    :param num_views: views a row.
    """

    def __init__(self, num_rows: int, num_views: int):
        self.num_rows, self.num_views = num_rows, num_views
        self._present = scratch(num_rows * num_views)
        self._parts: list[tuple[Tensor, Tensor | None]] = []

    def missing(self, rows: Sequence[int], views: Sequence[int]) -> list[int]:
        """Positions in the batch whose features are not there yet."""
        return np.flatnonzero(self._present[self._places(rows, views)] == 0).tolist()

    def put(self, rows: Sequence[int], views: Sequence[int], features: Sequence[StageFeature]) -> None:
        """Keep the features of these (row, view)s: one `StageFeature` a stage, of batch size len(rows)."""
        if not self._parts:
            self._parts = [(self._room(f.map), None if f.prefix is None else self._room(f.prefix)) for f in features]
        places = self._places(rows, views)
        for (maps, prefixes), feature in zip(self._parts, features, strict=True):
            maps[places] = feature.map.cpu()
            if prefixes is not None:
                prefixes[places] = feature.prefix.cpu()
        self._present[places] = 1

    def get(self, rows: Sequence[int], views: Sequence[int], device: torch.device) -> list[StageFeature]:
        """The features of these (row, view)s, all of which must be there."""
        places = self._places(rows, views)
        return [
            StageFeature(maps[places].to(device), None if prefixes is None else prefixes[places].to(device))
            for maps, prefixes in self._parts
        ]

    def _places(self, rows: Sequence[int], views: Sequence[int]) -> np.ndarray:
        return np.asarray(rows) * self.num_views + np.asarray(views)

    def _room(self, example: Tensor) -> Tensor:
        """Space for tensors like `example` (B, ...): bytes on disk, since numpy has no bfloat16."""
        shape = example.shape[1:]
        room = scratch(self.num_rows * self.num_views, example[0].numel() * example.element_size())
        return torch.from_numpy(room).view(example.dtype).view(-1, *shape)
