"""DICOM files of one folder as series: which of them are volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
        """Whether the files make up a volume, as far as their kinds tell; faults are told when it is read."""
        return self.why_not is None


def series_of_folder(files: Sequence[Path]) -> list[Series]:
    """Group the DICOM files of one folder by series, in the order of their first files; others are left out.

    Objects that are no images, directories of media and files that cannot be read are series of their own.
    """
    return [Series((file,)) for file in sorted(files)]
