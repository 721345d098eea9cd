"""Labelled splits, before and after their images are decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ..arguments.values import ArgumentError
from .decoding.images import AS_IT_IS
from .decoding.reading import Reading
from .pixel_store import PixelStore, check_images
from .pixels import Transforms


@dataclass(frozen=True)
class Split:
    """Labelled images.

    :param images: N rows with a column `image`.
    :param labels: of all N, (N, ...).
    """

    name: str
    images: Dataset
    labels: np.ndarray

    @property
    def used_labels(self) -> np.ndarray:
        """The labels of the images that are scored."""
        return self.labels

    def opened(self, transforms: Transforms, on_bad_image: str, reading: Reading = AS_IT_IS) -> OpenSplit:
        """Decode every image.

        :raises BadImageError: for an unreadable one, unless `on_bad_image` is "skip".
        :raises ArgumentError: when none is readable.
        """
        store = PixelStore(self.images, transforms, self.name, reading)
        skipped = check_images(store, range(len(self.images)), on_bad_image)
        rows = [row for row in range(len(self.images)) if row not in skipped]
        if not rows:
            raise ArgumentError(
                f"Split `{self.name}` has no readable image: none of its {len(self.images)} can be read. Fix them, or "
                "leave the split out of the data."
            )
        return OpenSplit(self.name, self.images, self.labels, store, rows, skipped)


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
