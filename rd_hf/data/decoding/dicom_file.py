"""Opens DICOM files: what they hold, and the values as they are stored.

Only the elements of `_ELEMENTS` and `_PLACE` are ever read, and none of them describes a patient. The library's own
words are kept out of logs and errors, because they may quote other elements.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...runtime.quiet import quiet
from .reading import LARGEST

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
START_BYTES = 132
EXTRA = "pip install 'rd-hf[dicom]'"
TO_OTHERS = "convert images to PNG, and series to NIfTI (.nii.gz)"
NOT_IMAGES = {
    "SEG": "a segmentation", "RTDOSE": "a radiotherapy dose", "RTSTRUCT": "a set of radiotherapy structures",
    "RTPLAN": "a radiotherapy plan", "RTRECORD": "a radiotherapy record", "SR": "a structured report",
    "PR": "a presentation state", "KO": "a selection of key objects", "REG": "a registration", "FID": "fiducials",
    "DOC": "a document", "RWV": "a value mapping", "PLAN": "a plan", "ECG": "a waveform", "HD": "a waveform",
    "AU": "a sound", "M3D": "a 3D model", "SMR": "stereometry", "ANN": "annotations",
}  # fmt: skip
DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ENCRYPTED = "EncryptedAttributesSequence"
_ELEMENTS = [
    "SOPClassUID", "Modality", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "Rows", "Columns", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", _ENCRYPTED, *PIXELS,
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
]  # fmt: skip
_PLACE = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "NumberOfFrames", "Rows", "Columns", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax
_HEAD_BYTES = 2**16
_OVERLAY_BITS = [group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2)]


class DicomError(ValueError):
    """A DICOM file that is not read, in a sentence that quotes none of its elements."""


def is_dicom(start: bytes) -> bool:
    """Whether a file begins like DICOM, with or without the preamble of 128 bytes.

    :param start: its first START_BYTES bytes, or more.
    """
    if start[128:132] == b"DICM":
        return True
    if start[:2] not in (b"\x08\0", b"\x02\0") or len(start) < 8 or start[3] != 0:
        return False
    return start[4:6].isupper() or int.from_bytes(start[4:8], "little") <= 256


@contextmanager
def private_reading() -> Iterator[None]:
    """Keep pydicom from quoting elements in warnings and logs, which it also does when a value is first used."""
    import pydicom

    with quiet("pydicom"), pydicom.config.disable_value_validation():
        yield


@contextmanager
def private_decoding() -> Iterator[None]:
    """Turn whatever a damaged file makes pydicom raise into a sentence that quotes nothing of it.

    :raises DicomError: for it.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    with private_reading():
        try:
            yield
        except DicomError:
            raise
        except (*DAMAGED, BytesLengthException, InvalidDicomError):
            raise DicomError("the DICOM file is damaged: its elements do not make up a picture") from None


def open_dataset(content: bytes) -> Dataset:
    """The elements that an image depends on.

    :raises DicomError: when the file is damaged, or does not say how its pixels are encoded.
    """
    import pydicom

    _check_unpacked(BytesIO(content))
    with private_reading():
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True, specific_tags=[*_ELEMENTS, *_OVERLAY_BITS])
            is_encoded = bool(dataset.file_meta.get("TransferSyntaxUID"))
        except DAMAGED:
            raise DicomError("the DICOM file is damaged or cut off: fetch it again") from None
    if not any(name in dataset for name in PIXELS):
        check_is_image(dataset)
        if _ENCRYPTED in dataset:
            raise DicomError(
                "the DICOM file is encrypted, and rd_hf has no key to its pixels: decrypt it with the program that it "
                "comes from, or export it again without encryption"
            )
        raise DicomError("the DICOM file holds no pixels, or it is damaged: leave it out, or fetch it again")
    if not is_encoded:
        raise DicomError(
            "the DICOM file does not say how its pixels are encoded, because its file meta information lacks the "
            f"transfer syntax: write it again with the program that it comes from, or {TO_OTHERS}"
        )
    return dataset


def open_place(file: BinaryIO) -> Dataset:
    """The elements that say what an object is and where it lies in the patient; no pixels.

    :raises DicomError: when the file is damaged.
    """
    import pydicom

    _check_unpacked(file)
    with private_reading():
        try:
            return pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_PLACE)
        except DAMAGED:
            raise DicomError("the DICOM file is damaged or cut off: fetch it again") from None


def _check_unpacked(file: BinaryIO) -> None:
    """Count what a file that is compressed as a whole unpacks to, before pydicom holds all of it.

    :raises DicomError: for more than any image may have.
    """
    head = file.read(144)
    has_length = head[128:136] == b"DICM\2\0\0\0"
    length = int.from_bytes(head[140:144], "little")  # of the group of meta information
    if has_length and _DEFLATED in file.read(min(length, _HEAD_BYTES)):
        file.seek(144 + length)
        unpacker, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        with suppress(zlib.error):  # which pydicom meets too
            while not unpacker.eof and (part := unpacker.unconsumed_tail or file.read(_HEAD_BYTES)):
                count += len(unpacker.decompress(part, 2**20))
                if count > LARGEST:
                    raise DicomError(
                        "the DICOM file unpacks to more than 2 GiB: save it without compression, or tile it"
                    )
    elif not has_length and head[128:132] == b"DICM" and _DEFLATED in head + file.read(_HEAD_BYTES):
        raise DicomError("the DICOM file is damaged: its meta information has no length")
    file.seek(0)


def number_of_frames(dataset: Dataset) -> int:
    """How many frames the pixels hold."""
    try:
        return max(int(dataset.get("NumberOfFrames") or 1), 1)
    except (TypeError, ValueError):
        return 1


def stored_values(dataset: Dataset, frame: int | None) -> np.ndarray:
    """The values as stored, colours as RGB except for palettes: (H, W[, 3]), of all frames (N, H, W[, 3]).

    :param frame: number from 0, or None for all.
    :raises DicomError: when they cannot be decoded.
    """
    from pydicom.pixels import pixel_array

    _check_decoder(dataset)
    with quiet("pydicom"), np.errstate(all="ignore"):
        try:
            stored = pixel_array(dataset, index=frame)
            embedded = [dataset[tag].value for tag in _OVERLAY_BITS if tag in dataset]
        except DAMAGED:
            raise DicomError(_why_damaged(dataset)) from None
    if any(embedded) and stored.dtype.kind == "u":  # old files keep drawings in the bits above the value
        stored = stored & ((1 << dataset.BitsStored) - 1)
    return stored


def functional_group(dataset: Dataset, frame: int, name: str) -> Dataset | None:
    """An item of an enhanced file, from the frame's own groups or else from those of all frames."""
    of_frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*of_frames[frame : frame + 1], *shared[:1]):
        if group.get(name):
            return group[name].value[0]
    return None


def check_is_image(dataset: Dataset) -> None:
    """:raises DicomError: for an object that is known to be no image."""
    kind = kind_of_object(dataset)
    if kind is not None:
        raise DicomError(f"the DICOM file holds {kind}, not an image: leave it out")


def kind_of_object(dataset: Dataset) -> str | None:
    """What the object is, where its class or modality is known to be no image's."""
    from pydicom.uid import UID

    modality = str(dataset.get("Modality", "")).strip()
    if modality in NOT_IMAGES:
        return NOT_IMAGES[modality]
    kind = UID(str(dataset.get("SOPClassUID") or ""))
    known = kind.keyword
    is_image = "Image" in known or known in ("BreastTomosynthesisImageStorage", "EnhancedUSVolumeStorage")
    return None if not known or is_image else f"an object of class {kind.name}"


def _check_decoder(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.keyword else "an unknown transfer syntax"
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise DicomError(f"the DICOM file is compressed as {name}, which cannot be read: {TO_OTHERS}") from None
    if not available:
        raise DicomError(f"the DICOM file is compressed as {name}, whose decoder is not installed: {EXTRA}")


def _why_damaged(dataset: Dataset) -> str:
    from pydicom.pixels.utils import get_expected_length

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        there, needed = len(dataset.PixelData), get_expected_length(dataset)
    except DAMAGED:
        there, needed = 0, 0
    if not syntax.is_compressed and there < needed:
        return f"the DICOM file is cut off, with {there} of {needed} bytes of pixels: fetch it again"
    return f"the DICOM file is damaged: its pixels ({syntax.name}) cannot be decoded"


def require_pydicom() -> None:
    """:raises DicomError: naming the extra, where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise DicomError(f"reading DICOM files needs the extra `dicom`: {EXTRA}, or {TO_OTHERS}") from None
