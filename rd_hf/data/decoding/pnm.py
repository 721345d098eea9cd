"""Netpbm colour files (.ppm) of more than eight bits, of which Pillow keeps the upper ones only."""

from __future__ import annotations

import re

import numpy as np

_HEADER = re.compile(rb"(P[36])" + 3 * rb"(?:\s+|#[^\n]*\n)+?(\d+)" + rb"\s")


def is_deep_colour(content: bytes) -> bool:
    """Whether this is a .ppm file whose largest value is above 255."""
    found = _HEADER.match(content[:4096])
    return found is not None and int(found.group(4)) > 255


def deep_channels(content: bytes) -> np.ndarray:
    """The values of a file for which `is_deep_colour` holds: (H, W, 3).

    :raises ValueError: if it ends too early.
    """
    found = _HEADER.match(content[:4096])
    kind, width, height = found.group(1), int(found.group(2)), int(found.group(3))
    count = 3 * width * height
    if kind == b"P3":
        values = np.array(re.sub(rb"#[^\n]*", b"", content[found.end() :]).split()[:count], dtype=np.int64)
    else:
        values = np.frombuffer(content[found.end() :][: 2 * count], dtype=">u2").astype(np.uint16)
    if len(values) < count:
        raise ValueError(f"the file is truncated: it has {len(values)} of {count} values")
    return values.reshape(height, width, 3)
