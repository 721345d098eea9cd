"""`rd_hf.evaluate`: a trained student or reprogrammed teacher on labelled images or volumes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ..arguments.commands import EvaluationArguments
from ..arguments.effects import refuse_given
from ..arguments.options import check_values
from ..arguments.values import ArgumentError, columns_of
from ..data.columns import OtherKindError
from ..data.decoding.reading import Reading
from ..data.image_data import mark_of_rows
from ..data.labels.labels import Uncertain
from ..data.masks.reading import MaskReading
from ..data.open_split import OpenSplit, Split
from ..data.pixels import Transforms
from ..data.sources import ImageData, load_data
from ..data.split_names import standard_split_name
from ..data.splits import complete_splits
from ..data.subgroups import check_subgroups
from ..data.volumes.store import tell_padded
from ..models.modeling_rd_teacher import RDTeacher
from ..runtime.files import check_is_new, write_predictions
from ..tasks.classification import Classification, SingleLabel
from ..tasks.segmentation import Segmentation
from .decisions import calibration_values, operating_point_values
from .finite import check_finite
from .loading import LoadedModel, ModelInHand, load_model
from .onnx_runtime import OnnxModel
from .page import check_page, write_evaluation
from .rows import predict_rows, scores_of_split
from .shared_slices import shared_slices
from .subgroups import scores_of_subgroups
from .volumes import refuse_reading_of_images

logger = logging.getLogger(__name__)


def evaluate(
    model: str | os.PathLike | ModelInHand | LoadedModel,
    dataset: Any,
    split: str = "test",
    *,
    revision: str | None = None,
    backbone: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    mask_column: str | None = None,
    mask_colors: Mapping[str, str] | None = None,
    uncertain: Uncertain | None = None,
    batch_size: int = 64,
    on_bad_image: str = "error",
    page: int | None = None,
    dicom_window: str | None = None,
    predictions: str | None = None,
    calibrated: bool = False,
    group_column: str | None = None,
    subgroup_column: str | Sequence[str] | None = None,
    report: str | None = None,
    report_images: bool = True,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Score a model on one split of labelled images or volumes.

    A split that the data does not have, but that was made from the same data when the model was trained, is made again.

    :param model: Hub id or folder, or the model in hand: what `load_model` takes, or gives.
    :param dataset: Hub id, folder, file, or a `datasets.DatasetDict` in memory, as in `distill`.
    :param revision: branch, tag or commit of a model on the Hub.
    :param backbone: the foundation model's folder, for a reprogrammed teacher made from a local one.
    :param dataset_config_name: configuration of a data set on the Hub.
    :param dataset_revision: branch, tag or commit of a data set on the Hub.
    :param image_column: column of images or volumes, if it cannot be found automatically.
    :param label_column: column of labels, or several 0/1 columns, if they cannot be found automatically.
    :param mask_column: column of masks, if it cannot be found automatically.
    :param mask_colors: the class of each colour of masks; by default as in the model's training.
    :param uncertain: how -1 is read in columns of 0 and 1; by default as in the model's training.
    :param on_bad_image: "error" or "skip" for unreadable images.
    :param page: page or frame to read of files that have several; by default the one that the model was trained with.
    :param dicom_window: see `rd_hf.data.decoding.reading.Reading`; by default the one that the model was trained with.
    :param batch_size: images per forward pass; volumes come one by one.
    :param predictions: CSV file for the probabilities of every row.
    :param calibrated: whether probabilities are calibrated by the model's temperature.
    :param group_column: column of groups, such as patients, whose images resamples of intervals draw together; by
        default that of the model's training, where every row has it.
    :param subgroup_column: column, or columns: scores for each of its values go under `subgroups`.
    :param report: HTML file for a page of the results, with curves and images.
    :param report_images: whether that page shows images, which may be of patients, and file names.
    :param trust_remote_code: whether code in the model's repository may run.
    :return: the metrics of `rd_hf.scoring.metrics.compute_metrics`; rows skipped as unreadable under `skipped_rows`.
        Under `operating_point`, where the model has one, what it comes to on the split, and under `calibration`, with
        `calibrated`, the calibration errors before and after: as in a run's metrics.json.
    :raises ArgumentError: when the split is missing, the data's labels are not the model's, or a file to write exists.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    :raises OutputError: where the model's output for an image is NaN or infinite.
    """
    check_values(
        EvaluationArguments("", "", split, batch_size=batch_size, on_bad_image=on_bad_image, uncertain=uncertain)
    )
    report, predictions = (None if path is None else os.path.expanduser(path) for path in (report, predictions))
    check_page(report)
    check_is_new(predictions, "predictions")
    if None not in (report, predictions) and os.path.realpath(report) == os.path.realpath(predictions):
        raise ArgumentError(f"`report` and `predictions` are both {report}, which holds one of them: name two files.")
    if report is None:
        refuse_given(EvaluationArguments, {"report_images": report_images}, "no `report` is written")
    split = standard_split_name(split) or split
    loaded = load_model(model, revision=revision, backbone=backbone, trust_remote_code=trust_remote_code)
    loaded = loaded.calibrated() if calibrated else loaded
    if loaded.volumes is not None:
        refuse_reading_of_images(page, dicom_window)
        refuse_given(EvaluationArguments, {"batch_size": batch_size}, "volumes come one by one")
    reading = Reading.recorded(loaded.trained_on, page, dicom_window)
    names = {"image_column": image_column, "label_column": label_column, "uncertain": uncertain}
    names |= {"mask_column": mask_column, "mask_colors": mask_colors}
    columns = columns_of(subgroup_column)
    names |= {"group_column": group_column, "subgroup_columns": columns}
    data = load_splits(loaded, dataset, split, dataset_config_name, dataset_revision, **names)
    check_subgroups(data.splits[split], columns, split)
    opened = open_split(loaded, data, split, on_bad_image, reading)
    rows = split_rows(loaded, opened, batch_size)
    if predictions is not None:
        table = loaded.task.table(rows)
        write_predictions(Path(predictions), opened.rows, loaded.task.columns(), table, opened.files())
    scores = _all_scores(loaded, split, opened, rows, calibrated, columns)
    if report is not None:
        write_evaluation(Path(report), loaded, data.source, opened, rows, scores, report_images)
    return scores | ({"skipped_rows": sorted(opened.skipped)} if opened.skipped else {})


def _all_scores(
    loaded: LoadedModel, split: str, opened: OpenSplit, rows: np.ndarray, calibrated: bool, columns: Sequence[str]
) -> dict[str, Any]:
    """The scores of a split, and what the model's decisions and subgroups come to there; see `evaluate`."""
    scores = scores_of_split(loaded.task, rows, opened)
    if isinstance(loaded.task, Classification) and loaded.task.operating_point is not None:
        scores["operating_point"] = operating_point_values(loaded.task, {split: rows})
    if calibrated:
        scores["calibration"] = calibration_values(loaded.task, loaded.temperature, {split: rows})
    if columns:
        scores["subgroups"] = scores_of_subgroups(loaded.task, rows, opened, columns)
    return scores


def load_splits(
    loaded: LoadedModel,
    dataset: Any,
    split: str,
    config_name: str | None = None,
    revision: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    mask_column: str | None = None,
    mask_colors: Mapping[str, str] | None = None,
    uncertain: Uncertain | None = None,
    group_column: str | None = None,
    subgroup_columns: Sequence[str] = (),
) -> ImageData:
    """Load the labelled images to run a model on, with their labels matched to the model's.

    :param split: an existing split; one that was made from train for the model's training is made again.
    :param mask_colors: the class of each colour of masks; by default as in the model's training.
    :param uncertain: how -1 is read in columns of 0 and 1; by default as in the model's training.
    :param group_column: column of groups; by default that of the model's training, where every row has it.
    :param subgroup_columns: columns whose values are kept.
    :raises ArgumentError: when it is missing or has no labels, for columns that the model's task does not have, and for
        data of a kind that the model does not read.
    """
    has_masks = isinstance(loaded.task, Segmentation)
    of_masks = {"mask_column": mask_column, "mask_colors": mask_colors}
    of_classes = {"label_column": label_column, "uncertain": uncertain}
    why = f"the model gives {'masks' if has_masks else 'classes'}"
    refuse_given(EvaluationArguments, of_classes if has_masks else of_masks, why)
    masks = MaskReading.from_dict(loaded.trained_on["masks"]) if "masks" in loaded.trained_on else None
    made = loaded.trained_on.get("made_splits", {"names": []})
    try:
        data = load_data(
            dataset,
            config_name=config_name,
            revision=revision,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            recorded_groups=loaded.trained_on.get("group_column", made.get("group_column")),
            made_again=split if split in made["names"] else None,
            subgroup_columns=subgroup_columns,
            label_names=loaded.task.names,
            label_kind="single" if isinstance(loaded.task, SingleLabel) else "multi",
            uncertain=uncertain or loaded.trained_on.get("uncertain"),
            scored=[split],
            task="segmentation" if has_masks else "classification",
            mask_column=mask_column,
            mask_colors=mask_colors,
            masks=masks,
            dimensions=2 if loaded.volumes is None else 3,
            volumes=loaded.volumes,
        )
    except OtherKindError as error:  # its way out names arguments of a training
        kind = "images" if loaded.volumes is None else "volumes"
        labels = "masks" if has_masks else "classes"
        raise ArgumentError(f"{error.found}. The model reads {kind} with {labels}.") from error
    return _with_split(loaded, data, split, uncertain, group_column)


def _with_split(
    loaded: LoadedModel, data: ImageData, split: str, uncertain: Uncertain | None, group_column: str | None
) -> ImageData:
    """The data with a split that was made from train for the model's training, if the data has none.

    :raises ArgumentError: when the split is missing or has no labels.
    """
    recipe = loaded.trained_on.get("made_splits", {"names": []})
    if split not in data.splits and split in recipe["names"]:
        _check_made_again(loaded, data, split, uncertain, group_column)
        fractions = recipe["validation_fraction"], recipe["test_fraction"]
        data = complete_splits(data, loaded.task.marks, *fractions, recipe["seed"])
        if recipe.get("rows", {}).get(split, mark := mark_of_rows(data.splits[split])) != mark:
            raise ArgumentError(
                f"Split `{split}` was made from the model's training data, but this version of rd_hf makes another one "
                "of them, with images that the model was trained on. Score the model with the version that trained it."
            )
    elif split == "train" and recipe["names"] and not set(recipe["names"]) & set(data.splits):
        made = " and ".join(recipe["names"])
        logger.info("`train` is all %d rows, of which %s were made for the training.", len(data.splits[split]), made)
    if split in data.without_labels and split not in data.splits:
        raise ArgumentError(
            f"Split `{split}` has no labels, so it cannot be scored. `rd-hf predict` answers images without labels."
        )
    if split not in data.splits:
        others = [f"{name} (as made for training)" for name in recipe["names"] if name not in data.splits]
        raise ArgumentError(f"The data has no split `{split}`. Its splits are {', '.join([*data.splits, *others])}.")
    return data


def _check_made_again(
    loaded: LoadedModel, data: ImageData, split: str, uncertain: Uncertain | None, group_column: str | None
) -> None:
    """:raises ArgumentError: where the data, or how it is read, is not that of the model's training."""
    of_training = loaded.trained_on["made_splits"].get("group_column")
    if group_column is not None and group_column != of_training:
        how = "no groups" if of_training is None else f"the groups of {of_training}"
        raise ArgumentError(
            f"Split `{split}` was made from the model's training data with {how}, and cannot be made again with those "
            f"of `group_column` {group_column}: leave it out."
        )
    trained, splits = loaded.trained_on.get("uncertain"), ", ".join(data.splits)
    if uncertain is not None and uncertain != trained:
        raise ArgumentError(
            f"Split `{split}` was made from the model's training data, whose labels were read with uncertain = "
            f"{trained}; it cannot be made again with {uncertain}. Leave `uncertain` out, or choose one of the splits "
            f"{splits}."
        )
    if data.source["fingerprint"] != loaded.trained_on["fingerprint"]:
        raise ArgumentError(
            f"The data has no split `{split}`. That split was made from the model's training data, and this is other "
            f"data: choose one of the splits {splits}."
        )


def open_split(
    loaded: LoadedModel, data: ImageData, split: str, on_bad_image: str = "error", reading: Reading | None = None
) -> OpenSplit:
    """Decode the images or volumes of one split.

    :param reading: by default the one that the model was trained with.
    :raises ArgumentError: when it is missing or has no readable image.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    if split not in data.splits:
        raise ArgumentError(f"The data has no split `{split}`. Its splits are {', '.join(data.splits)}.")
    found = Split.of(data, split)
    reading = reading or Reading.recorded(loaded.trained_on)
    opened = found.opened(Transforms(loaded.transform), on_bad_image, reading)
    if data.volumes is not None:
        tell_padded([opened.store])
    return opened


def split_rows(
    loaded: LoadedModel,
    split: OpenSplit,
    batch_size: int,
    model: PreTrainedModel | OnnxModel | None = None,
) -> np.ndarray:
    """What the model's task keeps of its answers on a split, from which all scores are made.

    :param model: in place of the loaded one, with the same preprocessing and classes.
    :raises OutputError: where the model's output for an image is NaN or infinite.
    """
    model = loaded.model if model is None else model
    with shared_slices(model.reader()) if isinstance(model, RDTeacher) else nullcontext():
        rows = predict_rows(
            lambda pixels: model(pixel_values=pixels).logits,
            loaded.task.full_row, model, split, batch_size, Accelerator(),
        )  # fmt: skip
    if not np.isfinite(rows).all():
        check_finite(torch.from_numpy(rows), split.files() or [f"row {row} of {split.name}" for row in split.rows])
    return rows
