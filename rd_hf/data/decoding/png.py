"""PNG files: chunks that no pixel depends on are left out, and 16 bits of colour are kept."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGB, GREY_ALPHA, RGBA = 2, 4, 6  # colour types of the header
# Comments, colour profiles and histograms; Pillow refuses long ones and those that are damaged.
_NOT_PIXELS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"hIST", b"sPLT"}
_WITH_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_LONGEST_KEPT = 2**20  # of which Pillow reads no more either


def is_png(content: bytes) -> bool:
    """Whether a file begins like a PNG."""
    return content.startswith(SIGNATURE)


def without_comments(content: bytes) -> bytes:
    """A PNG file without its texts and colour profile, whatever their length; what follows a broken chunk stays."""
    kept, end = [SIGNATURE], len(SIGNATURE)
    for kind, start, end in _chunks(content):
        if kind not in _NOT_PIXELS or (
            content.startswith(_WITH_ORIENTATION, start + 8) and end - start < _LONGEST_KEPT
        ):
            kept.append(content[start:end])
    return b"".join([*kept, content[end:]])


def is_deep_colour(content: bytes) -> bool:
    """Whether a PNG has 16 bits per value and more than one channel, of which Pillow keeps the upper byte only."""
    return len(content) > 25 and content[24] == 16 and content[25] in (RGB, GREY_ALPHA, RGBA)


def deep_channels(content: bytes) -> np.ndarray:
    """The values of a PNG for which `is_deep_colour` holds.

    :return: uint16 (H, W, C) with 2 (grey and alpha), 3 or 4 channels.
    :raises ValueError: if it is damaged.
    """
    width, height = struct.unpack(">II", content[16:24])
    chunks = {kind: [] for kind in (b"IHDR", b"IDAT", b"IEND")}
    for kind, start, end in _chunks(content):
        if kind in chunks:
            chunks[kind].append(content[start:end])
    if content[25] == GREY_ALPHA:
        return _grey_and_alpha(chunks, width, height)
    from kornia_rs.io import decode_image_png_u16

    bare = b"".join([SIGNATURE, *(chunk for kept in chunks.values() for chunk in kept)])
    try:
        return np.asarray(decode_image_png_u16(bare, (height, width), "rgb" if content[25] == RGB else "rgba"))
    except Exception as error:  # kornia_rs has no other type of error for a damaged file
        raise ValueError(f"the PNG file is damaged ({error})") from error


def _grey_and_alpha(chunks: dict[bytes, list[bytes]], width: int, height: int) -> np.ndarray:
    """Two channels of 16 bits are stored and filtered as four of eight are, which Pillow reads in full."""
    header = bytearray(chunks[b"IHDR"][0])
    header[16:18] = 8, RGBA
    header[-4:] = struct.pack(">I", zlib.crc32(header[4:-4]))
    image = Image.open(BytesIO(b"".join([SIGNATURE, header, *chunks[b"IDAT"], *chunks[b"IEND"]])))
    pairs = np.asarray(image).reshape(height, width, 2, 2).astype(np.uint16)
    return pairs[..., 0] << 8 | pairs[..., 1]


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end (with the checksum) of each chunk that is there in full."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        if end > len(content):
            return
        yield content[start + 4 : start + 8], start, end
        start = end
