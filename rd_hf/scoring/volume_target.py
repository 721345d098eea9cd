"""The true mask of a volume, with what distances in millimetres need."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor


class VolumeTarget(NamedTuple):
    """The mask of a volume on the grid of its source file.

    :ivar mask: (X, Y, Z) uint8 class numbers, or `rd_hf.scoring.segmentation.IGNORED_LABEL`.
    :ivar affine: (4, 4) float64 of the source, from voxel indices to millimetres (RAS+).
    :ivar spacing: millimetres from voxel to voxel along X, Y and Z.
    """

    mask: Tensor
    affine: np.ndarray
    spacing: tuple[float, float, float]
