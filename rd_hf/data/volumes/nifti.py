"""NIfTI files: the header, and the voxels in one pass over the file."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...arguments.words import by
from .source import CHUNK_BYTES, NIFTI_HEAD, Source, VolumeError
from .values import as_labels, check_finite, check_voxels, count_broken

if TYPE_CHECKING:
    from nibabel import Nifti1Header

EXTRA = "pip install 'rd-hf[volumes]'"
MOST_PACKED = 1032  # bytes that one byte of deflate can stand for
_SECOND_SIZES = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # of the header of NIfTI-2
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of metres and micrometres; others are millimetres, or not said
_SILENT = logging.Logger("nibabel's remarks on headers")
_SILENT.addHandler(logging.NullHandler())
_REFUSED_LEVEL = 40
_FLAT = 1e-4  # volume of a voxel of unit sides, below which its axes lie in a plane
_DAMAGED = "its header is damaged: fetch it again, or write it again"


@dataclass(frozen=True)
class NiftiHeader:
    """What the header of a NIfTI file says, checked.

    :param shape: all axes, those of one entry at the end left out: (X, Y, Z) or (X, Y, Z, C).
    :param affine: (4, 4) float64, to millimetres.
    :param dtype: of the stored values.
    :param offset: where they begin in the unpacked file.
    :param scaling: slope and intercept; None where the stored values are the values.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    scaling: tuple[float, float] | None

    @property
    def size(self) -> int:
        """Number of voxels, of all channels."""
        return math.prod(self.shape)


def read_header(source: Source) -> NiftiHeader:
    """Read and check the header, and whether the file can hold as many voxels as it says.

    :raises VolumeError: for a header that is damaged, or of something else than a volume.
    """
    with source.unpacked() as file:
        stored = stored_header(file.read(NIFTI_HEAD))
    shape, dtype = _shape(stored), _dtype(stored)
    header = NiftiHeader(shape, _affine(stored), dtype, _offset(stored), _scaling(stored))
    needed = header.offset + header.size * dtype.itemsize
    if source.size * (MOST_PACKED if source.is_gzip else 1) < needed:
        raise VolumeError(
            f"it is cut off: its header promises {needed} bytes, and the file has {source.size}"
            f"{', compressed' if source.is_gzip else ''}: fetch it again"
        )
    check_voxels(shape)
    return header


def read_voxels(source: Source, header: NiftiHeader, into: type) -> np.ndarray:
    """Read the values, with slope and intercept applied.

    Only the result is in memory as a whole. Its axes lie in memory as in the file, X closest together.

    :param into: type of the result, which is float32, or int32 for labels.
    :return: of the header's shape.
    :raises VolumeError: when the file ends early or is damaged, or a value is not finite.
    """
    flat, broken, start = np.empty(header.size, dtype=into), 0, 0
    with source.unpacked() as file:
        file.seek(header.offset)
        for part in _parts(file, header):
            if into is np.int32:
                broken += count_broken(part)
                if not broken:
                    part = as_labels(part, 0.0 if header.scaling is None else header.scaling[0])
            with np.errstate(over="ignore", invalid="ignore"):
                flat[start : start + part.size] = part
            broken += count_broken(flat[start : start + part.size])
            start += part.size
        while file.read(CHUNK_BYTES):  # to the end, where gzip's checksum stands
            pass
    check_finite(broken, header.size)
    return flat.reshape(header.shape, order="F")


def _parts(file: BinaryIO, header: NiftiHeader) -> Iterator[np.ndarray]:
    """The values in the file's order, a few megabytes at a time."""
    left, size = header.size, header.dtype.itemsize
    while left:
        wanted = min(left, CHUNK_BYTES // size) * size
        content = file.read(wanted)
        if len(content) < wanted:
            missing = left * size - len(content)
            raise VolumeError(f"it is cut off: {missing} of {header.size * size} bytes are missing: fetch it again")
        part = np.frombuffer(content, dtype=header.dtype)
        if header.scaling is not None:
            part = part * np.float64(header.scaling[0]) + header.scaling[1]
        yield part
        left -= part.size


def stored_header(head: bytes) -> Nifti1Header:
    """The header as nibabel reads it.

    :param head: the first bytes of the unpacked file.
    :raises VolumeError: when it is damaged, or belongs to a pair of files.
    """
    try:
        from nibabel import Nifti1Header, Nifti2Header
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ImportError:
        raise VolumeError(f"reading NIfTI files needs the extra `volumes`: {EXTRA}") from None
    kind = Nifti2Header if head[:4] in _SECOND_SIZES else Nifti1Header
    size = kind.template_dtype.itemsize
    if len(head) < size:
        raise VolumeError("it is cut off within its header: fetch it again")
    header = kind(head[:size], check=False)
    _check_magic(header)
    _check_spacing(header)
    try:
        header.check_fix(_SILENT, _REFUSED_LEVEL)
    except (HeaderDataError, WrapStructError, ValueError, OverflowError):
        raise VolumeError(_DAMAGED) from None
    return header


def _check_magic(header: Nifti1Header) -> None:
    magic = bytes(header["magic"].item())
    if magic == header.single_magic:
        return
    if magic == header.pair_magic:
        raise VolumeError("it is the header of a pair of files (.hdr and .img): save the volume as one .nii.gz file")
    raise VolumeError(
        "it is an Analyze file, which does not say where left and right are, or a damaged NIfTI file: save the volume "
        "as .nii.gz, or fetch it again"
    )


def _check_spacing(header: Nifti1Header) -> None:
    """Before nibabel's own checks, which make 1 mm of a spacing of zero."""
    spacing = header["pixdim"][1:4]
    if not np.isfinite(spacing).all() or (spacing == 0).any():
        raise VolumeError(_wrong_spacing(spacing))


def _wrong_spacing(spacing: np.ndarray) -> str:
    sides = by(spacing, 6)
    return f"its header says that voxels are {sides} mm apart: write the header again with the true spacing"


def _shape(header: Nifti1Header) -> tuple[int, ...]:
    shape = tuple(int(side) for side in header["dim"][1 : 1 + int(header["dim"][0])])
    sides = by(shape)
    if not 1 <= len(shape) <= 7 or min(shape) < 1:
        raise VolumeError(f"its header is damaged: it says that the volume has {sides or 'no'} voxels; fetch it again")
    if len(shape) < 3:
        raise VolumeError(
            f"it has {sides} pixels, so it is a picture and not a volume: join the slices to one file, or save "
            "pictures as PNG files and train on images"
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise VolumeError(f"it has {len(shape)} axes ({sides}): save volumes of three axes, or of four with channels")
    return shape


def _dtype(header: Nifti1Header) -> np.dtype:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype = header.get_data_dtype()
    except HeaderDataError:
        raise VolumeError(_DAMAGED) from None
    if dtype.fields is not None:
        raise VolumeError("its voxels are colours (RGB): save one value a voxel, or the channels along a fourth axis")
    if dtype.kind not in "iuf":
        raise VolumeError(f"its voxels are of type {dtype}: save integers or floats")
    return dtype


def _affine(header: Nifti1Header) -> np.ndarray:
    """The sform, else the qform, else the spacing alone, as nibabel does; in millimetres."""
    from nibabel.spatialimages import HeaderDataError

    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except HeaderDataError:
        raise VolumeError(_DAMAGED) from None
    affine[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (spacing == 0).any():
        raise VolumeError(_wrong_spacing(spacing))
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < _FLAT:
        raise VolumeError("its header has two axes in one direction: write it again with the true orientation")
    return affine


def _offset(header: Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < 0:
        raise VolumeError(_DAMAGED)
    return max(int(offset), header.single_vox_offset)


def _scaling(header: Nifti1Header) -> tuple[float, float] | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise VolumeError(_DAMAGED) from None
    return None if slope is None or (slope, intercept) == (1.0, 0.0) else (slope, intercept)
