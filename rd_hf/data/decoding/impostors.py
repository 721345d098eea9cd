"""Files that are not the images that their names promise, told by their first bytes."""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BytesIO

from ...runtime.stand_ins import HEAD_BYTES, stand_in

NIFTI_SIZES = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c", b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_GZIP = b"\x1f\x8b"
_BEGINNINGS = {
    b"%PDF": "it is a PDF document: save its pictures as PNG files",
    b"PK\x03\x04": "it is a zip archive: unpack it",
    b"Rar!": "it is a rar archive: unpack it",
    b"7z\xbc\xaf": "it is a 7z archive: unpack it",
    b"\x93NUMPY": "it is a NumPy array: save it as an image, for example with Pillow",
    b"\x89HDF": "it is an HDF5 file: save its images as PNG or TIFF files",
    b"NRRD": "it is an NRRD volume: save its slices as PNG files",
}
_BOXES = {  # the brand of a file of ISO base media, whose name stands from byte 8 on
    b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"mif1": "HEIF",
    b"msf1": "HEIF",
}  # fmt: skip
_MAGIC = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF", b"BM": "BMP", b"RIFF": "WebP", b"\0\0\0\x0cjP": "JPEG 2000", b"\xffO\xffQ": "JPEG 2000",
}  # fmt: skip

_DAMAGE = ("truncat", "not enough", "unexpected end", "too short", "broken", "corrupt", "decoder", "unrecognized data")


def check_content(content: bytes) -> None:
    """Refuse what is known to be no image.

    :raises ValueError: saying what the file is, and the way out.
    """
    start = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<!doctype svg")) or (start.startswith((b"<?xml", b"<!--")) and b"<svg" in start):
        raise ValueError("it is an SVG drawing, which has no pixels: save it as PNG")
    known = stand_in(content[:HEAD_BYTES])
    if known is not None:
        raise ValueError(known)
    if start.startswith((b'{"', b"{\n", b"{\r", b"{ ", b"<!--")):
        raise ValueError("it is text, such as a server sends in place of a file: download the file again")
    for beginning, reason in _BEGINNINGS.items():
        if content.startswith(beginning):
            raise ValueError(reason)
    if is_nifti_content(content):
        raise ValueError("it is a NIfTI volume: save its slices as PNG files")
    if content.startswith(_GZIP):
        raise ValueError("it is compressed by gzip: unpack it")
    if not content[:4096].strip(b"\0"):
        raise ValueError("it begins with nothing but zeros, as a file of an interrupted download does: fetch it again")


def is_nifti_content(content: bytes) -> bool:
    """Tell whether bytes begin like a NIfTI file, compressed by gzip or not."""
    if not content.startswith(_GZIP):
        return content[:4] in NIFTI_SIZES and b"n" in (content[344:345], content[4:5])
    try:
        with gzip.GzipFile(fileobj=BytesIO(content[:65536])) as file:
            return file.read(4) in NIFTI_SIZES
    except (OSError, EOFError, zlib.error):
        return False


def why_unknown(content: bytes) -> str:
    """What can be said of bytes in which no reader finds an image."""
    for beginning, kind in _MAGIC.items():
        if content.startswith(beginning):
            return f"it begins like a {kind} file, but is damaged or cut off: fetch it again"
    if content[4:8] == b"ftyp":
        if content[8:12] in _BOXES:
            return f"it is a {_BOXES[content[8:12]]} picture of a phone, which is not read: save it as JPEG or PNG"
        if content[8:12] in (b"avif", b"avis"):
            return "it begins like an AVIF file, but is damaged or cut off: fetch it again"
        return "it is a film: save its pictures as PNG files"
    if _is_text(content):
        return "it is text, perhaps a pointer to a file that was not downloaded: fetch the file itself"
    return "its format is unknown"


def _is_text(content: bytes) -> bool:
    """Whether a file begins with nothing but printable ASCII."""
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in content[:4096])


def is_damaged(error: Exception) -> bool:
    """Whether a decoder's error means that the file ends too early or holds what no encoder writes."""
    words = str(error).lower()
    if any(said in words for said in ("cut off", "damaged", "not installed")):  # which tells more
        return False
    return isinstance(error, (EOFError, struct.error)) or any(word in words for word in _DAMAGE)
