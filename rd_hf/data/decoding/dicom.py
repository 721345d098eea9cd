"""One frame of a DICOM file as 8-bit pixels, by the standard's order: modality, values of interest, presentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .dicom_file import (
    DicomError,
    check_is_image,
    functional_group,
    number_of_frames,
    open_dataset,
    private_decoding,
    require_pydicom,
    stored_values,
)
from .intensity import stretch
from .pillow import SHALLOW, check_size
from .reading import FROM_WHERE, Reading

if TYPE_CHECKING:
    from pydicom import Dataset

WINDOWED = 41  # bytes per pixel at most at a time, as measured of 16-bit grey through a window


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


def read_frame(content: bytes, reading: Reading) -> Frame:
    """Decode the frame that `reading` chooses, and show it through its window.

    :raises DicomError: for a file without an image, one of several frames where none is chosen, or one that cannot be
        decoded; without any value of the file that could name a patient.
    """
    require_pydicom()
    with private_decoding():
        return _decoded(content, reading)


def _decoded(content: bytes, reading: Reading) -> Frame:
    dataset = open_dataset(content)
    check_is_image(dataset)
    frames = number_of_frames(dataset)
    frame = _chosen_frame(frames, reading)
    try:
        is_colour = dataset.get("SamplesPerPixel") == 3 and dataset.get("BitsAllocated") == 8
        bytes_per_pixel = SHALLOW if is_colour else WINDOWED
        check_size(int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0), bytes_per_pixel)
    except ValueError as error:
        raise DicomError(str(error)) from None
    burned_in = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    return Frame(shown(dataset, stored_values(dataset, frame), frame, reading), frames, burned_in)


def _chosen_frame(frames: int, reading: Reading) -> int:
    """The number of the frame, from 0."""
    if reading.page is None and frames > 1:
        raise DicomError(
            f"the DICOM file has {frames} frames, and a volume or film is not one image: choose a frame with `page` (1 "
            f"to {frames}), or save the frames as files of their own"
        )
    if reading.page is not None and reading.page > frames:
        raise DicomError(
            f"the DICOM file has {frames} frame{'s' if frames > 1 else ''}, but `page` is {reading.page}{FROM_WHERE}"
        )
    return (reading.page or 1) - 1


def modality_values(dataset: Dataset, stored: np.ndarray, frame: int) -> np.ndarray:
    """What stored values mean, such as Hounsfield units: through the modality LUT, or slope and intercept."""
    item = _transformation(dataset, frame)
    if item.get("ModalityLUTSequence"):
        return _through_table(stored, item.ModalityLUTSequence[0], dataset)
    slope, intercept = _first(item.get("RescaleSlope")), _first(item.get("RescaleIntercept"))
    if slope is None and intercept is None:
        return stored
    return stored.astype(np.float64) * (1 if slope is None else slope) + (intercept or 0)


def modality_table(dataset: Dataset, frame: int) -> list[bytes]:
    """The first value and all entries of a frame's modality LUT; nothing where it has none."""
    item = _transformation(dataset, frame)
    if not item.get("ModalityLUTSequence"):
        return []
    count, first, _ = item.ModalityLUTSequence[0].LUTDescriptor
    entries = _through_table(np.arange(count or 65536) + first, item.ModalityLUTSequence[0], dataset)
    return [str(first).encode(), entries.tobytes()]


def _transformation(dataset: Dataset, frame: int) -> Dataset:
    """What says what a frame's stored values mean: its functional group, or else the file."""
    group = functional_group(dataset, frame, "PixelValueTransformationSequence")
    return dataset if group is None else group


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
    item = functional_group(dataset, frame, "FrameVOILUTSequence")
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
    """Which stored values lie outside the image; None where none does."""
    value = _as_stored(_first(dataset.get("PixelPaddingValue")), stored.dtype.kind)
    if value is None:
        return None
    limit = _as_stored(_first(dataset.get("PixelPaddingRangeLimit")), stored.dtype.kind)
    low, high = sorted((value, value if limit is None else limit))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _as_stored(value: float | None, kind: str) -> float | None:
    """A number of 16 bits with the sign of the pixels; many files write -2000 as the unsigned 63536.

    :param kind: of the pixels' dtype.
    """
    if value is None or kind not in "iu":
        return value
    bits = int(value) & 0xFFFF
    return bits - 0x10000 if kind == "i" and bits > 0x7FFF else bits


def _first(value: object) -> float | None:
    """The first number of an element; None where it is absent or none."""
    if value is None or isinstance(value, str):
        return None
    values = np.ravel(np.asarray(value, dtype=np.float64)) if not isinstance(value, bytes) else np.empty(0)
    return float(values[0]) if values.size and np.isfinite(values[0]) else None
