"""Images after decoding and the geometry of the models' own processors, as uint8, made at first use and then kept."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from .images import BadImageError, to_rgb
from .order import Visit
from .pixels import PixelTransform

logger = logging.getLogger(__name__)

SHOW_PROGRESS_ROWS = 2000


class PixelStore:
    """The rows of a split as each model sees them before augmentation: uint8 (3, h, w).

    Arrays live in unlinked temporary files mapped into memory, so that they outgrow neither memory nor the run, and
    forked data-loading processes share what any of them has decoded.

    :param split: data set with an `image` column, decoding off.
    :param transforms: one a model (student, then teacher).
    :param name: what errors call the split.
    :raises BadImageError: on reading a row whose image cannot be decoded.
    """

    def __init__(self, split, transforms: Sequence[PixelTransform], name: str):
        self.split, self.name = split, name
        self.transforms = list(transforms)
        self._pixels = [scratch(len(split), 3, *transform.size) for transform in self.transforms]
        self._present = scratch(len(split))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> list[Tensor]:
        if not self._present[row]:
            rgb = to_rgb(self.split[row]["image"], name=f"row {row} of {self.name}")
            for pixels, transform in zip(self._pixels, self.transforms, strict=True):
                pixels[row] = transform.geometry(rgb)
            self._present[row] = 1
        return [torch.from_numpy(np.array(pixels[row])) for pixels in self._pixels]


def check_images(store: PixelStore, rows: Sequence[int], on_bad_image: str) -> dict[int, str]:
    """Decode `rows` now, so that a bad image shows before any training; what is decoded is kept.

    :return: skipped rows with the reason, also logged.
    :raises BadImageError: for the first unreadable one, unless `on_bad_image` is "skip".
    """
    problems: dict[int, str] = {}
    for row in tqdm(rows, desc=f"reading {store.name}", disable=len(rows) < SHOW_PROGRESS_ROWS):
        try:
            store[row]
        except BadImageError as error:
            problems[int(row)] = str(error)
    if problems and on_bad_image != "skip":
        first = next(iter(problems.values()))
        more = f" ({len(problems) - 1} more of {store.name} cannot be read.)" if len(problems) > 1 else ""
        raise BadImageError(f"{first}{more} Mend the data, or leave such images out with --on_bad_image skip.")
    for reason in problems.values():
        logger.warning("Skipped: %s", reason)
    return problems


def scratch(*shape: int) -> np.memmap:
    """Zeros (uint8) in a file without a name; the disk gives pages only as they are written."""
    with tempfile.TemporaryFile(prefix="rd_hf_pixels_") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


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
        "labels": torch.stack(labels[:labelled])
        if labelled
        else torch.empty(0, *labels[0].shape, dtype=labels[0].dtype),
        "rows": [visit.row for visit in visits],
        "views": [visit.view for visit in visits],
    }
