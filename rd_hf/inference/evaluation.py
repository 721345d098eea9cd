"""`rd_hf.evaluate` and `rd_hf.predict`: a trained student or reprogrammed teacher on labelled or other images."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel
from transformers.utils import cached_file

from ..arguments.values import ArgumentError
from ..cards.provenance import is_onnx, provenance_of
from ..data.columns import nearest_name
from ..data.folders import IMAGE_SUFFIXES
from ..data.images import BadImageError, to_rgb
from ..data.pixel_store import PixelStore, check_images
from ..data.pixels import PixelTransform
from ..data.sources import ImageData, load_data
from ..data.split_names import standard_split_name
from ..data.splits import complete_splits
from ..scoring.metrics import compute_metrics
from ..training.run_folder import write_predictions
from .model_names import loading
from .onnx_runtime import MODEL_FILE, OnnxClassifier, is_onnx_folder
from .rows import predict_logits, probabilities

logger = logging.getLogger(__name__)


@dataclass
class LoadedModel:
    """A classifier ready to run, with its preprocessing and its class names in order.

    :param trained_on: what is recorded of the data that a student was trained on; empty for other models.
    """

    model: PreTrainedModel | OnnxClassifier
    transform: PixelTransform
    label_names: list[str]
    problem_type: str
    trained_on: dict[str, Any]


@dataclass
class OpenSplit:
    """A labelled split whose images are decoded; `labels` are those of `rows`, the ones that could be read."""

    name: str
    store: PixelStore
    rows: list[int]
    labels: np.ndarray
    skipped: list[int]


def load_model(
    model: str, revision: str | None = None, backbone: str | None = None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load a student, a reprogrammed teacher or any other image classifier, in eval mode on this machine's device.

    :param model: Hub id or folder; those of an exported ONNX model too, which runs on the CPU.
    :param backbone: the foundation model's folder, for a teacher made from a local one.
    """
    import rd_hf  # noqa: F401  (registers the models with the Auto classes)

    if is_onnx_folder(model):
        return _load_onnx(model, None, Path(model) / MODEL_FILE, backbone)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    with loading("model", model):
        config = AutoConfig.from_pretrained(model, **options)
        if is_onnx(config):
            return _load_onnx(model, revision, Path(cached_file(model, MODEL_FILE, revision=revision)), backbone)
    if backbone is not None:
        if config.model_type != "rd_teacher":
            raise ArgumentError(
                f"`backbone` is for reprogrammed teachers; {model} is of model_type {config.model_type}."
            )
        options["backbone"] = backbone
    loaded = AutoModelForImageClassification.from_pretrained(model, use_safetensors=True, **options).eval()
    names = [loaded.config.id2label[number] for number in range(loaded.config.num_labels)]
    problem_type = loaded.config.problem_type or "single_label_classification"
    transform = PixelTransform.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    trained_on = provenance_of(loaded.config).get("dataset") or {}
    return LoadedModel(loaded.to(Accelerator().device), transform, names, problem_type, trained_on)


def _load_onnx(model: str, revision: str | None, path: Path, backbone: str | None) -> LoadedModel:
    if backbone is not None:
        raise ArgumentError(f"`backbone` is for reprogrammed teachers; {model} is an ONNX model.")
    exported = OnnxClassifier(path).eval()
    transform = PixelTransform.from_pretrained(model, revision=revision)
    return LoadedModel(exported, transform, exported.label_names, exported.problem_type, exported.trained_on)


def evaluate(
    model: str,
    dataset: Any,
    split: str = "test",
    *,
    revision: str | None = None,
    backbone: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    batch_size: int = 64,
    on_bad_image: str = "error",
    predictions: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Score a model on one split of labelled images.

    A split that the data does not have, but that was made from the same data when the model was trained, is made again.

    :param predictions: CSV file for the probabilities of every row.
    :return: the metrics of `rd_hf.scoring.metrics.compute_metrics`; rows skipped as unreadable under `skipped_rows`.
    :raises ArgumentError: when the split is missing, or the data's labels are not the model's.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    split = standard_split_name(split) or split
    loaded = load_model(model, revision, backbone, trust_remote_code)
    names = {"image_column": image_column, "label_column": label_column}
    data = load_splits(loaded, dataset, split, dataset_config_name, dataset_revision, **names)
    opened = open_split(loaded, data, split, on_bad_image)
    scores, predicted = score(loaded, opened, batch_size)
    if predictions is not None:
        multi_label = loaded.problem_type == "multi_label_classification"
        path = Path(predictions)
        write_predictions(path, opened.rows, opened.labels, predicted, loaded.label_names, multi_label)
    return scores | ({"skipped_rows": opened.skipped} if opened.skipped else {})


def load_splits(
    loaded: LoadedModel,
    dataset: Any,
    split: str,
    config_name: str | None = None,
    revision: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
) -> ImageData:
    """Load the labelled images that a model is to be run on, their labels matched with the model's.

    :param split: has to be there; where it was made from train when the model was trained, it is made again.
    :raises ArgumentError: when it is missing.
    """
    recipe = loaded.trained_on.get("made_splits", {"names": []})
    made = recipe if split in recipe["names"] else {}
    data = load_data(
        dataset,
        config_name=config_name,
        revision=revision,
        image_column=image_column,
        label_column=label_column,
        group_column=made.get("group_column"),
        label_names=loaded.label_names,
    )
    if split not in data.splits and made:
        if data.source["fingerprint"] != loaded.trained_on["fingerprint"]:
            raise ArgumentError(
                f"The data has no split `{split}`. The model's own was made from its training data, and this is "
                f"not the same: name one of the splits {', '.join(data.splits)}."
            )
        data = complete_splits(data, made["validation_fraction"], made["test_fraction"], made["seed"])
    if split not in data.splits:
        others = [f"{name} (as made for the training)" for name in recipe["names"] if name not in data.splits]
        raise ArgumentError(f"The data has no split `{split}`. There are: {', '.join([*data.splits, *others])}.")
    return data


def open_split(loaded: LoadedModel, data: ImageData, split: str, on_bad_image: str = "error") -> OpenSplit:
    """Decode the images of one split.

    :raises ArgumentError: when it is missing or has no readable image.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    if split not in data.splits:
        raise ArgumentError(f"The data has no split `{split}`. There are: {', '.join(data.splits)}.")
    rows = data.splits[split]
    store = PixelStore(rows, [loaded.transform], split)
    skipped = check_images(store, range(len(rows)), on_bad_image)
    kept = [row for row in range(len(rows)) if row not in skipped]
    if not kept:
        raise ArgumentError(f"Split `{split}` has no readable image.")
    return OpenSplit(split, store, kept, data.labels(split)[kept], sorted(skipped))


def score(
    loaded: LoadedModel,
    split: OpenSplit,
    batch_size: int,
    model: PreTrainedModel | OnnxClassifier | None = None,
    bootstrap_samples: int = 1000,
) -> tuple[dict[str, Any], np.ndarray]:
    """Metrics and probabilities (N, K) of a model on a split.

    :param model: in place of the loaded one, with the same preprocessing and classes.
    """
    model = loaded.model if model is None else model
    logits = predict_logits(
        lambda pixels: model(pixel_values=pixels).logits, model, split.store, batch_size, Accelerator(), rows=split.rows
    )
    predicted = probabilities(logits, loaded.problem_type)
    scores = compute_metrics(
        predicted, split.labels, loaded.label_names, loaded.problem_type, bootstrap_samples=bootstrap_samples
    )
    return scores, predicted


def predict(
    model: str,
    images: Iterable[str],
    *,
    revision: str | None = None,
    backbone: str | None = None,
    batch_size: int = 64,
    on_bad_image: str = "error",
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Classify images.

    :param images: files, folders (searched for image files, deep) and globs.
    :return: one dict an image: `image` (its path), `label` (multi-label: `labels`, those at 0.5 or above) and
        `probabilities` by class name; for a skipped one `image` and `error`.
    :raises ArgumentError: when a name matches nothing.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    paths = find_images(images)
    loaded = load_model(model, revision, backbone, trust_remote_code)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), batch_size):
        rows += _predict_batch(loaded, paths[start : start + batch_size], on_bad_image)
    return rows


def find_images(names: Iterable[str]) -> list[Path]:
    """Image files from files, folders and globs, in order and without repeats.

    :raises ArgumentError: for a name that matches no file, or a folder without images.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not matches:
            hint = "" if path.is_dir() else f" ({nearest_name(path.absolute())})"
            raise ArgumentError(f"There is no image at {name}{hint}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def prediction_table(rows: list[dict[str, Any]], top_k: int) -> str:
    """Predictions as aligned text: the image, then its `top_k` likeliest classes."""
    width = max(len(row["image"]) for row in rows)
    lines = []
    for row in rows:
        if "error" in row:
            lines.append(f"{row['image']:{width}}  not read: {row['error']}")
            continue
        ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:top_k]
        lines.append(f"{row['image']:{width}}  " + "  ".join(f"{name} {value:.3f}" for name, value in ranked))
    return "\n".join(lines)


def _predict_batch(loaded: LoadedModel, paths: list[Path], on_bad_image: str) -> list[dict[str, Any]]:
    pixels, rows = [], []
    for path in paths:
        try:
            pixels.append(loaded.transform.geometry(to_rgb(str(path), name=str(path))))
            rows.append({"image": str(path)})
        except BadImageError as error:
            if on_bad_image != "skip":
                raise
            rows.append({"image": str(path), "error": str(error)})
    if not pixels:
        return rows
    with torch.no_grad():
        batch = loaded.transform.normalize(torch.stack(pixels).to(loaded.model.device))
        values = probabilities(loaded.model(pixel_values=batch).logits.float().cpu().numpy(), loaded.problem_type)
    good = iter(values.tolist())
    return [row if "error" in row else row | _answer(loaded, next(good)) for row in rows]


def _answer(loaded: LoadedModel, values: list[float]) -> dict[str, Any]:
    by_name = dict(zip(loaded.label_names, values, strict=True))
    if loaded.problem_type == "multi_label_classification":
        return {"labels": [name for name, value in by_name.items() if value >= 0.5], "probabilities": by_name}
    return {"label": max(by_name, key=by_name.get), "probabilities": by_name}
