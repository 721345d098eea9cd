"""The values that files of predicted masks hold: those of the training's masks, such as 0, 1, 2 and 4 of BraTS."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.words import some_of
from ..data.masks.reading import SHOWN_VALUES, MaskReading
from ..scoring.mask_pictures import class_colors

logger = logging.getLogger(__name__)

HIGHEST = 2**16 - 1  # of a grey PNG
HIGHEST_OF_A_PALETTE = 255


@dataclass(frozen=True)
class LabelValues:
    """What stands for each class in a file.

    :ivar values: of each class.
    :ivar colors: of each class, as 0xRRGGBB, where the training's masks had colours; the values are class numbers then.
    :ivar recorded: whether these are the training's values.
    """

    values: tuple[int, ...]
    colors: tuple[int, ...] | None = None
    recorded: bool = False

    @classmethod
    def of(cls, trained_on: Mapping[str, Any], classes: int) -> LabelValues:
        """Those that are recorded of a model's training; class numbers where a class had none or several.

        :param trained_on: what is recorded of the data.
        :param classes: their number.
        """
        numbers = tuple(range(classes))
        reading = MaskReading.from_dict(trained_on["masks"]) if "masks" in trained_on else MaskReading({})
        by_class = {number: value for value, number in reading.classes.items()}
        if len(by_class) < len(reading.classes) or sorted(by_class) != list(numbers):
            return cls(numbers)
        values = tuple(by_class[number] for number in numbers)
        if reading.are_colors:
            return cls(numbers, values, recorded=True)
        return cls(values, recorded=True) if 0 <= min(values) <= max(values) <= HIGHEST else cls(numbers)

    def stored(self, mask: np.ndarray) -> np.ndarray:
        """A mask of class numbers with the value of each class in their place, in the smallest type that holds all."""
        return np.array(self.values, dtype=np.min_scalar_type(max(self.values)))[mask]

    def palette(self) -> list[int] | None:
        """The colours of the values 0 to 255 of a PNG, one after the other; None where there are larger values."""
        if max(self.values) > HIGHEST_OF_A_PALETTE:
            return None
        colors = np.zeros((HIGHEST_OF_A_PALETTE + 1, 3), dtype=np.uint8)
        colors[list(self.values)] = class_colors(len(self.values))
        for value, color in zip(self.values, self.colors or (), strict=False):
            colors[value] = color >> 16, color >> 8 & 255, color & 255
        return colors.ravel().tolist()

    def tell(self, names: Sequence[str]) -> None:
        """Log which value is which class."""
        if self.colors is not None:
            shown = [f"#{color:06x}" for color in self.colors]
        else:
            shown = [str(value) for value in self.values]
        pairs = [f"{value} is {name!r}" for value, name in zip(shown, names, strict=True)]
        what = f"{'colours' if self.colors else 'values'} of the training's masks" if self.recorded else "class numbers"
        logger.info("The predicted masks hold the %s: %s.", what, some_of(pairs, SHOWN_VALUES, last=", and "))
