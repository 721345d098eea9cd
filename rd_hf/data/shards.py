"""Images in tar files ("shards", as webdataset lays them out), too many to decode and keep: each is read when visited.

A run's order is a permutation of row numbers, and a run that resumes needs the step number only. A stream that can only
be read from its start has neither. So the shards are not streamed but indexed: one pass over their headers finds where
each image lies, and from then on any image is one read. The index takes 20 bytes for an image.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from ..runtime.progress import Progress
from .columns import DataError
from .decoding.images import AS_IT_IS, BadImageError, ReadImage, read_image
from .decoding.reading import Reading
from .scanner import IMAGE_SUFFIXES, is_hidden, printable, scan

logger = logging.getLogger(__name__)

SUFFIX = ".tar"
OPEN_FILES = 64  # per process
MOST_BAD_IN_A_ROW = 100
SHOWN_PROBLEMS = 5  # per process
SHOW_PROGRESS_SHARDS = 20
HEADER_BYTES = 512
BLOCK_BYTES = 2**20


def find_shards(dataset: Any) -> list[Path]:
    """The tar files that a data set consists of, in the order of their paths; empty if it is of another kind.

    :param dataset: a .tar file, or a folder with such files at any depth and neither images nor tables.
    """
    if not isinstance(dataset, (str, os.PathLike)):
        return []
    path = Path(os.path.expanduser(dataset))
    if path.is_file():
        return [path] if path.suffix.lower() == SUFFIX else []
    if not path.is_dir():
        return []
    found = scan(path)
    shards = [] if found.images or found.tables else [f for f in found.others if f.suffix.lower() == SUFFIX]
    return [path / file for file in shards]


class ImageShards:
    """The images of tar files, numbered in the order of files and members.

    :param files: uncompressed tar files; members that are no images are passed over.
    :param skip_bad: show the next readable image in place of one that cannot be decoded, with a warning.
    :raises DataError: if a file is damaged, compressed or cannot be read, or there are no images.
    """

    def __init__(self, files: Sequence[Path], skip_bad: bool = False):
        self.files, self.skip_bad, self._told = list(files), skip_bad, 0
        places = []
        shown = len(files) >= SHOW_PROGRESS_SHARDS
        with Progress("indexing shards", len(files), "shard", shown=shown) as progress:
            for file in files:
                places.append(np.fromiter(_images(file), dtype=np.dtype((np.int64, 2))).reshape(-1, 2))
                progress.advance()
        self._shard = np.repeat(np.arange(len(files), dtype=np.int32), [len(place) for place in places])
        self._start, self._size = np.ascontiguousarray(np.concatenate(places).T)
        if not len(self):
            raise DataError(f"the {len(files)} tar files beside '{printable(files[0])}' contain no images")
        self._open = lru_cache(maxsize=OPEN_FILES)(self._opened)

    def __len__(self) -> int:
        return len(self._shard)

    def fingerprint(self) -> str:
        """Hash the names of the files and the place and size of each image; no image is read for it."""
        digest = hashlib.sha256(repr([file.name for file in self.files]).encode())
        for part in (self._shard, self._start, self._size):
            digest.update(part.tobytes())
        return f"places in shards, sha256:{digest.hexdigest()}"

    def image(self, row: int, reading: Reading = AS_IT_IS) -> ReadImage:
        """Decode an image.

        :raises BadImageError: where it cannot be read; with `skip_bad`, where those that follow cannot either.
        """
        for place in range(row, row + MOST_BAD_IN_A_ROW):
            place %= len(self)
            try:
                return read_image(self._content(place), self._name(place), reading)
            except BadImageError as error:
                if not self.skip_bad:
                    raise BadImageError(
                        f"{error} Fix the shard, or show the next image in its place with `on_bad_image` skip."
                    ) from error
                self._tell(error)
        raise BadImageError(f"{MOST_BAD_IN_A_ROW} images in a row cannot be read, the first is {self._name(row)}.")

    def _content(self, row: int) -> bytes:
        file, size = self._open(int(self._shard[row])), int(self._size[row])
        content = os.pread(file.fileno(), size, int(self._start[row]))
        if len(content) < size:
            raise BadImageError(f"{self._name(row)} is cut off: it has {len(content)} of {size} bytes.")
        return content

    def _name(self, row: int) -> str:
        """What errors call an image: its name, which is read from its header, and its shard."""
        number = int(self._shard[row])
        header = os.pread(self._open(number).fileno(), HEADER_BYTES, int(self._start[row]) - HEADER_BYTES)
        return f"'{printable(tarfile.nts(header[:100], 'utf-8', 'replace'))}' in {printable(self.files[number].name)}"

    def _opened(self, number: int) -> BinaryIO:
        return self.files[number].open("rb", buffering=0)

    def _tell(self, error: BadImageError) -> None:
        if self._told < SHOWN_PROBLEMS:
            logger.warning("Skipped, the next image is shown in its place: %s", error)
        self._told += 1


def _images(file: Path) -> Iterator[tuple[int, int]]:
    """Start and size of each image in a tar file; only headers are read."""
    try:
        size, end = file.stat().st_size, 0
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # which it would keep, of all that it has read
                end = member.offset_data + member.size
                if member.isreg() and not member.issparse() and _is_image(PurePath(member.name)):
                    yield member.offset_data, member.size
            if end > size:
                raise tarfile.ReadError("it is cut off")
            _check_end(file, archive.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"'{printable(file)}' cannot be read as an uncompressed tar file ({error}); download or pack it again"
        ) from error


def _check_end(file: Path, start: int) -> None:
    """`tarfile` takes a damaged header for the end of the archive, which is marked by zeros up to the end of the file.

    :param start: where it met the end.
    :raises tarfile.ReadError: if something else follows.
    """
    with file.open("rb") as content:
        content.seek(start)
        header = content.read(HEADER_BYTES)
        if not header:
            logger.warning("%s has no mark of its end, so images may be missing: it may be cut off.", printable(file))
        elif header.strip(b"\0"):
            raise tarfile.ReadError(f"it is damaged or cut off at byte {start}")
        while block := content.read(BLOCK_BYTES):
            if block.strip(b"\0"):
                raise tarfile.ReadError("another archive follows behind its end: unpack both, and pack them as one")


def _is_image(name: PurePath) -> bool:
    return name.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name.name)
