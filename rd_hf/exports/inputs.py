"""What exported models are checked, calibrated and described with: normalised images or windows of volumes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.open_split import OpenSplit
from ..data.volumes.store import VolumeStore
from ..data.volumes.transform import VolumeTransform
from ..inference.loading import LoadedModel
from ..models.image_processing_rd_volume import padded

CHECKED_IMAGES = 32
CHECKED_VOLUMES = 2
CALIBRATION_IMAGES = 128
CALIBRATION_VOLUMES = 16


def is_of_volumes(loaded: LoadedModel) -> bool:
    """Whether a model reads volumes."""
    return isinstance(loaded.transform, VolumeTransform)


def input_size(loaded: LoadedModel) -> tuple[int, ...]:
    """Sides of what the model is shown at a time, in pixels or voxels."""
    if loaded.transform.size is not None:
        return tuple(loaded.transform.size)
    return tuple(loaded.model.config.image_size)  # of a student of volumes without a window


def input_noun(loaded: LoadedModel) -> str:
    """What the model is shown, in the plural."""
    return "windows" if is_of_volumes(loaded) else "images"


def random_inputs(loaded: LoadedModel) -> Tensor:
    """Normalised noise (B, C, *size)."""
    generator = torch.Generator().manual_seed(0)
    if not is_of_volumes(loaded):
        shape = (CHECKED_IMAGES, 3, *loaded.transform.size)
        return loaded.transform.normalize(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))
    shape = (CHECKED_VOLUMES, loaded.transform.channels, *input_size(loaded))
    normalized = loaded.transform.processor.normalized
    return torch.stack([normalized(volume) for volume in torch.rand(shape, generator=generator)])


def checked_inputs(loaded: LoadedModel, split: OpenSplit) -> Tensor:
    """A few of a split to compare two forms of a model on."""
    return _inputs(loaded, split, CHECKED_VOLUMES if is_of_volumes(loaded) else CHECKED_IMAGES)


def calibration_inputs(loaded: LoadedModel, split: OpenSplit) -> Tensor:
    """Those of a split that show which values activations take."""
    return _inputs(loaded, split, CALIBRATION_VOLUMES if is_of_volumes(loaded) else CALIBRATION_IMAGES)


def _inputs(loaded: LoadedModel, split: OpenSplit, count: int) -> Tensor:
    """Up to `count` normalised images, or windows from the middle of volumes, (B, C, *size), spread over the split."""
    chosen = np.unique(np.linspace(0, len(split.rows) - 1, min(count, len(split.rows))).round().astype(int))
    rows = [split.rows[index] for index in chosen]
    if not isinstance(split.store, VolumeStore):
        return loaded.transform.normalize(split.store.student.batch(rows))
    windows = []
    for row in rows:
        volume = loaded.transform.processor.normalized(split.store.shown(row).float())
        windows.append(_middle(padded(volume, input_size(loaded)), input_size(loaded)))
    return torch.stack(windows)


def _middle(volume: Tensor, size: tuple[int, ...]) -> Tensor:
    """The window of this size in the middle of a volume (C, X, Y, Z) that is at least so large."""
    starts = [(have - side) // 2 for have, side in zip(volume.shape[1:], size, strict=True)]
    x, y, z = (slice(start, start + side) for start, side in zip(starts, size, strict=True))
    return volume[:, x, y, z]
