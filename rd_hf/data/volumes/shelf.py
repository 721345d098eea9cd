"""Arrays of any size in one temporary file, mapped into memory only while they are read."""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

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

        :return: where each of them is; `NOWHERE` for all where the limit leaves no room.
        """
        sizes = [-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays]
        with self._lock:
            start = self.used
            if self.limit is not None and start + sum(sizes) > self.limit:
                return [NOWHERE] * len(arrays)
            os.truncate(self._file.fileno(), start + sum(sizes))
        offsets = []
        for array, size in zip(arrays, sizes, strict=True):
            if array.size:
                self._mapped(start, array.dtype, array.shape, "r+")[...] = array
            offsets.append(start)
            start += size
        return offsets

    def get(self, offset: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
        """The array at an offset, read from disk where it is looked at, and not to be changed."""
        if math.prod(shape) == 0:
            return np.empty(shape, dtype=dtype)
        return self._mapped(offset, dtype, shape, "r")

    def _mapped(self, offset: int, dtype: Any, shape: Sequence[int], mode: str) -> np.memmap:
        return np.memmap(self._file, dtype=dtype, mode=mode, offset=offset, shape=tuple(int(side) for side in shape))
