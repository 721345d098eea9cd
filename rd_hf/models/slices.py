"""A volume read slice by slice: its slices as the images of a 2D model, and that model's maps as maps of the volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Stage, StageFeature, concatenated
from .grids import Grid, pool

# of each plane the volume's axes (X, Y and Z are 0, 1 and 2) that number the slices, a slice's rows and its columns
PLANES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}


@dataclass(frozen=True)
class SliceReading:
    """How a model of images reads a volume whose axes run to the patient's right, front and head (RAS).

    A slice is shown as radiologists see it: its rows and columns run against the volume's axes. With its neighbours it
    fills the channels of one image; beyond the first and the last slice these are repeated.

    :ivar axis: "axial", "coronal" or "sagittal".
    :ivar size: rows and columns, in pixels, that each slice is resized to.
    :ivar mean: of each channel of the model's images, in 0..1; as many channels as the model has, an odd number.
    :ivar std: the same for the deviation.
    """

    axis: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """:raises ValueError: for a field that is out of range."""
        if self.axis not in PLANES:
            raise ValueError(f"`axis` of slices is {self.axis!r}; it must be one of {', '.join(PLANES)}.")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"`size` of slices is {self.size!r}; it must be rows and columns in pixels.")
        if len(self.mean) != len(self.std) or len(self.mean) % 2 == 0 or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` of slices are {self.mean!r} and {self.std!r}; they must have one number per "
                "channel, for an odd number of channels, and deviations above 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """The reading in plain JSON types, for a model's config."""
        return {"axis": self.axis, "size": list(self.size), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SliceReading:
        """Read back what `to_dict` wrote."""
        return cls(values["axis"], *(tuple(values[name]) for name in ("size", "mean", "std")))

    def plane(self, grid: Grid) -> Grid:
        """Rows and columns of the slices of a volume's grid."""
        _, rows, columns = PLANES[self.axis]
        return grid[rows], grid[columns]

    def stage(self, stage: Stage, volume_size: Grid) -> Stage:
        """A stage of the model of images as one of volumes of this size."""
        sides = dict(zip(PLANES[self.axis], (volume_size[PLANES[self.axis][0]], *stage.grid), strict=True))
        return replace(stage, grid=tuple(sides[axis] for axis in range(3)))

    def read(self, volume: Tensor, at_once: int, run: Callable[[Tensor], list[StageFeature]]) -> list[StageFeature]:
        """The features of all slices of one volume.

        :param volume: as `images` takes it, with `at_once`.
        :param run: the model on a batch of `images`.
        :return: maps (slices, C, rows, columns), one feature for each that `run` gives.
        """
        return concatenated([run(images) for images in self.images(volume, at_once)])

    def images(self, volume: Tensor, at_once: int, numbers: Sequence[int] | None = None) -> Iterator[Tensor]:
        """The slices of one volume as normalised images.

        :param volume: (C, X, Y, Z) in 0..1; of several channels the first is read.
        :param at_once: slices in a batch.
        :param numbers: of the slices; None for all.
        :return: batches (N, channels of the model, *size), in the order of the slices.
        """
        slices = self._slices(volume)
        shown_with = self._neighbours(len(slices)).to(volume.device)
        mean, std = (torch.tensor(v, device=volume.device).view(-1, 1, 1) for v in (self.mean, self.std))
        for several in (shown_with if numbers is None else shown_with[list(numbers)]).split(at_once):
            shown = slices[several]
            if tuple(shown.shape[2:]) != self.size:
                shown = F.interpolate(shown, self.size, mode="bilinear", align_corners=False, antialias=True)
            yield (shown - mean) / std

    def _slices(self, volume: Tensor) -> Tensor:
        """(slices, rows, columns) of the first channel."""
        return volume[0].float().permute(PLANES[self.axis]).flip(1, 2)

    def _neighbours(self, slices: int) -> Tensor:
        """The slices in the channels of each image, (slices, channels)."""
        reach = len(self.mean) // 2
        return (torch.arange(slices)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, slices - 1)

    def assemble(self, feature: StageFeature, grid: Grid) -> StageFeature:
        """The features of all slices of one volume as one feature of the volume.

        :param feature: map (slices, C, rows, columns) and prefix (slices, P, C).
        :param grid: that the map is averaged to.
        :return: map (1, C, *grid) along the volume's own axes; prefix (1, P, C), the mean over the slices.
        """
        order = [1 + PLANES[self.axis].index(axis) for axis in range(3)]
        stacked = feature.map.movedim(1, 0).flip(2, 3).permute(0, *order).unsqueeze(0)
        prefix = None if feature.prefix is None else feature.prefix.mean(dim=0, keepdim=True)
        return StageFeature(pool(stacked, grid).contiguous(), prefix)
