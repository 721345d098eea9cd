"""One volume in whatever form it comes: NIfTI, a DICOM series, enhanced DICOM, or an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ..decoding.images import UNREADABLE, BadImageError, described, unreadable
from . import dicom_volume, nifti, npy
from .channels import channel_files, channels_first, check_channels
from .source import Kind, Source, VolumeError, VolumeLike, kind_of
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
        kind = kind_of(file)
        if kind == "npy":
            check_channels(npy.read_shape(file), reading)
            return Volume(channels_first(npy.read_values(file, np.float32)), np.eye(4))
        if kind == "dicom":
            if reading.channels > 1:
                raise VolumeError(f"it is DICOM, which has one channel, and the data set has {reading.channels}")
            return dicom_volume.read(file)
        return _of_nifti(channel_files(file, reading), reading)


def read_labels(source: VolumeLike, where: str) -> Labels:
    """Read a label volume; floats pass where all are whole numbers.

    :raises BadImageError: if it is missing, damaged, or holds no labels.
    """
    with _named(source, where, "label volume"):
        file = Source.of(source)
        kind = kind_of(file)
        if kind == "dicom":
            raise VolumeError("it is a DICOM file, and label volumes are NIfTI files or arrays: save it as .nii.gz")
        header = _header(file, kind)
        if header.channels > 1:
            raise VolumeError(
                f"it has four axes, the last of {header.channels}: save one volume whose voxels are class numbers"
            )
        values = (
            npy.read_values(file, np.int32)
            if kind == "npy"
            else nifti.read_voxels(file, nifti.read_header(file), np.int32)
        )
        return Labels(values.reshape(header.shape), header.affine)


def header_of(source: VolumeLike, where: str) -> Header:
    """Shape and affine of a volume or a label volume, without reading its voxels.

    :raises BadImageError: if it is missing, its header is damaged, or it is no volume.
    """
    with _named(source, where, "volume"):
        file = Source.of(source)
        return _header(file, kind_of(file))


def volume_bytes(source: VolumeLike, where: str, reading: VolumeReading = _PLAIN) -> Iterator[bytes]:
    """All content that a row stands for, for hashing; of DICOM files their pixels and geometry, nothing of the patient.

    :raises BadImageError: while it is read, if a file is missing.
    """
    with _named(source, where, "volume"):
        file = Source.of(source)
        kind = kind_of(file)
        if kind == "dicom":
            yield from dicom_volume.content(file)
        else:
            for part in channel_files(file, reading) if kind == "nifti" else [file]:
                yield from part.chunks()


def same_grid(volume: Header, labels: Header) -> bool:
    """Whether two files have the same shape, and their corners lie at the same places."""
    if volume.shape != labels.shape:
        return False
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1)
    moved = corners @ (volume.affine - labels.affine)[:3, :3].T + (volume.affine - labels.affine)[:3, 3]
    return bool(np.linalg.norm(moved, axis=1).max() <= GRID_TOLERANCE * min(volume.spacing))


def _of_nifti(files: list[Source], reading: VolumeReading) -> Volume:
    """One file, or one a channel, of which the first says the grid."""
    values, grid = np.empty(0, np.float32), None
    for channel, file in enumerate(files):
        with _channel(file, len(files)):
            header = nifti.read_header(file)
            check_channels(header.shape, reading)
            if len(files) == 1:
                return Volume(channels_first(nifti.read_voxels(file, header, np.float32)), header.affine)
            if grid is None:
                grid = _grid(header)
                values = np.empty((len(files), *grid.shape[::-1]), dtype=np.float32).transpose(0, 3, 2, 1)
            elif not same_grid(grid, _grid(header)):
                raise VolumeError("it has another shape or affine than the first channel: resample it to that one")
            values[channel] = nifti.read_voxels(file, header, np.float32)
    return Volume(values, grid.affine)


@contextmanager
def _channel(file: Source, count: int) -> Iterator[None]:
    """Name the file of a channel in what is wrong with it."""
    try:
        yield
    except VolumeError as error:
        raise VolumeError(f"of its channel {file.path.name}, {error}" if count > 1 else str(error)) from None


def _header(file: Source, kind: Kind) -> Header:
    if kind == "dicom":
        return dicom_volume.header(file)
    if kind == "nifti":
        return _grid(nifti.read_header(file))
    shape = npy.read_shape(file)
    return Header(shape[:3], np.eye(4), shape[3] if len(shape) == 4 else 1)


def _grid(header: nifti.NiftiHeader) -> Header:
    shape = header.shape
    return Header(shape[:3], header.affine, shape[3] if len(shape) == 4 else 1)


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
