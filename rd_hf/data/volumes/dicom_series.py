"""DICOM files of one folder as series: which of them are volumes, and which files belong to one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..decoding.dicom_file import DICOM_SUFFIXES
from .dicom_geometry import Plane, orientations
from .dicom_header import DicomHeader, header_of_file

_KEPT_FOLDERS = 16


@dataclass(frozen=True)
class Series:
    """The DICOM files of one folder that belong together.

    :param files: by name.
    :param why_not: what they are where they are no volume, as a clause such as "it holds a structured report".
    """

    files: tuple[Path, ...]
    why_not: str | None = None

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
            header = DicomHeader((), why_not="it is named like a DICOM file, but does not begin like one")
        if header is not None:
            alone = header.why_not is not None or len(header.planes) > 1
            found.setdefault(f"file {file}" if alone else header.series, []).append((file, header))
    return [Series(tuple(file for file, _ in group), _why_not([each for _, each in group])) for group in found.values()]


def slices_of_series(path: Path, header: DicomHeader) -> list[tuple[Path, Plane]]:
    """The slice files of the series of a file, by name, and where each lies.

    :param header: of the file.
    """
    with os.scandir(path.parent) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.name[:1] != "." and entry.is_file()]
    state = tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in files))
    return list(_slices_of_folder(path.parent, state).get(header.series, []))


@lru_cache(_KEPT_FOLDERS)
def _slices_of_folder(folder: Path, state: tuple[tuple[str, int, int], ...]) -> dict[str, list[tuple[Path, Plane]]]:
    """The slice files of each series of a folder, which may hold all those of a hospital's export.

    :param state: the folder's files by name, with what tells a changed one.
    """
    found: dict[str, list[tuple[Path, Plane]]] = {}
    for name, *_ in state:
        header = header_of_file(folder / name)
        if header is not None and len(header.planes) == 1:
            found.setdefault(header.series, []).append((folder / name, header.planes[0]))
    return found


def _why_not(headers: Sequence[DicomHeader]) -> str | None:
    """Why a series is no volume; None if it is meant as one."""
    if headers[0].why_not is not None:
        return headers[0].why_not
    planes = [plane for header in headers for plane in header.planes]
    if all(header.is_scout for header in headers):
        return "it is a scout view"
    if len(planes) == 1:
        return "it is a single image"
    if all(plane.position is None for plane in planes):
        return "its images do not say where they lie in the patient"
    counts = orientations(planes)
    if len(counts) > 1 and 2 * counts[0] <= sum(counts):
        return f"its {len(planes)} images have {len(counts)} orientations, as of a scout view"
    return None
