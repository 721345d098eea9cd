"""Slices of volumes through a region, as radiologists see them: from the feet, from the front and from the left.

Arrays here have axes towards right, front and head (RAS+). The patient's right is on the left of axial and coronal
slices; the front is at the top of axial slices and on the left of sagittal ones. Letters at the edges say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .mask_pictures import differs_from_a_neighbour, draw_grid, legend_of, outlined, overlay, tinted
from .segmentation import IGNORED_LABEL

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # and the axis that each stands on
# right, left, anterior, posterior, head, feet: on the left, right, upper and lower edge
LETTERS = {"axial": "RLAP", "coronal": "RLHF", "sagittal": "APHF"}
LETTER_SIZE = 16  # pixels
SMALLEST_SIDE = 256  # pixels of a drawn slice's longer side, at least
GAP = 8  # pixels between slices
TALLEST = 1.6  # a row by the width of a column
FILLED, OUTLINED = "filled: prediction", "outlined, white edge: truth"
WHITE = 255


class VolumeExample(NamedTuple):
    """A row of `draw_volumes`.

    :ivar shown: (X, Y, Z) in 0..1.
    :ivar truth: (X, Y, Z) class numbers, or IGNORED_LABEL.
    :ivar prediction: (X, Y, Z) class numbers.
    :ivar spacing: millimetres of the voxels along X, Y and Z.
    :ivar title: what is written beside it.
    """

    shown: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float, float]
    title: str


def region_centre(mask: np.ndarray) -> tuple[int, int, int]:
    """A voxel in the middle of the largest connected region of foreground; the middle of the volume without one.

    :param mask: (X, Y, Z) class numbers, or IGNORED_LABEL.
    """
    from scipy.ndimage import find_objects, label

    foreground = (mask != 0) & (mask != IGNORED_LABEL)
    if not foreground.any():
        return tuple(side // 2 for side in mask.shape)
    regions, _ = label(foreground)
    largest = int(np.bincount(regions.ravel())[1:].argmax()) + 1
    box = find_objects(regions, largest)[largest - 1]
    voxels = np.argwhere(regions[box] == largest)
    nearest = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
    return tuple(int(place + part.start) for place, part in zip(nearest, box, strict=True))


def slice_of(volume: np.ndarray, plane: str, place: Sequence[int]) -> np.ndarray:
    """The slice (rows, columns) of a volume (X, Y, Z) that goes through a voxel.

    :param plane: one of PLANES.
    """
    return np.take(volume, place[PLANES[plane]], axis=PLANES[plane]).T[::-1, ::-1]


def true_to_shape(picture: np.ndarray, plane: str, spacing: Sequence[float]) -> np.ndarray:
    """A slice with square pixels, large enough to be looked at: a mask by nearest neighbour, an image linearly.

    :param picture: (rows, columns) of integers for a mask, or (rows, columns, 3) uint8.
    :param spacing: millimetres of the volume's voxels along X, Y and Z.
    """
    columns, rows = (spacing[axis] for axis in range(3) if axis != PLANES[plane])
    height, width = picture.shape[0] * rows, picture.shape[1] * columns
    pixel = min(rows, columns, max(height, width) / SMALLEST_SIDE)
    size = max(1, round(width / pixel)), max(1, round(height / pixel))
    how = Image.Resampling.NEAREST if picture.ndim == 2 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture, dtype=np.uint8)).resize(size, how))


def grey_slice(shown: np.ndarray, plane: str, place: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """A slice of a volume (X, Y, Z) in 0..1 as a picture (rows, columns, 3) uint8."""
    grey = np.rint(255 * np.clip(slice_of(shown, plane, place), 0, 1)).astype(np.uint8)
    return true_to_shape(np.repeat(grey[..., None], 3, axis=2), plane, spacing)


def mask_slice(mask: np.ndarray, plane: str, place: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """A slice of a mask (X, Y, Z), of the size of `grey_slice`."""
    return true_to_shape(slice_of(mask, plane, place), plane, spacing)


def draw_volumes(rows: Iterable[VolumeExample], names: Sequence[str], path: str | Path) -> None:
    """A row per example: slices through its largest true region, or else through the largest predicted one.

    The prediction is tinted, the truth outlined with a white edge.

    :param rows: a few, of any sizes; of a generator only one is in memory at a time.
    :param names: of the K classes; those that are drawn are in the legend.
    :param path: the PNG to write.
    """
    from matplotlib.lines import Line2D

    pictures, present, titles = zip(*map(_pictures_of, rows), strict=True)
    ratio = max(min(picture.shape[0] / picture.shape[1], TALLEST) for row in pictures for picture in row)
    words = [Line2D([], [], linestyle="none", label=text) for text in (FILLED, OUTLINED)]
    handles = [*legend_of(set().union(*present), names), *words]
    draw_grid(pictures, titles, list(PLANES), ratio, handles, names, path)


def compared_slices(row: VolumeExample) -> list[np.ndarray]:
    """The slices of an example along PLANES, with truth and prediction."""
    return _pictures_of(row)[0]


def _pictures_of(row: VolumeExample) -> tuple[list[np.ndarray], set[int], str]:
    """The pictures of an example, the classes that they show, and its title."""
    has_foreground = ((row.truth != 0) & (row.truth != IGNORED_LABEL)).any()
    place = region_centre(row.truth if has_foreground else row.prediction)
    slices = [slice_of(mask, plane, place) for mask in (row.truth, row.prediction) for plane in PLANES]
    present = {int(number) for one in slices for number in np.unique(one)} - {0}
    return [_compared(row, plane, place) for plane in PLANES], present, row.title


def _compared(row: VolumeExample, plane: str, place: Sequence[int]) -> np.ndarray:
    """A slice with the prediction tinted and the truth outlined, and grey where it has no label."""
    truth, prediction = (mask_slice(mask, plane, place, row.spacing) for mask in (row.truth, row.prediction))
    shown = np.where(truth == IGNORED_LABEL, truth, prediction)
    picture = outlined(tinted(grey_slice(row.shown, plane, place, row.spacing), shown), truth)
    picture[(truth == 0) & differs_from_a_neighbour(truth)] = WHITE  # around the outline, apart from any tint
    return lettered(picture, plane)


def lettered(picture: np.ndarray, plane: str) -> np.ndarray:
    """A slice with a letter at each edge that says which side of the patient is there.

    :param picture: (rows, columns, 3) uint8.
    :param plane: one of PLANES.
    """
    image = Image.fromarray(picture)
    height, width = picture.shape[:2]
    x, y = width // 2, height // 2
    places = ((1, y, "lm"), (width - 2, y, "rm"), (x, 1, "mt"), (x, height - 2, "mb"))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(LETTER_SIZE)
    for letter, (x, y, anchor) in zip(LETTERS[plane], places, strict=True):
        draw.text((x, y), letter, "white", font, anchor, stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def overlay_of_volume(shown: np.ndarray, mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The three slices through the middle of a mask's largest region, side by side, under the mask.

    :param shown: (X, Y, Z) in 0..1.
    :param mask: (X, Y, Z) class numbers.
    :return: (rows, columns, 3) uint8.
    """
    place = region_centre(mask)
    pictures = [
        lettered(overlay(grey_slice(shown, plane, place, spacing), mask_slice(mask, plane, place, spacing)), plane)
        for plane in PLANES
    ]
    height = max(len(picture) for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + GAP * (len(pictures) - 1)
    joined, left = np.zeros((height, width, 3), dtype=np.uint8), 0
    for picture in pictures:
        top = (height - len(picture)) // 2
        joined[top : top + len(picture), left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return joined
