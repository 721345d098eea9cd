"""Writes NIfTI files on the grid of a source, with nothing else of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...runtime.files import written_whole
from .nifti import stored_header
from .source import NIFTI_HEAD, Source, VolumeLike, kind_of

if TYPE_CHECKING:
    from nibabel import Nifti1Header

_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT: millimetres of the scanner's own axes
_GRID_FIELDS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x",
    "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def write_nifti(
    values: np.ndarray, affine: np.ndarray, path: str | os.PathLike, like: VolumeLike | None = None
) -> None:
    """Write a volume as NIfTI: whole numbers as the smallest unsigned type that holds them, others as float32.

    The file is written completely or not at all. Comments, names and extensions of the source's header, which may name
    a patient, are not written.

    :param values: (X, Y, Z) or (X, Y, Z, C); integers from 0 on, or floats.
    :param affine: (4, 4) from voxel indices to RAS+ millimetres.
    :param path: ``.nii`` or ``.nii.gz``.
    :param like: the source whose grid this is. Of a NIfTI file, sform, qform and units are kept to the bit, and
        `affine` is not needed.
    :raises VolumeError: if the source cannot be read.
    :raises ValueError: if it has another shape.
    """
    from nibabel import Nifti1Image, Nifti2Image

    header, stored = None if like is None else _grid_header(like), _smallest(values)
    kind = Nifti1Image if max(values.shape) < 2**15 else Nifti2Image
    if header is None:
        image = kind(stored, affine)
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, _SCANNER)
        image.set_sform(affine, _SCANNER)
    else:
        if header.get_data_shape()[:3] != values.shape[:3]:
            raise ValueError(f"values of {values.shape} do not lie on the grid of {header.get_data_shape()}")
        image = kind(stored, None)
        for field in _GRID_FIELDS:
            image.header[field] = header[field]
        image.header["pixdim"][:4] = header["pixdim"][:4]
    with written_whole(Path(path)) as aside:
        image.to_filename(aside)


def _grid_header(like: VolumeLike) -> Nifti1Header | None:
    """The header of a NIfTI source; None of others."""
    source = Source.of(like)
    if kind_of(source) != "nifti":
        return None
    with source.unpacked() as file:
        return stored_header(file.read(NIFTI_HEAD))


def _smallest(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return values.astype(np.float32, copy=False)
    return values.astype(np.min_scalar_type(max(int(values.max()), 0)))
