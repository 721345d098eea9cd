"""A row of a split brought from its files to the grid of the student."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ...runtime.allocator import return_freed_memory
from ..decoding.images import BadImageError, described
from ..leaks import DIGEST_BYTES
from .reading import read_volume
from .views import foreground_positions
from .volume import Header, VolumeReading

if TYPE_CHECKING:
    from ...models.image_processing_rd_volume import RDVolumeProcessor
    from ..masks.reading import MaskReading


@dataclass(frozen=True)
class GridVolume:
    """A row on the grid.

    :param values: (C, *grid) float16 in 0..1.
    :param mask: uint8 (*grid); None where the row has none, or labels are classes.
    :param foreground: flat positions of foreground, see `foreground_positions`.
    """

    values: np.ndarray
    mask: np.ndarray | None
    foreground: np.ndarray


@dataclass(frozen=True)
class ReadVolume:
    """A row that has just been read.

    :param source: shape and affine of its file.
    :param digest: (16,) uint8, see `voxel_digest`.
    """

    on_grid: GridVolume
    source: Header
    digest: np.ndarray


class GridReader:
    """Reads the rows of a split; no more than two volumes of float32 are in memory at a time.

    :param split: data set with an `image` column, decoding off, and `mask` where the labels are masks.
    :param processor: gives grid and intensities.
    :param name: what errors call the split.
    :param reading: how files are volumes.
    :param masks: how the values of label volumes are classes; None where labels are classes.
    """

    def __init__(
        self, split, processor: RDVolumeProcessor, name: str, reading: VolumeReading, masks: MaskReading | None
    ):
        self.split, self.processor, self.name = split, processor, name
        self.reading, self.masks = reading, masks

    def read(self, row: int) -> ReadVolume:
        """Read a row, its mask included.

        :raises BadImageError: where its volume or mask cannot be read.
        :raises DataError: where a value of its mask is no class.
        """
        found, where = self.split[row], f"row {row} of {self.name}"
        volume = read_volume(found["image"], where, self.reading)
        source = Header(volume.values.shape[1:], volume.affine, len(volume.values))
        called = described(found["image"], where)
        if source.channels != self.processor.channels:
            raise BadImageError(
                f"{called} has another number of channels ({source.channels}) than the model reads "
                f"({self.processor.channels}): give volumes of that many, or another number of channels."
            )
        digest = voxel_digest(volume.values)
        handed_over = [volume.values]
        del volume  # from here on the processor alone holds the voxels, and frees them early
        values = self._shown(handed_over, source, called).half().numpy()
        mask = None if self.masks is None else self._mask(found["mask"], f"the mask of {where}", source)
        foreground = np.empty(0, dtype=np.int32) if mask is None else foreground_positions(mask)
        return_freed_memory()  # else what is kept of the resampling grows from volume to volume
        return ReadVolume(GridVolume(values, mask, foreground), source, digest)

    def _shown(self, handed_over: list[np.ndarray], source: Header, called: str) -> Tensor:
        try:
            return self.processor.shown(handed_over.pop(), source.affine)
        except ValueError as error:
            raise BadImageError(f"{called} cannot be brought to a grid: {error}") from error

    def _mask(self, mask: dict | None, where: str, source: Header) -> np.ndarray | None:
        """A mask on the grid; `rd_hf.data.masks.grids.check_grid` has found it on the voxels of its volume."""
        if mask is None:
            return None
        return self.processor.labels(self.masks.read(mask, where, source), source.affine).numpy()


def voxel_digest(values: np.ndarray) -> np.ndarray:
    """(16,) uint8 that identify a volume (C, X, Y, Z): its shape and voxels, not the bytes of its file."""
    digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=DIGEST_BYTES)
    for number in range(values.shape[-1]):  # slice by slice, since bytes in one order may need a copy
        digest.update(np.ascontiguousarray(values[..., number]))
    return np.frombuffer(digest.digest(), dtype=np.uint8)
