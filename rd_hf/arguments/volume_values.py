"""Values of arguments about volumes: millimetres, voxels and windows of intensity, from text, YAML and Python."""

from __future__ import annotations

import math
from typing import Any

from .values import ArgumentError

# Lowest and highest Hounsfield unit of the usual windows, from their width and level: lung 1500, -600; bone 1800, 400;
# soft tissue 400, 40; brain 80, 40 (Radiopaedia, "Windowing (CT)"; abdominal presets differ by about 10).
INTENSITY_WINDOWS = {"lung": (-1350.0, 150.0), "bone": (-500.0, 1300.0), "soft": (-160.0, 240.0), "brain": (0.0, 80.0)}
AXES = 3


def spacing_text(value: Any) -> str | None:
    """A spacing as one text, such as ``1,1,2.5``; one number is that of all three axes.

    :raises ArgumentError: when it is not three positive numbers.
    """
    numbers = _numbers(value)
    if value is None:
        return None
    if numbers is None or len(numbers) not in (1, AXES) or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ArgumentError(
            f"`spacing` is {value!r}; it must be one positive number of millimetres, or three (to the right, to the "
            "front, to the head), such as 1,1,2.5."
        )
    return _text(numbers)


def sides_text(name: str, value: Any) -> str | None:
    """The sides of a volume as one text, such as ``96,96,64``; one number is all three.

    :raises ArgumentError: when it is not three whole numbers above 0.
    """
    numbers = _numbers(value)
    if value is None:
        return None
    if numbers is None or len(numbers) not in (1, AXES) or not all(n >= 1 and n.is_integer() for n in numbers):
        raise ArgumentError(
            f"`{name}` is {value!r}; it must be one whole number of voxels above 0, or three (to the right, to the "
            "front, to the head), such as 96,96,64."
        )
    return _text(numbers)


def window_text(value: Any) -> str | None:
    """A window of intensity as one text: a word of `INTENSITY_WINDOWS`, or its lowest and highest value.

    :raises ArgumentError: when it is neither.
    """
    if value is None or (isinstance(value, str) and value in INTENSITY_WINDOWS):
        return value
    numbers = _numbers(value)
    if numbers is None or len(numbers) != 2 or not all(map(math.isfinite, numbers)) or not numbers[0] < numbers[1]:
        raise ArgumentError(
            f"`intensity_window` is {value!r}; it must be the lowest and the highest value that is shown, such as "
            f"-160,240, or one of {', '.join(INTENSITY_WINDOWS)}."
        )
    return _text(numbers)


def spacing_in_mm(text: str | None) -> tuple[float, float, float] | None:
    """What `spacing_text` wrote."""
    return None if text is None else tuple((_numbers(text) * AXES)[:AXES])


def sides_of(text: str | None) -> tuple[int, int, int] | None:
    """What `sides_text` wrote."""
    return None if text is None else tuple(int(side) for side in (_numbers(text) * AXES)[:AXES])


def intensities_of(text: str | None) -> tuple[float, float] | None:
    """The lowest and highest value of what `window_text` wrote."""
    return None if text is None else INTENSITY_WINDOWS.get(text) or tuple(_numbers(text))


def _numbers(value: Any) -> list[float] | None:
    """The numbers of a list, of a text with commas, or of one number; None for anything else."""
    parts = value.strip("[] ").split(",") if isinstance(value, str) else value
    parts = [parts] if isinstance(parts, int | float) else parts
    try:
        return [float(part) for part in parts]
    except (TypeError, ValueError):
        return None


def _text(numbers: list[float]) -> str:
    return ",".join(f"{number:.10g}" for number in numbers)
