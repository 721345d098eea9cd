"""Whether a label volume lies on the grid of its volume."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arguments.words import by
from ..columns import DataError
from ..decoding.images import BadImageError, described
from ..volumes.reading import header_of, same_grid
from ..volumes.turning import turn_onto
from ..volumes.volume import Header
from .decoding import StoredMask


def check_grid(mask: StoredMask, volume: dict[str, Any], mask_name: str, where: str) -> bool:
    """Compare a label volume with the header of its volume. A volume that cannot be read passes; its reading tells.

    Labels on the volume's voxels whose axes have another order or direction pass; `MaskReading.read` turns them.

    :param mask: the labels, see `rd_hf.data.masks.decoding.read_stored`.
    :param volume: ``{"bytes": ..., "path": ...}`` of the row.
    :param mask_name: what an error calls the labels.
    :param where: what an error calls the volume; its path is named anyway.
    :return: whether they have to be turned.
    :raises DataError: where shape or affine differ, or the labels are those of a picture.
    """
    name = described(volume, where)
    if mask.affine is None:
        raise DataError(f"{mask_name} is a picture, but {name} is a volume; save its labels as .nii.gz")
    try:
        header = header_of(volume, where)
    except BadImageError:
        return False
    labels = Header(mask.values.shape, mask.affine)
    if same_grid(header, labels):
        return False
    if turn_onto(labels, header) is not None:
        return True
    if header.shape != labels.shape:
        raise DataError(
            f"{mask_name} has {by(labels.shape)} voxels, but {name} has {by(header.shape)}; labels must "
            "have the grid of their volume: resample them to it, nearest neighbour"
        )
    raise DataError(
        f"{mask_name} lies elsewhere than {name}: {_difference(header, labels)}. Resample the labels to the grid of "
        "the volume (nearest neighbour), or, if they fit voxel by voxel, copy its affine"
    )


def _difference(volume: Header, labels: Header) -> str:
    """How two affines differ, in words."""
    if not np.allclose(volume.spacing, labels.spacing, rtol=1e-3):
        return f"their voxels are {by(labels.spacing, 6)} mm apart, and those of the volume {by(volume.spacing, 6)} mm"
    axes, others = (header.affine[:3, :3] / header.spacing for header in (volume, labels))
    if not np.allclose(axes, others, atol=1e-2):
        return "their axes have other directions (the affines differ)"
    apart = np.linalg.norm(volume.affine[:3, 3] - labels.affine[:3, 3])
    return f"their first voxels are {apart:.3g} mm apart (the affines differ)"
