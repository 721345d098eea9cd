"""What a DICOM file is part of, and where its frames lie; read without pixels, once a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..decoding.dicom_file import (
    START_BYTES,
    DicomError,
    functional_group,
    is_dicom,
    kind_of_object,
    number_of_frames,
    open_place,
    private_decoding,
)
from .dicom_geometry import Plane
from .nifti import EXTRA
from .source import Source, VolumeError

if TYPE_CHECKING:
    from pydicom import Dataset

_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage
_KEPT_HEADERS = 2**15


@dataclass(frozen=True)
class DicomHeader:
    """A DICOM file without its pixels.

    :param series: SeriesInstanceUID, which is compared and never shown.
    :param planes: where each frame lies.
    :param is_scout: whether it is an overview by which others are planned.
    :param why_not: what the file is where it holds no image, or why it cannot be read.
    :param is_damaged: whether it cannot be read, so that it may be part of a volume.
    """

    planes: tuple[Plane, ...]
    series: str = field(default="", repr=False)
    is_scout: bool = False
    why_not: str | None = None
    is_damaged: bool = False


def header_of_file(path: Path) -> DicomHeader | None:
    """The header of a file; None if it does not begin like DICOM.

    :raises VolumeError: where pydicom is not installed.
    """
    state = path.stat()
    return _kept_header(os.fspath(path), state.st_mtime_ns, state.st_size)


def header_of_source(source: Source) -> DicomHeader:
    """The header of a file, or of the bytes of one, that begins like DICOM."""
    require_pydicom()
    with source.opened() as file:
        try:
            with private_decoding():
                return _header(open_place(file), source.path.name if source.path is not None else "it")
        except DicomError as error:
            return DicomHeader((), why_not=_clause(error), is_damaged=True)


def require_pydicom() -> None:
    """:raises VolumeError: where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise VolumeError(f"reading DICOM files needs the extra `volumes`: {EXTRA}") from None


@lru_cache(_KEPT_HEADERS)
def _kept_header(path: str, _changed: int, _size: int) -> DicomHeader | None:
    source = Source(None, Path(path))
    return header_of_source(source) if is_dicom(source.head(START_BYTES)) else None


def _header(dataset: Dataset, name: str) -> DicomHeader:
    series = str(dataset.get("SeriesInstanceUID") or "")
    if str(dataset.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        return DicomHeader((), series, why_not="it is a DICOMDIR, which lists other files")
    kind = kind_of_object(dataset)
    if kind is not None:
        return DicomHeader((), series, why_not=f"it holds {kind}")
    frames = number_of_frames(dataset)
    if frames > 1 and len(dataset.get("PerFrameFunctionalGroupsSequence") or []) != frames:
        return DicomHeader((), series, why_not=f"it has {frames} frames, of which it does not say where they lie")
    is_scout = "LOCALIZER" in [str(word).upper() for word in np.atleast_1d(dataset.get("ImageType") or [])]
    planes = tuple(_plane(dataset, frame, f"frame {frame + 1}" if frames > 1 else name) for frame in range(frames))
    return DicomHeader(planes, series, is_scout)


def _plane(dataset: Dataset, frame: int, name: str) -> Plane:
    def numbers(element: str, group: str, count: int) -> tuple[float, ...] | None:
        item = functional_group(dataset, frame, group)
        return _numbers((dataset if item is None else item).get(element), count)

    orientation = numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)
    spacing = numbers("PixelSpacing", "PixelMeasuresSequence", 2)
    return Plane(
        name,
        (int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)),
        numbers("ImagePositionPatient", "PlanePositionSequence", 3),
        orientation if orientation is not None and _is_orthogonal(orientation) else None,
        spacing if spacing is not None and min(spacing) > 0 else None,
    )


def _numbers(value: object, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an element; None where they are not as many."""
    try:
        values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    return tuple(values.tolist()) if values.shape == (count,) and np.isfinite(values).all() else None


def _is_orthogonal(orientation: tuple[float, ...]) -> bool:
    """Whether the directions of rows and columns are of unit length and at a right angle."""
    directions = np.reshape(orientation, (2, 3))
    return bool(np.allclose(directions @ directions.T, np.eye(2), atol=1e-2))


def _clause(error: DicomError) -> str:
    """What is wrong, without the way out."""
    return str(error).replace("the DICOM file", "it", 1).split(":")[0]
