"""The masks that a segmenter predicts, as files named after their images: palette PNGs, and overlays to look at."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..arguments.values import ArgumentError
from ..data.scanner import printable
from ..data.volumes.names import stem_of
from ..runtime.files import check_folder, written_whole
from ..scoring.mask_pictures import overlay
from ..tasks.segmentation import Segmentation
from .images import IN_MEMORY, ImageInHand
from .label_values import LabelValues

logger = logging.getLogger(__name__)

OVERLAY_FOLDER = "overlays"


class MaskFiles:
    """Gives the answers of a segmenter, and writes them where a folder is named.

    A mask is a PNG of the source's size with the value of each pixel's class; its palette has a color per class. Images
    in folders of their own keep these below the output folder.

    :param images: all images that will be answered.
    :param output_dir: folder of the masks; None keeps them in memory.
    :param with_overlays: whether a picture of each image under its mask is written too, into `OVERLAY_FOLDER`.
    :param skip_existing: whether images that have a mask there are left out; pictures without a mask are replaced.
    :param values: what stands for each class in a PNG; class numbers by default.
    :ivar images: those that are to be answered.
    :raises ArgumentError: when a file that would be written exists, or two images would have the same.
    """

    def __init__(
        self,
        task: Segmentation,
        images: Sequence[Path | ImageInHand],
        output_dir: str | None,
        with_overlays: bool,
        skip_existing: bool = False,
        values: LabelValues | None = None,
    ) -> None:
        if output_dir is None and (with_overlays or skip_existing):
            name = "overlay" if with_overlays else "skip_existing"
            raise ArgumentError(f"`{name}` is about files: name their folder with `output_dir`.")
        if output_dir is not None and any(isinstance(image, ImageInHand) for image in images):
            raise ArgumentError(f"The images {IN_MEMORY}")
        self.task, self.with_overlays = task, with_overlays
        self.values = values or LabelValues(tuple(range(len(task.names))))
        self.folder = None if output_dir is None else Path(os.path.expanduser(output_dir))
        self.files: dict[Path, Path] = {}
        self.images = list(images)
        if self.folder is not None:
            check_folder(self.folder)
            self.files = names_of_masks(images)
            check_files_differ(self._planned(), "images")
            if skip_existing:
                self.images = without_mask(images, [self.folder / self.files[image] for image in images], "images")
            else:
                check_files_are_free([file for file, _ in self._planned()])
            _warn_of_sources({self.folder / file for file in self.files.values()}, images)
            self.values.tell(task.names)

    def answers(
        self,
        sizes: Mapping[Path | ImageInHand, tuple[int, int]],
        logits: Tensor,
        pictures: Mapping[Path | ImageInHand, Image.Image],
    ) -> Iterator[dict[str, Any]]:
        """Per image `mask`, the file or the array (H, W) of class indices, and `pixels`, the number per class.

        :param sizes: rows and columns of B of the images that were announced.
        :param logits: (B, K, h, w).
        :param pictures: what was read of them; not read without overlays.
        """
        for (image, size), own in zip(sizes.items(), logits, strict=True):
            mask = self.task.masks_of(own[None], [size])[0]
            counts = np.bincount(mask.ravel(), minlength=len(self.task.names)).tolist()
            answer: dict[str, Any] = {"mask": mask, "pixels": dict(zip(self.task.names, counts, strict=True))}
            if self.with_overlays:
                shown = Image.fromarray(overlay(np.asarray(pictures[image]), mask))
                answer["overlay"] = self._write(self.folder / OVERLAY_FOLDER / self.files[image], shown)
            if self.folder is not None:  # last, because an image that has a mask is complete
                answer["mask"] = self._write(self.folder / self.files[image], self._with_palette(mask))
            yield answer

    def _with_palette(self, mask: np.ndarray) -> Image.Image:
        image, palette = Image.fromarray(self.values.stored(mask)), self.values.palette()
        if palette is not None:
            image.putpalette(palette)
        return image

    def _write(self, path: Path, image: Image.Image) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as aside:
            image.save(aside)
        return printable(path)

    def _planned(self) -> list[tuple[Path, Path]]:
        folders = [self.folder, *([self.folder / OVERLAY_FOLDER] if self.with_overlays else [])]
        return [(folder / file, image) for folder in folders for image, file in self.files.items()]


def names_of_masks(images: Sequence[Path]) -> dict[Path, Path]:
    """A relative path for the mask of each image: its own below the folder that all share, ending in `.png`.

    Where two images differ in their suffix only, the suffix is kept: `a.jpg.png` and `a.png.png`.
    """
    absolute = [Path(os.path.abspath(image)) for image in images]
    shared = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    inside = [path.relative_to(shared) for path in absolute]
    bare = [path.with_name(stem_of(path)) for path in inside]
    uses = Counter(bare)
    return {
        image: path.with_name(f"{stem.name if uses[stem] == 1 else path.name}.png")
        for image, path, stem in zip(images, inside, bare, strict=True)
    }


def check_files_differ(planned: Sequence[tuple[Path, Path]], called: str) -> None:
    """Refuse to write two predictions into one file, before the first one is made.

    :param planned: all files that would be written, and what each is predicted from.
    :param called: what the latter are: "images" or "volumes".
    :raises ArgumentError: naming the first such file, and both of its sources.
    """
    tells_capitals_apart = sys.platform not in ("darwin", "win32")
    source_of: dict[str, Path] = {}
    for file, source in planned:
        name = str(file) if tells_capitals_apart else str(file).casefold()
        other = source_of.setdefault(name, source)
        if other != source:
            raise ArgumentError(
                f"Two {called} would have the file {printable(file)}, {printable(other)} and {printable(source)}: "
                "predict them apart, with an `output_dir` each."
            )


def check_files_are_free(planned: Sequence[Path]) -> None:
    """:raises ArgumentError: when one of the files that would be written exists."""
    for file in planned:
        if file.exists():
            raise ArgumentError(
                f"{printable(file)} exists already: choose another `output_dir`, move it, or go on where an earlier "
                "command stopped with `skip_existing`."
            )


def without_mask(sources: Sequence[Any], masks: Sequence[Path], called: str) -> list[Any]:
    """The sources whose mask does not exist yet; the log counts the others."""
    left = [source for source, mask in zip(sources, masks, strict=True) if not mask.exists()]
    if len(left) < len(sources):
        logger.info("%d of %d %s have a mask already and are left out.", len(sources) - len(left), len(sources), called)
    return left


def _warn_of_sources(masks: set[Path], images: Sequence[Path]) -> None:
    folders = {os.path.abspath(mask.parent) for mask in masks} & {os.path.dirname(os.path.abspath(i)) for i in images}
    if folders:
        logger.warning(
            "Masks are written beside the images, into %s. A later command with that folder reads them as images.",
            printable(min(folders)),
        )
