"""Loads a student, a reprogrammed teacher, any other model of images or volumes, or an ONNX export, ready to run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from ..arguments.commands import EvaluationArguments, InfoArguments
from ..arguments.effects import refuse_given
from ..arguments.values import ArgumentError
from ..cards.provenance import is_onnx, read_decisions, read_provenance
from ..data.pixels import PixelTransform, load_processor, whole_image_processor
from ..data.timm_processor import savable
from ..data.volumes.transform import VolumeTransform
from ..data.volumes.volume import VolumeReading
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..models.modeling_rd_teacher import RDTeacher
from ..models.tape import input_channels
from ..models.timm_models import timm_config
from ..models.tower_loading import repo_as_it_is
from ..tasks.make import make_task
from ..tasks.segmentation import Segmentation
from ..tasks.task import Task
from .classes import class_names, classifying, distinct
from .decisions import with_decisions
from .model_names import check_backbone, check_pair, loading, name_of_model, naming
from .onnx_runtime import MODEL_FILE, OnnxModel, is_onnx_folder

GIVES_MASKS, GIVES_CLASSES = "ForSemanticSegmentation", "ForImageClassification"  # in names of classes

ModelInHand = tuple[PreTrainedModel, BaseImageProcessor]


@dataclass
class LoadedModel:
    """A model ready to run, with its preprocessing and its task, which knows the classes; `load_model` makes it.

    :param name: what messages and pages call it.
    :param task: decides at the model's operating point, where it has one.
    :param trained_on: what is recorded of the data that a student was trained on; empty for other models.
    :param temperature: that `calibrated` divides logits by; None for a model that stores none.
    """

    name: str
    model: PreTrainedModel | OnnxModel
    transform: PixelTransform | VolumeTransform
    task: Task
    trained_on: dict[str, Any]
    temperature: float | None = None

    def calibrated(self) -> LoadedModel:
        """The same model with calibrated probabilities.

        :raises ArgumentError: when it has no temperature.
        """
        if self.temperature is None:
            raise ArgumentError(
                "The model has no calibration temperature, which is found on validation when a run of rd_hf writes its "
                "report: leave `calibrated` out."
            )
        return replace(self, task=replace(self.task, temperature=self.temperature))

    @property
    def volumes(self) -> VolumeReading | None:
        """How volumes are read: as in the model's training, or else with channels on the last of four axes.

        None for a model of images.
        """
        if not isinstance(self.transform, VolumeTransform):
            return None
        if "volumes" in self.trained_on:
            return VolumeReading.from_dict(self.trained_on["volumes"])
        channels = self.transform.channels
        return VolumeReading(channels, channel_axis=channels > 1)


def load_model(
    model: str | os.PathLike | ModelInHand | LoadedModel,
    *,
    revision: str | None = None,
    backbone: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a student, a reprogrammed teacher or any other model, in eval mode on this machine's device.

    `predict` and `evaluate` take the result in place of a name, so that a model is loaded once. Its image processor
    says whether it reads images or volumes.

    :param model: Hub id or folder; those of an exported ONNX model too, which runs on the CPU. Or a pair of a model in
        float32 and its image processor, such as those that `from_pretrained` gives: the model itself is put into eval
        mode and on this machine's device. A loaded model is returned as it is.
    :param revision: branch, tag or commit of a model on the Hub.
    :param backbone: the foundation model's folder, for a teacher made from a local one.
    :param trust_remote_code: whether code in the model's repository may run.
    :raises ArgumentError: for a reprogrammed teacher that does not answer from its own pixels alone, and for a model
        without its image processor.
    :raises ModelNameError: when nothing can be loaded under the name.
    """
    import rd_hf  # noqa: F401  (registers the models with the Auto classes)

    if isinstance(model, (LoadedModel, tuple, list)):
        given = {"revision": revision, "backbone": backbone, "trust_remote_code": trust_remote_code}
        refuse_given(EvaluationArguments, given, "the model is in hand")
        return model if isinstance(model, LoadedModel) else _of_pair(*check_pair("model", model))
    name = name_of_model(model, or_else=" Or give a pair of the model and its image processor.")
    return _load_named(name, revision, backbone, trust_remote_code)


def _load_named(model: str, revision: str | None, backbone: str | None, trust_remote_code: bool) -> LoadedModel:
    backbone = None if backbone is None else name_of_model(backbone, "backbone")
    refuse_revision(model, revision)
    if (Path(model) / MODEL_FILE).is_file():
        with loading("model", model):
            values, _ = PreTrainedConfig.get_config_dict(model)
        if is_onnx_folder(Path(model), values):
            return _load_onnx(model, None, Path(model) / MODEL_FILE, backbone)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    with loading("model", model):
        stated = timm_config(model, revision)
        config = stated or AutoConfig.from_pretrained(model, **options)
        if is_onnx(config):
            return _load_onnx(model, revision, Path(cached_file(model, MODEL_FILE, revision=revision)), backbone)
    if backbone is not None:
        if config.model_type != "rd_teacher":
            raise ArgumentError(
                f"`backbone` is for reprogrammed teachers only, but {model} has model_type {config.model_type}: leave "
                "it out."
            )
        check_backbone(backbone)
        options["backbone"] = backbone
    with loading("model", model):
        auto_class = AutoModelForSemanticSegmentation if is_segmenter(config) else AutoModelForImageClassification
        if stated is not None:
            options["config"] = stated
        with repo_as_it_is():
            loaded, report = auto_class.from_pretrained(
                model, use_safetensors=True, output_loading_info=True, **options
            )
        if config.model_type != "rd_teacher":  # which is in two places, and casts what its own parts read
            _check_is_whole(model, loaded, report["missing_keys"])
            loaded = loaded.float()  # transformers keeps the precision of a checkpoint, and pixels are float32
        processor = load_processor(model, revision, trust_remote_code=trust_remote_code)
        return _ready(model, loaded, processor, is_segmenter(config))


def _of_pair(model: PreTrainedModel, processor: BaseImageProcessor | None) -> LoadedModel:
    kind = type(model).__name__
    if GIVES_MASKS not in kind and GIVES_CLASSES not in kind:
        raise ArgumentError(
            f"The model is a {kind}, which gives neither classes nor masks: give a student, a reprogrammed teacher, or "
            "another image classifier or segmenter of transformers."
        )
    if not isinstance(processor, BaseImageProcessor):
        has = (
            "no image processor" if processor is None else f"a {type(processor).__name__}, which is no image processor"
        )
        raise ArgumentError(
            f"The model, a {kind}, has {has}: give it beside the model, such as AutoImageProcessor."
            "from_pretrained(its folder)."
        )
    if model.dtype != torch.float32 and not isinstance(model, RDTeacher):
        raise ArgumentError(f"The model, a {kind}, is in {model.dtype}, but pixels are in float32: give model.float().")
    with naming("model", kind):  # it may differ from what its folder holds
        return _ready(kind, model, savable(processor), GIVES_MASKS in kind)


def _ready(name: str, model: PreTrainedModel, processor: BaseImageProcessor, has_masks: bool) -> LoadedModel:
    """A model with its weights, put into eval mode and on this machine's device."""
    model.eval()
    is_teacher = isinstance(model, RDTeacher)
    of_volumes = isinstance(processor, RDVolumeProcessor)
    if of_volumes:
        transform = VolumeTransform(processor)
    else:
        channels = input_channels(model.backbone if is_teacher else model)
        processor = whole_image_processor(processor, channels) if has_masks else processor
        transform = PixelTransform(processor, channels)
    problem_type = Segmentation.problem_type if has_masks else classifying(model.config)
    task = make_task(problem_type, class_names(model.config), of_volumes)
    decisions = read_decisions(model.config.to_dict())
    task = with_decisions(task, decisions)
    if is_teacher:
        _check_runs_alone(name, model)
    trained_on = read_provenance(model.config).get("dataset") or {}
    temperature = decisions.get("calibration_temperature")
    return LoadedModel(name, model.to(Accelerator().device), transform, task, trained_on, temperature)


def _check_is_whole(name: str, model: PreTrainedModel, missing: Iterable[str]) -> None:
    """:raises ArgumentError: for a checkpoint without weights that answers come from, such as one without a head."""
    made_up = sorted(set(missing) & {key for key, _ in model.named_parameters()})
    if made_up:
        more = f" and {len(made_up) - 1} more" if len(made_up) > 1 else ""
        raise ArgumentError(
            f"{name} has no weights for {made_up[0]}{more} of a {type(model).__name__}, so its answers would be "
            "random. Give a student, a reprogrammed teacher, an export, or another image classifier or segmenter."
        )


def refuse_revision(model: str, revision: str | None) -> None:
    """:raises ArgumentError: for a revision of a folder, which has none."""
    if Path(model).is_dir():
        refuse_given(InfoArguments, {"revision": revision}, f"{model} is a folder, which has no revisions")


def _check_runs_alone(name: str, teacher: RDTeacher) -> None:
    """:raises ArgumentError: where the answers depend on the student's image too, as with `skips` "own"."""
    if teacher.needs_student_pixels:
        raise ArgumentError(
            f"{name} is a reprogrammed teacher whose answers depend on the student's own features of the image too "
            f"(skips: {teacher.config.skips}), so it cannot run alone. Give its student (the folder `student` beside "
            "it), or train with skips: reprogrammed. In Python it takes `student_pixel_values` as well."
        )


def is_segmenter(config: PreTrainedConfig) -> bool:
    """Whether a saved model gives a class per pixel, by the name of the class that it was saved as."""
    return any(name.endswith(GIVES_MASKS) for name in config.architectures or [])


def _load_onnx(model: str, revision: str | None, path: Path, backbone: str | None) -> LoadedModel:
    if backbone is not None:
        raise ArgumentError(
            f"`backbone` is for reprogrammed teachers only, but {model} is an ONNX model: leave it out."
        )
    exported = OnnxModel(path).eval()
    processor = load_processor(model, revision)
    of_volumes = isinstance(processor, RDVolumeProcessor)
    transform = VolumeTransform(processor) if of_volumes else PixelTransform(processor, exported.input_shape[1])
    task = make_task(exported.problem_type, distinct(exported.label_names), of_volumes)
    with loading("model", model):
        values, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
        decisions = read_decisions(values)
        task = with_decisions(task, decisions)
    return LoadedModel(model, exported, transform, task, exported.trained_on, decisions.get("calibration_temperature"))
