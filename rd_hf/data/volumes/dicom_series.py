"""DICOM files of one folder as series: which of them are volumes, and which files belong to one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..decoding.dicom_file import DICOM_SUFFIXES
from .dicom_geometry import Plane, orientations
from .dicom_header import DicomHeader, header_of_file


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
    return [
        (file, other.planes[0])
        for file in sorted(_files_beside(path))
        if (other := header_of_file(file)) is not None and len(other.planes) == 1 and other.series == header.series
    ]


def _files_beside(path: Path) -> Iterable[Path]:
    return (file for file in path.parent.iterdir() if file.is_file() and not file.name.startswith("."))


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
