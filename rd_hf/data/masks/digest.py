"""A mask in a few words, for messages about identical images with different masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from ...scoring.segmentation import IGNORED_LABEL

DIGEST_BYTES = 4


def describe_mask(mask: np.ndarray, names: Sequence[str]) -> str:
    """Name the share of each class but the first, and what identifies the mask: ``lesion 12.3 % (mask 3fa91c02)``.

    :param mask: (H, W) uint8 class indices.
    :param names: of the classes.
    """
    digest = hashlib.blake2b(repr(mask.shape).encode() + mask.tobytes(), digest_size=DIGEST_BYTES).hexdigest()
    counts = np.bincount(mask[mask != IGNORED_LABEL], minlength=len(names))
    shares = [f"{names[index]} {100 * counts[index] / mask.size:.3g} %" for index in np.flatnonzero(counts) if index]
    return f"{', '.join(shares) or f'only {names[0]}'} (mask {digest})"
