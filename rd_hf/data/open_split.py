"""Labelled splits, before and after their images are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ..arguments.values import ArgumentError
from .decoding.images import AS_IT_IS
from .decoding.reading import Reading
from .pixel_store import PixelStore, check_images
from .pixels import Transforms

if TYPE_CHECKING:
    from .masks.reading import MaskReading


@dataclass(frozen=True)
class Split:
    """Labelled images.

    :param images: N rows with a column `image`, and `mask` where the labels are masks.
    :param labels: of all N, (N, ...); of masks the pixels of each class, (N, K).
    :param masks: how masks are read; None where the labels are classes.
    """

    name: str
    images: Dataset
    labels: np.ndarray
    masks: MaskReading | None

    @property
    def used_labels(self) -> np.ndarray:
        """The labels of the images that are scored."""
        return self.labels

    def opened(self, transforms: Transforms, on_bad_image: str, reading: Reading = AS_IT_IS) -> OpenSplit:
        """Decode every image.

        :raises BadImageError: for an unreadable one, unless `on_bad_image` is "skip".
        :raises ArgumentError: when none is readable.
        """
        store = PixelStore(self.images, transforms, self.name, reading, self.masks)
        skipped = check_images(store, range(len(self.images)), on_bad_image)
        rows = [row for row in range(len(self.images)) if row not in skipped]
        if not rows:
            raise ArgumentError(
                f"Split `{self.name}` has no readable image: none of its {len(self.images)} can be read. Fix them, or "
                "leave the split out of the data."
            )
        return OpenSplit(self.name, self.images, self.labels, self.masks, store, rows, skipped)


@dataclass(frozen=True)
class OpenSplit(Split):
    """A split whose images are decoded.

    :param rows: those whose image could be read.
    :param skipped: the others, with the reason.
    """

    store: PixelStore
    rows: list[int]
    skipped: dict[int, str]

    @property
    def used_labels(self) -> np.ndarray:
        """Those of the readable images."""
        return self.labels[self.rows]

    def targets(self, rows: list[int]) -> Tensor | list[Tensor]:
        """What a model's output for these rows is scored against: labels (B, ...), or masks (H, W) of uint8.

        Each mask has the size of its source image.
        """
        if self.masks is None:
            return torch.from_numpy(self.labels[rows])
        return [torch.from_numpy(self.store.source_mask(row)) for row in rows]
