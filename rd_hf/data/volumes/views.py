"""Views of volumes: a crop, mirrored, turned and scaled, and its tone, drawn per (seed, row, view).

As with images (`rd_hf.data.augmentation`), batch, process and order do not enter, so that features of a teacher can be
cached per (row, view) and an interrupted run resumes exactly. Unlike images, a volume is seen by student and teacher on
one grid, so that a view is applied once, where the volume is read, and to the voxels of the crop alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...scoring.segmentation import IGNORED_LABEL
from ..augmentation import EVALUATION_VIEW, AugmentationParameters, Counted, uniform_draws
from ..masks.reading import counts_of

# Raised with every change of what a view shows, resampling included: cached teacher features depend on it.
VOLUME_VIEWS_VERSION = 1
DRAWS_PER_VIEW = 18
FOREGROUND_SHARE = 1 / 3  # of the crops of rows with foreground, those centred on a voxel of it; as in nnU-Net
TILT = 1 / 3  # of the rotation, about the two axes in the slice
POSITIONS_PER_CLASS = 512
STILL = AugmentationParameters(
    rotation_degrees=0, scale=0, shift=0, horizontal_flip=False, brightness=0, contrast=0, gamma=0
)


@dataclass(frozen=True)
class VolumeView:
    """What was drawn for one row.

    :param turn: (3, 3) rotation in millimetres, from the view to the volume.
    :param zoom: magnification.
    :param shift: (3,) fraction of each side; of whole volumes only, as a crop lies anywhere.
    :param signs: (3,) -1 where an axis is mirrored, else 1.
    :param place: (3,) in [0, 1), where a crop starts.
    :param foreground: in [0, 1), which foreground voxel a crop is centred on; None for a crop that is not.
    :param brightness: offset, as a fraction of the full range.
    :param contrast: factor about mid-grey.
    :param gamma: exponent.
    """

    turn: np.ndarray
    zoom: float
    shift: np.ndarray
    signs: np.ndarray
    place: np.ndarray
    foreground: float | None
    brightness: float
    contrast: float
    gamma: float

    def toned(self, crop: Tensor) -> Tensor:
        """A crop in 0..1 with its brightness, contrast and gamma, in 0..1 again."""
        if self.brightness != 0 or self.contrast != 1:
            crop = (crop * self.contrast + (0.5 - 0.5 * self.contrast + self.brightness)).clamp_(0, 1)
        return crop if self.gamma == 1 else crop.pow(self.gamma)


class VolumeViews:
    """Draws the views of a run.

    `horizontal_flip` mirrors left and right: turn it off where a class is one side of a pair, such as the left kidney.
    `vertical_flip` mirrors front and back, and head and feet, each in half of the views: turn it on where no direction
    is up, as in crops of small structures. `rotation_degrees` turns about the axis from feet to head, and a third of
    it about the other two.

    :param parameters: strengths; None only places the crops.
    :param seed: of the run.
    :param crop_size: voxels (X, Y, Z) of a crop; None shows whole volumes.
    """

    def __init__(
        self, parameters: AugmentationParameters | None, seed: int, crop_size: Sequence[int] | None = None
    ) -> None:
        self.parameters = STILL if parameters is None else parameters
        self.seed = seed
        self.crop_size = None if crop_size is None else tuple(crop_size)

    def draw(self, row: int, view: int) -> VolumeView:
        """The view of a row; view -1, the evaluation view, shows the middle as it is.

        :raises AugmentationError: when a number is negative (other than view -1).
        """
        strengths = self.parameters
        found = uniform_draws(Counted(self.seed), row, view, DRAWS_PER_VIEW)
        if view == EVALUATION_VIEW:
            return VolumeView(np.eye(3), 1, np.zeros(3), np.ones(3), np.full(3, 0.5), None, 0, 1, 1)
        symmetric = 2 * found - 1  # in [-1, 1), 0 being "unchanged"
        angles = math.radians(strengths.rotation_degrees) * symmetric[:3] * (TILT, TILT, 1)
        may_flip = (strengths.horizontal_flip, strengths.vertical_flip, strengths.vertical_flip)
        return VolumeView(
            turn=_rotation(*angles),
            zoom=(1 + strengths.scale) ** symmetric[3],
            shift=strengths.shift * symmetric[4:7],
            signs=np.where((found[7:10] < 0.5) & may_flip, -1, 1),
            brightness=strengths.brightness * symmetric[10],
            contrast=(1 + strengths.contrast) ** symmetric[11],
            gamma=(1 + strengths.gamma) ** symmetric[12],
            foreground=found[14] if found[13] < FOREGROUND_SHARE else None,
            place=found[15:18],
        )

    def window(
        self, view: VolumeView, grid: Sequence[int], spacing: Sequence[float], foreground: np.ndarray
    ) -> VolumeWindow:
        """Where a view looks in a volume.

        :param grid: of the volume, (X, Y, Z).
        :param spacing: millimetres of its voxels; turns are true to shape in them.
        :param foreground: flat positions, as by `foreground_positions`; empty where there are none.
        """
        grid, spacing = np.asarray(grid), np.asarray(spacing, dtype=np.float64)
        step = view.turn * spacing / spacing[:, None] * view.signs / view.zoom
        if self.crop_size is None:
            return VolumeWindow(tuple(grid), tuple(grid), (grid - 1) / 2 + view.shift * grid, step)
        size = np.asarray(self.crop_size)
        room = np.maximum(grid - size, 0)
        start = np.minimum((view.place * (room + 1)).astype(np.int64), room)
        if view.foreground is not None and len(foreground):
            chosen = foreground[int(view.foreground * len(foreground))]
            start = np.clip(np.array(np.unravel_index(chosen, grid)) - size // 2, 0, room)
        return VolumeWindow(tuple(grid), tuple(size), start + (size - 1) / 2, step)


@dataclass(frozen=True)
class VolumeWindow:
    """A box in a volume, in any direction.

    :param grid: of the volume.
    :param size: voxels (X, Y, Z) of the box.
    :param centre: (3,) of the box, in voxel indices of the volume.
    :param step: (3, 3) in whose columns are the steps in the volume for a voxel along each axis of the box.
    """

    grid: tuple[int, ...]
    size: tuple[int, ...]
    centre: np.ndarray
    step: np.ndarray

    def image(self, values: np.ndarray, outside: Tensor) -> Tensor:
        """The voxels of the box, linearly: (C, *size) float32.

        :param values: (C, *grid); only the part around the box is read.
        :param outside: (C,) value of what lies beyond the volume.
        """
        return self._sampled(values, outside, "bilinear")

    def mask(self, classes: np.ndarray) -> Tensor:
        """The classes in the box, of the nearest voxels: (*size) uint8, `IGNORED_LABEL` beyond the volume."""
        outside = torch.tensor([float(IGNORED_LABEL)])
        return self._sampled(classes[None], outside, "nearest")[0].to(torch.uint8)

    def _sampled(self, values: np.ndarray, outside: Tensor, mode: str) -> Tensor:
        first, last = self._region()
        region = torch.from_numpy(np.array(values[(slice(None), *map(slice, first, last))], dtype=np.float32))
        offset = self.centre - first
        if np.array_equal(np.abs(self.step), np.eye(3)):
            corner = offset - self.step @ (np.array(self.size) - 1) / 2
            if np.array_equal(corner % 1, np.zeros(3)):
                return _copied(region, corner.astype(np.int64), np.diag(self.step).astype(np.int64), self.size, outside)
        grid = _grid(offset, self.step, self.size, last - first)
        sampled = F.grid_sample(region[None], grid, mode=mode, padding_mode="border", align_corners=False)[0]
        # Inside the volume the box never leaves the region, so that what leaves the region is beyond the volume.
        beyond = (grid.abs() > 1).any(dim=-1)
        return torch.where(beyond, outside.view(-1, 1, 1, 1), sampled)

    def _region(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 index along each axis of the part of the volume that the box needs; never empty."""
        half = np.abs(self.step) @ (np.array(self.size) - 1) / 2
        grid = np.array(self.grid)
        first = np.clip(np.floor(self.centre - half).astype(np.int64) - 1, 0, grid - 1)
        last = np.clip(np.ceil(self.centre + half).astype(np.int64) + 2, first + 1, grid)
        return first, last


def foreground_positions(classes: np.ndarray) -> np.ndarray:
    """Flat positions in a mask of voxels of its foreground, as many of each class, spread evenly over the class.

    :param classes: (X, Y, Z) uint8; 0 is the background.
    :return: (classes * POSITIONS_PER_CLASS,) int32; those of a small class occur several times.
    """
    flat = classes.reshape(-1)
    parts = [np.empty(0, dtype=np.int32)]
    for label in counts_of(classes):
        if label not in (0, IGNORED_LABEL):
            found = np.flatnonzero(flat == label)
            chosen = found[np.arange(POSITIONS_PER_CLASS) * len(found) // POSITIONS_PER_CLASS]
            parts.append(chosen.astype(np.int32))
    return np.concatenate(parts)


def _rotation(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3): turns about the axes X, Y and Z, one after the other, in radians."""
    about_x = np.array([[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]])
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_z = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _grid(centre: np.ndarray, step: np.ndarray, size: Sequence[int], region: np.ndarray) -> Tensor:
    """(1, *size, 3): where each voxel of a box lies in a region, as torch's `grid_sample` wants it (Z first, -1..1)."""
    matrix = step * np.array(size) / region[:, None]
    theta = np.concatenate([matrix[::-1, ::-1], ((2 * centre + 1) / region - 1)[::-1, None]], axis=1)
    return F.affine_grid(torch.from_numpy(theta).float()[None], [1, 1, *size], align_corners=False)


def _copied(region: Tensor, corner: np.ndarray, signs: np.ndarray, size: Sequence[int], outside: Tensor) -> Tensor:
    """A box whose voxels are voxels of the region (C, x, y, z), maybe mirrored; it starts at the corner."""
    for axis in range(3):
        places = torch.arange(size[axis]) * int(signs[axis]) + int(corner[axis])
        side = region.shape[1 + axis]
        region = region.index_select(1 + axis, places.clamp(0, side - 1))
        beyond = (places < 0) | (places >= side)
        if bool(beyond.any()):
            shape = [-1 if other == axis else 1 for other in range(3)]
            region = torch.where(beyond.view(1, *shape), outside.view(-1, 1, 1, 1), region)
    return region
