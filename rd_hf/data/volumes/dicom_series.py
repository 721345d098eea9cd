"""DICOM files of one folder as series: which of them are volumes, and which files belong to one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from ..decoding.dicom_file import DICOM_SUFFIXES
from .dicom_geometry import Plane, orientations
from .dicom_header import DicomHeader, header_of_file

ONE_SLICE = "it is a single image"
NOT_DICOM = "it is named like a DICOM file, but does not begin like one"
_KEPT_FOLDERS = 16
_SETTLED_NS = 5 * 10**9  # file systems tell times apart by up to two seconds


@dataclass(frozen=True)
class Series:
    """The DICOM files of one folder that belong together.

    :param files: by name.
    :param why_not: what they are where they are no volume, as a clause such as "it holds a structured report".
    :param may_be_volume: whether they are what may be left of a volume: a file that cannot be read, or one slice.
    """

    files: tuple[Path, ...]
    why_not: str | None = None
    may_be_volume: bool = False

    @property
    def first(self) -> Path:
        """The file that stands for the series: its first by name."""
        return self.files[0]

    @property
    def is_volume(self) -> bool:
        """Whether the files are meant as a volume; what is wrong with it is told when it is read."""
        return self.why_not is None


def series_of_folder(files: Sequence[Path]) -> list[Series]:
    """Group the DICOM files of one folder by SeriesInstanceUID, in the order of their first files.

    A file of several frames is a series of its own, and so is one that holds no image or cannot be read. Files that
    neither begin nor are named like DICOM are left out.

    :raises VolumeError: where pydicom is not installed.
    """
    found: dict[str, list[tuple[Path, DicomHeader]]] = {}
    for file in sorted(file for file in files if file.is_file()):
        header = header_of_file(file)
        if header is None and file.suffix.lower() in DICOM_SUFFIXES:
            header = DicomHeader((), why_not=NOT_DICOM, is_damaged=True)
        if header is not None:
            alone = header.why_not is not None or len(header.planes) > 1
            found.setdefault(f"file {file}" if alone else header.series, []).append((file, header))
    return [_series(group) for group in found.values()]


def slices_of_series(path: Path, header: DicomHeader) -> list[tuple[Path, Plane]]:
    """The slice files of the series of a file, by name, and where each lies.

    :param header: of the file.
    """
    folder = path.parent
    slices = _slices_of_folder(folder, _state(folder)).get(header.series, [])
    if any(_stamp(each.file) != each.stamp for each in slices):  # which does not change the folder's time
        _slices_of_folder.cache_clear()
        slices = _slices_of_folder(folder, _state(folder)).get(header.series, [])
    return [(each.file, each.plane) for each in slices]


class _SliceFile(NamedTuple):
    file: Path
    plane: Plane
    stamp: tuple[int, int]


@lru_cache(_KEPT_FOLDERS)
def _slices_of_folder(folder: Path, state: tuple) -> dict[str, list[_SliceFile]]:
    """The slice files of each series of a folder, which may hold all those of a hospital's export.

    :param state: of the folder, see `_state`.
    """
    found: dict[str, list[_SliceFile]] = {}
    for name, stat in sorted(_files(folder), key=itemgetter(0)):
        header = header_of_file(folder / name)
        if header is not None and len(header.planes) == 1:
            slices = found.setdefault(header.series, [])
            slices.append(_SliceFile(folder / name, header.planes[0], _stamp_of(stat)))
    return found


def _state(folder: Path) -> tuple:
    """What changes with the files of a folder: its time, or what each file says while the time may be too coarse."""
    changed = os.stat(folder).st_mtime_ns
    if time.time_ns() - changed > _SETTLED_NS:
        return (changed,)
    return tuple(sorted((name, _stamp_of(stat)) for name, stat in _files(folder)))


def _files(folder: Path) -> list[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [(entry.name, entry.stat()) for entry in entries if entry.name[:1] != "." and entry.is_file()]


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        return _stamp_of(os.stat(file))
    except OSError:
        return None


def _stamp_of(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_mtime_ns, stat.st_size


def _series(group: Sequence[tuple[Path, DicomHeader]]) -> Series:
    headers = [header for _, header in group]
    why_not = _why_not(headers)
    return Series(tuple(file for file, _ in group), why_not, headers[0].is_damaged or why_not == ONE_SLICE)


def _why_not(headers: Sequence[DicomHeader]) -> str | None:
    """Why a series is no volume; None if it is meant as one."""
    if headers[0].why_not is not None:
        return headers[0].why_not
    planes = [plane for header in headers for plane in header.planes]
    if all(header.is_scout for header in headers):
        return "it is a scout view"
    if len(planes) == 1:
        return ONE_SLICE
    if all(plane.position is None for plane in planes):
        return "its images do not say where they lie in the patient"
    counts = orientations(planes)
    if len(counts) > 1 and 2 * counts[0] <= sum(counts):
        return f"its {len(planes)} images have {len(counts)} orientations, as of a scout view"
    return None
