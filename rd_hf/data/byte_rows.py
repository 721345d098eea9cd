"""Arrays as columns of undecoded images, each the bytes of a small file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from datasets import Image

CHUNK_ROWS = 1024
CHUNK_BYTES = 2**28  # far below the 2 GiB that an Arrow binary array can address


def byte_rows(header: bytes, values: np.ndarray) -> pa.ChunkedArray:
    """Files that are a header, the same for all, and the bytes of an array.

    :param values: (N, ...), as the files hold them.
    :return: N undecoded `datasets` images.
    """
    head = np.frombuffer(header, dtype=np.uint8)
    row_bytes = head.size + int(np.prod(values.shape[1:])) * values.dtype.itemsize
    chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))
    chunks = []
    for start in range(0, len(values), chunk_rows):
        contents = np.ascontiguousarray(values[start : start + chunk_rows])
        rows = np.empty((len(contents), row_bytes), dtype=np.uint8)
        rows[:, : head.size] = head
        rows[:, head.size :] = contents.view(np.uint8).reshape(len(contents), -1)
        offsets = np.arange(len(contents) + 1, dtype=np.int32) * row_bytes
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(rows)]
        chunks.append(Image().cast_storage(pa.Array.from_buffers(pa.binary(), len(contents), buffers)))
    return pa.chunked_array(chunks, type=Image.pa_type)
