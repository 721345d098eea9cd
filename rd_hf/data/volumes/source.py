"""Where the bytes of a volume come from, and what kind of file they are by their beginning."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ...runtime.stand_ins import HEAD_BYTES, stand_in
from ..decoding.dicom_file import DICOM_SUFFIXES, is_dicom
from ..decoding.images import image_bytes
from ..decoding.impostors import NIFTI_SIZES, why_unknown

VolumeLike = dict[str, Any] | str | os.PathLike
Kind = Literal["nifti", "dicom", "npy"]

GZIP = b"\x1f\x8b"
NPY = b"\x93NUMPY"
CHUNK_BYTES = 2**22
NIFTI_HEAD = 544
_SAVE_IT = "save it as .nii.gz"
_OTHERS = {
    b"NRRD": f"it is an NRRD volume: {_SAVE_IT}",
    b"ObjectType": f"it is a MetaImage volume: {_SAVE_IT}",
    b"\x89HDF": f"it is an HDF5 file, as of MINC: {_SAVE_IT}",
    b"CDF": f"it is a NetCDF file, as of MINC: {_SAVE_IT}",
    b"MATLAB": f"it is a MATLAB file: {_SAVE_IT}",
    b"PK\x03\x04": "it is a zip archive: unpack it, or give an .npz file as the data set",
    b"%PDF": "it is a PDF document: leave it out",
    b"\x89PNG": "it is a PNG picture, not a volume: leave it out, or save the slices as one .nii.gz file",
    b"\xff\xd8\xff": "it is a JPEG picture, not a volume: leave it out, or save the slices as one .nii.gz file",
    b"II*\0": "it is a TIFF picture, not a volume with its spacing: save it as .nii.gz",
    b"MM\0*": "it is a TIFF picture, not a volume with its spacing: save it as .nii.gz",
}
_MGH = b"\0\0\0\1"  # the version with which FreeSurfer's .mgh begins


class VolumeError(ValueError):
    """A file that is not read as a volume: the fault and the way out, without the file's name."""


@dataclass(frozen=True)
class Source:
    """A file, or the bytes of one.

    :param content: its bytes, where they are in memory; its path may then be a mere name.
    """

    content: bytes | None
    path: Path | None

    @classmethod
    def of(cls, source: VolumeLike) -> Source:
        """The file of a path, or of the ``{"bytes": ..., "path": ...}`` of a row.

        :raises BadImageError: if a remote file or the member of an archive cannot be read.
        """
        row = source if isinstance(source, dict) else {"path": os.fspath(source)}
        content, path = row.get("bytes"), row.get("path")
        if content is None and path is not None and "://" in path:
            content = image_bytes(row)
        if content is None and path is None:
            raise VolumeError("the row has neither bytes nor a path")
        if content is None and os.path.isdir(path):
            raise VolumeError("it is a folder: give one file of the DICOM series in it, or a NIfTI file")
        if content is None and os.path.exists(path) and not os.path.isfile(path):
            raise VolumeError("it is a pipe or a device, not a file")
        return cls(content, None if path is None else Path(path))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size if self.content is None else len(self.content)

    def opened(self) -> BinaryIO:
        """The file as it is."""
        return self.path.open("rb") if self.content is None else BytesIO(self.content)

    def head(self, count: int) -> bytes:
        """Its first bytes."""
        with self.opened() as file:
            return file.read(count)

    def read(self) -> bytes:
        """All its bytes."""
        return self.path.read_bytes() if self.content is None else self.content

    def chunks(self) -> Iterator[bytes]:
        """All its bytes, a few megabytes at a time."""
        with self.opened() as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    @property
    def is_gzip(self) -> bool:
        """Whether it is compressed by gzip."""
        return self.head(len(GZIP)) == GZIP

    @contextmanager
    def unpacked(self) -> Iterator[BinaryIO]:
        """The file without the compression of gzip.

        :raises VolumeError: inside, when its compressed data are damaged or end early.
        """
        with self.opened() as file:
            if not self.is_gzip:
                yield file
                return
            with gzip.GzipFile(fileobj=file) as unpacked:
                try:
                    yield unpacked
                except (EOFError, gzip.BadGzipFile, zlib.error):
                    raise VolumeError(
                        "its gzip data are damaged or cut off, perhaps by an interrupted download: fetch it again"
                    ) from None


def kind_of(source: Source) -> Kind:
    """Tell what a file is by its first bytes.

    :raises VolumeError: for one that is not read as a volume, saying what it is.
    """
    head = source.head(HEAD_BYTES)
    known = stand_in(head)
    if known is not None:
        raise VolumeError(known)
    if head.startswith(NPY):
        return "npy"
    if is_dicom(head):
        return "dicom"
    packed = head.startswith(GZIP)
    with source.unpacked() as file:
        inside = file.read(NIFTI_HEAD) if packed else head
    if _is_nifti(inside):
        _check_suffix(source, packed)
        return "nifti"
    for beginning, reason in _OTHERS.items():
        if inside.startswith(beginning):
            raise VolumeError(reason)
    if inside.startswith(_MGH):
        raise VolumeError(f"it is a FreeSurfer volume: {_SAVE_IT}, for example with mri_convert")
    if not inside.strip(b"\0"):
        raise VolumeError("it begins with nothing but zeros, as a file of an interrupted download does: fetch it again")
    if packed:
        raise VolumeError("it is compressed by gzip, but what is inside is not a NIfTI volume: unpack it")
    if source.path is not None and source.path.suffix.lower() in DICOM_SUFFIXES:
        raise VolumeError("it is named like a DICOM file, but does not begin like one: fetch it again")
    raise VolumeError(f"it does not begin like a NIfTI or DICOM file, and {why_unknown(head)}")


def _is_nifti(head: bytes) -> bool:
    """Whether a file begins with the size of a NIfTI header; Analyze and the pairs of .hdr and .img do so too."""
    return head[:4] in NIFTI_SIZES


def _check_suffix(source: Source, packed: bool) -> None:
    if source.content is None and not packed and source.path.suffix.lower() == ".gz":
        raise VolumeError("its name ends in .gz, but it is not compressed: rename it to .nii, or compress it")
