"""Arrays of volumes, as in the .npz files of MedMNIST3D."""

from __future__ import annotations

import logging
from io import BytesIO

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy_format

from ..byte_rows import byte_rows
from ..columns import DataError
from .choice import VolumeChoice
from .volume import VolumeReading

logger = logging.getLogger(__name__)

FEWEST_SLICES = 5  # of a shape that could as well be one of images with channels


def are_volumes(images: np.ndarray, choice: VolumeChoice) -> bool:
    """Tell whether an array holds volumes: (N, D, H, W), or (N, D, H, W, C) with channels.

    Without a choice (N, H, W, 1 to 4) and (N, 1 or 3, H, W) are images.
    """
    if choice.dimensions == 2:
        return False
    if choice.dimensions == 3 or images.ndim == 5:
        return images.ndim in (4, 5)
    return images.ndim == 4 and images.shape[3] >= FEWEST_SLICES and images.shape[1] not in (1, 3)


def volume_column(images: np.ndarray, where: str, choice: VolumeChoice) -> tuple[pa.ChunkedArray, VolumeReading]:
    """Give arrays as a column of files in NumPy's format, and how to read them.

    :param images: (N, D, H, W), (N, D, H, W, C) or (N, C, D, H, W).
    :param where: what an error calls them.
    :raises DataError: if they are no numbers, are empty, or have other channels than asked for.
    """
    if images.dtype.kind not in "biuf" or 0 in images.shape[1:]:
        raise DataError(f"{where}: got {images.dtype} of shape {images.shape}; expected numbers (N, D, H, W)")
    if images.ndim == 5 and images.shape[4] >= FEWEST_SLICES and images.shape[1] < FEWEST_SLICES:
        logger.info("%s: %s is read as channels first, (N, C, D, H, W).", where, images.shape)
        images = np.moveaxis(images, 1, 4)
    channels = images.shape[4] if images.ndim == 5 else 1
    if choice.channels not in (None, channels):
        raise DataError(
            f"{where}: the shape {images.shape} has {'one channel' if channels == 1 else f'{channels} channels'}, but "
            f"volume_channels is {choice.channels}"
        )
    if channels == 1 and images.ndim == 5:
        images = images[..., 0]
    return _column(images), VolumeReading(channels, channel_axis=channels > 1)


def label_column(masks: np.ndarray, shape: tuple[int, ...], where: str) -> pa.ChunkedArray:
    """Give label volumes as a column of files in NumPy's format.

    :param masks: (N, D, H, W), perhaps with one channel, first or last.
    :param shape: of the array of volumes.
    :param where: what an error calls them.
    :raises DataError: if they are no whole numbers, or do not fit the volumes.
    """
    if masks.ndim == 5 and 1 in (masks.shape[1], masks.shape[4]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    if masks.ndim != 4 or masks.dtype.kind not in "biuf" or len(masks) != shape[0]:
        raise DataError(
            f"{where}: got {masks.dtype} of shape {masks.shape}; expected whole numbers {shape[:4]}, the class of "
            "every voxel"
        )
    for row, mask in enumerate(masks):
        whole = np.isfinite(mask) & (mask == np.round(mask)) & (mask >= 0) & (mask < 2**16)
        if not whole.all():
            raise DataError(
                f"{where}: row {row} holds {mask[~whole].flat[0]}; expected whole numbers from 0 to 65535, the class "
                "of every voxel"
            )
    return _column(masks.astype(np.uint16 if masks.size and masks.max() > 255 else np.uint8))


def _column(values: np.ndarray) -> pa.ChunkedArray:
    header = BytesIO()
    description = npy_format.dtype_to_descr(values.dtype)
    npy_format.write_array_header_1_0(header, {"descr": description, "fortran_order": False, "shape": values.shape[1:]})
    return byte_rows(header.getvalue(), values)
