"""The teacher's features of one view on disk: a safetensors file with a row for each image, filled row by row.

The file is made in its full size, with holes: `checksums` (N,), then for each tapped stage `map_i` (N, C, rows,
columns) and, where the teacher has prefix tokens, `prefix_i` (N, P, C); beside maps of int8 `scale_i` (N, C). An
entry's checksum is written after its features and is 0 until then, so that a killed process leaves an entry that is
right or absent. Processes that fill the same entry write the same bytes.

Entries are read and written by pread and pwrite, not through a memory map, which would fill the process's resident
memory and would kill the process on a full disk or a file that is truncated meanwhile; see
docs/explanation/decisions.md.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import weakref
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from ..runtime.files import write_all

logger = logging.getLogger(__name__)

CHECKSUM_BYTES = 8
# Tells the checksum of an entry from the 0 of an absent one, whatever crc32 gives.
PRESENT = 1 << 32
SAFETENSORS_TYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int8: "I8"}


@dataclass(frozen=True)
class Layout:
    """What an entry consists of.

    :param rows: images, each of which has a place.
    :param parts: names and shapes of the tensors of one entry.
    :param dtype: in which they are stored.
    :param other_dtypes: of the parts that are stored in another one.
    """

    rows: int
    parts: dict[str, tuple[int, ...]]
    dtype: torch.dtype
    other_dtypes: dict[str, torch.dtype] = field(default_factory=dict)

    def dtype_of(self, name: str) -> torch.dtype:
        """In which a part is stored."""
        return self.other_dtypes.get(name, self.dtype)

    @property
    def part_bytes(self) -> list[int]:
        """Bytes of each part of an entry."""
        return [prod(shape) * self.dtype_of(name).itemsize for name, shape in self.parts.items()]

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry with its checksum."""
        return sum(self.part_bytes) + CHECKSUM_BYTES

    def header(self, metadata: dict[str, str]) -> bytes:
        """The start of a safetensors file of this layout, up to the first tensor."""
        tensors = {"checksums": ("U64", [self.rows], self.rows * CHECKSUM_BYTES)}
        for (name, shape), size in zip(self.parts.items(), self.part_bytes, strict=True):
            tensors[name] = (SAFETENSORS_TYPES[self.dtype_of(name)], [self.rows, *shape], self.rows * size)
        described, start = {"__metadata__": metadata}, 0
        for name, (dtype, shape, size) in tensors.items():
            described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + size]}
            start += size
        text = json.dumps(described).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
        return len(text).to_bytes(8, "little") + text


class FeatureFile:
    """One view's file, open; see `open_file`.

    :ivar damaged: entries dropped since it was opened, because their bytes did not have their checksum.
    """

    def __init__(self, handle: int, path: Path, layout: Layout, header_bytes: int, may_write: bool = True):
        self.path, self.layout, self.damaged, self.may_write = path, layout, 0, may_write
        self._handle = handle
        weakref.finalize(self, os.close, handle)
        self._checksums = header_bytes
        self._starts = []
        start = header_bytes + layout.rows * CHECKSUM_BYTES
        for size in layout.part_bytes:
            self._starts.append(start)
            start += layout.rows * size
        self._verified = bytearray(layout.rows)

    def has(self, row: int) -> bool:
        """Whether a row has an entry; only its checksum is read."""
        return any(os.pread(self._handle, CHECKSUM_BYTES, self._checksums + row * CHECKSUM_BYTES))

    def present(self) -> np.ndarray:
        """The rows that have an entry."""
        slots = os.pread(self._handle, self.layout.rows * CHECKSUM_BYTES, self._checksums)
        return np.flatnonzero(np.frombuffer(slots, dtype="<u8"))

    def read(self, row: int, into: Sequence[np.ndarray]) -> bool:
        """Read an entry, comparing it with its checksum the first time; a damaged one is dropped.

        :param into: bytes (uint8, contiguous) for each part.
        :return: whether there was a sound entry. If not, `into` holds anything.
        """
        slot = os.pread(self._handle, CHECKSUM_BYTES, self._checksums + row * CHECKSUM_BYTES)
        if not any(slot):
            return False
        whole = True
        for start, size, part in zip(self._starts, self.layout.part_bytes, into, strict=True):
            whole &= os.preadv(self._handle, [part], start + row * size) == size
        if whole and (self._verified[row] or int.from_bytes(slot, "little") == checksum(row, into)):
            self._verified[row] = 1
            return True
        self.damaged += 1
        self._verified[row] = 0
        with suppress(OSError):  # a checksum that cannot be cleared still does not match
            os.pwrite(self._handle, bytes(CHECKSUM_BYTES), self._checksums + row * CHECKSUM_BYTES)
        return False

    def write(self, row: int, parts: Sequence[np.ndarray]) -> None:
        """Write an entry, its checksum last.

        :param parts: bytes (uint8, contiguous) of each part.
        :raises OSError: when it cannot be written, for instance on a full disk; the entry is then absent.
        """
        if not self.may_write:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        for start, size, part in zip(self._starts, self.layout.part_bytes, parts, strict=True):
            write_all(self._handle, memoryview(part), start + row * size)
        slot = checksum(row, parts).to_bytes(CHECKSUM_BYTES, "little")
        write_all(self._handle, memoryview(slot), self._checksums + row * CHECKSUM_BYTES)

    def drop_damaged(self) -> int:
        """Compare every entry with its checksum, drop those that differ, and return their number."""
        before = self.damaged
        parts = [np.empty(size, dtype=np.uint8) for size in self.layout.part_bytes]
        for row in self.present():
            self._verified[row] = 0
            self.read(int(row), parts)
        return self.damaged - before


def checksum(row: int, parts: Sequence[np.ndarray]) -> int:
    """What is stored beside an entry; the row's number enters it, so that an entry in another's place is found."""
    value = row
    for part in parts:
        value = zlib.crc32(part, value)
    return PRESENT | value


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of B contiguous tensors on the CPU as (B, n) uint8 in the same memory: numpy has no bfloat16."""
    return tensor.view(len(tensor), -1).view(torch.uint8).numpy()


def open_file(path: Path, layout: Layout, metadata: dict[str, str], make: bool = True) -> FeatureFile | None:
    """Open a view's file.

    :param metadata: what the header must say besides the layout.
    :param make: make the file where there is none, or one with another header or of another size, which is dropped
        with a warning. Without it, such a file is left alone and the answer is None.
    :raises OSError: when it cannot be made or opened.
    """
    header = layout.header(metadata)
    size = len(header) + layout.rows * layout.entry_bytes
    while True:
        try:
            handle, may_write = _opened(path)
        except FileNotFoundError:
            if not make:
                return None
            make_file(path, header, size)
            continue
        if os.fstat(handle).st_size == size and os.pread(handle, len(header), 0) == header:
            return FeatureFile(handle, path, layout, len(header), may_write)
        if make:
            logger.warning("%s has a damaged header or size: it is deleted and filled again.", path)
            with suppress(FileNotFoundError):
                if os.path.samestat(
                    os.fstat(handle), os.stat(path)
                ):  # but not what another process has created in the meantime
                    path.unlink()
        os.close(handle)
        if not make:
            return None


def _opened(path: Path) -> tuple[int, bool]:
    """The handle of a file, and whether it may be written."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC), True
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False


def make_file(path: Path, header: bytes, size: int | None = None) -> None:
    """Create a file, completely or not at all; a file that another process has created in the meantime stays.

    :param size: bytes of the file, what follows the header being a hole; by default there is nothing more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    # with the permissions that the user gives to new files, since features tell much of the images
    handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(handle, memoryview(header), 0)
        os.ftruncate(handle, size or len(header))
        os.fsync(handle)
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        os.close(handle)
        os.unlink(aside)
