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
from ..arguments.values import ArgumentError
from ..data.decoding.image_notes import Note, log_notes
from ..data.decoding.images import BadImageError, read_image
from ..data.decoding.reading import Reading
from ..data.volumes.transform import VolumeTransform
from ..runtime.progress import Progress
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .finite import check_finite
from .images import ImageInHand, InMemory, Named, called, images_given
from .label_values import LabelValues
from .loading import LoadedModel, ModelInHand, load_model
from .mask_files import MaskFiles
from .volume_prediction import predict_volumes
from .volumes import refuse_reading_of_images

logger = logging.getLogger(__name__)


def predict(
    model: str | os.PathLike | ModelInHand | LoadedModel,
    images: Named | InMemory | Iterable[Named | InMemory],
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

    :param model: Hub id or folder, or the model in hand: what `load_model` takes, or gives.
    :param images: files, folders (searched for image files, deep) and globs; one, or several. Or Pillow images or
        arrays (H, W), (H, W, 3) or (H, W, 4) in memory; arrays of other values than bytes are stretched to 0..255. For
        a model of volumes NIfTI files and DICOM series; a folder, or any of its slices, stands for a series. Or images
        of nibabel in memory.
    :param revision: branch, tag or commit of a model on the Hub.
    :param backbone: the foundation model's folder, for a reprogrammed teacher made from a local one.
    :param on_bad_image: "error" stops at an unreadable image, "skip" answers it with the reason.
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
    :param trust_remote_code: whether code in the model's repository may run.
    :return: one dict per image, of files one per file: `image` (its path, or its position among images in memory),
        `label` (multi-label: `labels`, those at 0.5 or above) and `probabilities` by class name; where the model has an
        operating point, its thresholds decide the former. Of a segmenter `mask` (the file, which holds the label values
        of the training, or without `output_dir` an array (H, W), or (X, Y, Z) of a volume, of class indices), `pixels`
        per class name, or `voxels` and `millilitres`, and perhaps `overlay` and `dicom_seg`; for a skipped one `image`
        and `error`.
    :raises ArgumentError: when a name matches nothing, or a mask's file exists.
    :raises ModelNameError: when the model cannot be loaded.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    :raises OutputError: where the model's output for an image is NaN or infinite.
    """
    options = {"page": page, "dicom_window": dicom_window, "overlay": overlay, "dicom_seg": dicom_seg}
    options |= {"calibrated": calibrated, "skip_existing": skip_existing}
    check_values(PredictionArguments("", [], batch_size=batch_size, on_bad_image=on_bad_image, **options))
    loaded = load_model(model, revision=revision, backbone=backbone, trust_remote_code=trust_remote_code)
    return list(predict_loaded(loaded, images, batch_size, on_bad_image, output_dir, **options))


def predict_loaded(
    loaded: LoadedModel,
    images: Named | InMemory | Iterable[Named | InMemory],
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
    given = images_given(images)
    if any(isinstance(image, ImageInHand) for image in given):
        why = "the images are in memory"
        refuse_given(PredictionArguments, {"page": page, "dicom_window": dicom_window}, why)
    masks = None
    if isinstance(loaded.task, Segmentation):
        values = LabelValues.of(loaded.trained_on, len(loaded.task.names))
        masks = MaskFiles(loaded.task, given, output_dir, overlay, skip_existing, values)
        given = masks.images
    reading = Reading.recorded(loaded.trained_on, page, dicom_window)
    notes: dict[str, Note] = {}
    if output_dir is not None and on_bad_image != "skip" and len(given) > batch_size:
        for image in given:  # before the first mask is written, which a repeated command would find there
            read_image(image, called(image), reading)
    with Progress("predicting", len(given), "image", shown=len(given) > batch_size) as progress:
        for start in range(0, len(given), batch_size):
            batch = given[start : start + batch_size]
            yield from _predict_batch(loaded, masks, batch, on_bad_image, reading, notes)
            progress.advance(len(batch))
    log_notes(logger, notes, "those to predict")


def _tell_thresholds(task: Task) -> None:
    point = getattr(task, "operating_point", None)
    if point is not None:
        bounds = ", ".join(f"{name} from {value:.3g}" for name, value in point["thresholds"].items())
        logger.info("The model answers by its operating point: %s (rule %s).", bounds, point["rule"])


def _predict_batch(
    loaded: LoadedModel,
    masks: MaskFiles | None,
    given: list[Path | ImageInHand],
    on_bad_image: str,
    reading: Reading,
    notes: dict[str, Note],
) -> Iterator[dict[str, Any]]:
    """:param notes: where what is remarkable about each image is added."""
    pixels, sizes, pictures, rows, bad = {}, {}, {}, [], None
    for each in given:
        in_hand = isinstance(each, ImageInHand)
        name = called(each)
        row: dict[str, Any] = {"image": each.position if in_hand else name}
        try:
            image = read_image(each.image if in_hand else each, name, reading)
            pixels[each], sizes[each] = loaded.transform.geometry(image.rgb), (image.rgb.height, image.rgb.width)
            if masks is not None and masks.with_overlays:
                pictures[each] = image.rgb
            notes[name] = image.notes
            rows.append(row)
        except BadImageError as error:
            if on_bad_image != "skip" and masks is not None:  # before a mask of this batch is written
                raise
            if on_bad_image != "skip":
                bad = error
                break
            rows.append(row | {"error": str(error)})
    answers: Iterator[dict[str, Any]] = iter(())
    if pixels:
        with torch.no_grad():
            batch = loaded.transform.normalize(torch.stack([*pixels.values()]).to(loaded.model.device))
            logits = loaded.model(pixel_values=batch).logits.float()
        check_finite(logits, list(map(called, pixels)))
        answers = iter(loaded.task.answers(logits.cpu()) if masks is None else masks.answers(sizes, logits, pictures))
    yield from (row if "error" in row else row | next(answers) for row in rows)
    if bad is not None:
        raise bad
