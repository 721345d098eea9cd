"""The content of small PNG files."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(value: int, size: tuple[int, int] = (3, 4)) -> bytes:
    """A grey image that is `value` throughout.

    :param size: rows and columns.
    """
    file = io.BytesIO()
    Image.fromarray(np.full(size, value, dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def png_of_16_bits(values: np.ndarray) -> bytes:
    """An image of 16 bits (H, W, C): grey, grey and alpha, RGB or RGBA by the number of channels."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
