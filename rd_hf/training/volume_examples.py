"""A test volume with its truth and a student's prediction, ready to be drawn."""

from __future__ import annotations

import torch

from ..data.open_split import OpenSplit
from ..inference.volumes import volume_logits
from ..models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from ..models.volume_grid import orientation_of, oriented, spacing_along
from ..scoring.volume_pictures import VolumeExample
from ..tasks.segmentation import VolumeSegmentation


def volume_example(
    task: VolumeSegmentation, student: RDStudentForSemanticSegmentation, split: OpenSplit, row: int, title: str
) -> VolumeExample:
    """The volume of a row on the voxels of its source, with its axes towards right, front and head.

    :param student: in eval mode.
    """
    store = split.store
    shown, (target,) = store.shown(row), split.targets([row])
    logits = volume_logits(lambda pixels: student(pixel_values=pixels).logits, store.processor, shown, student.device)
    (prediction,) = task.masks_of(logits[None], [(target.mask.shape, target.affine)])
    image = store.processor.to_source(shown[:1], target.mask.shape, target.affine)[0]
    orientation = orientation_of(target.affine)
    parts = [oriented(part, orientation).numpy() for part in (image, target.mask, torch.from_numpy(prediction))]
    return VolumeExample(*parts, spacing_along(target.affine, orientation), title)
