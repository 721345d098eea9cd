"""What Pillow needs to be told, or asked, about a file: its limit of pixels, pages, orientation and depth."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from PIL import ExifTags, Image, ImagePalette
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from ...runtime.quiet import quiet
from .image_notes import Note
from .png import is_deep_colour, is_png
from .reading import FROM_WHERE, LARGEST, Reading

PILLOW_LIMIT = 1024**3 // 4 // 3  # pixels, above which Pillow warns of a "decompression bomb" and then refuses
SHALLOW, DEEP_GREY, DEEP_COLOUR = 4, 10, 24  # bytes per pixel: decoded by Pillow; at most at a time, as measured
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_OS2_HEADER = 12
_MP_ENTRIES = 0xB002
_SIZ = b"\xffO\xffQ"  # start of a JPEG 2000 codestream
_lock = threading.RLock()  # around Pillow's limit, which is one for the process


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open a file's content without Pillow's limit of pixels, which holds again afterwards; so decode it inside.

    :raises ValueError: for an image of more than 2 GiB.
    :raises PIL.UnidentifiedImageError: when no reader knows it.
    """
    with _lock, quiet("PIL"):
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with _right_depth(Image.open(BytesIO(content)), content) as image:
                check_size(*image.size, _bytes_per_pixel(image, content))
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _right_depth(image: Image.Image, content: bytes) -> Image.Image:
    """An open file, opened again where Pillow takes a BMP's grey palette for its depth, and would lose pixels.

    A palette of black and white stands for one bit to it, and one of 0, 1, 2, ... for eight, whatever the header says.
    """
    if image.format != "BMP" or image.mode not in ("1", "L"):
        return image
    header = int.from_bytes(content[14:18], "little")
    bits = int.from_bytes(content[24:26] if header == _OS2_HEADER else content[28:30], "little")
    if bits == (1 if image.mode == "1" else 8):
        return image
    start = 14 + header  # of the palette, whose first colour is black
    image.close()
    image = Image.open(BytesIO(content[:start] + b"\1" + content[start + 1 :]))
    image.palette = ImagePalette.raw(image.palette.rawmode, b"\0" + image.palette.palette[1:])
    return image


def _bytes_per_pixel(image: Image.Image, content: bytes) -> int:
    if is_png(content) and is_deep_colour(content):
        return DEEP_COLOUR
    return DEEP_GREY if is_deep_grey(image) else SHALLOW


def check_size(width: int, height: int, bytes_per_pixel: int) -> None:
    """:raises ValueError: when a decoded image would have more than 2 GiB."""
    if width * height * bytes_per_pixel > LARGEST:
        raise ValueError(
            f"it has {width} x {height} pixels, which are more than 2 GiB when decoded: make it smaller, or tile it"
        )


def full_pages(image: Image.Image) -> Sequence[int]:
    """Frame numbers (from 0) that are pictures of their own; thumbnails, layers and depth maps are none."""
    if image.format == "MPO":
        kinds = [entry["Attribute"]["MPType"] for entry in image.mpinfo[_MP_ENTRIES]]
        return [number for number, kind in enumerate(kinds) if not number or kind.startswith("Multi-Frame")]
    if image.format == "PSD":  # what is open is the picture, the frames are its layers
        return [image.tell()]
    return range(getattr(image, "n_frames", 1))  # Pillow's documented way: only formats with frames have it


def chosen_page(pages: Sequence[int], reading: Reading) -> tuple[int, Note]:
    """The frame number that `reading` chooses, and whether there was a choice.

    :raises ValueError: when it chooses none of several, or one that is not there.
    """
    count = len(pages)
    if reading.page is None and count > 1:
        raise ValueError(
            f"it has {count} pages or frames, which are not one image: choose one with `page` (1 to {count}), or save "
            "the pages as files of their own"
        )
    if reading.page is not None and reading.page > count:
        raise ValueError(f"it has {count} page{'s' if count > 1 else ''}, but `page` is {reading.page}{FROM_WHERE}")
    return pages[(reading.page or 1) - 1], Note.PAGES if count > 1 else Note.NONE


def turn_to_page(image: Image.Image, reading: Reading) -> Note:
    """Move an open file to the page that `reading` chooses."""
    page, note = chosen_page(full_pages(image), reading)
    if page != image.tell():
        image.seek(page)
    return note


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or where the EXIF block is damaged."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error):
        return 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The image turned as its orientation says."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def is_deep_grey(image: Image.Image) -> bool:
    """Whether Pillow holds more than eight bits per pixel, in one channel."""
    return image.mode == "F" or image.mode.startswith("I")


def is_transparent(image: Image.Image) -> bool:
    """Whether a pixel of an image of eight bits is not fully opaque."""
    if not image.has_transparency_data or is_deep_grey(image):
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def is_white_zero(image: Image.Image) -> bool:
    """Whether a TIFF says that its smallest value is white; Pillow heeds this up to eight bits only."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def check_depth(image: Image.Image, content: bytes) -> None:
    """:raises ValueError: for colours of more than eight bits in a format of which Pillow keeps the upper ones only."""
    bits = 8
    if image.format == "JPEG2000" and not is_deep_grey(image):
        start = content.find(_SIZ)
        bits = (content[start + 42] & 127) + 1 if start >= 0 else 8
    elif image.format == "SGI" and not is_deep_grey(image):
        bits = 8 * content[3]
    if bits > 8:
        raise ValueError(
            f"{image.format} files of {bits} bits per colour are not read: save it as a 16-bit PNG or TIFF"
        )
