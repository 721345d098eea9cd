"""`rd_hf.predict` for models of volumes: NIfTI files and DICOM series, one in memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..arguments.values import ArgumentError
from ..arguments.words import by, some_of
from ..data.decoding.images import BadImageError, described
from ..data.masks.reading import counts_of
from ..data.scanner import printable
from ..data.volumes.finding import FoundVolume, volumes_given
from ..data.volumes.reading import header_of, read_volume
from ..data.volumes.volume import Volume, VolumeReading
from ..models.volume_grid import orientation_of, oriented, spacing_along
from ..scoring.volume_pictures import overlay_of_volume
from ..tasks.segmentation import VolumeSegmentation
from .finite import check_finite
from .images import IN_MEMORY
from .label_values import LabelValues
from .volume_files import VolumeFiles
from .volumes import volume_logits

if TYPE_CHECKING:
    from .loading import LoadedModel

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 5


def predict_volumes(
    loaded: LoadedModel,
    volumes: Any,
    on_bad_image: str,
    output_dir: str | None,
    overlay: bool,
    dicom_seg: bool,
    skip_existing: bool,
) -> Iterator[dict[str, Any]]:
    """Run a model of volumes on files, folders and globs, or on volumes in memory.

    :param loaded: its transform is a `VolumeTransform`.
    :return: one dict per volume, when it is done, as `rd_hf.inference.prediction.predict` describes them.
    :raises ArgumentError: when a name matches no volume, or a file that would be written exists.
    :raises BadImageError: for an unreadable volume, unless `on_bad_image` is "skip": before any is computed where its
        header shows it. Where masks are written, the others are written first if only its voxels show it.
    :raises OutputError: where the model's output for a volume is NaN or infinite.
    """
    reading = loaded.volumes
    found = volumes_given(volumes, reading)
    files = None
    if output_dir is not None:
        if found and found[0].position is not None:
            raise ArgumentError(f"The volumes {IN_MEMORY}")
        values = LabelValues.of(loaded.trained_on, len(loaded.task.names))
        files = VolumeFiles(found, output_dir, overlay, dicom_seg, skip_existing, values)
        values.tell(loaded.task.names)
        found = files.volumes
    elif overlay or dicom_seg or skip_existing:
        raise ArgumentError(
            "`overlay`, `dicom_seg` and `skip_existing` are about files: name their folder with `output_dir`."
        )
    if on_bad_image != "skip":
        _check_headers(found)
    largest = 0
    problems: list[BadImageError] = []
    for number, volume in enumerate(found, start=1):
        row: dict[str, Any] = {"image": printable(volume.shown) if volume.position is None else volume.position}
        try:
            read = _read(loaded, volume, reading)
            largest = _say_memory(loaded, read, largest)
            _say_padded(loaded, read, printable(volume.shown))
            row |= _answer(loaded, volume, read, files)
        except BadImageError as error:
            if on_bad_image != "skip" and files is None:
                raise
            problems.append(error)
            row["error"] = str(error)
        if len(found) > 1:
            done = "skipped" if "error" in row else "done"
            logger.info("%d of %d: %s %s", number, len(found), printable(volume.shown), done)
        yield row
    if problems and on_bad_image != "skip":
        written = f" The masks of the others are in {printable(output_dir)}." if len(problems) < len(found) else ""
        raise BadImageError(f"{_unread(problems, found)}{written}")


def _check_headers(found: list[FoundVolume]) -> None:
    """Tell of an unreadable volume before any is computed, which takes long.

    :raises BadImageError: for the first one; says how many there are.
    """
    problems = []
    for volume in found:
        try:
            header_of(volume.source, printable(volume.shown))
        except BadImageError as error:
            problems.append(error)
    if problems:
        raise BadImageError(_unread(problems, found))


def _unread(problems: list[BadImageError], found: list[FoundVolume]) -> str:
    if len(problems) == 1:
        return str(problems[0])
    shown = some_of([str(problem) for problem in problems], SHOWN_PROBLEMS, "\n", "\nand ")
    return f"{len(problems)} of {len(found)} volumes cannot be read:\n{shown}"


def _read(loaded: LoadedModel, volume: FoundVolume, reading: VolumeReading) -> Volume:
    read = read_volume(volume.source, printable(volume.shown), reading)
    if len(read.values) != loaded.transform.channels:
        raise BadImageError(
            f"{described(volume.source, printable(volume.shown))} has another number of channels ({len(read.values)}) "
            f"than the model reads ({loaded.transform.channels}): give volumes of that many."
        )
    return read


def _answer(loaded: LoadedModel, volume: FoundVolume, read: Volume, files: VolumeFiles | None) -> dict[str, Any]:
    processor, model = loaded.transform.processor, loaded.model
    shown = processor.shown(read.values, read.affine)
    logits = volume_logits(lambda pixels: model(pixel_values=pixels).logits, processor, shown, model.device)
    check_finite(logits[None], [printable(volume.shown)])
    if not isinstance(loaded.task, VolumeSegmentation):
        return loaded.task.answers(logits[None].cpu())[0]
    mask = loaded.task.masks_of(logits[None], [(read.values.shape[1:], read.affine)])[0]
    answer: dict[str, Any] = {"mask": mask} | _amounts(loaded.task.names, mask, read.affine)
    if files is None:
        return answer
    picture = None
    if files.with_overlays:
        picture = _overlay(processor.to_source(shown[:1], mask.shape, read.affine)[0], mask, read.affine)
    return answer | files.write(volume, read, mask, loaded.task.names, picture)


def _amounts(names: list[str], mask: np.ndarray, affine: np.ndarray) -> dict[str, dict[str, float]]:
    """Voxels and millilitres per class."""
    found = counts_of(mask)
    counts = [found.get(number, 0) for number in range(len(names))]
    millilitre = float(abs(np.linalg.det(affine[:3, :3]))) / 1000  # of one voxel
    return {
        "voxels": dict(zip(names, counts, strict=True)),
        "millilitres": {name: round(count * millilitre, 6) for name, count in zip(names, counts, strict=True)},
    }


def _overlay(shown: Tensor, mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """:param shown: (X, Y, Z) in 0..1, on the voxels of the source."""
    orientation = orientation_of(affine)
    image, classes = (oriented(part, orientation).numpy() for part in (shown, torch.from_numpy(mask)))
    return overlay_of_volume(image, classes, spacing_along(affine, orientation))


def _say_memory(loaded: LoadedModel, read: Volume, largest: int) -> int:
    """Log what the logits of a mask take, where it is more than was said before.

    :param largest: bytes that were said.
    :return: bytes that have now been said.
    """
    if not isinstance(loaded.task, VolumeSegmentation) or loaded.transform.processor.crop_size is None:
        return largest
    grid = loaded.transform.processor.grid(read.values.shape[1:], read.affine)
    needed = 4 * prod(grid) * (len(loaded.task.names) + 1)
    if needed > largest:
        logger.info(
            "A volume of %s voxels on the model's grid is read in windows of %s; its logits take %.1f MiB of memory.",
            by(grid), by(loaded.transform.processor.crop_size), needed / 2**20,
        )  # fmt: skip
    return max(needed, largest)


def _say_padded(loaded: LoadedModel, read: Volume, name: str) -> None:
    """Log that a volume is smaller than the model's window."""
    processor = loaded.transform.processor
    grid, window = processor.grid(read.values.shape[1:], read.affine), processor.crop_size
    if window is not None and any(side < of for side, of in zip(grid, window, strict=True)):
        logger.info(
            "%s has %s voxels on the model's grid, fewer than the window's %s along an axis; the end is padded with "
            "its lowest value.", name, by(grid), by(window),
        )  # fmt: skip
