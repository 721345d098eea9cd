"""`rd_hf.predict`: a model on files of images or volumes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ..arguments.commands import PredictionArguments
from ..arguments.effects import refuse_given
from ..arguments.options import check_values
from ..arguments.values import ArgumentError, nearest_name, paths_of
from ..data.decoding.image_notes import Note, log_notes
from ..data.decoding.images import BadImageError, read_image
from ..data.decoding.reading import Reading
from ..data.scanner import is_image, masks_among, printable, scan, visible_matches
from ..data.volumes.transform import VolumeTransform
from ..runtime.progress import Progress
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .label_values import LabelValues
from .loading import LoadedModel, load_model
from .mask_files import MaskFiles
from .volume_prediction import predict_volumes
from .volumes import refuse_reading_of_images

logger = logging.getLogger(__name__)


def predict(
    model: str,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    revision: str | None = None,
    backbone: str | None = None,
    batch_size: int = 64,
    on_bad_image: str = "error",
    page: int | None = None,
    dicom_window: str | None = None,
    output_dir: str | None = None,
    skip_existing: bool = False,
    overlay: bool = False,
    dicom_seg: bool = False,
    calibrated: bool = False,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Run a model on images or volumes: a class, or a mask, for each.

    :param images: files, folders (searched for image files, deep) and globs; one, or several. For a model of volumes
        NIfTI files and DICOM series; a folder, or any of its slices, stands for a series.
    :param batch_size: images per forward pass; volumes come one by one.
    :param page: page or frame to read of files that have several; by default the one that the model was trained with.
    :param dicom_window: see `rd_hf.data.decoding.reading.Reading`; by default the one that the model was trained with.
    :param output_dir: for a segmenter: folder of the masks, which have the images' names. They are PNGs of the images'
        sizes; of volumes NIfTI files with the shape, affine and orientation of each source.
    :param skip_existing: for a segmenter: whether images or volumes that have a mask there are left out, also of what
        is returned, to go on after a stop.
    :param overlay: for a segmenter: whether a picture of each image under its mask is written too, into `overlays`
        there; of volumes three slices through the largest region.
    :param dicom_seg: for a segmenter of volumes: whether the mask of each DICOM series is also written as DICOM SEG,
        which repeats the patient's and the study's elements, as the standard demands.
    :param calibrated: whether probabilities are calibrated by the model's temperature; answers stay the same.
    :return: one dict per image: `image` (its path), `label` (multi-label: `labels`, those at 0.5 or above) and
        `probabilities` by class name; where the model has an operating point, its thresholds decide the former. Of a
        segmenter `mask` (the file, which holds the label values of the training, or without `output_dir` an array
        (H, W), or (X, Y, Z) of a volume, of class indices), `pixels` per class name, or `voxels` and `millilitres`,
        and perhaps `overlay` and `dicom_seg`; for a skipped one `image` and `error`.
    :raises ArgumentError: when a name matches nothing, or a mask's file exists.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    options = {"page": page, "dicom_window": dicom_window, "overlay": overlay, "dicom_seg": dicom_seg}
    options |= {"calibrated": calibrated, "skip_existing": skip_existing}
    check_values(PredictionArguments(model, [], batch_size=batch_size, on_bad_image=on_bad_image, **options))
    loaded = load_model(model, revision, backbone, trust_remote_code)
    return list(predict_loaded(loaded, images, batch_size, on_bad_image, output_dir, **options))


def predict_loaded(
    loaded: LoadedModel,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    batch_size: int,
    on_bad_image: str,
    output_dir: str | None,
    *,
    page: int | None = None,
    dicom_window: str | None = None,
    overlay: bool = False,
    dicom_seg: bool = False,
    calibrated: bool = False,
    skip_existing: bool = False,
) -> Iterator[dict[str, Any]]:
    """As `predict`, with a model that is loaded; each answer is given when it is there.

    Answers come before the error about an image that cannot be read.
    """
    loaded = loaded.calibrated() if calibrated else loaded
    if not isinstance(loaded.task, Segmentation) and (output_dir is not None or overlay or dicom_seg or skip_existing):
        raise ArgumentError(
            "`output_dir`, `skip_existing`, `overlay` and `dicom_seg` are for models that give masks, but this one "
            "gives classes: leave them out."
        )
    _tell_thresholds(loaded.task)
    if isinstance(loaded.transform, VolumeTransform):
        refuse_reading_of_images(page, dicom_window)
        refuse_given(PredictionArguments, {"batch_size": batch_size}, "volumes come one by one")
        yield from predict_volumes(loaded, images, on_bad_image, output_dir, overlay, dicom_seg, skip_existing)
        return
    if dicom_seg:
        raise ArgumentError("`dicom_seg` is for models of volumes, but this one reads images: leave it out.")
    paths = find_images(images)
    masks = None
    if isinstance(loaded.task, Segmentation):
        values = LabelValues.of(loaded.trained_on, len(loaded.task.names))
        masks = MaskFiles(loaded.task, paths, output_dir, overlay, skip_existing, values)
        paths = masks.images
    reading = Reading.recorded(loaded.trained_on, page, dicom_window)
    notes: dict[str, Note] = {}
    if output_dir is not None and on_bad_image != "skip" and len(paths) > batch_size:
        for path in paths:  # before the first mask is written, which a repeated command would find there
            read_image(path, printable(path), reading)
    with Progress("predicting", len(paths), "image", shown=len(paths) > batch_size) as progress:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            yield from _predict_batch(loaded, masks, batch, on_bad_image, reading, notes)
            progress.advance(len(batch))
    log_notes(logger, notes, "those to predict")


def _tell_thresholds(task: Task) -> None:
    point = getattr(task, "operating_point", None)
    if point is not None:
        bounds = ", ".join(f"{name} from {value:.3g}" for name, value in point["thresholds"].items())
        logger.info("The model answers by its operating point: %s (rule %s).", bounds, point["rule"])


def find_images(names: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """Image files from files, folders and globs, in order and without repeats.

    A file that is named is taken as it is. Of folders and globs the images are (see `rd_hf.data.scanner.scan`).

    :param names: one, or several.
    :raises ArgumentError: for a name that matches no file, or a folder without images.
    """
    found: dict[str, Path] = {}
    for name in paths_of(names, "images"):
        path = Path(os.path.expanduser(name))
        if path.is_dir():
            matches = _images_of(path)
        elif path.is_file():
            matches = [path]
        else:
            matches = _images_of_glob(path)
        if not matches:
            hint = "" if path.is_dir() else f" ({nearest_name(path.absolute())})"
            raise ArgumentError(f"There is no image at {printable(name)}{hint}.")
        for file in matches:
            found.setdefault(os.path.abspath(file), file)
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


def _predict_batch(
    loaded: LoadedModel,
    masks: MaskFiles | None,
    paths: list[Path],
    on_bad_image: str,
    reading: Reading,
    notes: dict[str, Note],
) -> Iterator[dict[str, Any]]:
    """:param notes: where what is remarkable about each image is added."""
    pixels, sizes, pictures, rows, bad = {}, {}, {}, [], None
    for path in paths:
        try:
            image = read_image(path, printable(path), reading)
            pixels[path], sizes[path] = loaded.transform.geometry(image.rgb), (image.rgb.height, image.rgb.width)
            if masks is not None and masks.with_overlays:
                pictures[path] = image.rgb
            notes[printable(path)] = image.notes
            rows.append({"image": printable(path)})
        except BadImageError as error:
            if on_bad_image != "skip" and masks is not None:  # before a mask of this batch is written
                raise
            if on_bad_image != "skip":
                bad = error
                break
            rows.append({"image": printable(path), "error": str(error)})
    answers: Iterator[dict[str, Any]] = iter(())
    if pixels:
        with torch.no_grad():
            batch = loaded.transform.normalize(torch.stack([*pixels.values()]).to(loaded.model.device))
            logits = loaded.model(pixel_values=batch).logits.float()
        answers = iter(loaded.task.answers(logits.cpu()) if masks is None else masks.answers(sizes, logits, pictures))
    yield from (row if "error" in row else row | next(answers) for row in rows)
    if bad is not None:
        raise bad
