"""Pictures inside a page: small JPEGs as data addresses, under a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from .facts import Example, Gallery

GALLERY_SIDE, THUMBNAIL_SIDE = 224, 96  # pixels of the longer side
GALLERY_BYTES, THUMBNAIL_BYTES = 14_000, 4_500  # a picture's most
QUALITIES = (85, 70, 50, 30)
SMALLEST_SIDE = 32


class Budget:
    """The bytes that are left for pictures."""

    def __init__(self, size: int):
        self.left = size

    def address(self, pixels: np.ndarray, side: int, most: int) -> str | None:
        """A picture as a data address, or None where too little is left for it.

        :param pixels: (rows, columns, 3) uint8.
        :param side: of the longer side, at most.
        :param most: bytes of the JPEG.
        """
        text = f"data:image/jpeg;base64,{base64.b64encode(jpeg(pixels, side, most)).decode()}"
        if len(text) > self.left:
            return None
        self.left -= len(text)
        return text


def jpeg(pixels: np.ndarray, side: int, most: int) -> bytes:
    """A picture that is no larger than asked for: first its quality goes down, then its size.

    :param pixels: (rows, columns, 3) uint8.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    while True:
        image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
        for quality in QUALITIES:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=quality, optimize=True)
            if file.tell() <= most or (quality == QUALITIES[-1] and side <= SMALLEST_SIDE):
                return file.getvalue()
        side = side * 3 // 4


def shown_galleries(galleries: list[Gallery], budget: Budget) -> list[dict]:
    """The galleries with the addresses of their pictures; an example that no longer fits in is left out.

    They take turns, so that a large first one does not leave the others empty.
    """
    shown = [{"title": one.title, "text": one.text, "examples": [], "left_out": 0} for one in galleries]
    for number in range(max((len(one.examples) for one in galleries), default=0)):
        for one, page in zip(galleries, shown, strict=True):
            if number < len(one.examples):
                entry = _shown(one.examples[number], budget)
                if entry is None:
                    page["left_out"] += 1
                else:
                    page["examples"].append(entry)
    return shown


def _shown(example: Example, budget: Budget) -> dict | None:
    pictures = []
    for picture in example.pictures:
        address = budget.address(picture.pixels, GALLERY_SIDE, GALLERY_BYTES)
        if address is None:
            return None
        height, width = picture.pixels.shape[:2]
        pictures.append({"address": address, "caption": picture.caption, "width": width, "height": height})
    return {"position": example.position, "pictures": pictures}


def shown_thumbnails(thumbnails: Mapping[int, np.ndarray], budget: Budget) -> dict[int, str]:
    """The addresses of small pictures by position, as many as there is room for."""
    shown: dict[int, str] = {}
    for position, pixels in thumbnails.items():
        address = budget.address(pixels, THUMBNAIL_SIDE, THUMBNAIL_BYTES)
        if address is None:
            break
        shown[position] = address
    return shown
