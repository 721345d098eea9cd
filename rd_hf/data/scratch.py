"""Arrays on disk that are gone with the process, and that forked processes share."""

from __future__ import annotations

import tempfile

import numpy as np


def scratch(*shape: int) -> np.memmap:
    """Zeros (uint8) in a file without a name; the disk gives pages only as they are written."""
    with tempfile.TemporaryFile(prefix="rd_hf_pixels_") as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
