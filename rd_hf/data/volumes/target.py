"""What a model's output for a volume is scored against."""

from __future__ import annotations

import numpy as np
import torch

from ...scoring.volume_target import VolumeTarget
from .volume import spacing_of

__all__ = ["VolumeTarget", "volume_target"]


def volume_target(mask: np.ndarray, affine: np.ndarray) -> VolumeTarget:
    """The target of a mask (X, Y, Z) uint8 on its source's grid, with the source's affine (4, 4)."""
    return VolumeTarget(torch.from_numpy(mask), affine, spacing_of(affine))
