"""Looks once at every mask of a data set: which values it holds, and whether it fits its image."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from PIL import UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from ...runtime.progress import Progress
from ..columns import DataError
from ..decoding import pillow
from ..decoding.images import UNREADABLE, BadImageError, described, image_bytes, read_image
from .decoding import Kind, StoredMask, read_stored
from .grids import check_grid
from .reading import counts_of

logger = logging.getLogger(__name__)

SHOW_PROGRESS_ROWS = 500
SHOW_PROGRESS_VOLUMES = 20
BATCH_ROWS = 64
MOST_VALUES = 2000  # of one mask; a photograph has more colours


@dataclass(frozen=True)
class MaskValues:
    """What one mask holds.

    :param counts: pixels of each value, see `StoredMask.values`; colours throughout if the survey was asked for them.
    :param kind: how they are stored.
    :param name: what an error calls the mask.
    """

    counts: dict[int, int]
    kind: Kind
    name: str


def survey(
    splits: Mapping[str, Dataset], by_color: bool = False, of_volumes: bool = False
) -> dict[str, list[MaskValues | None]]:
    """Read the values of every mask, one mask in memory at a time.

    :param splits: with the undecoded columns ``image`` and ``mask``.
    :param by_color: count the colours that grey and palette files show, in place of their values.
    :param of_volumes: whether the columns hold volumes and their label volumes.
    :return: of each split, what each row's mask holds; None for a row without mask.
    :raises DataError: if a mask has another size than its image, is no mask, or palettes contradict each other; or if
        a label volume has another shape or affine than its volume.
    :raises BadImageError: if a mask is missing or damaged.
    """
    total, palettes, turned = sum(map(len, splits.values())), {}, Counter()
    reordered: list[str] = []
    batch_rows = 1 if of_volumes else BATCH_ROWS
    is_long = total >= (SHOW_PROGRESS_VOLUMES if of_volumes else SHOW_PROGRESS_ROWS)
    found: dict[str, list[MaskValues | None]] = {}
    with Progress("reading masks", total, "mask", shown=is_long) as progress:
        for name, split in splits.items():
            rows = found[name] = []
            for batch in split.select_columns(["image", "mask"]).with_format("arrow").iter(batch_rows):
                for row in batch.to_pylist():
                    where = f"row {len(rows)} of {name}"
                    if row["mask"] is None:
                        rows.append(None)
                    elif of_volumes:
                        rows.append(_looked_at_volume(row, where, reordered))
                    else:
                        rows.append(_looked_at(row, where, by_color, palettes, turned))
                    progress.advance()
    if [palettes[index][0] for index in (0, 1) if index in palettes] == [0xFFFFFF, 0]:
        logger.warning(
            "In the palettes of the masks 0 is white and 1 is black. The numbers count: black pixels are class 1. "
            "`mask_colors` reads the colours."
        )
    if turned:
        logger.info(
            "%d images are turned by their EXIF orientation; their masks are read as masks of the turned images.",
            turned.total(),
        )
    if reordered:
        logger.info(
            "The axes of %d label volumes have another order or direction than those of their volumes. They are turned "
            "onto the volumes' voxels, as the affines say; the first is %s.", len(reordered), reordered[0],
        )  # fmt: skip
    return found


def _looked_at(
    row: dict[str, Any], where: str, by_color: bool, palettes: dict[int, tuple[int, str]], turned: Counter
) -> MaskValues:
    name = described(row["mask"], f"the mask of {where}")
    mask = read_stored(row["mask"], f"the mask of {where}")
    if mask.affine is not None:
        raise DataError(f"{name} is a label volume, but its image is read as an image; give a mask of its size")
    size, orientation = _upright_size(row["image"])
    height, width = mask.values.shape
    if size is not None and size != (width, height):
        raise DataError(
            _other_size(name, described(row["image"], f"image {where}"), (width, height), size, orientation)
        )
    turned.update([orientation] if orientation > 1 else [])
    counts = counts_of(mask.as_colors() if by_color else mask.values)
    if len(counts) > MOST_VALUES:
        raise DataError(f"{name} has {len(counts)} different values, as a photograph has; is it a mask?")
    if mask.kind == "palette" and not by_color:
        _check_palette(mask, counts, name, palettes)
    return MaskValues(counts, mask.kind, name)


def _looked_at_volume(row: dict[str, Any], where: str, reordered: list[str]) -> MaskValues:
    """:param reordered: gets the name of the mask where it has to be turned."""
    name = described(row["mask"], f"the mask of {where}")
    mask = read_stored(row["mask"], f"the mask of {where}")
    if check_grid(mask, row["image"], name, f"volume {where}"):
        reordered.append(name)
    counts = counts_of(mask.values)
    if len(counts) > MOST_VALUES:
        raise DataError(f"{name} has {len(counts)} different values, as a scan has; is it a label volume?")
    return MaskValues(counts, mask.kind, name)


def _upright_size(image: dict[str, Any]) -> tuple[tuple[int, int] | None, int]:
    """Width and height of an image as it is decoded, None where that is not known before; and its EXIF orientation."""
    try:
        content = image_bytes(image)
        with pillow.opened(content) as opened:
            if len(pillow.full_pages(opened)) > 1:
                return None, 1
            turn, size = pillow.orientation(opened), opened.size
            is_turned = turn >= 5 and not isinstance(opened, TiffImageFile)  # whose size Pillow turns by itself
            return (size[::-1] if is_turned else size), turn
    except UnidentifiedImageError:
        return _decoded_size(image), 1
    except (*UNREADABLE, BadImageError):  # told when the image is decoded, which the user may have asked to skip
        return None, 1


def _decoded_size(image: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return read_image(image).rgb.size
    except BadImageError:
        return None


def _other_size(
    mask: str, image: str, mask_size: tuple[int, int], image_size: tuple[int, int], orientation: int
) -> str:
    said = (
        f"{mask} has {mask_size[0]} x {mask_size[1]} pixels, but {image} has {image_size[0]} x {image_size[1]}; masks "
        "must have the size of their images"
    )
    if orientation >= 5 and mask_size == image_size[::-1]:
        return (
            f"{said}. The image is turned by its EXIF orientation ({orientation}), and the mask is not: turn the mask "
            "in the same way, or save the image turned and without EXIF"
        )
    return said


def _check_palette(mask: StoredMask, counts: dict[int, int], name: str, palettes: dict[int, tuple[int, str]]) -> None:
    """:raises DataError: where an index has another colour than in an earlier mask, so that it may be another class."""
    for index in counts:
        color = int.from_bytes(mask.palette[index].tobytes(), "big")
        other, first = palettes.setdefault(index, (color, name))
        if other != color:
            raise DataError(
                f"{name} has the colour #{color:06x} for palette index {index}, but {first} has #{other:06x}, so "
                "an index is not one class. Name the class of each colour with `mask_colors`"
            )
