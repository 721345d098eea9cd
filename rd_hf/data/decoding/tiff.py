"""TIFF pages deeper than eight bits, or of signed values, which Pillow reads in part, as negatives, or not at all."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from lzma import LZMAError

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage

from ...runtime.quiet import quiet
from .pillow import DEEP_GREY, check_size

_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED = 0, 1, 2, 3, 5
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _SEPARATED: 4}
_NO_PREDICTOR, _HORIZONTAL = 1, 2
_SIGNED = 2
_BESIDE = 12  # bytes per pixel beside the values, as measured: for their bytes and pictures of these
_DAMAGED = (
    ArithmeticError, AttributeError, EOFError, IndexError, KeyError, LZMAError, OSError, RuntimeError, TypeError,
    ValueError, struct.error, zlib.error,
)  # fmt: skip


def is_tiff(content: bytes) -> bool:
    """Whether a file begins like a TIFF."""
    return content.startswith(_BEGINNINGS)


def full_pages(content: bytes) -> list[int]:
    """Numbers (from 0) of the pages that are pictures of their own, not smaller copies or masks of others.

    :return: empty where the file's directory cannot be read.
    :raises ValueError: for a page that holds several pictures.
    """
    with quiet("tifffile"):
        try:
            with TiffFile(BytesIO(content)) as file:
                kinds = [page.subfiletype for page in file.pages]
                _check_is_flat(file)
        except UnsupportedError:
            raise
        except _DAMAGED:
            return []
    return [number for number, kind in enumerate(kinds) if not kind & 0b101] or list(range(min(len(kinds), 1)))


def is_deep(content: bytes, page: int) -> bool:
    """Whether a page's values are deeper than eight bits, floats or signed, which Pillow takes for unsigned ones."""
    with quiet("tifffile"):
        try:
            with TiffFile(BytesIO(content)) as file:
                found = file.pages[page]
                return found.photometric != _PALETTE and (found.bitspersample > 8 or found.sampleformat == _SIGNED)
        except _DAMAGED:
            return False


def deep_channels(content: bytes, number: int) -> tuple[np.ndarray, bool, bool]:
    """The colours of a page for which `is_deep` holds, as displayed: upright, and without alpha.

    :return: (H, W) or (H, W, 3) of any type; whether zero is white; whether it has transparent pixels.
    :raises ValueError: if it is of a kind that cannot be read, naming bits and channels, or damaged.
    """
    with quiet("tifffile"):
        try:
            with TiffFile(BytesIO(content)) as file:
                return _colours(content, file.pages[number])
        except UnsupportedError:
            raise
        except _DAMAGED as error:
            raise ValueError(f"the TIFF file is damaged or cut off ({error}): fetch it again") from error


class UnsupportedError(ValueError):
    """A kind of TIFF page that is not read."""


def _check_is_flat(file: TiffFile) -> None:
    """:raises UnsupportedError: for a volume or stack that is stored as one page."""
    page = file.pages[0]
    pictures = page.imagedepth
    if pictures == 1 and len(file.pages) == 1 and (file.is_shaped or file.is_imagej):
        pictures = file.series[0].size // page.size
    if pictures > 1:
        raise UnsupportedError(
            f"it holds a stack of {pictures} pictures as one page: save the picture as a file of its own"
        )


def _colours(content: bytes, page: TiffPage) -> tuple[np.ndarray, bool, bool]:
    photometric = int(page.photometric) if page.tags.get(262) is not None else _BLACK_IS_ZERO
    colours = _COLOURS.get(photometric)
    if colours is None or page.imagedepth != 1 or not colours <= page.samplesperpixel <= colours + 1:
        raise UnsupportedError(f"{_described(page)} is not read: save it as grey or RGB, with 8 or 16 bits")
    bytes_per_pixel = max(DEEP_GREY, page.samplesperpixel * -(-page.bitspersample // 8) + _BESIDE)
    check_size(page.imagewidth, page.imagelength, bytes_per_pixel)
    values = _values(page)
    alpha = values[..., colours] if page.samplesperpixel > colours else None
    if alpha is not None and not (page.extrasamples and int(page.extrasamples[0]) in (1, 2)):
        alpha = None
    transparent = alpha is not None and bool((alpha < alpha.max()).any() or alpha.max() == 0)
    values = values[..., 0] if colours == 1 else values[..., :colours]
    if photometric == _SEPARATED:
        values = _from_inks(values)
    return _upright(values, page), photometric == _WHITE_IS_ZERO, transparent


def _values(page: TiffPage) -> np.ndarray:
    """(H, W, C) as stored."""
    try:
        values = page.asarray(squeeze=False)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        values = _through_pillow(page)
        if values is None:
            raise UnsupportedError(
                f"{_described(page)} needs the package imagecodecs: pip install imagecodecs, or save it without "
                "compression"
            ) from error
        return values
    samples, _, height, width, contiguous = page.shaped
    values = values.reshape(samples, height, width, contiguous)
    return np.moveaxis(values, 0, 2).reshape(height, width, samples * contiguous)


def _through_pillow(page: TiffPage) -> np.ndarray | None:
    """Let libtiff decompress strips of 16-bit colours, by calling them a grey picture that is as many times as wide.

    :return: (H, W, C), or None for a page that is of another kind.
    """
    kind = (page.bitspersample, page.sampleformat)
    if kind not in ((16, 1), (32, 3)) or page.is_tiled or page.planarconfig != 1 or page.predictor not in (1, 2):
        return None
    if kind == (32, 3) and page.predictor == _HORIZONTAL:
        return None
    channels, order = page.samplesperpixel, page.parent.byteorder
    file = page.parent.filehandle
    strips = []
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        strips.append(file.read(count))
    shape = (page.imagelength, page.imagewidth * channels, page.rowsperstrip)
    made = _grey_tiff(strips, shape, int(page.compression), kind, order)
    with Image.open(BytesIO(made)) as image:
        values = np.asarray(image).reshape(page.imagelength, page.imagewidth, channels)
    if page.predictor == _HORIZONTAL:  # each value was stored as its difference from the one on the left
        values = np.cumsum(values, axis=1, dtype=np.uint16)
    return values


def _grey_tiff(
    strips: list[bytes], shape: tuple[int, int, int], compression: int, kind: tuple[int, int], order: str
) -> bytes:
    """A TIFF file of one page around compressed strips.

    :param shape: height, width, rows per strip.
    :param kind: bits and sample format.
    :param order: "<" or ">", that of the values.
    """
    height, width, rows = shape
    count, end = len(strips), 8 + 4 * 2 * len(strips)
    starts = np.cumsum([end, *map(len, strips)])
    lists = struct.pack(f"{order}{count}I", *starts[:-1]) + struct.pack(f"{order}{count}I", *map(len, strips))
    if count == 1:
        at, sizes = int(starts[0]), len(strips[0])
    else:
        at, sizes = 8, 8 + 4 * count
    tags = [(256, 1, width), (257, 1, height), (258, 1, kind[0]), (259, 1, compression), (262, 1, _BLACK_IS_ZERO)]
    tags += [(273, count, at), (277, 1, 1), (278, 1, rows), (279, count, sizes), (339, 1, kind[1])]
    body = lists + b"".join(strips)
    body += b"\0" * (len(body) % 2)
    directory = struct.pack(f"{order}H", len(tags))
    for tag, number, value in tags:
        directory += struct.pack(f"{order}HHII", tag, 4, number, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(body))
    return head + body + directory + struct.pack(f"{order}I", 0)


def _from_inks(inks: np.ndarray) -> np.ndarray:
    """RGB of CMYK, as Pillow computes it: (1 - ink) (1 - black)."""
    full = np.iinfo(inks.dtype).max if inks.dtype.kind in "iu" else 1.0
    paper = 1 - inks.astype(np.float64) / full
    return paper[..., :3] * paper[..., 3:]


def _upright(values: np.ndarray, page: TiffPage) -> np.ndarray:
    tag = page.tags.get(274)
    return turned(values, int(tag.value) if tag is not None else 1)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values (rows, columns, ...) turned as `pillow.upright` turns an image: from 5 on the axes change places first.

    :param orientation: of EXIF and TIFF, 1 to 8.
    """
    if orientation >= 5:
        values = np.swapaxes(values, 0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _described(page: TiffPage) -> str:
    kind = {1: "", 2: " signed", 3: " float"}.get(int(page.sampleformat or 1), "")
    packed = "" if page.compression == 1 else f" and {page.compression.name} compression"
    channels = f"{page.samplesperpixel} channel{'s' if page.samplesperpixel > 1 else ''}"
    return f"a TIFF page of {channels} with {page.bitspersample}{kind} bits, {page.photometric.name}{packed},"
