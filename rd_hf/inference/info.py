"""`rd_hf.info`: what a model is, what it reads, how it decides, what it costs and how good it was, without any data."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BaseImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..arguments.values import ArgumentError
from ..cards.card import CARD_FILE, read_metadata
from ..cards.provenance import read_decisions, recorded_provenance
from ..data.pixels import load_processor
from ..data.volumes.transform import VolumeTransform
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..models.open_clip_tower import file_of
from ..models.timm_models import timm_config
from ..runtime.files import EXPORT_REPORT, RUN_CONFIG, RUN_METRICS
from ..scoring.metric import Metric
from ..students.cost import measure_cost, median_milliseconds
from ..students.kinds import CLASSES, MASKS
from ..tasks.make import make_task
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .classes import class_names, classifying
from .info_files import file_sizes, tensor_count
from .loading import GIVES_CLASSES, GIVES_MASKS, LoadedModel, is_segmenter, load_model, refuse_revision
from .model_names import loading, name_of_model
from .onnx_runtime import OnnxModel

OF_RUN = ("steps", "best_step", "seconds", "labelled_images", "unlabelled_images", "streamed_images", "targets")


def info(model: str | os.PathLike, *, revision: str | None = None, trust_remote_code: bool = False) -> dict[str, Any]:
    """Say what a model is. Its data is not read; a student runs on an image of zeros to be timed on the CPU.

    :param model: folder of a run, or Hub id or folder of a student, a reprogrammed teacher, a plain checkpoint or an
        ONNX export.
    :return: plain values, ready for JSON: `form` ("rd_hf", "transformers" or "onnx"), `model_type`, `task`, `labels`,
        `reads`, `image_size`, `preprocessing`, `operating_point`, `calibration_temperature`, `cost`, `made_from` (as
        in its config), `scores` by split (of a run also `teacher_scores` and `training`, of eight bits also
        `float32_scores`), and `files` in bytes. None or empty where there is nothing to say.
    :raises ArgumentError: for a run without a student, and a model that gives neither classes nor masks.
    """
    name, run = name_of_model(model), None
    refuse_revision(name, revision)
    if (Path(name) / RUN_CONFIG).is_file() and not (Path(name) / CONFIG_NAME).is_file():
        run = Path(name)
        name = str(run / "student")
        if not (run / "student" / CONFIG_NAME).is_file():
            raise ArgumentError(
                f"The run in {run} has no student yet. Continue it with `resume`, or write what there is with "
                f"`rd-hf report {run}`."
            )
    with loading("model", name):
        values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    _check_answers(name, values)
    is_teacher = values.get("model_type") == "rd_teacher"
    found = _of_teacher(name, revision, values) if is_teacher else _of_model(name, revision, values, trust_remote_code)
    metrics = found.pop("metrics")
    found = {"model": os.fspath(model), **found, "made_from": recorded_provenance(values)}
    if run is not None:
        return found | _of_run(run, metrics) | {"files": file_sizes(run)}
    folder = Path(name) if Path(name).is_dir() else Path(cached_file(name, CONFIG_NAME, revision=revision)).parent
    scores = _scores_of_folder(folder, file_of(name, CARD_FILE, revision), metrics)
    return found | scores | {"files": file_sizes(folder)}


def _check_answers(name: str, values: dict[str, Any]) -> None:
    """Refuse a model whose head would be made up when it is loaded, such as a foundation model."""
    classes = values.get("architectures") or []
    if classes and not any(answer in own for own in classes for answer in (GIVES_CLASSES, GIVES_MASKS)):
        raise ArgumentError(
            f"{name} is a {classes[0]}, which gives neither classes nor masks. Give a student, a reprogrammed teacher, "
            "an export, or another image classifier or segmenter."
        )


def _of_model(name: str, revision: str | None, values: dict[str, Any], trust_remote_code: bool) -> dict[str, Any]:
    loaded = load_model(name, revision=revision, trust_remote_code=trust_remote_code)
    is_onnx = isinstance(loaded.model, OnnxModel)
    size = loaded.transform.size or values["image_size"]  # the latter of a student of volumes without a window
    cost = _cost_of_onnx(name, revision, loaded, tuple(size)) if is_onnx else _cost(loaded, tuple(size))
    model_type = values.get("model_type")
    if model_type == "rd_student":
        model_type = values["classifier_config"]["model_type"]
    form = "onnx" if is_onnx else "rd_hf" if values.get("model_type") == "rd_student" else "transformers"
    return {
        "form": form,
        "model_type": model_type or loaded.model.config.model_type,
        **_of_task(loaded.task, loaded.transform.processor, size),
        **{name: read_decisions(values).get(name) for name in ("operating_point", "calibration_temperature")},
        "cost": cost | {"threads": torch.get_num_threads(), "per": _unit(loaded)},
    }


def _of_task(task: Task, processor: BaseImageProcessor, size: Sequence[int]) -> dict[str, Any]:
    preprocessing = json.loads(processor.to_json_string())
    return {
        "task": task.pipeline_tag,
        "problem_type": task.problem_type,
        "labels": list(task.names),
        "metrics": task.metrics,
        "reads": "volumes" if isinstance(processor, RDVolumeProcessor) else "images",
        "image_size": [int(side) for side in size],
        "preprocessing": {key: value for key, value in preprocessing.items() if value is not None},
    }


def _unit(loaded: LoadedModel) -> str:
    if not isinstance(loaded.transform, VolumeTransform):
        return "image"
    return "window" if isinstance(loaded.task, Segmentation) else "volume"


def _cost(loaded: LoadedModel, size: tuple[int, ...]) -> dict[str, Any]:
    model: PreTrainedModel = loaded.model.cpu().float()
    return vars(measure_cost(lambda pixels: model(pixel_values=pixels), model, size))


def _cost_of_onnx(name: str, revision: str | None, loaded: LoadedModel, size: tuple[int, ...]) -> dict[str, Any]:
    """Parameters and operations of the network that its config describes, and the time of the ONNX model itself."""
    pixels = torch.zeros(1, int(loaded.model.input_shape[1]), *size)
    own = median_milliseconds(lambda values: loaded.model(pixel_values=values), pixels)
    config = timm_config(name, revision) or AutoConfig.from_pretrained(name, revision=revision)
    kind = MASKS if is_segmenter(config) else CLASSES
    try:
        network = kind.auto_class.from_config(config).eval()
    except ImportError:  # of MONAI or timm, which an ONNX model runs without
        return {"parameters": None, "gflop": None, "milliseconds": own}
    counted = measure_cost(lambda pixels: network(pixel_values=pixels), network, size)
    return vars(counted) | {"milliseconds": own}


def _of_teacher(name: str, revision: str | None, values: dict[str, Any]) -> dict[str, Any]:
    """From config and headers alone: its foundation model may be large, and elsewhere."""
    with loading("model", name):
        config = AutoConfig.from_pretrained(name, revision=revision)
        processor = load_processor(name, revision)
    problem_type = Segmentation.problem_type if is_segmenter(config) else classifying(config)
    task = make_task(problem_type, class_names(config), isinstance(processor, RDVolumeProcessor))
    weights = tensor_count(Path(cached_file(name, SAFE_WEIGHTS_NAME, revision=revision)))
    return {
        "form": "rd_hf",
        "model_type": "rd_teacher",
        **_of_task(task, processor, config.teacher_image_size),
        "operating_point": None,
        "calibration_temperature": None,
        "foundation_model": values["backbone_source"],
        "cost": {"parameters": weights, "gflop": None, "milliseconds": None, "threads": None, "per": "image"},
    }


def _of_run(run: Path, metrics: tuple[Metric, ...]) -> dict[str, Any]:
    path = run / RUN_METRICS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    teacher = stored.get("teacher", {})
    training = stored.get("training", {})
    return {
        "scores": {split: _brief(stored[split], metrics) for split in ("validation", "test") if split in stored},
        "teacher_scores": {split: _brief(scores, metrics) for split, scores in teacher.items()},
        "training": {name: training[name] for name in OF_RUN if name in training},
    }


def _brief(scores: dict[str, Any], metrics: tuple[Metric, ...]) -> dict[str, Any]:
    """The value of each metric, and its interval."""
    names = [metric.name for metric in metrics if metric.name in scores]
    return {name: scores[name] for name in names} | {"intervals": {n: scores["intervals"].get(n) for n in names}}


def _scores_of_folder(folder: Path, card: Path | None, metrics: tuple[Metric, ...]) -> dict[str, Any]:
    """The card's results; those of an ONNX model in eight bits, and in float32, are in the report of its export."""
    report = folder / EXPORT_REPORT
    values = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    if values.get("precision") != "int8":
        return {"scores": _scores_of_card(card, metrics)}
    split = values["scored_on"].split()[-1]
    scores = {name: {split: own | {"intervals": {}}} for name, own in values["scores"].items()}
    return {"scores": scores["int8"], "float32_scores": scores["float32"]}


def _scores_of_card(path: Path | None, metrics: tuple[Metric, ...]) -> dict[str, Any]:
    """The results in a card's metadata, by split, under rd_hf's names of the metrics."""
    if path is None:
        return {}
    card = read_metadata(path)
    own = {metric.hub_name or metric.name: metric.name for metric in metrics}
    found: dict[str, Any] = {}
    for result in card.eval_results or []:
        split = found.setdefault(result.dataset_split or "test", {"intervals": {}})
        split[own.get(result.metric_type, result.metric_type)] = result.metric_value
    return found
