"""One image in whatever form it comes, as 8-bit RGB."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# What Pillow's plug-ins raise on files that are cut off, mislabelled or hostile.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa")

ImageLike = Image.Image | np.ndarray | bytes | str | os.PathLike | dict[str, Any]


class BadImageError(ValueError):
    """An image that cannot be read; the message names it and says what Pillow said."""


def to_rgb(image: ImageLike, name: str | None = None) -> Image.Image:
    """Give an image as an upright 8-bit RGB image.

    - 8-bit and 1-bit grey values are repeated over the three channels.
    - Everything deeper than 8 bits (16- and 32-bit integers, floats) is stretched linearly from the image's own
      minimum and maximum to 0..255, all channels together. No percentiles: a microcalcification covers far less than
      the 0.5 % of pixels that a percentile would clip. Values that mean something in absolute terms (Hounsfield
      units) want a window applied beforehand. NaN and infinities become the bound that they lie at, NaN black.
    - Transparent pixels are laid over black. Palettes and CMYK are converted.
    - The EXIF orientation is applied. Of a file with several frames the first is taken.

    :param image: a Pillow image, an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the bytes of an image
        file, a path, or the ``{"bytes": ..., "path": ...}`` of an undecoded `datasets` image.
    :param name: what to call the image in an error, for example ``"train row 12"``; a path is named anyway.
    :return: a Pillow image in mode RGB, (H, W) as in the upright source.
    :raises BadImageError: if the image is missing, truncated or of a kind that cannot be read.
    """
    try:
        opened = _open(image)
        opened.load()
        if opened.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            opened = ImageOps.exif_transpose(opened)
        return _as_rgb(opened)
    except _UNREADABLE as error:
        raise BadImageError(_unreadable(image, name, error)) from error


def image_bytes(image: dict[str, Any], name: str | None = None) -> bytes:
    """Give the file content of an undecoded `datasets` image.

    :param image: ``{"bytes": bytes or None, "path": str or None}``.
    :param name: what to call the image in an error.
    :return: the encoded bytes, read from the path where they are not in the row.
    :raises BadImageError: if there are neither bytes nor a readable file.
    """
    try:
        return _content(image)
    except _UNREADABLE as error:
        raise BadImageError(_unreadable(image, name, error)) from error


def _content(image: dict[str, Any]) -> bytes:
    if image.get("bytes") is not None:
        return image["bytes"]
    path = image.get("path")
    if path is None:
        raise ValueError("the row has neither bytes nor a path")
    if "://" in path:  # a member of an archive, or a file on a remote file system
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return file.read()
    return Path(path).read_bytes()


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, dict):
        return Image.open(BytesIO(_content(image)))
    if isinstance(image, bytes):
        return Image.open(BytesIO(image))
    if isinstance(image, (str, os.PathLike)):
        return Image.open(BytesIO(Path(image).read_bytes()))
    raise ValueError(f"a {type(image).__name__} is not a Pillow image, array, bytes or path")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or array.size == 0:
        raise ValueError(f"the array has shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        if array.ndim == 3 and array.shape[2] == 4:
            raise ValueError(
                f"the array has four channels of {array.dtype}; an alpha channel is supported in 8-bit arrays only"
            )
        array = _stretch(array)
    return Image.fromarray(np.ascontiguousarray(array))


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_stretch(np.asarray(image))).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _stretch(array: np.ndarray) -> np.ndarray:
    """Map an array's own minimum..maximum to 0..255 (uint8); a constant array becomes black."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"the pixels are of type {array.dtype}; expected bool, integers or floats")
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("it has no finite pixel")
    low, high = finite.min(), finite.max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return np.rint((values - low) / max(high - low, np.finfo(np.float64).tiny) * 255).astype(np.uint8)


def _unreadable(image: ImageLike, name: str | None, error: Exception) -> str:
    # Pillow does not know the file of bytes in memory, and names the buffer instead.
    reason = "the file is empty or its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error)
    return f"{_describe(image, name)} is not a readable image: {reason.rstrip('.')}."


def _describe(image: ImageLike, name: str | None) -> str:
    path = image.get("path") if isinstance(image, dict) else image
    path = str(path) if isinstance(path, (str, os.PathLike)) else None
    if name and path:
        return f"{name} ({path})"
    return name or path or "an image"
