"""The grid, the intensities and the sizes that a run shows volumes in: as asked for, or from the headers of train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from datasets import Dataset, concatenate_datasets
from transformers.utils import IMAGE_PROCESSOR_NAME, has_file

from ..arguments.distillation import MODEL_IN_MEMORY, DistillationArguments
from ..arguments.values import ArgumentError
from ..arguments.words import by
from ..data.decoding.images import BadImageError
from ..data.pixels import load_processor
from ..data.sources import ImageData
from ..data.volumes.kinds import ARRAYS, described_kind
from ..data.volumes.reading import header_of
from ..data.volumes.volume import Header
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..models.volume_grid import orientation_of, sides_along, spacing_along
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task

logger = logging.getLogger(__name__)

CROP_SIDE = 96  # voxels
VOLUME_SIDE = 64
STEP = 16  # of the default sides: what networks of four halvings take
FEWEST_VOXELS = 4  # of a side of the median volume, unless its file has fewer
MOST_VOXELS = 2**31  # of the median volume: torch resamples no more
AXES = "to the right, front and head"


def volume_processor(arguments: DistillationArguments, task: Task, data: ImageData) -> RDVolumeProcessor:
    """The processor of a run's student. Of train only headers are read; the log says what follows from them.

    All volumes of train count, whether the run uses them or not: runs that are compared share one grid. What no
    argument gives is taken from the student's own processor, where it is a trained student of volumes, or else from the
    headers.

    :raises ArgumentError: for an argument that the task does not have, a spacing that leaves too few voxels or makes
        too many, or when no volume of train is readable.
    """
    is_segmentation = isinstance(task, Segmentation)
    _refuse_other_sizes(arguments, is_segmentation)
    volumes = _volumes_of_train(data)
    shapes, spacings = _surveyed(volumes)
    axes = "as in the arrays" if described_kind(volumes[0]["image"]) == ARRAYS else AXES
    own = _processor_of(arguments)
    settings: dict[str, Any] = _intensities(arguments, own) | {"channels": data.volumes.channels}
    if not is_segmentation:
        size = arguments.sides_of_volume or own.size
        size = size or _default_sides(np.median(shapes, axis=0), VOLUME_SIDE, np.round)
        logger.info(
            "Volumes: each is resized to %s voxels (axes %s). The median volume of train has %s.",
            by(size), axes, by(np.median(shapes, axis=0)),
        )  # fmt: skip
        return RDVolumeProcessor(size=size, **settings)
    spacing = arguments.grid_spacing or own.spacing or np.round(np.median(spacings, axis=0), 3).tolist()
    grid = np.median(np.maximum(1, np.round(shapes * spacings / np.array(spacing))), axis=0)
    _check_grid(spacing, grid, np.median(shapes, axis=0), data.volumes.channels)
    crop = arguments.sides_of_crop or own.crop_size or _default_sides(grid, CROP_SIDE, np.floor)
    origin = "as asked for" if arguments.spacing else "as for the student's training" if own.spacing else ""
    logger.info(
        "Volumes: each is resampled to %s mm (%s; axes %s). The median volume of train then has %s voxels.",
        by(spacing), origin or "the median of train", axes, by(grid),
    )  # fmt: skip
    logger.info("Volumes: student and teacher see crops of %s voxels.", by(crop))
    return RDVolumeProcessor(spacing=spacing, crop_size=crop, **settings)


def _refuse_other_sizes(arguments: DistillationArguments, is_segmentation: bool) -> None:
    """:raises ArgumentError: for a size of the other task."""
    if is_segmentation:
        why = "is only for classes, whose volumes are resized. Volumes with masks keep their spacing: give `crop_size`."
        arguments.refuse_changed(["volume_size"], why)
    else:
        why = "is only for masks. Volumes with classes are resized as a whole: give `volume_size`."
        arguments.refuse_changed(["crop_size", "spacing"], why)


def _volumes_of_train(data: ImageData) -> Dataset:
    """Those with a label, then those without."""
    parts = [data.splits["train"], data.unlabelled]
    return concatenate_datasets([part.select_columns(["image"]) for part in parts if part is not None])


def _check_grid(spacing: Sequence[float], grid: np.ndarray, source: np.ndarray, channels: int) -> None:
    """Refuse a spacing in which the median volume of train says nothing, or does not fit the memory that is free.

    :param spacing: millimetres of the grid.
    :param grid: sides of the median volume there, in voxels.
    :param source: sides of the median volume in its file.
    :raises ArgumentError: with the grid.
    """
    what = f"With a spacing of {by(spacing)} mm the median volume of train has {by(grid)} voxels"
    if ((grid < FEWEST_VOXELS) & (grid < source)).any():
        raise ArgumentError(f"{what}, of {by(source)} in its file: give a smaller spacing (in millimetres).")
    needed, free = 4 * channels * grid.prod(), psutil.virtual_memory().available
    if grid.prod() > MOST_VOXELS or needed > free:
        raise ArgumentError(
            f"{what}, which take {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free: give a "
            "larger spacing (in millimetres)."
        )


def _surveyed(images: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (N, 3) and millimetres (N, 3) along the axes of RAS of the readable volumes.

    :raises ArgumentError: when there are none.
    """
    shapes, spacings, problem = [], [], None
    for row, example in enumerate(images.select_columns(["image"])):
        try:
            header = header_of(example["image"], f"row {row} of train")
        except BadImageError as error:
            problem = error  # told when the volume itself is read
            continue
        shape, spacing = _in_ras(header)
        shapes.append(shape)
        spacings.append(spacing)
    if not shapes:
        raise ArgumentError(f"No volume of train is readable. {problem}")
    return np.array(shapes, dtype=np.float64), np.array(spacings)


def _in_ras(header: Header) -> tuple[list[int], tuple[float, float, float]]:
    orientation = orientation_of(header.affine)
    return sides_along(header.shape, orientation), spacing_along(header.affine, orientation)


def _processor_of(arguments: DistillationArguments) -> RDVolumeProcessor:
    """That of a student in a folder or on the Hub, if it reads volumes; else one that says nothing."""
    name = arguments.student
    if isinstance(name, str) and name != MODEL_IN_MEMORY and has_processor(name, arguments.student_revision):
        options = {"revision": arguments.student_revision, "trust_remote_code": arguments.trust_remote_code}
        processor = load_processor(name, **options)
        if isinstance(processor, RDVolumeProcessor):
            return processor
    return RDVolumeProcessor()


def has_processor(name: str, revision: str | None) -> bool:
    """Whether a model's folder or repo has an image processor."""
    if Path(name).is_dir():
        return (Path(name) / IMAGE_PROCESSOR_NAME).is_file()
    return has_file(name, IMAGE_PROCESSOR_NAME, revision=revision)


def _intensities(arguments: DistillationArguments, own: RDVolumeProcessor) -> dict[str, Any]:
    """:param own: the processor whose intensities are taken where no window is given."""
    window = arguments.intensities or own.window
    if window is None:
        logger.info(
            "Intensities: each volume is clipped at its percentiles %g and %g and z-scored. For CT, `intensity_window` "
            "clips at fixed values (lung, bone, soft, brain, or lo,hi).",
            *own.percentiles,
        )
        return {"percentiles": own.percentiles}
    logger.info("Intensities: each volume is clipped at %g and %g.", *window)
    return {"intensity": "window", "window": window}


def _default_sides(grid: np.ndarray, largest: int, rounding: np.ufunc) -> tuple[int, ...]:
    """Multiples of `STEP` near the sides of a grid, up to a largest one."""
    sides = np.maximum(STEP, STEP * rounding(np.minimum(grid, largest) / STEP))
    return tuple(int(side) for side in sides)
