"""Arrays of any size in one temporary file, mapped into memory only while they are read."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...runtime.files import write_all
from ...runtime.processes import processes_of_machine

ALIGNMENT = 64  # bytes
NOWHERE = -1


class Shelf:
    """Keeps arrays on disk in a file without a name, which is gone with the process.

    Processes that are forked share it. Each reading maps its array anew, so that what has been read does not stay in
    the memory of the process.

    :param limit: bytes that the file may grow to; None for no limit.
    """

    def __init__(self, limit: int | None):
        self.limit = limit
        self._file = tempfile.TemporaryFile(prefix="rd_hf_volumes_", buffering=0)  # noqa: SIM115, open as long as self
        self._lock = multiprocessing.Lock()

    @property
    def used(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def put(self, arrays: Sequence[np.ndarray]) -> list[int]:
        """Keep some arrays, all or none.

        :return: where each of them is; `NOWHERE` for all where the limit or the disk leaves no room.
        """
        sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
        with self._lock:
            start = self.used
            end = start + sum(sizes)
            if self.limit is not None and end > self.limit:
                return [NOWHERE] * len(arrays)
            os.truncate(self._file.fileno(), end)
        offsets = [start + sum(sizes[:number]) for number in range(len(sizes))]
        try:
            for array, offset in zip(arrays, offsets, strict=True):
                # written and not mapped: in a mapped file a full disk would end the process
                content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                write_all(self._file.fileno(), memoryview(content), offset)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            with self._lock:
                if self.used == end:  # else another process has put something behind
                    os.truncate(self._file.fileno(), start)
            return [NOWHERE] * len(arrays)
        return offsets

    def get(self, offset: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        """The array at an offset, read from disk where it is looked at, and not to be changed."""
        if math.prod(shape) == 0:
            return np.empty(shape, dtype=dtype)
        sides = tuple(int(side) for side in shape)
        return np.memmap(self._file, dtype=dtype, mode="r", offset=offset, shape=sides)


def room_on_disk(limit: int | None = None) -> int:
    """Bytes that this process may take for temporary files: half of what is free, shared by those of its machine.

    :param limit: bytes that the processes of a machine may take together.
    """
    room = shutil.disk_usage(tempfile.gettempdir()).free // 2
    room = room if limit is None else min(limit, room)
    return room // processes_of_machine()
