"""The files that stand for the DICOM series which a table names, by a folder or by one of the slices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..columns import DataError
from ..decoding.dicom_file import START_BYTES, is_dicom
from ..scanner import is_hidden, printable
from .dicom_series import Series, series_of_folder
from .names import is_nifti
from .source import VolumeError


class Folder(NamedTuple):
    """The series of a folder.

    :ivar first_of: for each of their files by its name, the first file of its series.
    """

    series: list[Series]
    first_of: dict[str, str]

    @classmethod
    def of(cls, series: list[Series]) -> Folder:
        """With its files, of which each belongs to one series."""
        return cls(series, {file.name: str(one.first) for one in series for file in one.files})


def files_of_series(
    paths: Sequence[str], split: str, column: str, folders: dict[str, Folder] | None = None
) -> list[str]:
    """Give the first file of each DICOM series; other paths stay as they are.

    :param paths: absolute paths of files, and of folders of one series.
    :param split: what an error calls the split.
    :param column: the column that holds them.
    :param folders: the folders that were read before, to which those of these paths are added.
    :raises DataError: if a folder has no series or several, or if two paths mean one series.
    """
    folders = {} if folders is None else folders
    files = [_first_file(path, folders) for path in paths]
    meant: dict[str, str] = {}
    for path, file in zip(paths, files, strict=True):
        other = meant.setdefault(file, path)
        if other != path:
            raise DataError(
                f"'{printable(other)}' and '{printable(path)}' in column '{column}' of split '{split}' are one DICOM "
                "series, and each row is one volume: list each series once"
            )
    return files


def dicom_files(folder: Path) -> list[Path]:
    """The files directly in a folder that begin like DICOM."""
    return [
        path
        for name in sorted(os.listdir(folder))
        if not is_hidden(name) and not is_nifti(name) and (path := folder / name).is_file() and _begins_like_dicom(path)
    ]


def _first_file(path: str, folders: dict[str, Folder]) -> str:
    is_folder = os.path.isdir(path)
    if not is_folder and (is_nifti(path) or not os.path.isfile(path) or not _begins_like_dicom(Path(path))):
        return path
    folder = path if is_folder else os.path.dirname(path)
    if folder not in folders:
        try:
            folders[folder] = Folder.of(series_of_folder(dicom_files(Path(folder))))
        except VolumeError as error:
            raise DataError(f"'{printable(folder)}' has DICOM files: {error}") from None
    if not is_folder:
        return folders[folder].first_of.get(os.path.basename(path), path)
    volumes = [series for series in folders[folder].series if series.is_volume]
    if len(volumes) == 1:
        return str(volumes[0].first)
    if volumes:
        raise DataError(
            f"'{printable(path)}' holds {len(volumes)} DICOM series, such as those of '{volumes[0].first.name}' and "
            f"'{volumes[1].first.name}', and each row is one volume: name one file of the series that is meant"
        )
    if folders[folder].series:
        return str(folders[folder].series[0].first)  # a fault is told when it is read
    raise DataError(f"'{printable(path)}' is a folder without DICOM files: name a NIfTI file, or a folder of slices")


def _begins_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return is_dicom(file.read(START_BYTES))
