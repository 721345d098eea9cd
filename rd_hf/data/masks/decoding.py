"""One mask file as the values that it stores: class numbers, palette indices or colours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..columns import DataError
from ..decoding import pillow, png, tiff
from ..decoding.dicom_file import is_dicom
from ..decoding.images import UNREADABLE, BadImageError, described, image_bytes, unreadable
from ..decoding.impostors import check_content, why_unknown
from ..volumes.kinds import is_volume
from ..volumes.reading import read_labels

Kind = Literal["bit", "grey", "palette", "color"]
FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_SOFTWARE = 305  # a tag of TIFF
_STEPS = {2: 85, 4: 17}  # between grey values of so few bits, which Pillow spreads over 0..255
_SAVE_IT = "save masks as PNG"


class _RefusedError(ValueError):
    """A file that can be read, but is no mask."""


@dataclass(frozen=True)
class StoredMask:
    """The values of a mask's pixels, upright, or of a label volume's voxels in the order of its file.

    :param values: (H, W) integers: grey values, palette indices, 0 and 1 of a file of one bit, or colours as
        0xRRGGBB; (X, Y, Z) of a label volume.
    :param kind: which of these; "grey" of a label volume.
    :param palette: of a palette file, (N, 3) uint8 colour of each index.
    :param affine: of a label volume, (4, 4) from voxels to millimetres.
    """

    values: np.ndarray
    kind: Kind
    palette: np.ndarray | None = None
    affine: np.ndarray | None = None

    def as_colors(self) -> np.ndarray:
        """(H, W) the colours that the file shows, as 0xRRGGBB."""
        if self.kind == "color":
            return self.values
        if self.kind == "palette":
            return packed(self.palette)[self.values]
        grey = self.values.astype(np.int64) * (255 if self.kind == "bit" else 1)
        return grey * 0x010101


def packed(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3) as numbers 0xRRGGBB."""
    wide = colors.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def read_stored(image: dict[str, Any], where: str) -> StoredMask:
    """Read the values that a mask file stores: PNG, TIFF, BMP or GIF, of one page, or a NIfTI file or array of labels.

    :param image: ``{"bytes": ..., "path": ...}`` of an undecoded `datasets` image.
    :param where: what an error calls the mask; its path is named anyway.
    :raises BadImageError: if the file is missing or damaged.
    :raises DataError: if it is of a kind that holds no class numbers, such as a lossy one.
    """
    if is_volume(image):
        labels = read_labels(image, where)
        return StoredMask(_narrow(labels.values), "grey", affine=labels.affine)
    content = image_bytes(image, where)
    try:
        return _stored(content)
    except _RefusedError as error:
        raise DataError(f"{described(image, where)} cannot be read as a mask: {error}") from None
    except UNREADABLE as error:
        raise BadImageError(unreadable(image, where, error)) from error


def _narrow(values: np.ndarray) -> np.ndarray:
    """Integers in the smallest type that holds them, so that large volumes take little memory and count fast."""
    kind = np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max()))
    return values.astype(kind, copy=False)


def _stored(content: bytes) -> StoredMask:
    check_content(content)
    if is_dicom(content):
        raise _RefusedError(f"it is a DICOM file; {_SAVE_IT}")
    if tiff.is_tiff(content):
        return _from_tiff(content)
    if png.is_png(content):
        content = png.without_comments(content)
    try:
        with pillow.opened(content) as image:
            if image.format in ("JPEG", "MPO"):
                raise _RefusedError(
                    f"it is a JPEG file, and lossy compression changes values at every edge; {_SAVE_IT}, from the "
                    "source and not from the JPEG"
                )
            if image.format not in FORMATS and not _is_of_npz(content):
                raise _RefusedError(f"it is a {image.format} file; expected {', '.join(FORMATS)}: {_SAVE_IT}")
            _check_pages(len(pillow.full_pages(image)))
            if png.is_png(content) and png.is_deep_colour(content):
                image.load()  # which finds a file that is cut off
                return _from_channels(tiff.turned(png.deep_channels(content), pillow.orientation(image)))
            return _from_pillow(image, _grey_bits(image, content))
    except UnidentifiedImageError:
        raise ValueError(why_unknown(content)) from None


def _is_of_npz(content: bytes) -> bool:
    """Whether these are the bytes that a row of an .npz file becomes, see `rd_hf.data.medmnist`."""
    return content.startswith((b"P5\n", b"P6\n")) and content.split(b"\n", 3)[2] in (b"255", b"65535")


def _from_tiff(content: bytes) -> StoredMask:
    pages = tiff.full_pages(content)
    _check_pages(len(pages))
    page, unsupported = (pages or [0])[0], None
    if tiff.is_deep(content, page):
        try:
            values, white_is_zero, _ = tiff.deep_channels(content, page)
            _check_zero(white_is_zero)
            return _from_channels(values)
        except tiff.UnsupportedError as error:
            unsupported = error
    try:
        with pillow.opened(content) as image:
            image.seek(page)
            if unsupported is not None and not pillow.is_deep_grey(image):
                raise unsupported
            if image.info.get("compression") in _LOSSY_TIFF:
                raise _RefusedError(
                    f"its TIFF page is compressed as {image.info['compression']}, with loss; {_SAVE_IT}"
                )
            if not pillow.is_white_zero(image):
                return _from_pillow(image, _grey_bits(image, content))
            _check_zero(image.mode != "1")
            shown = _from_pillow(image, 1)
            return replace(shown, values=1 - shown.values) if _is_of_tifffile(image) else shown
    except UnidentifiedImageError:
        raise unsupported or ValueError(why_unknown(content)) from None


def _is_of_tifffile(image: Image.Image) -> bool:
    """Whether tifffile wrote a TIFF, as for scikit-image: of booleans it stores True as 1 and calls that black."""
    return str(image.tag_v2.get(_SOFTWARE, "")).startswith("tifffile")


def _grey_bits(image: Image.Image, content: bytes) -> int:
    """Bits of a grey value as stored."""
    if png.is_png(content):
        return content[24]
    return image.tag_v2.get(258, (8,))[0] if tiff.is_tiff(content) else 8


def _from_pillow(image: Image.Image, bits: int) -> StoredMask:
    image.load()
    image = pillow.upright(image, pillow.orientation(image))
    values = np.asarray(image)
    if image.mode == "1":
        return StoredMask(values.astype(np.uint8), "bit")
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        return StoredMask(values if image.mode == "P" else values[..., 0], "palette", _complete(palette))
    if image.mode in ("L", "LA"):
        values = values if image.mode == "L" else values[..., 0]
        return StoredMask(values // _STEPS.get(bits, 1), "grey")
    if pillow.is_deep_grey(image) or image.mode in ("RGB", "RGBA", "RGBX"):
        return _from_channels(values)
    raise _RefusedError(f"its colours are {image.mode}; expected grey values or a palette: {_SAVE_IT}")


def _complete(palette: np.ndarray) -> np.ndarray:
    """A palette of 256 entries; those that a file leaves out are black."""
    return np.concatenate([palette, np.zeros((256 - len(palette), 3), dtype=np.uint8)])


def _from_channels(values: np.ndarray) -> StoredMask:
    """Grey values (H, W), or (H, W, C) with grey and alpha, three colours, or three and alpha."""
    if values.ndim == 3 and values.shape[2] == 2:
        values = values[..., 0]
    if values.ndim == 3:
        values = values[..., :3]
        if (values == values[..., :1]).all():
            values = values[..., 0]
    if values.dtype.kind == "f":
        values = _whole(values)
    if values.ndim == 2:
        return StoredMask(values if values.dtype.kind != "b" else values.astype(np.uint8), "grey")
    if values.dtype != np.uint8:
        raise _RefusedError(f"it has colours of more than 8 bits; {_SAVE_IT}, with one channel of class numbers")
    return StoredMask(packed(values), "color")


def _whole(values: np.ndarray) -> np.ndarray:
    broken = ~np.isfinite(values) | (values != np.round(values))
    if broken.any():
        raise _RefusedError(
            f"it holds floats such as {values[broken].flat[0]:g}, which are no class numbers; save whole numbers"
        )
    return values.astype(np.int64)


def _check_pages(count: int) -> None:
    if count > 1:
        raise _RefusedError(f"it has {count} pages; save the one that is the mask as a file of its own")


def _check_zero(white_is_zero: bool) -> None:
    if white_is_zero:
        raise _RefusedError(
            "it says that zero is white (PhotometricInterpretation), so it is not clear which value is which class; "
            f"{_SAVE_IT}"
        )
