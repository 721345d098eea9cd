"""Reads volumes, brings them to the grid of the student at first use, and keeps them on disk for the crops of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...arguments.words import by
from ...scoring.segmentation import IGNORED_LABEL
from ..decoding.image_notes import Note
from ..leaks import DIGEST_BYTES
from ..order import Visit
from ..scratch import scratch
from .grid_volume import GridReader, GridVolume
from .shelf import NOWHERE, Shelf
from .views import VolumeViews
from .volume import Header, VolumeReading

if TYPE_CHECKING:
    from ...models.image_processing_rd_volume import RDVolumeProcessor
    from ..masks.reading import MaskReading

logger = logging.getLogger(__name__)

_MIB = 2**20
_UNREAD, _KEPT, _LIVE = range(3)


class VolumeStore:
    """The rows of a split on the student's grid, and their views; the counterpart of `PixelStore`.

    Volumes are kept as float16 in a temporary file, of which a view reads the part around its crop. What no longer
    fits in is read and resampled anew at each visit. Forked data-loading processes share what any of them has read.

    :param split: data set with an `image` column, decoding off, and `mask` where the labels are masks.
    :param processor: gives grid and intensities.
    :param name: what errors call the split.
    :param reading: how files are volumes.
    :param masks: how the values of label volumes are classes; None where labels are classes.
    :param limit: bytes of the temporary file; None for no limit.
    :cvar unit: what progress lines count.
    :ivar views: what `fetch` shows; by default crops at random places, and nothing else.
    """

    unit = "volume"

    def __init__(
        self,
        split,
        processor: RDVolumeProcessor,
        name: str,
        reading: VolumeReading,
        masks: MaskReading | None = None,
        limit: int | None = None,
    ):
        self.split, self.processor, self.name = split, processor, name
        self.reading, self.masks = reading, masks
        self._reader = GridReader(split, processor, name, reading, masks)
        self.views = VolumeViews(None, 0, processor.crop_size)
        self._shelf = Shelf(limit)
        kind = _record(processor.channels)
        self._records = scratch(len(split), kind.itemsize).view(kind)[:, 0]
        self._has_said_limit = False

    def __len__(self) -> int:
        return len(self.split)

    def decode(self, row: int) -> None:
        """Make sure that a row has been read, and is kept where there is room.

        :raises BadImageError: where its volume or mask cannot be read.
        :raises DataError: where a value of its mask is no class.
        """
        if self._records[row]["state"] == _UNREAD:
            self._read(row)

    def fetch(self, visit: Visit, needs_teacher: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What a training step needs of a visit, under its view.

        :return: what the student reads, float32 (C, *size), normalised; what the teacher sees, likewise but in 0..1,
            None where it is not needed; the mask, uint8 (*size), `IGNORED_LABEL` throughout where the row has none,
            None where labels are classes.
        :raises BadImageError: see `decode`.
        """
        volume, record = self._volume(visit.row), self._records[visit.row]
        view = self.views.draw(visit.row, visit.view)
        window = self.views.window(view, record["grid"], self._spacing(visit.row), volume.foreground)
        crop = view.toned(window.image(volume.values, _tensor(record["lowest"])))
        student = self.processor.normalized(crop, self.statistics(visit.row))
        if self.masks is None:
            mask = None
        elif volume.mask is None:
            mask = torch.full(window.size, IGNORED_LABEL, dtype=torch.uint8)
        else:
            mask = window.mask(volume.mask)
        return student, crop if needs_teacher else None, mask

    def shown(self, row: int) -> Tensor:
        """A row's whole volume: (C, *grid) float32 in 0..1.

        :raises BadImageError: see `decode`.
        """
        return torch.from_numpy(np.array(self._volume(row).values, dtype=np.float32))

    def statistics(self, row: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) that a row's volume and its crops are normalised by."""
        self.decode(row)
        return _tensor(self._records[row]["mean"]), _tensor(self._records[row]["deviation"])

    def source(self, row: int) -> Header:
        """Shape, affine and spacing of a row's file."""
        self.decode(row)
        record = self._records[row]
        return Header(tuple(record["shape"].tolist()), np.array(record["affine"]), self.processor.channels)

    def source_mask(self, row: int) -> np.ndarray:
        """A row's mask on the voxels of its file: uint8 (X, Y, Z), `IGNORED_LABEL` throughout where it has none."""
        mask = self.split[row]["mask"]
        if mask is None:
            return np.full(self.source(row).shape, IGNORED_LABEL, dtype=np.uint8)
        return self.masks.read(mask, f"the mask of row {row} of {self.name}", self.source(row))

    def digests(self, rows: Sequence[int]) -> dict[int, bytes]:
        """What identifies the volumes of rows that have been read, voxel by voxel."""
        return {int(row): self._records[row]["digest"].tobytes() for row in rows}

    def notes(self, rows: Iterable[int]) -> dict[int, Note]:
        """What is remarkable about the files of rows; of volumes there is nothing that is not said otherwise."""
        return {int(row): Note.NONE for row in rows}

    def padded_rows(self) -> list[int]:
        """The rows that have been read whose volume is smaller than the crop along an axis."""
        if self.processor.crop_size is None:
            return []
        is_smaller = (self._records["grid"] < self.processor.crop_size).any(axis=1)
        return np.flatnonzero(is_smaller & (self._records["state"] != _UNREAD)).tolist()

    def grid(self, row: int) -> tuple[int, ...]:
        """Voxels of a row that has been read."""
        return tuple(self._records[row]["grid"].tolist())

    def _volume(self, row: int) -> GridVolume:
        if self._records[row]["state"] == _UNREAD:
            return self._read(row)
        if self._records[row]["state"] == _LIVE:
            return self._reader.read(row).on_grid
        record = self._records[row]
        grid = record["grid"].tolist()
        has_mask = record["mask"] != NOWHERE
        return GridVolume(
            self._shelf.get(record["values"], np.float16, [self.processor.channels, *grid]),
            self._shelf.get(record["mask"], np.uint8, grid) if has_mask else None,
            self._shelf.get(record["foreground"], np.int32, [record["positions"]]),
        )

    def _read(self, row: int) -> GridVolume:
        """Read a row for the first time, note what is known of it, and keep it where there is room."""
        found, record = self._reader.read(row), self._records[row]
        read, record["digest"] = found.on_grid, found.digest
        record["shape"], record["affine"] = found.source.shape, found.source.affine
        shown = torch.from_numpy(read.values).float()
        record["grid"] = shown.shape[1:]
        record["lowest"] = shown.amin(dim=(1, 2, 3)).numpy()
        record["mean"], record["deviation"] = (value.numpy() for value in self.processor.statistics(shown))
        parts = {"values": read.values, "mask": read.mask, "foreground": read.foreground}
        parts = {part: array for part, array in parts.items() if array is not None}
        offsets = dict(zip(parts, self._shelf.put(list(parts.values())), strict=True))
        for part in ("values", "mask", "foreground"):
            record[part] = offsets.get(part, NOWHERE)
        record["positions"] = len(read.foreground)
        record["state"] = _LIVE if offsets["values"] == NOWHERE else _KEPT
        self._say_what_is_special(row)
        return read

    def _spacing(self, row: int) -> np.ndarray:
        """Millimetres of the grid's voxels."""
        return np.array(self.processor.grid_spacing(self._records[row]["shape"], self._records[row]["affine"]))

    def _say_what_is_special(self, row: int) -> None:
        if self._records[row]["state"] == _LIVE and not self._has_said_limit:
            self._has_said_limit = True
            logger.warning(
                "The volumes of %s need more disk for temporary files than they may take or than is free (%.0f MiB are "
                "in use). From row %d on, those that do not fit in are read and resampled anew at each visit, which is "
                "slow. Raise `cache_limit`, or set TMPDIR to a folder on a larger disk.",
                self.name, self._shelf.used / _MIB, row,
            )  # fmt: skip


def tell_padded(stores: Sequence[VolumeStore]) -> None:
    """Say once for all splits of a run how many of the volumes that were read are smaller than the crop."""
    padded = [(store, row) for store in stores for row in store.padded_rows()]
    if padded:
        store, row = padded[0]
        logger.warning(
            "%s fewer voxels on the grid than the crop's %s along an axis; the end is padded with their lowest "
            "value. The first is row %d of %s, with %s.",
            "1 volume has" if len(padded) == 1 else f"{len(padded)} volumes have",
            by(store.processor.crop_size), row, store.name, by(store.grid(row)),
        )  # fmt: skip


def _record(channels: int) -> np.dtype:
    """What is known of each row once it has been read."""
    return np.dtype(
        [
            ("state", np.uint8), ("shape", np.int32, 3), ("affine", np.float64, (4, 4)), ("grid", np.int32, 3),
            ("lowest", np.float32, (channels,)), ("mean", np.float32, (channels,)),
            ("deviation", np.float32, (channels,)), ("digest", np.uint8, DIGEST_BYTES),
            ("values", np.int64), ("mask", np.int64), ("foreground", np.int64), ("positions", np.int64),
        ]
    )  # fmt: skip


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))
