"""One volume in whatever form it comes: NIfTI, a DICOM series, enhanced DICOM, or an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..decoding.images import UNREADABLE, BadImageError, described, unreadable
from . import nifti, npy
from .channels import channel_files, channels_first, check_channels
from .source import Source, VolumeError, VolumeLike, kind_of
from .volume import Header, Labels, Volume, VolumeReading

GRID_TOLERANCE = 0.1  # voxels by which a corner may lie elsewhere
_PLAIN = VolumeReading()


def read_volume(source: VolumeLike, where: str, reading: VolumeReading = _PLAIN) -> Volume:
    """Read the voxels of a volume, in the order of its file.

    :param source: ``{"bytes": ..., "path": ...}`` of a row, or a path.
    :param where: what an error calls the volume; its path is named anyway.
    :raises BadImageError: if it is missing, damaged or no volume, with the file, the fault and the way out.
    """
    with _named(source, where, "volume"):
        file = Source.of(source)
        if kind_of(file) == "npy":
            check_channels(npy.read_shape(file), reading)
            return Volume(channels_first(npy.read_values(file, np.float32)), np.eye(4))
        return _of_nifti(channel_files(file, reading), reading)


def read_labels(source: VolumeLike, where: str) -> Labels:
    """Read a label volume; floats pass where all are whole numbers.

    :raises BadImageError: if it is missing, damaged, or holds no labels.
    """
    with _named(source, where, "label volume"):
        file = Source.of(source)
        header = _header(file)
        if header.channels > 1:
            raise VolumeError(
                f"it has four axes, the last of {header.channels}: save one volume whose voxels are class numbers"
            )
        values = (
            npy.read_values(file, np.int64)
            if kind_of(file) == "npy"
            else nifti.read_voxels(file, nifti.read_header(file), np.int64)
        )
        return Labels(values.reshape(header.shape), header.affine)


def header_of(source: VolumeLike, where: str) -> Header:
    """Shape and affine of a volume or a label volume, without reading its voxels.

    :raises BadImageError: if it is missing, its header is damaged, or it is no volume.
    """
    with _named(source, where, "volume"):
        return _header(Source.of(source))


def volume_bytes(source: VolumeLike, where: str, reading: VolumeReading = _PLAIN) -> Iterator[bytes]:
    """All content that a row stands for, for hashing; of DICOM files their pixels and geometry, nothing of the patient.

    :raises BadImageError: while it is read, if a file is missing.
    """
    with _named(source, where, "volume"):
        file = Source.of(source)
        for part in [file] if kind_of(file) == "npy" else channel_files(file, reading):
            yield from part.chunks()


def same_grid(volume: Header, labels: Header) -> bool:
    """Whether two files have the same shape, and their corners lie at the same places."""
    if volume.shape != labels.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
    moved = corners @ (volume.affine - labels.affine)[:3, :3].T + (volume.affine - labels.affine)[:3, 3]
    return bool(np.linalg.norm(moved, axis=1).max() <= GRID_TOLERANCE * min(volume.spacing))


def _of_nifti(files: list[Source], reading: VolumeReading) -> Volume:
    """One file, or one a channel."""
    headers = [nifti.read_header(file) for file in files]
    for header in headers:
        check_channels(header.shape, reading)
    if len(files) == 1:
        return Volume(channels_first(nifti.read_voxels(files[0], headers[0], np.float32)), headers[0].affine)
    first = headers[0]
    values = np.empty((len(files), *first.shape[::-1]), dtype=np.float32).transpose(0, 3, 2, 1)
    for channel, (file, header) in enumerate(zip(files, headers, strict=True)):
        if not same_grid(Header(first.shape, first.affine), Header(header.shape, header.affine)):
            raise VolumeError(
                f"its channel {file.path.name} has another shape or affine: resample it to the first one's"
            )
        values[channel] = nifti.read_voxels(file, header, np.float32)
    return Volume(values, first.affine)


def _header(file: Source) -> Header:
    if kind_of(file) == "npy":
        shape, affine = npy.read_shape(file), np.eye(4)
    else:
        header = nifti.read_header(file)
        shape, affine = header.shape, header.affine
    return Header(shape[:3], affine, shape[3] if len(shape) == 4 else 1)


@contextmanager
def _named(source: VolumeLike, where: str, kind: str) -> Iterator[None]:
    """Turn what goes wrong into a sentence that names the file."""
    try:
        yield
    except BadImageError:
        raise
    except VolumeError as error:
        raise BadImageError(f"{described(source, where)} is not a readable {kind}: {error}.") from None
    except UNREADABLE as error:
        raise BadImageError(unreadable(source, where, error, kind)) from None
