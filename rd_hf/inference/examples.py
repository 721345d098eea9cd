"""Images and volumes of a split with their truth and a segmenter's prediction, ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..data.decoding.images import read_image
from ..data.open_split import OpenSplit
from ..models.volume_grid import orientation_of, oriented, spacing_along
from ..scoring.mask_pictures import MaskExample
from ..scoring.volume_pictures import VolumeExample
from ..tasks.segmentation import Segmentation, VolumeSegmentation
from .rows import pixel_values
from .volumes import volume_logits

Forward = Callable[[Tensor], Tensor]


def mask_example(
    task: Segmentation, forward: Forward, device: torch.device, split: OpenSplit, row: int, title: str = ""
) -> MaskExample:
    """The image of a row at the size of its file.

    :param forward: pixel values (B, 3, h, w) on `device` -> logits (B, K, h', w'); the model is in eval mode.
    """
    image = np.asarray(read_image(split.images[row]["image"], reading=split.store.reading).rgb)
    truth = split.store.source_mask(row)
    with torch.no_grad():
        logits = forward(pixel_values(split.store.student, [row], device)).float()
    return MaskExample(image, truth, task.masks_of(logits, [truth.shape])[0], title)


def volume_example(
    task: VolumeSegmentation, forward: Forward, device: torch.device, split: OpenSplit, row: int, title: str = ""
) -> VolumeExample:
    """The volume of a row on the voxels of its source, with its axes towards right, front and head.

    :param forward: as for `mask_example`, of windows; the model is in eval mode.
    """
    store = split.store
    shown, (target,) = store.shown(row), split.targets([row])
    logits = volume_logits(forward, store.processor, shown, device)
    (prediction,) = task.masks_of(logits[None], [(target.mask.shape, target.affine)])
    image = store.processor.to_source(shown[:1], target.mask.shape, target.affine)[0]
    orientation = orientation_of(target.affine)
    parts = [oriented(part, orientation).numpy() for part in (image, target.mask, torch.from_numpy(prediction))]
    return VolumeExample(*parts, spacing_along(target.affine, orientation), title)


def volume_shown(split: OpenSplit, row: int) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The first channel of a row's volume in 0..1, with axes towards right, front and head, and its spacing."""
    store = split.store
    header, shown = store.source(row), store.shown(row)
    image = store.processor.to_source(shown[:1], header.shape, header.affine)[0]
    orientation = orientation_of(header.affine)
    return oriented(image, orientation).numpy(), spacing_along(header.affine, orientation)
