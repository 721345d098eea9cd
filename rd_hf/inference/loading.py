"""Loads a student, a reprogrammed teacher, any other image classifier, or an ONNX export, ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from ..arguments.values import ArgumentError
from ..cards.provenance import is_onnx, read_provenance
from ..data.pixels import PixelTransform, load_processor, whole_image_processor
from ..models.tape import input_channels
from ..tasks.classification import SingleLabel
from ..tasks.make import make_task
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .model_names import check_files, loading
from .onnx_runtime import MODEL_FILE, OnnxModel, is_onnx_folder


@dataclass
class LoadedModel:
    """A model ready to run, with its preprocessing and its task, which knows the classes.

    :param trained_on: what is recorded of the data that a student was trained on; empty for other models.
    """

    model: PreTrainedModel | OnnxModel
    transform: PixelTransform
    task: Task
    trained_on: dict[str, Any]


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
                f"`backbone` is for reprogrammed teachers only, but {model} has model_type {config.model_type}: leave "
                "it out."
            )
        check_files("backbone", backbone)
        options["backbone"] = backbone
    with loading("model", model):
        auto_class = AutoModelForSemanticSegmentation if is_segmenter(config) else AutoModelForImageClassification
        loaded = auto_class.from_pretrained(model, use_safetensors=True, **options).eval()
        names = [loaded.config.id2label[number] for number in range(loaded.config.num_labels)]
        shown = loaded.backbone if config.model_type == "rd_teacher" else loaded
        processor = load_processor(model, revision, trust_remote_code=trust_remote_code)
        channels = input_channels(shown)
        if is_segmenter(config):
            task, processor = Segmentation(names), whole_image_processor(processor, channels)
        else:
            task = make_task(loaded.config.problem_type or SingleLabel.problem_type, names)
        transform = PixelTransform(processor, channels)
    trained_on = read_provenance(loaded.config).get("dataset") or {}
    return LoadedModel(loaded.to(Accelerator().device), transform, task, trained_on)


def is_segmenter(config: PreTrainedConfig) -> bool:
    """Whether a saved model gives a class per pixel, by the name of the class that it was saved as."""
    return any(name.endswith("ForSemanticSegmentation") for name in config.architectures or [])


def _load_onnx(model: str, revision: str | None, path: Path, backbone: str | None) -> LoadedModel:
    if backbone is not None:
        raise ArgumentError(
            f"`backbone` is for reprogrammed teachers only, but {model} is an ONNX model: leave it out."
        )
    exported = OnnxModel(path).eval()
    transform = PixelTransform.from_pretrained(model, revision=revision)
    task = make_task(exported.problem_type, exported.label_names)
    return LoadedModel(exported, transform, task, exported.trained_on)
