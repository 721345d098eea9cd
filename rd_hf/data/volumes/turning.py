"""Label volumes whose axes run in another order or direction than those of their volume, on the same voxels."""

from __future__ import annotations

import numpy as np

from .reading import same_grid
from .volume import Header


def turn_onto(labels: Header, volume: Header) -> np.ndarray | None:
    """How labels are turned onto the voxels of their volume, by the affines of both.

    :return: nibabel's orientation (3, 2), for `turned`; None where no order and direction of the axes does it.
    """
    from nibabel.orientations import inv_ornt_aff, io_orientation, ornt_transform

    orientations = [io_orientation(header.affine) for header in (labels, volume)]
    if np.isnan(orientations).any():  # two parallel axes
        return None
    turn = ornt_transform(*orientations)
    shape = [0, 0, 0]
    for axis, (target, _) in enumerate(turn.astype(int)):
        shape[target] = labels.shape[axis]
    moved = Header(tuple(shape), labels.affine @ inv_ornt_aff(turn, labels.shape))
    return turn if same_grid(volume, moved) else None


def turned(values: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Values (X, Y, Z) of labels in the order of their volume's voxels."""
    from nibabel.orientations import apply_orientation

    return np.ascontiguousarray(apply_orientation(values, turn))
