"""What a card says of the images that a student was trained on, and of the steps that a plain pipeline lacks."""

from __future__ import annotations

from typing import Any

# By the name under which a run counts such images (`rd_hf.data.decoding.image_notes`).
_REMARKS = {
    "transparent": "Images with transparent pixels, whose alpha channel was dropped",
    "deeper_than_8_bits": "Images of more than 8 bits per value, each stretched from its own minimum and maximum",
    "white_is_zero": "Images of more than 8 bits with zero for white, which were inverted",
    "dicom": "DICOM files",
    "burned_in_annotation": "DICOM files that say that text is burned into their pixels (BurnedInAnnotation is YES)",
    "several_pages": "Images that are one page or frame of several",
    "huge": "Images of more than 89 million pixels",
}


def image_remarks(dataset: dict[str, Any]) -> list[str]:
    """What is remarkable about the images of a data set, a sentence each.

    :param dataset: of a model's provenance.
    """
    counts = dataset.get("images", {})
    return [f"{words}: {counts[name]}." for name, words in _REMARKS.items() if name in counts]


def reading_steps(dataset: dict[str, Any]) -> list[str]:
    """What has to be done to an image file before a pipeline without rd_hf sees it as the student did in training.

    :param dataset: of a model's provenance; empty for a model that rd_hf did not train.
    """
    counts, reading = dataset.get("images", {}), dataset.get("reading", {})
    steps = []
    if "several_pages" in counts:
        steps.append(f"Of a file with several pages or frames, take number {reading.get('page', 1)}.")
    if "dicom" in counts:
        steps.append(
            f"Of a DICOM file, apply the modality LUT or the rescale slope and intercept, then {_window(reading)}, to "
            "0..255. Invert MONOCHROME1. Make pixels of the padding value black."
        )
    if "white_is_zero" in counts:
        steps.append("Invert a TIFF of more than 8 bits whose PhotometricInterpretation is 0.")
    if "deeper_than_8_bits" in counts:
        steps.append(
            "Stretch an image of more than 8 bits per value linearly from its own minimum and maximum, over all "
            "channels, to 0..255."
        )
    return steps


def _window(reading: dict[str, Any]) -> str:
    chosen = reading.get("dicom_window")
    if chosen is None:
        return "the VOI LUT or the first window of the file (without either, its minimum to maximum)"
    if chosen == "minmax":
        return "map the file's minimum to maximum"
    if chosen == "none":
        return "map the whole range of the stored bits"
    center, width = chosen.split(",")
    return f"the window with center {center.strip()} and width {width.strip()}"
