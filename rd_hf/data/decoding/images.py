"""One image in whatever form it comes, as 8-bit RGB. docs/reference/reading-images.md states the rules."""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...runtime.quiet import escaped
from . import pillow, png, pnm, tiff
from .dicom import read_frame
from .dicom_file import DICOM_SUFFIXES, is_dicom
from .image_notes import Note
from .impostors import check_content, is_damaged, why_unknown
from .intensity import stretch
from .reading import Reading

# What Pillow's plug-ins raise on files that are cut off, mislabelled or hostile, and fsspec on a remote file whose
# protocol needs another package.
UNREADABLE = (
    OSError, ImportError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, LookupError, TypeError,
    AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError, Image.DecompressionBombError,
)  # fmt: skip
AS_IT_IS = Reading()
DOWNLOAD = "download the files first, and write their paths in the place of the addresses"
_SCHEME = re.compile(r"(?:^|::)\s*([\w+.\-]+)://")  # of `zip://1.png::https://host/all.zip` both
_UNASKED = frozenset({"file", "zip", "tar", "gzip", "bz2", "xz", "lz4", "zstd", "hf"})

ImageLike = Image.Image | np.ndarray | bytes | str | os.PathLike | dict[str, Any]


class BadImageError(ValueError):
    """An image that cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class ReadImage:
    """An upright 8-bit RGB image, and what is remarkable about it."""

    rgb: Image.Image
    notes: Note


def to_rgb(image: ImageLike, name: str | None = None, reading: Reading = AS_IT_IS) -> Image.Image:
    """Give an image as an upright 8-bit RGB image.

    - 8-bit and 1-bit grey values are repeated over the three channels. Palettes and CMYK are converted.
    - Everything deeper than 8 bits (16- and 32-bit integers, floats), grey or colour, is stretched linearly from the
      image's own minimum and maximum to 0..255, all channels together. Values that mean something in absolute terms
      want a window applied beforehand. Where zero is white, the image is inverted.
    - An alpha channel is dropped, as transformers' pipeline does.
    - The EXIF orientation is applied.
    - Of a file with several pages the one that `reading` chooses is taken; without a choice it is refused.
    - DICOM files are shown through the window that they or `reading` choose.

    :param image: a Pillow image, an array of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), the bytes of an image
        file, a path, or the ``{"bytes": ..., "path": ...}`` of an undecoded `datasets` image.
    :param name: what to call the image in an error, for example ``"train row 12"``; a path is named anyway.
    :param reading: which page, and which window.
    :return: a Pillow image in mode RGB, (H, W) as in the upright source.
    :raises BadImageError: if the image is missing, truncated or of a kind that cannot be read.
    """
    return read_image(image, name, reading).rgb


def read_image(image: ImageLike, name: str | None = None, reading: Reading = AS_IT_IS) -> ReadImage:
    """Read an image as `to_rgb` does, and note what is remarkable about it."""
    try:
        if isinstance(image, Image.Image):
            return _from_pillow(image)
        if isinstance(image, np.ndarray):
            return _from_array(image)
        made = _from_content(_content_of(image), path_of(image), reading)
        is_huge = made.rgb.width * made.rgb.height > pillow.PILLOW_LIMIT
        return ReadImage(made.rgb, made.notes | Note.HUGE) if is_huge else made
    except UNREADABLE as error:
        raise BadImageError(unreadable(image, name, error)) from error


def image_bytes(image: dict[str, Any], name: str | None = None) -> bytes:
    """Give the file content of an undecoded `datasets` image.

    :param image: ``{"bytes": bytes or None, "path": str or None}``.
    :param name: what to call the image in an error.
    :return: the encoded bytes, read from the path where they are not in the row.
    :raises BadImageError: if there are neither bytes nor a readable file.
    """
    try:
        return _content(image)
    except UNREADABLE as error:
        raise BadImageError(unreadable(image, name, error)) from error


def _content(image: dict[str, Any]) -> bytes:
    if image.get("bytes") is not None:
        return image["bytes"]
    path = image.get("path")
    if path is None:
        raise ValueError("the row has neither bytes nor a path")
    if is_fetched(path):
        raise ValueError(f"it is an address, and rd_hf fetches none: {DOWNLOAD}")
    if "://" in path:  # a member of an archive, or a file of a data set on the Hub
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return file.read()
    return _content_of_file(path)


def is_fetched(path: str) -> bool:
    """Whether reading a path would ask a server other than the Hub; each server learns when and where that was."""
    return any(scheme.lower() not in _UNASKED for scheme in _SCHEME.findall(path))


def _content_of_file(path: str | os.PathLike) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # which might never end
        raise ValueError("it is a pipe or a device, not a file")
    return Path(path).read_bytes()


def _content_of(image: ImageLike) -> bytes:
    if isinstance(image, dict):
        return _content(image)
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return _content_of_file(image)
    raise ValueError(f"a {type(image).__name__} is not a Pillow image, array, bytes or path")


def _from_content(content: bytes, path: str | None, reading: Reading) -> ReadImage:
    check_content(content)
    if is_dicom(content):
        return _from_dicom(content, reading)
    if tiff.is_tiff(content):
        return _from_tiff(content, reading)
    if pnm.is_deep_colour(content):
        return _from_channels(pnm.deep_channels(content), Note.DEEP)
    if png.is_png(content):
        content = png.without_comments(content)
    try:
        with pillow.opened(content) as image:
            notes = pillow.turn_to_page(image, reading)
            if png.is_png(content) and png.is_deep_colour(content):
                return _from_deep_png(content, image, notes)
            pillow.check_depth(image, content)
            return _from_pillow(image, notes)
    except UnidentifiedImageError:
        if (path or "").lower().endswith(tuple(DICOM_SUFFIXES)):
            return _from_dicom(content, reading)
        raise ValueError(why_unknown(content)) from None


def _from_dicom(content: bytes, reading: Reading) -> ReadImage:
    frame = read_frame(content, reading)
    notes = Note.DICOM | (Note.BURNED_IN if frame.burned_in else Note.NONE)
    notes |= Note.PAGES if frame.frames > 1 else Note.NONE
    return ReadImage(Image.fromarray(frame.pixels).convert("RGB"), notes)


def _from_tiff(content: bytes, reading: Reading) -> ReadImage:
    pages = tiff.full_pages(content)
    page, notes = pillow.chosen_page(pages, reading) if pages else (0, Note.NONE)
    unsupported = None
    if tiff.is_deep(content, page):
        try:
            return _from_deep_tiff(content, page, notes)
        except tiff.UnsupportedError as error:
            unsupported = error
    try:
        with pillow.opened(content) as image:
            image.seek(page)
            if unsupported is not None and not pillow.is_deep_grey(image):  # Pillow would keep the upper bytes
                raise unsupported
            return _from_pillow(image, notes)
    except UnidentifiedImageError:
        if unsupported is not None:
            raise unsupported from None
        return _from_deep_tiff(content, page, notes)


def _from_deep_tiff(content: bytes, page: int, notes: Note) -> ReadImage:
    values, white_is_zero, transparent = tiff.deep_channels(content, page)
    notes |= (Note.WHITE_IS_ZERO if white_is_zero else Note.NONE) | (Note.TRANSPARENT if transparent else Note.NONE)
    return _from_channels(values, notes, white_is_zero)


def _from_deep_png(content: bytes, image: Image.Image, notes: Note) -> ReadImage:
    """16-bit colour, whose orientation Pillow knows."""
    image.load()  # which finds a file that is cut off
    if notes & Note.PAGES:
        raise ValueError("animated PNG files of 16 bits are not read: save the frame as a file of its own")
    values = png.deep_channels(content)
    colours = 1 if values.shape[2] < 3 else 3
    if values.shape[2] > colours and values[..., -1].min() < 65535:
        notes |= Note.TRANSPARENT
    made = _from_channels(values[..., 0] if colours == 1 else values[..., :3], notes)
    return ReadImage(pillow.upright(made.rgb, pillow.orientation(image)), made.notes)


def _from_array(array: np.ndarray) -> ReadImage:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or array.size == 0:
        raise ValueError(f"the array has shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return _from_pillow(Image.fromarray(np.ascontiguousarray(array)))
    return _from_channels(array[..., :3] if array.ndim == 3 else array, Note.NONE)


def _from_channels(values: np.ndarray, notes: Note, white_is_zero: bool = False) -> ReadImage:
    """An image of values, (H, W) or (H, W, 3), that are stretched unless they are bytes."""
    if values.dtype != np.uint8:
        values, notes = stretch(values, white_is_zero), notes | Note.DEEP
    elif white_is_zero:
        values = 255 - values
    return ReadImage(Image.fromarray(np.ascontiguousarray(values)).convert("RGB"), notes)


def _from_pillow(image: Image.Image, notes: Note = Note.NONE) -> ReadImage:
    image.load()
    turn = pillow.orientation(image)
    if pillow.is_deep_grey(image):
        white_is_zero = pillow.is_white_zero(image)
        made = _from_channels(np.asarray(image), notes, white_is_zero)
        notes = made.notes | (Note.WHITE_IS_ZERO if white_is_zero else Note.NONE)
        return ReadImage(pillow.upright(made.rgb, turn), notes)
    if pillow.is_transparent(image):
        notes |= Note.TRANSPARENT
    return ReadImage(pillow.upright(image, turn).convert("RGB"), notes)


def unreadable(image: ImageLike, name: str | None, error: Exception, kind: str = "image") -> str:
    """Say which image, or volume by its `kind`, cannot be read, and what its decoder's error means."""
    reason = str(error).rstrip(".")
    if isinstance(error, FileNotFoundError):
        path = path_of(image)
        is_link = path is not None and os.path.islink(path)
        reason = f"it is a link to '{os.readlink(path)}', which does not exist" if is_link else "there is no such file"
    elif isinstance(error, MemoryError):
        reason = "it needs more memory than there is: make it smaller"
    elif is_damaged(error):
        said = reason or "it ends early"
        reason = f"it is damaged or cut off, perhaps by an interrupted download: fetch it again ({said})"
    return f"{described(image, name)} is not a readable {kind}: {reason}."


def described(image: ImageLike, name: str | None) -> str:
    """What an error calls an image: its name and its path, as far as there are any."""
    path = path_of(image)
    path = None if path is None else escaped(path)
    if name and path and os.path.abspath(name) != os.path.abspath(path):
        return f"{name} ({path})"
    return name or path or "an image"


def path_of(image: ImageLike) -> str | None:
    """The file that an image lies in, as it was given; None where it has no name."""
    path = image.get("path") if isinstance(image, dict) else image
    return str(path) if isinstance(path, (str, os.PathLike)) else None
