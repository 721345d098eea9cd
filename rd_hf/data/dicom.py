"""One frame of a DICOM file as 8-bit pixels, by the standard's order: modality, values of interest, presentation.

Only the elements of `_ELEMENTS` are ever read, and none of them describes a patient. The library's own words are kept
out of logs and errors, because they may quote other elements.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from .intensity import stretch
from .quiet import quiet
from .reading import Reading

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
START_BYTES = 132
EXTRA = "pip install 'rd-hf[dicom]'"
NOT_IMAGES = {
    "SEG": "a segmentation", "RTDOSE": "a radiotherapy dose", "RTSTRUCT": "a set of radiotherapy structures",
    "RTPLAN": "a radiotherapy plan", "RTRECORD": "a radiotherapy record", "SR": "a structured report",
    "PR": "a presentation state", "KO": "a selection of key objects", "REG": "a registration", "FID": "fiducials",
    "DOC": "a document", "RWV": "a value mapping", "PLAN": "a plan", "ECG": "a waveform", "HD": "a waveform",
    "AU": "a sound", "M3D": "a 3D model", "SMR": "stereometry", "ANN": "annotations",
}  # fmt: skip
_DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_ELEMENTS = [
    "SOPClassUID", "Modality", "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "Rows", "Columns", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_PIXELS,
    *(f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
]  # fmt: skip
_OVERLAY_BITS = [group << 16 | 0x0102 for group in range(0x6000, 0x6020, 2)]


@dataclass(frozen=True)
class Frame:
    """A frame as it is shown.

    :param pixels: uint8 (H, W) or (H, W, 3).
    :param frames: how many the file has.
    :param burned_in: whether the file says that text is burned into the pixels.
    """

    pixels: np.ndarray
    frames: int
    burned_in: bool


def is_dicom(start: bytes) -> bool:
    """Whether a file begins like DICOM, with or without the preamble of 128 bytes.

    :param start: its first START_BYTES bytes, or more.
    """
    if start[128:132] == b"DICM":
        return True
    if start[:2] not in (b"\x08\0", b"\x02\0") or len(start) < 8 or start[3] != 0:
        return False
    return start[4:6].isupper() or int.from_bytes(start[4:8], "little") <= 256


def read_frame(content: bytes, reading: Reading) -> Frame:
    """Decode the frame that `reading` chooses, and show it through its window.

    :raises ValueError: for a file without an image, one of several frames where none is chosen, or one that cannot be
        decoded; without any value of the file that could name a patient.
    """
    _require_pydicom()
    dataset = open_dataset(content)
    _check_is_image(dataset)
    frames = number_of_frames(dataset)
    if reading.page is None and frames > 1:
        raise ValueError(
            f"the DICOM file has {frames} frames, and a volume or film is not one image: choose a frame with --page (1 "
            f"to {frames}), or save the frames as files of their own"
        )
    if reading.page is not None and reading.page > frames:
        raise ValueError(f"the DICOM file has {frames} frame{'s' if frames > 1 else ''}, but --page is {reading.page}")
    frame = (reading.page or 1) - 1
    stored = stored_values(dataset, frame)
    with quiet("pydicom"):
        try:
            pixels = shown(dataset, stored, frame, reading)
        except _DAMAGED:
            raise ValueError("the DICOM file is damaged: its pixels cannot be turned into a picture") from None
    return Frame(pixels, frames, str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES")


def open_dataset(content: bytes) -> Dataset:
    """The elements that an image depends on.

    :raises ValueError: when the file is damaged, or does not say how its pixels are encoded.
    """
    import pydicom

    with quiet("pydicom"), pydicom.config.disable_value_validation():
        try:
            dataset = pydicom.dcmread(BytesIO(content), force=True, specific_tags=[*_ELEMENTS, *_OVERLAY_BITS])
            is_encoded = bool(dataset.file_meta.get("TransferSyntaxUID"))
        except _DAMAGED:
            raise ValueError("the DICOM file is damaged or cut off: fetch it again") from None
    if not any(name in dataset for name in _PIXELS):
        raise ValueError(
            f"the DICOM file holds {_kind(dataset) or 'no pixels'}, or it is damaged: leave it out, or fetch it again"
        )
    if not is_encoded:
        raise ValueError(
            "the DICOM file does not say how its pixels are encoded, because its file meta information lacks the "
            "transfer syntax: write it again with the program that it comes from, or convert it to PNG"
        )
    return dataset


def number_of_frames(dataset: Dataset) -> int:
    """How many frames the pixels hold."""
    try:
        return max(int(dataset.get("NumberOfFrames") or 1), 1)
    except (TypeError, ValueError):
        return 1


def stored_values(dataset: Dataset, frame: int | None) -> np.ndarray:
    """The values as stored, colours as RGB except for palettes: (H, W[, 3]), of all frames (N, H, W[, 3]).

    :param frame: number from 0, or None for all.
    :raises ValueError: when they cannot be decoded.
    """
    from pydicom.pixels import pixel_array

    _check_decoder(dataset)
    with quiet("pydicom"), np.errstate(all="ignore"):
        try:
            stored = pixel_array(dataset, index=frame)
            embedded = [dataset[tag].value for tag in _OVERLAY_BITS if tag in dataset]
        except _DAMAGED:
            raise ValueError(_why_damaged(dataset)) from None
    if any(embedded) and stored.dtype.kind == "u":  # old files keep drawings in the bits above the value
        stored = stored & ((1 << dataset.BitsStored) - 1)
    return stored


def modality_values(dataset: Dataset, stored: np.ndarray, frame: int) -> np.ndarray:
    """What stored values mean, such as Hounsfield units: through the modality LUT, or slope and intercept."""
    group = _functional_group(dataset, frame, "PixelValueTransformationSequence")
    item = dataset if group is None else group
    if item.get("ModalityLUTSequence"):
        return _through_table(stored, item.ModalityLUTSequence[0], dataset)
    slope, intercept = _first(item.get("RescaleSlope")), _first(item.get("RescaleIntercept"))
    if slope is None and intercept is None:
        return stored
    return stored.astype(np.float64) * (1 if slope is None else slope) + (intercept or 0)


def _through_table(values: np.ndarray, item: Dataset, dataset: Dataset) -> np.ndarray:
    """Values through a lookup table (PS3.3, C.11.1.1.1 and C.11.2.1.1); those outside take its first or last entry.

    pydicom's own functions count 8-bit tables of more than 256 entries modulo 256, and take no float values.
    """
    count, first, _ = item.LUTDescriptor
    data, order = item["LUTData"].value, "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * (count or 65536) else np.dtype(f"{order}u2"))
    table = np.atleast_1d(np.asarray(data))[: count or 65536]
    if first > 32767 and values.min() < 0:  # a signed number that was written as an unsigned one
        first -= 65536
    return table[np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)].astype(np.float64)


def shown(dataset: Dataset, stored: np.ndarray, frame: int, reading: Reading) -> np.ndarray:
    """A frame as it is displayed: uint8 (H, W), black as 0 also for MONOCHROME1, or (H, W, 3).

    :param stored: the frame's stored values.
    """
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        count, first, bits = dataset.RedPaletteColorLookupTableDescriptor
        colored = apply_color_lut(np.clip(stored.astype(np.int64), first, first + (count or 65536) - 1), dataset)
        return np.rint(colored / ((1 << max(bits, 8 * colored.dtype.itemsize)) - 1) * 255).astype(np.uint8)
    if stored.ndim == 3:
        return stored.astype(np.uint8) if dataset.BitsStored <= 8 else stretch(stored, bounds=_bounds(dataset))
    return _shown_grey(dataset, stored, frame, reading)


def _shown_grey(dataset: Dataset, stored: np.ndarray, frame: int, reading: Reading) -> np.ndarray:
    """Grey values as they are displayed.

    Pixels of the padding value lie outside the image: they are black, and no range counts them.
    """
    values, padding = modality_values(dataset, stored, frame), _padding(dataset, stored)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    scaled = _windowed(dataset, values, frame, reading)
    if scaled is None:
        every = padding is not None and padding.all()
        return stretch(values, inverted, None if every else padding, _bounds(dataset))
    scaled = np.nan_to_num(255 - scaled if inverted else scaled)
    if padding is not None:
        scaled[padding] = 0
    return np.rint(scaled).astype(np.uint8)


def _bounds(dataset: Dataset) -> tuple[float, float] | None:
    """Minimum and maximum of all frames, so that these stay comparable; None where there is one frame."""
    if number_of_frames(dataset) == 1:
        return None
    low, high = np.inf, -np.inf
    for frame in range(number_of_frames(dataset)):
        stored = stored_values(dataset, frame)
        padding = _padding(dataset, stored)
        values = stored if stored.ndim == 3 else modality_values(dataset, stored, frame)
        values = values[np.isfinite(values) if padding is None else np.isfinite(values) & ~padding]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else None


def _windowed(dataset: Dataset, values: np.ndarray, frame: int, reading: Reading) -> np.ndarray | None:
    """Values in 0..255 through the window that `reading` or the file chooses; None where there is none."""
    if reading.dicom_window == "minmax":
        return None
    if reading.dicom_window == "none":
        return _whole_range(dataset, values, frame)
    if reading.window is not None:
        return window(values, *reading.window)
    item = _functional_group(dataset, frame, "FrameVOILUTSequence")
    item = dataset if item is None else item
    if item.get("VOILUTSequence"):
        table = item.VOILUTSequence[0]
        highest = (1 << table.LUTDescriptor[2]) - 1
        return np.clip(_through_table(values, table, dataset) / highest * 255, 0, 255)
    center, width = _first(item.get("WindowCenter")), _first(item.get("WindowWidth"))
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or width <= (1 if function == "LINEAR" else 0):  # a step, or no window at all
        return None
    return window(values, center, width, function)


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Map a window to 0..255 (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    :param function: "LINEAR", "LINEAR_EXACT" or "SIGMOID".
    :return: float64 of the same shape.
    """
    values = values.astype(np.float64)
    if function == "SIGMOID":
        return 255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return np.where(values > center, 255.0, 0.0)
    return np.clip((values - center) / width + 0.5, 0, 1) * 255


def _whole_range(dataset: Dataset, values: np.ndarray, frame: int) -> np.ndarray | None:
    """What the stored bits can hold, from 0 to 255."""
    if "PixelData" not in dataset:
        return None
    bits = dataset.BitsStored
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if dataset.PixelRepresentation else (0, (1 << bits) - 1)
    ends = modality_values(dataset, np.array([[low, high]]), frame).astype(np.float64)
    return np.clip((values - ends.min()) / max(np.ptp(ends), np.finfo(float).tiny), 0, 1) * 255


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    value = _first(dataset.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = _first(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((value, value if limit is None else limit))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _functional_group(dataset: Dataset, frame: int, name: str) -> Dataset | None:
    """An item of an enhanced file, from the frame's own groups or else from those of all frames."""
    of_frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*of_frames[frame : frame + 1], *shared[:1]):
        if group.get(name):
            return group[name].value[0]
    return None


def _first(value: object) -> float | None:
    """The first number of an element; None where it is absent or none."""
    if value is None or isinstance(value, str):
        return None
    values = np.ravel(np.asarray(value, dtype=np.float64)) if not isinstance(value, bytes) else np.empty(0)
    return float(values[0]) if values.size and np.isfinite(values[0]) else None


def _check_is_image(dataset: Dataset) -> None:
    kind = _kind(dataset)
    if kind is not None:
        raise ValueError(f"the DICOM file holds {kind}, not an image: leave it out")


def _kind(dataset: Dataset) -> str | None:
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
        raise ValueError(f"the DICOM file is compressed as {name}, which cannot be read: convert it to PNG") from None
    if not available:
        raise ValueError(f"the DICOM file is compressed as {name}, whose decoder is not installed: {EXTRA}")


def _why_damaged(dataset: Dataset) -> str:
    from pydicom.pixels.utils import get_expected_length

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        there, needed = len(dataset.PixelData), get_expected_length(dataset)
    except _DAMAGED:
        there, needed = 0, 0
    if not syntax.is_compressed and there < needed:
        return f"the DICOM file is cut off, with {there} of {needed} bytes of pixels: fetch it again"
    return f"the DICOM file is damaged: its pixels ({syntax.name}) cannot be decoded"


def _require_pydicom() -> None:
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise ValueError(f"reading DICOM files needs the extra `dicom`: {EXTRA}, or convert the file to PNG") from None
