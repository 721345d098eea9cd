"""Whether a column holds volumes, by what its cells name."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset, Nifti

from ..columns import DataError, OtherKindError, column_values
from ..decoding.dicom_file import DICOM_SUFFIXES, is_dicom
from ..image_paths import shown
from ..labels.values import is_text
from ..raw_data import RawData
from ..scanner import IMAGE_SUFFIXES, LONGEST_PATH, scan
from .channel_layout import reading_of_file
from .choice import VolumeChoice
from .kinds import described_kind, is_volume
from .layouts import is_dicom_name
from .names import is_nifti
from .volume import VolumeReading

NIFTI, SERIES = "NIfTI files", "DICOM series"
_FoundKind = tuple[str | None, str | None]  # the first path, and what the log calls the kind of volume; None for images


def find_reading(raw: RawData, column: str, choice: VolumeChoice) -> tuple[VolumeReading | None, str]:
    """Tell how the volumes of a data set are read.

    :param column: the column of images or volumes.
    :param choice: what is asked for.
    :return: the reading, and what kind of files the volumes are; None where the column holds images.
    :raises DataError: if it holds both, or not what is asked for; names the row.
    """
    name, split = next(iter(raw.splits.items()))
    if raw.volumes is not None:
        return raw.volumes, described_kind(_first_row(split, column))
    if not len(split):
        return None, ""
    is_written = is_text(split.features[column])
    first, kind = _of_text(raw, column, choice) if is_written else _of_contents(split, column, choice)
    if kind is None:
        return None, ""
    if choice.dimensions == 2:
        raise OtherKindError(
            f"column '{column}' of split '{name}' holds volumes", "leave `dimensions` 2 out to read them"
        )
    return reading_of_file(first, choice.channels), kind


def _of_text(raw: RawData, column: str, choice: VolumeChoice) -> _FoundKind:
    nifti, images, others = {}, {}, {}
    for split, rows in raw.splits.items():
        for row, cell in enumerate(column_values(rows, column)):
            if cell:
                place = nifti if is_nifti(cell.rstrip()) else images if _is_image_name(cell) else others
                place[split, row] = cell
    (split, row), cell = next(iter((nifti | images | others).items()), (("", 0), ""))
    folder = raw.folders.get(split, Path())
    if nifti and images:
        (image_split, image_row), image = next(iter(images.items()))
        raise DataError(
            f"column '{column}' names {len(nifti)} volumes, such as '{shown(cell)}' in row {row} of split '{split}', "
            f"and {len(images)} images, such as '{shown(image)}' in row {image_row} of '{image_split}'; keep one kind"
        )
    if nifti:
        return str(folder / cell), NIFTI
    if images:
        if choice.dimensions == 3:
            raise _no_volumes(column, f"'{shown(cell)}'")
        return None, None
    if os.path.isdir(folder / cell):
        return str(folder / cell), SERIES
    is_id = bool(cell) and PurePath(cell.strip()).suffix.lower() not in IMAGE_SUFFIXES
    if is_id and _has_only_volumes(raw.folders.get(split)):
        return None, NIFTI
    return str(folder / cell), SERIES if choice.dimensions == 3 else None


def _of_contents(split: Dataset, column: str, choice: VolumeChoice) -> _FoundKind:
    """Of files in the rows the first decides."""
    row = _first_row(split, column)
    if isinstance(split.features[column], Nifti) or is_volume(row):
        return row.get("path"), described_kind(row)
    if choice.dimensions != 3:
        return None, None
    if not _may_be_series(row):
        raise _no_volumes(column, "other files")
    return row.get("path"), SERIES


def _first_row(split: Dataset, column: str) -> dict[str, Any]:
    """What the first row stores, as ``{"bytes": ..., "path": ...}``."""
    value = split.select_columns([column]).with_format("arrow")[:1].column(column).to_pylist()[0]
    if isinstance(value, bytes | None):
        return {"bytes": value, "path": None}
    return value if isinstance(value, dict) else {"bytes": None, "path": str(value)}


def _may_be_series(row: dict[str, Any]) -> bool:
    content, path = row.get("bytes"), row.get("path") or ""
    return is_dicom(content) if content is not None else is_dicom_name(PurePath(path)) or os.path.isdir(path)


def _is_image_name(cell: str) -> bool:
    """Whether a cell names a file of an image that is not of DICOM, or is an image in base64."""
    return len(cell) > LONGEST_PATH or PurePath(cell.strip()).suffix.lower() in IMAGE_SUFFIXES - DICOM_SUFFIXES


def _has_only_volumes(folder: Path | None) -> bool:
    """Whether the ids of a table can only mean volumes, because no image lies below its folder."""
    if folder is None:
        return False
    found = scan(folder)
    return not found.images and any(map(is_nifti, found.others))


def _no_volumes(column: str, what: str) -> OtherKindError:
    return OtherKindError(
        f"column '{column}' names no volumes, which are NIfTI files and DICOM series, but {what}",
        "leave `dimensions` out to read images",
    )
