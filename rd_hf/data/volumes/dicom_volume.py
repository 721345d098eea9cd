"""Volumes of DICOM: the slice files of a series, or the frames of one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...arguments.words import counted
from ..decoding.dicom import modality_table, modality_values
from ..decoding.dicom_file import PIXELS, DicomError, check_is_image, open_dataset, private_decoding, stored_values
from ..decoding.pillow import check_size
from .dicom_geometry import Plane, Stack, stack
from .dicom_header import header_of_source
from .dicom_series import slices_of_series
from .source import Source, VolumeError
from .values import check_finite, count_broken
from .volume import Header, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

Of = TypeVar("Of")


@dataclass(frozen=True)
class _Slice:
    """A frame of a file, which is the only one in files of one slice."""

    file: Source
    frame: int
    plane: Plane


def read(source: Source) -> Volume:
    """The voxels of the series that a file belongs to, or of the frames of one file, sorted along the normal.

    :raises VolumeError: if the series is no box, or a slice is damaged or cannot be decoded.
    """
    slices, box = _found(source)
    columns, rows, depth = box.shape
    values, broken = np.empty((1, depth, rows, columns), dtype=np.float32), 0
    for number, found in enumerate(_of_each(slices, _values)):
        with np.errstate(over="ignore", invalid="ignore"):
            values[0, number] = found
        broken += count_broken(values[0, number])
    check_finite(broken, values.size)
    return Volume(values.transpose(0, 3, 2, 1), box.affine)


def header(source: Source) -> Header:
    """Shape and affine of the volume that a file belongs to, without its pixels.

    :raises VolumeError: if the series is no box.
    """
    _, box = _found(source)
    return Header(box.shape, box.affine)


def slice_files(path: Path) -> list[tuple[Path, int]]:
    """The file of each slice of the volume that a file belongs to, sorted along the normal, and the frame in it.

    :raises VolumeError: if the series is no box.
    """
    slices, _ = _found(Source(None, path))
    return [(each.file.path, each.frame) for each in slices]


def content(source: Source) -> Iterator[bytes]:
    """The stored pixels of each slice in order, what they mean, and where they lie; nothing that describes a patient.

    :raises VolumeError: if the series is no box, or a slice is damaged.
    """
    slices, box = _found(source)
    yield json.dumps([box.shape, box.affine.tolist()]).encode()
    order = [each.frame for each in slices]
    if any(order) and order != sorted(order):  # of one file, whose pixels follow in the order of its frames
        yield json.dumps(order).encode()
    for meaning, *pixels in _of_each(slices, _content):
        yield meaning
        yield from pixels


def _found(source: Source) -> tuple[list[_Slice], Stack]:
    """The slices in their order, and the box that they make up."""
    header = header_of_source(source)
    if header.why_not is not None:
        raise VolumeError(f"{header.why_not}: leave it out, or export it again")
    if len(header.planes) == 1 and source.content is not None:
        raise VolumeError(
            "its DICOM file (1 frame) has a single slice, and others of its series cannot be found, because it is "
            "embedded in the data or its path is not UTF-8: rename its folder, or save the series as .nii.gz"
        )
    if len(header.planes) > 1 or source.content is not None:
        slices = [_Slice(source, frame, plane) for frame, plane in enumerate(header.planes)]
        subject = f"its DICOM file ({counted(len(slices), 'frame')})"
    else:
        slices = [_Slice(Source(None, file), 0, plane) for file, plane in slices_of_series(source.path, header)]
        count, folder = counted(len(slices), "file"), source.path.absolute().parent.name
        subject = f"its DICOM series ({count} in the folder {folder}, the first is {slices[0].plane.name})"
    try:
        box = stack([each.plane for each in slices])
    except VolumeError as error:
        raise VolumeError(f"{subject} {error}") from None
    return [slices[number] for number in box.order], box


def _of_each(slices: list[_Slice], use: Callable[[Dataset, _Slice], Of]) -> Iterator[Of]:
    """Use each slice with its file, which is opened once.

    :raises VolumeError: for what goes wrong, with the name of the slice.
    """
    opened, dataset = None, None
    for each in slices:
        try:
            with private_decoding():
                if each.file is not opened:
                    opened, dataset = each.file, open_dataset(each.file.read())
                found = use(dataset, each)
        except DicomError as error:
            raise VolumeError(f"its slice {each.plane.name} cannot be read: {error}") from None
        yield found


def _content(dataset: Dataset, each: _Slice) -> list[bytes]:
    """What the stored pixels mean, and with the first frame of a file the pixels themselves."""
    bits = [int(dataset.get("BitsStored") or 0), int(dataset.get("PixelRepresentation") or 0)]
    meaning = modality_values(dataset, np.arange(2), each.frame).tolist()
    stored = [] if each.frame else [dataset[name].value for name in PIXELS if name in dataset]
    table = modality_table(dataset, each.frame)
    return [json.dumps([str(dataset.file_meta.TransferSyntaxUID), bits, meaning]).encode(), *table, *stored]


def _values(dataset: Dataset, each: _Slice) -> np.ndarray:
    """(rows, columns) of one slice, through its modality LUT, or slope and intercept."""
    check_is_image(dataset)
    rows, columns = each.plane.size
    try:
        check_size(columns, rows, 8)
    except ValueError as error:
        raise DicomError(str(error)) from None
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise DicomError("the DICOM file holds colours, but a volume has one value a voxel: leave it out")
    return modality_values(dataset, stored_values(dataset, each.frame), each.frame)
