"""A test volume as rows of a picture: axial, coronal and sagittal slices through its largest region."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.open_split import OpenSplit
from ..inference.volumes import volume_logits
from ..models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from ..models.volume_grid import orientation_of, oriented, spacing_along
from ..scoring.mask_pictures import MaskExample
from ..scoring.segmentation import IGNORED_LABEL
from ..scoring.volume_pictures import PLANES, grey_slice, mask_slice, region_centre
from ..tasks.segmentation import VolumeSegmentation


def examples_of_volume(
    task: VolumeSegmentation, student: RDStudentForSemanticSegmentation, split: OpenSplit, row: int, title: str
) -> list[MaskExample]:
    """An example for each of PLANES, true to shape on the voxels of the source.

    :param student: in eval mode.
    :param title: of the first.
    """
    store = split.store
    shown, (target,) = store.shown(row), split.targets([row])
    logits = volume_logits(lambda pixels: student(pixel_values=pixels).logits, store.processor, shown, student.device)
    (prediction,) = task.masks_of(logits[None], [(target.mask.shape, target.affine)])
    image = store.processor.to_source(shown[:1], target.mask.shape, target.affine)[0]
    orientation = orientation_of(target.affine)
    spacing = spacing_along(target.affine, orientation)
    image, truth, prediction = (
        oriented(part, orientation).numpy() for part in (image, target.mask, torch.from_numpy(prediction))
    )
    place = region_centre(truth if _has_foreground(target.mask) else prediction)
    return [
        MaskExample(
            grey_slice(image, plane, place, spacing),
            mask_slice(truth, plane, place, spacing),
            mask_slice(prediction, plane, place, spacing),
            f"{title}\n{plane}" if number == 0 else plane,
        )
        for number, plane in enumerate(PLANES)
    ]


def _has_foreground(mask: Tensor) -> bool:
    return bool(((mask != 0) & (mask != IGNORED_LABEL)).any())
