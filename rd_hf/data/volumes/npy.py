"""Arrays of an .npz file, of which each row is the bytes of one in NumPy's own format."""

from __future__ import annotations

import math
import tokenize
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from .source import Source, VolumeError
from .values import as_labels, check_finite, check_voxels, count_broken

_DAMAGED = "it is a damaged NumPy array: write it again"


def read_shape(source: Source) -> tuple[int, ...]:
    """The axes of the array, as they are.

    :raises VolumeError: when it is damaged, has no three or four axes, or its values are no numbers.
    """
    with source.opened() as file:
        shape, dtype = array_header(file)
        needed = file.tell() + math.prod(shape) * dtype.itemsize
    if source.size < needed:
        raise VolumeError(f"it is cut off: its header promises {needed} bytes, and there are {source.size}")
    if len(shape) not in (3, 4) or min(shape) < 1:
        sides = " x ".join(map(str, shape))
        raise VolumeError(f"the array has the shape {sides or '()'}: a volume has three axes, or four with channels")
    check_voxels(shape)
    if dtype.kind not in "biuf":
        raise VolumeError(f"the array is of type {dtype}: save integers or floats")
    return shape


def read_values(source: Source, into: type) -> np.ndarray:
    """The array as float32, or as int32 of labels.

    :raises VolumeError: when it is damaged, or a value is not finite.
    """
    read_shape(source)
    with source.opened() as file:
        try:
            stored = npy_format.read_array(file, allow_pickle=False)
        except (ValueError, EOFError, OSError):
            raise VolumeError(_DAMAGED) from None
    if into is np.int32:
        check_finite(count_broken(stored), stored.size)
        stored = as_labels(stored)
    with np.errstate(over="ignore"):
        values = stored.astype(into, copy=False)
    check_finite(count_broken(values), values.size)
    return values


def array_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that a file in NumPy's format begins with; its values follow.

    :raises VolumeError: when it is damaged.
    """
    try:
        version = npy_format.read_magic(file)
        reader = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = reader(file)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, tokenize.TokenError):
        raise VolumeError(_DAMAGED) from None
    return shape, dtype
