"""The image processor of volumes: axes, spacing, size and intensity, and masks back on the source's voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .volume_grid import (
    classes_on_source,
    nearest,
    orientation_of,
    oriented,
    resized,
    resized_along_x,
    resized_in_slices,
    sides_along,
    spacing_along,
    to_source,
)
from .volume_sources import Affines, VolumeLike, shape_of, volumes_of, voxels_of

INTENSITIES = ("percentiles", "window")


class VolumesKwargs(ImagesKwargs, total=False):
    """What `from_pretrained` may replace among the settings of a volume's processor."""

    spacing: list[float] | float | None
    intensity: str
    window: list[float] | None
    percentiles: list[float]
    channels: int
    overlap: float


class RDVolumeProcessor(BaseImageProcessor):
    """Brings volumes to the grid and the range of values that a model reads, and masks back to the source's voxels.

    The grid's axes run towards right, front and head (RAS+). It covers the source's field of view: a side has
    round(side * spacing / wanted spacing) voxels, so that spacings are met to the nearest whole voxel.

    :param spacing: millimetres of the grid's voxels along each axis, or one for all; None keeps those of each source.
    :param size: voxels (X, Y, Z) that the whole volume is resized to, whatever its spacing; None for `spacing`.
    :param crop_size: voxels (X, Y, Z) of the window that a model of masks is run on; None for the whole grid.
    :param intensity: "window": the values of `window` become 0..1, and 0..1 becomes -1..1 (CT). "percentiles":
        the percentiles of the source's voxels become 0..1, and the volume's mean and deviation 0 and 1 (MR). Values
        beyond are clipped.
    :param window: lowest and highest value shown, in the units of the source (CT: Hounsfield units).
    :param percentiles: lowest and highest, of all voxels of a channel.
    :param channels: that the model reads.
    :param do_normalize: whether a model reads -1..1 or z-scores; otherwise 0..1.
    :param overlap: of neighbouring windows, as a share of the window.
    :param kwargs: what transformers keeps with every processor.
    :raises ValueError: when a setting is impossible.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012, transformers' own
    valid_kwargs = VolumesKwargs

    def __init__(
        self,
        spacing: float | Sequence[float] | None = None,
        size: int | Sequence[int] | None = None,
        crop_size: int | Sequence[int] | None = None,
        intensity: str = "percentiles",
        window: Sequence[float] | None = None,
        percentiles: Sequence[float] = (0.5, 99.5),
        channels: int = 1,
        do_normalize: bool = True,
        overlap: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.spacing = _three("spacing", spacing, float)
        self.size = _three("size", size, int)
        self.crop_size = _three("crop_size", crop_size, int)
        if intensity not in INTENSITIES:
            raise ValueError(f"`intensity` is {intensity!r}; it must be one of {', '.join(INTENSITIES)}.")
        if (window is not None) != (intensity == "window"):
            raise ValueError("`window` goes with `intensity` 'window', and only with it: give both or none.")
        self.intensity = intensity
        self.window = None if window is None else _range("window", window)
        self.percentiles = _range("percentiles", percentiles)
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"`percentiles` are {list(percentiles)}; they must lie between 0 and 100.")
        if channels < 1 or not 0 <= overlap < 1:
            raise ValueError(
                f"`channels` is {channels} and `overlap` {overlap}; channels must be at least 1, and an overlap at "
                "least 0 and below 1."
            )
        self.channels, self.do_normalize, self.overlap = int(channels), bool(do_normalize), float(overlap)

    def grid(self, shape: Sequence[int], affine: np.ndarray) -> tuple[int, int, int]:
        """Voxels (X, Y, Z) of the grid of a source.

        :param shape: of the source, (X, Y, Z) in its own order.
        :param affine: (4, 4), from the source's voxel indices to RAS+ millimetres.
        """
        if self.size is not None:
            return tuple(self.size)
        orientation = orientation_of(affine)
        sides = sides_along(shape, orientation)
        if self.spacing is None:
            return tuple(sides)
        found = zip(sides, spacing_along(affine, orientation), self.spacing, strict=True)
        return tuple(max(1, round(side * old / new)) for side, old, new in found)

    def grid_spacing(self, shape: Sequence[int], affine: np.ndarray) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel of the grid of a source, along each axis."""
        orientation = orientation_of(affine)
        sides = sides_along(shape, orientation)
        found = zip(sides, spacing_along(affine, orientation), self.grid(shape, affine), strict=True)
        return tuple(side * spacing / new for side, spacing, new in found)

    def shown(self, values: np.ndarray | Tensor, affine: np.ndarray) -> Tensor:
        """A volume on the grid, in 0..1.

        :param values: (C, X, Y, Z) in the source's own order.
        :param affine: (4, 4), from the source's voxel indices to RAS+ millimetres.
        :return: (C, *grid) float32.
        """
        values, orientation = torch.as_tensor(values, dtype=torch.float32), orientation_of(affine)
        grid = self.grid(values.shape[1:], affine)
        low, high = self._limits(values)
        width = torch.where(high > low, high - low, 1)  # a volume of one value is 0 throughout
        # Each step frees what it was given, so that no more than two volumes are in memory.
        values = oriented(values, orientation)
        values = resized_in_slices(values, grid)
        values = resized_along_x(values, grid)
        return values.sub_(low).div_(width).clamp_(0, 1)

    def labels(self, values: np.ndarray | Tensor, affine: np.ndarray) -> Tensor:
        """A label volume (X, Y, Z) on the grid of its image: each voxel takes the label at its centre."""
        values = torch.as_tensor(values)
        on_grid = nearest(oriented(values, orientation_of(affine)), self.grid(values.shape, affine))
        return on_grid.contiguous()

    def statistics(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) that `normalized` uses for a whole volume (C, *grid) in 0..1, and for its crops."""
        if not self.do_normalize:
            return shown.new_zeros(len(shown)), shown.new_ones(len(shown))
        if self.intensity == "window":
            return shown.new_full((len(shown),), 0.5), shown.new_full((len(shown),), 0.5)
        deviation, mean = torch.std_mean(shown, dim=(1, 2, 3), correction=0)
        return mean, torch.where(deviation > 1e-6, deviation, 1)

    def normalized(self, shown: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """What a model reads of a volume (C, *grid) in 0..1.

        :param statistics: those of the whole volume where `shown` is a crop of it.
        """
        mean, deviation = self.statistics(shown) if statistics is None else statistics
        return (shown - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)

    def to_source(self, logits: Tensor, shape: Sequence[int], affine: np.ndarray) -> Tensor:
        """See `volume_grid.to_source`."""
        return to_source(logits, shape, affine)

    def preprocess(
        self,
        images: VolumeLike | Sequence[VolumeLike],
        affines: Affines = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Prepare volumes for the model.

        Volumes of several grids, and those smaller than `crop_size`, are padded at the end of each axis with their
        lowest value.

        :param images: one volume or a list of them: the path of a NIfTI file, a list of such paths with one channel
            each, a nibabel image, or an array (C, X, Y, Z) or (X, Y, Z).
        :param affines: of arrays, (4, 4) each, from voxel indices to RAS+ millimetres; the identity by default.
        :return: `pixel_values` (B, C, *grid).
        :raises ValueError: when a volume has NaN voxels or other channels than the model reads.
        """
        volumes = []
        for source, affine in volumes_of(images, affines):
            volumes.append(self.normalized(self.shown(voxels_of(source, self.channels), affine)))
        sides = self._common_sides([volume.shape[1:] for volume in volumes])
        stacked = torch.stack([padded(volume, sides) for volume in volumes])
        return BatchFeature({"pixel_values": stacked}, tensor_type=return_tensors)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        images: VolumeLike | Sequence[VolumeLike],
        affines: Affines = None,
    ) -> list[Tensor]:
        """The most likely class of each voxel, on the voxels of the sources.

        :param outputs: of the model for what `preprocess` made of the same `images`; its `logits` are (B, K, x, y, z),
            on the grid or coarser.
        :return: of each volume, (X, Y, Z) uint8 in its own order.
        :raises ValueError: where logits are NaN or infinite, which would read as a mask without a finding.
        """
        sources = [(shape_of(source), affine) for source, affine in volumes_of(images, affines)]
        grids = [self.grid(shape, affine) for shape, affine in sources]
        sides, maps = self._common_sides(grids), []
        for number, logits in enumerate(outputs.logits):
            if not logits.isfinite().all():
                raise ValueError(f"The model's output for volume {number} is not finite (NaN or infinite).")
        for logits, (x, y, z), (shape, affine) in zip(outputs.logits, grids, sources, strict=True):
            maps.append(classes_on_source(resized(logits, sides)[:, :x, :y, :z], shape, affine))
        return maps

    def _common_sides(self, grids: Sequence[Sequence[int]]) -> list[int]:
        """The size that the volumes of a batch are padded to."""
        return [max(sides) for sides in zip(*grids, self.crop_size or (1, 1, 1), strict=True)]

    def _limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values (C, 1, 1, 1) of a source that are shown as 0 and 1."""
        if self.window is not None:
            low, high = (torch.full((len(values),), limit) for limit in self.window)
            return low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)
        limits = []
        for channel in values.numpy():
            low, high = np.percentile(np.array(channel).ravel(order="K"), self.percentiles, overwrite_input=True)
            # where but a few voxels differ from the others, the volume is not shown as an empty one
            limits.append((low, high) if low < high else (channel.min(), channel.max()))
        low, high = torch.tensor(limits, dtype=torch.float32).T
        return low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)


def padded(volume: Tensor, sides: Sequence[int]) -> Tensor:
    """A volume (C, x, y, z) made at least so large: behind its end each channel has its lowest value."""
    size = [max(have, side) for have, side in zip(volume.shape[1:], sides, strict=True)]
    if tuple(size) == tuple(volume.shape[1:]):
        return volume
    larger = volume.amin(dim=(1, 2, 3), keepdim=True).repeat(1, *size)
    larger[:, : volume.shape[1], : volume.shape[2], : volume.shape[3]] = volume
    return larger


def _three(name: str, value: float | Sequence[float] | None, kind: type) -> list | None:
    """A setting of each axis as plain numbers; one number stands for all."""
    if value is None:
        return None
    values = [value] * 3 if isinstance(value, Real) else list(value)
    if len(values) != 3 or not all(math.isfinite(number) and kind(number) > 0 for number in values):
        raise ValueError(f"`{name}` is {value}; it must be one positive number, or one for each axis (X, Y, Z).")
    return [kind(number) for number in values]


def _range(name: str, value: Sequence[float]) -> list[float]:
    numbers = [float(number) for number in value]
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] >= numbers[1]:
        raise ValueError(f"`{name}` is {list(value)}; it must be two numbers, the lower one first.")
    return numbers


# `save_pretrained` then puts this file and those that it imports beside the processor's settings
RDVolumeProcessor.register_for_auto_class()
