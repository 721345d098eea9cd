"""The images that a user gives for a prediction: files, folders and globs, or images in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..arguments.values import ArgumentError, nearest_name, paths_of
from ..arguments.words import counted
from ..data.mask_names import masks_among
from ..data.scanner import is_image, printable, scan, visible_matches

logger = logging.getLogger(__name__)

IN_MEMORY = (
    "are in memory, so that their masks have no file names: leave `output_dir` out, and get the masks as arrays."
)
Named = str | os.PathLike
InMemory = Image.Image | np.ndarray


@dataclass(frozen=True, eq=False)
class ImageInHand:
    """An image in memory.

    :param position: its place among what was given, from 0.
    """

    image: InMemory
    position: int


def images_given(images: Named | InMemory | Iterable[Named | InMemory]) -> list[Path | ImageInHand]:
    """Images from names and from memory, in order.

    :param images: one, or several. In memory they are Pillow images or arrays, as `rd_hf.data.decoding.images.to_rgb`
        takes them.
    :raises ArgumentError: for a name that matches no image, and for anything else.
    """
    if is_in_memory(images):
        return [ImageInHand(images, 0)]
    images = [images] if isinstance(images, Mapping) else images
    if isinstance(images, Named) or not isinstance(images, Iterable):
        return find_images(images)
    given = list(images)
    names = [image for image in given if not is_in_memory(image)]
    if names and isinstance(names[0], Mapping):
        raise ArgumentError(
            "One of the images is a mapping, as a row of a data set: give its column, `dataset['image']`."
        )
    if len(names) == len(given):
        return find_images(given)
    if names:
        raise ArgumentError(
            f"Among {len(given)} images some are in memory and some are not, such as {names[0]!r}: give one kind at a "
            "time."
        )
    return [ImageInHand(image, position) for position, image in enumerate(given)]


def is_in_memory(image: object) -> bool:
    """Whether something is a picture; an array of text is of names."""
    return isinstance(image, Image.Image) or (isinstance(image, np.ndarray) and image.dtype.kind in "buif")


def called(image: Path | ImageInHand) -> str:
    """What errors call an image."""
    return printable(image) if isinstance(image, Path) else f"image {image.position}"


def find_images(names: Named | Iterable[Named]) -> list[Path]:
    """Image files from files, folders and globs, in order and without repeats.

    A file that is named is taken as it is. Of folders and globs the images are (see `rd_hf.data.scanner.scan`).

    :param names: one, or several.
    :raises ArgumentError: for a name that matches no file, or a folder without images.
    """
    found: dict[str, Path] = {}
    repeated = 0
    for name in paths_of(names, "images", "Pillow images or arrays (H, W) or (H, W, 3)"):
        path = Path(os.path.expanduser(name))
        if os.path.isdir(path):
            matches = _images_of(path)
        elif os.path.isfile(path):
            matches = [path]
        else:
            matches = _images_of_glob(path)
        if not matches:
            hint = "" if os.path.isdir(path) else f" ({nearest_name(path.absolute())})"
            raise ArgumentError(f"There is no image at {printable(name)}{hint}.")
        for file in matches:
            repeated += found.setdefault(os.path.abspath(file), file) is not file
    if repeated:
        logger.warning("%s named more than once: each file is taken once.", counted(repeated, "file is", "files are"))
    return list(found.values())


def _images_of(folder: Path) -> list[Path]:
    found = scan(folder)
    found.tell_what_is_left_out()
    return [folder / file for file in found.images]


def _images_of_glob(pattern: Path) -> list[Path]:
    images = [file for file in visible_matches(pattern) if file.is_file() and is_image(file)]
    masks = masks_among(images)
    if masks:
        logger.warning(
            "%d files that '%s' matches are left out, because the names say that they are masks of other files; the "
            "first is '%s'.", len(masks), printable(pattern), printable(min(masks)),
        )  # fmt: skip
    return [file for file in images if file not in masks]
