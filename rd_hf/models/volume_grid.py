"""Between a volume's own voxels and the grid of a model: axes towards right, front and head, and sides resampled.

Grid and volume cover the same field of view, so that one function brings images there and logits back: voxel i of n
lies at (i + 1/2) / n of a side (`align_corners=False`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SLICES_AT_ONCE = 8
_LINEAR = {"mode": "bilinear", "align_corners": False, "antialias": True}


class Orientation(NamedTuple):
    """How the axes of an array lie in the patient.

    :param axes: the array's axis that is nearest to each axis of RAS+ (right, front, head).
    :param flips: of these three, the numbers of those that run the other way (left, back, feet).
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]


def orientation_of(affine: np.ndarray) -> Orientation:
    """The orientation of an affine (4, 4) from voxel indices to RAS+ millimetres; of an oblique one the nearest.

    :raises ValueError: when the affine is not finite, or gives an axis no length.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
        raise ValueError(
            "The affine must be (4, 4) of finite numbers, from voxel indices to millimetres, with a length for each "
            f"axis; it is {affine.tolist()}. Correct the volume's header."
        )
    try:
        from nibabel.orientations import io_orientation
    except ImportError as error:
        raise ImportError("Volumes need nibabel: pip install nibabel") from error
    found = io_orientation(affine)
    if np.isnan(found).any():
        raise ValueError(f"Two axes of the affine are parallel: {affine.tolist()}. Correct the volume's header.")
    axes = np.argsort(found[:, 0])
    flips = tuple(axis for axis in range(3) if found[axes[axis], 1] < 0)
    return Orientation(tuple(axes.tolist()), flips)


def sides_along(shape: Sequence[int], orientation: Orientation) -> list[int]:
    """Voxels of a source along the oriented axes; `shape` is in its own order."""
    return [int(shape[axis]) for axis in orientation.axes]


def spacing_along(affine: np.ndarray, orientation: Orientation) -> tuple[float, float, float]:
    """Millimetres from voxel to voxel along the oriented axes."""
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)[list(orientation.axes)].tolist()
    return x, y, z


def oriented(values: Tensor, orientation: Orientation) -> Tensor:
    """A copy of an array (..., X, Y, Z) on the CPU, its last three axes towards right, front and head."""
    leading = values.ndim - 3
    turned = values.permute(*range(leading), *(leading + axis for axis in orientation.axes)).numpy()
    turned = np.flip(turned, [leading + axis for axis in orientation.flips])
    return torch.from_numpy(np.array(turned, order="C"))


def unoriented(values: Tensor, orientation: Orientation) -> Tensor:
    """The inverse of `oriented`, on any device."""
    leading = values.ndim - 3
    turned = values.flip([leading + axis for axis in orientation.flips])
    return turned.permute(*range(leading), *(leading + axis for axis in np.argsort(orientation.axes).tolist()))


def resized(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values (C, X, Y, Z) at another size, linearly; where a side shrinks, all voxels that a new one covers count.

    One axis is independent of the others, so torch's antialiased interpolation of images does two, and then one.

    :param size: the new (X, Y, Z).
    :return: (C, *size) float32; `values` itself where nothing changes.
    """
    return resized_along_x(resized_in_slices(values, size), size)


def resized_in_slices(values: Tensor, size: Sequence[int]) -> Tensor:
    """The first half of `resized`: (C, X, *size[1:]), some slices at a time, as torch holds another copy of them."""
    values = values.float()
    if values.shape[2:] == tuple(size[1:]):
        return values
    result = values.new_empty(*values.shape[:2], *size[1:])
    for start in range(0, values.shape[1], SLICES_AT_ONCE):
        part = slice(start, start + SLICES_AT_ONCE)
        result[:, part] = F.interpolate(values[:, part], tuple(size[1:]), **_LINEAR)
    return result


def resized_along_x(values: Tensor, size: Sequence[int]) -> Tensor:
    """The second half of `resized`, of values (C, X, *size[1:])."""
    channels, side = values.shape[:2]
    if side == size[0]:
        return values
    flat = F.interpolate(values.reshape(1, channels, side, -1), (size[0], size[1] * size[2]), **_LINEAR)
    return flat.reshape(channels, *size)


def nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (X, Y, Z) at another size; each voxel takes the label at its centre (torch's "nearest-exact")."""
    for axis, (side, new) in enumerate(zip(labels.shape, size, strict=True)):
        if side != new:
            # (i + 1/2) * side / new in whole numbers, which do not round
            labels = labels.index_select(axis, (2 * torch.arange(new) + 1) * side // (2 * new))
    return labels


def to_source(values: Tensor, shape: Sequence[int], affine: np.ndarray) -> Tensor:
    """Values (K, *grid) brought from a grid to the voxels of its source, linearly.

    :param shape: of the source, (X, Y, Z) in its own order.
    :param affine: (4, 4) of the source.
    :return: (K, *shape) float32.
    """
    orientation = orientation_of(affine)
    return unoriented(resized(values, sides_along(shape, orientation)), orientation)


def classes_on_source(logits: Tensor, shape: Sequence[int], affine: np.ndarray) -> Tensor:
    """The class with the highest of the logits (K, *grid), at each voxel of the source: (X, Y, Z) uint8.

    One class is brought there at a time, so that memory does not grow with their number.
    """
    best = to_source(logits[:1], shape, affine)[0]
    classes = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number in range(1, len(logits)):
        other = to_source(logits[number : number + 1], shape, affine)[0]
        classes[other > best] = number
        best = torch.maximum(best, other)
    return classes
