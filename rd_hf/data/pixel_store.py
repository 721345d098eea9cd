"""Images after decoding and the geometry of the models' own processors, as uint8, made at first use and then kept."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .images import BadImageError, to_rgb
from .order import Visit
from .pixels import PixelTransform

logger = logging.getLogger(__name__)


class PixelStore:
    """The rows of a split as each model sees them before augmentation: uint8 (3, h, w).

    Arrays live in unlinked temporary files mapped into memory, so that they outgrow neither memory nor the run, and
    forked data-loading processes share what any of them has decoded.

    :param split: data set with an `image` column, decoding off.
    :param transforms: one a model (student, then teacher).
    :raises BadImageError: on reading a row whose image cannot be decoded.
    """

    def __init__(self, split, transforms: Sequence[PixelTransform]):
        self.split = split
        self.transforms = list(transforms)
        self._files = [tempfile.TemporaryFile(prefix="rd_hf_pixels_") for _ in range(len(self.transforms) + 1)]
        shapes = [(len(split), 3, *transform.size) for transform in self.transforms]
        self._pixels = [
            np.memmap(file, dtype=np.uint8, mode="w+", shape=shape) for file, shape in zip(self._files, shapes, strict=False)
        ]
        self._present = np.memmap(self._files[-1], dtype=np.uint8, mode="w+", shape=(len(split),))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> list[Tensor]:
        if not self._present[row]:
            rgb = to_rgb(self.split[row]["image"], name=f"row {row}")
            for pixels, transform in zip(self._pixels, self.transforms, strict=True):
                pixels[row] = transform.geometry(rgb)
            self._present[row] = 1
        return [torch.from_numpy(np.array(pixels[row])) for pixels in self._pixels]

    def unreadable_rows(self, rows: Sequence[int]) -> dict[int, str]:
        """Decode all of `rows`; the ones that cannot be, with the reason."""
        problems = {}
        for row in rows:
            try:
                self[row]
            except BadImageError as error:
                problems[int(row)] = str(error)
        return problems


class Visits(Dataset):
    """Fetches a visit's pixels and label; `labels` is (N,) int64 or (N, K) float32, rows without label ignored."""

    def __init__(self, store: PixelStore, labels: Tensor):
        self.store, self.labels = store, labels

    def __getitem__(self, visit: Visit) -> tuple[Visit, list[Tensor], Tensor]:
        return visit, self.store[visit.row], self.labels[visit.row]


def collate(items: list[tuple[Visit, list[Tensor], Tensor]]) -> dict:
    """Stack visits: `pixels` a list of uint8 (B, 3, h, w), one a model; `labels` those of the labelled rows, which come
    first; `rows` and `views` of all."""
    visits, pixels, labels = zip(*items, strict=True)
    labelled = sum(visit.labelled for visit in visits)
    return {
        "pixels": [torch.stack(one_model) for one_model in zip(*pixels, strict=True)],
        "labels": torch.stack(labels[:labelled]) if labelled else torch.empty(0, *labels[0].shape),
        "rows": [visit.row for visit in visits],
        "views": [visit.view for visit in visits],
    }
