"""A volume in memory, and how the files of a data set are read as volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Volume:
    """The voxels of one volume, in the order of its file.

    :param values: (C, X, Y, Z) float32, finite, with rescale slope and intercept applied (CT: Hounsfield units).
    :param affine: (4, 4) float64, from voxel indices to millimetres to the patient's right, front and head (RAS+).
    """

    values: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Labels:
    """The classes of a volume's voxels, as numbers, in the order of their file.

    :param values: (X, Y, Z) int32, none negative.
    :param affine: see `Volume`.
    """

    values: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Header:
    """What is known of a volume before its voxels are read.

    :param shape: voxels along X, Y and Z.
    :param affine: see `Volume`.
    :param channels: entries of the last axis of four; 1 where a file has three.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along the array's own axes."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class VolumeReading:
    """How the files of a data set become volumes.

    :param channels: files of each case in nnU-Net's layout, ``CASE_0000`` and so on, or entries of the last axis.
    :param channel_axis: whether the last axis of four is channels; a volume of four axes is refused otherwise.
    """

    channels: int = 1
    channel_axis: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The reading as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VolumeReading:
        """The reading that `to_dict` described."""
        return cls(**values)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Millimetres from voxel to voxel along each array axis of an affine (4, 4)."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z
