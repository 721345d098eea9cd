"""Tells features of images that rd_hf once read otherwise from those it computes now, in the key of a cache."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

from datasets import Dataset
from PIL import Image, UnidentifiedImageError

from . import pillow, png, pnm, tiff
from .dicom_file import is_dicom
from .images import BadImageError, image_bytes
from .reading import Reading

BATCH_ROWS = 64


def decoding_mark(images: Dataset, reading: Reading) -> str:
    """What the key says of how files are read, besides their contents.

    Once transparent pixels became black, 16-bit colour lost its lower bytes, and deep TIFF files with zero for white
    were negatives. A data set with such files, or one whose files are read by choice, has another key than it had then.

    :return: empty for data sets of ordinary images.
    """
    chosen = f", read with {json.dumps(reading.chosen())}" if reading.chosen() else ""
    rows = images.select_columns(["image"]).with_format("arrow")
    changed = any(_is_read_anew(row["image"]) for batch in rows.iter(BATCH_ROWS) for row in batch.to_pylist())
    return (", decoding 2" if changed else "") + chosen


def _is_read_anew(image: dict[str, Any]) -> bool:
    try:
        content = image_bytes(image)
    except BadImageError:
        return False
    if is_dicom(content) or pnm.is_deep_colour(content):
        return True
    if png.is_png(content) and png.is_deep_colour(content):
        return True
    if tiff.is_tiff(content) and tiff.is_deep(content, 0):
        return not _is_plain_grey(content)
    try:
        with pillow.opened(content) as opened:
            return pillow.is_transparent(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False


def _is_plain_grey(content: bytes) -> bool:
    """Whether Pillow alone reads a deep TIFF file as it is meant."""
    try:
        with Image.open(BytesIO(content)) as opened:
            return pillow.is_deep_grey(opened) and not pillow.is_white_zero(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
