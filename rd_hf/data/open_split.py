"""Labelled splits, before and after their images are decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset
from pyarrow.compute import struct_field
from torch import Tensor

from ..arguments.values import ArgumentError
from ..runtime.quiet import escaped
from .decoding.images import AS_IT_IS
from .decoding.reading import Reading
from .pixel_store import PixelStore, check_images
from .pixels import Transforms
from .volumes.shelf import room_on_disk
from .volumes.store import VolumeStore
from .volumes.target import VolumeTarget, volume_target

if TYPE_CHECKING:
    from .image_data import ImageData
    from .masks.reading import MaskReading
    from .shards import ImageShards
    from .volumes.volume import VolumeReading


ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Split:
    """Labelled images, or volumes.

    :param images: N rows with a column `image`, and `mask` where the labels are masks.
    :param labels: of all N, (N, ...); of masks the pixels of each class, (N, K).
    :param masks: how masks are read; None where the labels are classes.
    :param volumes: how volumes are read; None for images.
    :param folder: where the relative paths of its table start; None where no table lists it.
    """

    name: str
    images: Dataset
    labels: np.ndarray
    masks: MaskReading | None
    volumes: VolumeReading | None = field(default=None, kw_only=True)
    folder: Path | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, data: ImageData, name: str) -> Split:
        """Take one split of loaded data. One that was made of train's rows has the paths of train's table."""
        folder = data.folders.get(name, data.folders.get("train"))
        return cls(name, data.splits[name], data.labels(name), data.masks, volumes=data.volumes, folder=folder)

    @property
    def used_labels(self) -> np.ndarray:
        """The labels of the images that are scored."""
        return self.labels

    def opened(
        self, transforms: Transforms, on_bad_image: str, reading: Reading = AS_IT_IS, limit: int | None = None
    ) -> OpenSplit:
        """Decode every image.

        :param limit: see `open_store`.
        :raises BadImageError: for an unreadable one, unless `on_bad_image` is "skip".
        :raises ArgumentError: when none is readable.
        """
        store = open_store(self.images, transforms, self.name, reading, self.masks, self.volumes, limit)
        skipped = check_images(store, range(len(self.images)), on_bad_image)
        rows = [row for row in range(len(self.images)) if row not in skipped]
        if not rows:
            what = "image" if self.volumes is None else "volume"
            raise ArgumentError(
                f"Split `{self.name}` has no readable {what}: none of its {len(self.images)} can be read. Fix them, or "
                "leave the split out of the data."
            )
        own = {"volumes": self.volumes, "folder": self.folder}
        return OpenSplit(self.name, self.images, self.labels, self.masks, store, rows, skipped, **own)


def open_store(
    images: Dataset,
    transforms: Transforms,
    name: str,
    reading: Reading,
    masks: MaskReading | None,
    volumes: VolumeReading | None,
    limit: int | None = None,
    shards: ImageShards | None = None,
) -> PixelStore | VolumeStore:
    """The store of a split's images, or of its volumes, none of which is decoded yet.

    :param limit: bytes of disk for volumes on the student's grid; by default what `room_on_disk` gives.
    :param shards: see `PixelStore`.
    """
    if volumes is None:
        return PixelStore(images, transforms, name, reading, masks, shards)
    limit = room_on_disk() if limit is None else limit
    return VolumeStore(images, transforms.student.processor, name, volumes, masks, limit)


@dataclass(frozen=True)
class OpenSplit(Split):
    """A split whose images are decoded.

    :param rows: those whose image could be read.
    :param skipped: the others, with the reason.
    """

    store: PixelStore | VolumeStore
    rows: list[int]
    skipped: dict[int, str]

    @property
    def used_labels(self) -> np.ndarray:
        """Those of the readable images."""
        return self.labels[self.rows]

    @property
    def in_windows(self) -> bool:
        """Whether a model reads overlapping windows of the volumes, and not the whole ones."""
        return isinstance(self.store, VolumeStore) and self.store.processor.crop_size is not None

    def groups(self) -> list | None:
        """The group of each readable image, such as its patient; None where the data has none."""
        if "group" not in self.images.column_names:
            return None
        return self.images.select_columns(["group"])[self.rows]["group"]

    def files(self) -> list[str] | None:
        """The files of the readable images; None where a row has no file.

        Paths start where those of the table do, if all lie below it, and otherwise at the folder that all share. Of a
        DICOM series it is its first slice's.
        """
        column = self.images.select_columns(["image"]).with_format("arrow")
        parts = (struct_field(part.column("image"), "path") for part in column.iter(ROWS_AT_ONCE))
        every = [path for part in parts for path in part.to_pylist()]
        paths = [every[row] for row in self.rows]
        if not all(paths):
            return None
        folders = {os.path.dirname(path) for path in paths}
        shared = os.path.commonpath(folders) if all(map(os.path.isabs, folders)) else ""
        if self.folder is not None and Path(shared).is_relative_to(self.folder):
            shared = str(self.folder)
        return [escaped(os.path.relpath(path, shared) if shared else path) for path in paths]

    def targets(self, rows: list[int]) -> Tensor | list[Tensor] | list[VolumeTarget]:
        """What a model's output for these rows is scored against: labels (B, ...), or masks (H, W) of uint8.

        Each mask has the size of its source image. Those of volumes lie on the voxels of the source file.
        """
        if self.masks is None:
            return torch.from_numpy(self.labels[rows])
        if self.volumes is not None:
            return [volume_target(self.store.source_mask(row), self.store.source(row).affine) for row in rows]
        return [torch.from_numpy(self.store.source_mask(row)) for row in rows]
