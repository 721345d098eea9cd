"""How the values of a data set's masks become classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arguments.words import some_of
from ...scoring.segmentation import IGNORED_LABEL
from ..columns import DataError
from ..decoding.images import described
from ..volumes.reading import same_grid
from ..volumes.turning import turn_onto, turned
from ..volumes.volume import Header
from .decoding import StoredMask, read_stored

MOST_CLASSES = 255
SHOWN_VALUES = 20
_TABLE_VALUES = 2**16
_COUNTED_AT_ONCE = 2**20  # which NumPy copies as int64


@dataclass(frozen=True)
class MaskReading:
    """Which class each stored value means, the same for all masks of a data set.

    :param classes: class index of each value: a grey value, a palette index, or a colour as 0xRRGGBB.
    :param ignored: values of pixels without a label.
    :param are_colors: whether the values are colours.
    """

    classes: Mapping[int, int]
    ignored: tuple[int, ...] = ()
    are_colors: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The reading as plain JSON."""
        return {
            "classes": {self.shown(value): index for value, index in self.classes.items()},
            "ignored": [self.shown(value) for value in self.ignored],
            "are_colors": self.are_colors,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskReading:
        """The reading that `to_dict` described."""

        def number(text: str) -> int:
            return int(text.removeprefix("#"), 16 if values["are_colors"] else 10)

        classes = {number(text): index for text, index in values["classes"].items()}
        return cls(classes, tuple(number(text) for text in values["ignored"]), values["are_colors"])

    def shown(self, value: int) -> str:
        """A value as people write it: ``255``, or ``#ff0000`` for a colour."""
        return f"#{value:06x}" if self.are_colors else str(value)

    def stored(self, mask: StoredMask) -> np.ndarray | None:
        """(H, W) or (X, Y, Z) the values of a mask that this reading is about; None for colours where it knows none."""
        if self.are_colors:
            return mask.as_colors()
        return None if mask.kind == "color" else mask.values

    def read(self, image: dict[str, Any], where: str, grid: Header | None = None) -> np.ndarray:
        """Read a mask as class indices.

        :param image: ``{"bytes": ..., "path": ...}`` of an undecoded `datasets` image.
        :param where: what an error calls the mask, such as "the mask of row 3 of train"; its path is named anyway.
        :param grid: of the volume that a label volume is of; see `rd_hf.data.masks.grids.check_grid`.
        :return: (H, W) uint8 as in the upright file, or (X, Y, Z) in the order of the volume's voxels, without `grid`
            of the file's; `IGNORED_LABEL` where a pixel has no label.
        :raises BadImageError: if the file is missing or damaged.
        :raises DataError: if it holds no class numbers, or a value that has no class.
        """
        mask = read_stored(image, where)
        values = self.stored(mask)
        if values is None:
            raise DataError(f"{described(image, where)} has colours, and the other masks have none")
        unknown = [value for value in counts_of(values) if value not in self.classes and value not in self.ignored]
        if unknown:
            known = [*self.classes, *self.ignored]
            raise DataError(
                f"{described(image, where)} holds {self.listed(unknown)}, which is no class; the classes' values are "
                f"{self.listed(known)}"
            )
        indices = self._indices(values)
        if grid is None or mask.affine is None:
            return indices
        labels = Header(indices.shape, mask.affine)
        return indices if same_grid(grid, labels) else turned(indices, turn_onto(labels, grid))

    def listed(self, values: Iterable[int]) -> str:
        """Values in words, the first ones of many."""
        return some_of([self.shown(value) for value in values], SHOWN_VALUES)

    def _indices(self, values: np.ndarray) -> np.ndarray:
        pairs = sorted((self.classes | dict.fromkeys(self.ignored, IGNORED_LABEL)).items())
        known = np.array([value for value, _ in pairs], dtype=np.int64)
        indices = np.array([index for _, index in pairs], dtype=np.uint8)
        if known[0] >= 0 and known[-1] < _TABLE_VALUES:
            table = np.zeros(known[-1] + 1, dtype=np.uint8)
            table[known] = indices
            return table[values]
        return indices[np.searchsorted(known, values)]


def counts_of(values: np.ndarray) -> dict[int, int]:
    """How many pixels have each value that occurs, in ascending order."""
    if values.dtype.kind in "ui" and values.dtype.itemsize <= 2 and values.min() >= 0:
        flat, highest = values.ravel(order="K"), int(values.max())
        parts = (flat[start : start + _COUNTED_AT_ONCE] for start in range(0, flat.size, _COUNTED_AT_ONCE))
        counts = sum(np.bincount(part, minlength=highest + 1) for part in parts)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
