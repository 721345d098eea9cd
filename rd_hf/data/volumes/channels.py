"""Channels of a volume: the last axis of four, or files of nnU-Net's or BraTS's names (see names.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...arguments.words import by, counted
from .names import channel_of, file_of_channel, is_nifti
from .source import Source, VolumeError
from .volume import VolumeReading


def channel_files(source: Source, reading: VolumeReading) -> list[Source]:
    """The files of all channels, in order; the file itself where one holds them all.

    :raises VolumeError: where files are expected and one is missing.
    """
    if reading.channels == 1 or reading.channel_axis:
        return [source]
    if source.content is not None:
        raise VolumeError(
            f"a volume of this data set has {reading.channels} files, one a channel, and the others cannot be found "
            "beside this one, which is embedded in the data or whose path is not UTF-8: save the channels as a fourth "
            "axis, or rename the file and its folders"
        )
    if source.path is None or not _is_first(source.path):
        raise VolumeError(
            f"a volume of this data set has {reading.channels} files, one a channel, and this one is not the first of "
            "them, whose name ends in _0000.nii.gz or _0000.nii, or as BraTS's in _flair or -t1c: rename it, or give "
            "the data set without channels"
        )
    files = [file_of_channel(source.path, channel) for channel in range(reading.channels)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise VolumeError(
            f"it is one of {reading.channels} channels, and beside it {', '.join(missing)} is missing: add the "
            "channel, or leave the case out"
        )
    return [Source(None, file) for file in files]


def _is_first(path: Path) -> bool:
    channel = channel_of(path) if is_nifti(path) else None
    return channel is not None and channel.number == 0


def check_channels(shape: Sequence[int], reading: VolumeReading) -> None:
    """Refuse a volume of other channels than the data set's.

    :param shape: axes of one file, (X, Y, Z) or (X, Y, Z, C).
    :raises VolumeError: if a fourth axis is there and not said to be channels, or has another length.
    """
    found = shape[3] if len(shape) == 4 else 1
    if len(shape) == 4 and not reading.channel_axis:
        sides = by(shape)
        raise VolumeError(
            f"it has four axes ({sides}), and it is not said what the last one is. If it is channels, train "
            f"with `volume_channels` {found}; if it is time, save one volume a file"
        )
    wanted = reading.channels if reading.channel_axis else 1
    if found != wanted:
        raise VolumeError(
            f"it has {counted(found, 'channel')}, but the volumes of this data set have {wanted}: leave "
            f"it out, or, if all have {found}, train with `volume_channels` {found}"
        )


def channels_first(values: np.ndarray) -> np.ndarray:
    """(C, X, Y, Z) of (X, Y, Z) or (X, Y, Z, C), without a copy."""
    return values[None] if values.ndim == 3 else np.moveaxis(values, -1, 0)
