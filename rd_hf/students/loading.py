"""Build the student that the user named: a Hub id, a folder, or an inline transformers config."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from ..arguments.values import listed, nearest
from ..arguments.words import counted, package_needed
from ..cards.provenance import PROVENANCE, set_decisions
from ..data.pixels import PixelTransform, default_processor, load_processor, whole_image_processor
from ..models.backbone import cached_commit
from ..models.configuration_monai import MonaiNetConfig
from ..models.modeling_rd_student import RDStudent
from ..models.tape import input_channels
from ..models.timm_models import TIMM, timm_config
from ..models.tower_loading import check_blocks, repo_as_it_is
from .kinds import DEFAULTS, MASKS, Kind, StudentError, kind_of, refine_output, with_monai_defaults, with_output_stride
from .timm_students import check_inline, is_of_timm, note_images, set_side, side_of, take_initial_weights
from .volumes import VolumeStudent, check_volume_config, volume_fields

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_SIZE = 224
COLOUR_CHANNELS = 3
# Defaults that transformers copied from TensorFlow, where they are the shares that are kept: of the units in front of
# the head, and of the running statistics.
KEPT_UNITS = {"mobilenet_v1": 0.999, "mobilenet_v2": 0.8}
BATCH_NORM_MOMENTUM = 0.1  # torch's default


class LoadedStudent(NamedTuple):
    """The student before training, its image processor, and where it is from (`id` and `revision`).

    Of volumes the run's data has the processor.
    """

    model: RDStudent
    processor: BaseImageProcessor | None
    source: dict[str, str | None]


def load_student(
    student: str | dict[str, Any],
    label_names: list[str],
    problem_type: str,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    volumes: VolumeStudent | None = None,
    colours: Mapping[str, list[float]] | None = None,
) -> LoadedStudent:
    """Build a student for the given labels.

    :param student: Hub id or folder (pre-trained weights, new head where the labels differ), or an inline config, which
        starts from random weights; seed torch before.
    :param image_size: side of the square input; by default that of the processor, or of the config, or 224.
    :param problem_type: as transformers calls it, for a classifier; "segmentation" for a segmenter, whose processor
        squashes the whole image to the student's size.
    :param volumes: what the student reads, where the data are volumes; `image_size` is then not looked at.
    :param colours: `image_mean` or `image_std`, or both, in place of those of its image processor.
    :raises StudentError: for an inline config with unknown fields, or a model of another kind.
    """
    kind = kind_of(problem_type)
    if isinstance(student, dict) and "model_type" not in student:
        raise StudentError(
            "The student's config has no `model_type`: add one, such as {model_type: resnet}. `rd-hf students` lists "
            "whole configs."
        )
    size = image_size if volumes is None else list(volumes.size)
    labels = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        "problem_type": kind.problem_type(problem_type),
    }
    if isinstance(student, dict):
        student = student if volumes is None else volume_fields(kind, student, volumes)
        config = _inline_config(kind, student, size, labels)
        check_volume_config(kind, config.model_type, config, volumes)
        try:
            model = kind.auto_class.from_config(config)
        # of MONAI and timm, for arguments that a network does not take; of natten
        except (ValueError, TypeError, ImportError) as error:
            reason = package_needed(error) or next(line.strip() for line in str(error).splitlines() if line.strip())
            raise StudentError(f"The student ({config.model_type}) cannot be built: {reason}") from error
        name = f"MONAI {config.network}" if isinstance(config, MonaiNetConfig) else config.model_type
        if is_of_timm(config):
            take_initial_weights(model)
            name = f"timm {config.architecture}"
        source = {"id": f"{name} from scratch", "revision": None}
    else:
        model, source = _pretrained(kind, student, size, labels, revision, trust_remote_code, volumes)
    if isinstance(model, RDStudent):
        model = model.model
    processor = None
    if volumes is None:
        processor = _image_processor(
            kind, student, model.config, image_size, revision, trust_remote_code, colours or {}
        )
        if is_of_timm(model.config):
            note_images(model.config, processor, PixelTransform(processor).size)
        _refuse_other_channels(model)
    _read_kept_shares_as_dropped(model)
    return LoadedStudent(kind.student_class.from_classifier(model), processor, source)


def _image_processor(
    kind: Kind,
    student: str | dict[str, Any],
    config: PreTrainedConfig,
    image_size: int | None,
    revision: str | None,
    trust_remote_code: bool,
    colours: Mapping[str, list[float]],
) -> BaseImageProcessor:
    """The processor of a student of images."""
    if isinstance(student, dict):
        processor = default_processor(_side(config, image_size))
    else:
        processor = load_processor(student, revision, image_size, trust_remote_code)
    for name, values in colours.items():
        setattr(processor, name, values)
    return whole_image_processor(processor) if kind is MASKS else processor


def adopt_student(
    model: PreTrainedModel, label_names: list[str], problem_type: str, volumes: VolumeStudent | None = None
) -> RDStudent:
    """Take an image classifier or segmenter in memory as the student; the model itself is trained, not a copy.

    :param label_names: the data's classes. The model takes these names over unless it has names of its own.
    :param problem_type: see `load_student`.
    :param volumes: see `load_student`.
    :raises StudentError: when the model is of another kind, or its classes are not those of the data.
    """
    kind = kind_of(problem_type)
    model = model.model if isinstance(model, RDStudent) else model
    if model.config.model_type not in CONFIG_MAPPING:
        name, config = type(model).__name__, type(model.config).__name__
        raise StudentError(
            f"transformers does not know {name}, so the student could not be loaded again. Register it, here and "
            f"wherever it is loaded: AutoConfig.register({model.config.model_type!r}, {config}) and "
            f"{kind.auto_class.__name__}.register({config}, {name})."
        )
    kind.check_model(model)
    own = [model.config.id2label[number] for number in range(model.config.num_labels)]
    unnamed = [f"LABEL_{number}" for number in range(len(label_names))]
    if own not in (label_names, unnamed):
        raise StudentError(
            f"The student's classes are {listed(own)}, but those of the data are {listed(label_names)}. Load "
            f"the student with num_labels={len(label_names)}, or with id2label and label2id set to the names of the "
            "data."
        )
    check_volume_config(kind, type(model).__name__, model.config, volumes)
    if volumes is None:
        _refuse_other_channels(model)
    model.config.id2label = dict(enumerate(label_names))
    model.config.label2id = {name: number for number, name in enumerate(label_names)}
    model.config.problem_type = kind.problem_type(problem_type)
    _read_kept_shares_as_dropped(model)
    if model.dtype != torch.float32:
        logger.info("The student's weights, which are %s, become float32 for the training.", str(model.dtype)[6:])
        model.float()
    return kind.student_class.from_classifier(model)


def _refuse_other_channels(model: PreTrainedModel) -> None:
    """A student gets colour images, in training as from its own processor later; grey ones have three equal channels.

    :raises StudentError: for a model of other images.
    """
    channels = input_channels(model)
    if channels != COLOUR_CHANNELS:
        raise StudentError(
            f"The student reads images of {counted(channels, 'channel')}, but rd_hf trains students "
            "on colour images of 3 (a grey image has three equal ones). Leave num_channels or in_channels out of its "
            "config, or choose another student."
        )


def _read_kept_shares_as_dropped(model: PreTrainedModel) -> None:
    """Give a MobileNet or EfficientNet the dropout that its authors use, and its batch norms torch's momentum.

    With a batch norm's momentum of 0.997 or 0.99 the running statistics, which inference uses, are those of the last
    batch; with a dropout of 0.8 the head is trained on a fifth of the features. See docs/explanation/decisions.md.
    """
    kept = KEPT_UNITS.get(model.config.model_type)
    if kept is not None and model.config.classifier_dropout_prob == kept:
        model.config.classifier_dropout_prob = round(1 - kept, 3)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d) and module.p == kept:
                module.p = model.config.classifier_dropout_prob
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and module.momentum is not None and module.momentum > 0.5:
            module.momentum = BATCH_NORM_MOMENTUM


def _pretrained(
    kind: Kind,
    student: str,
    image_size: int | list[int] | None,
    labels: dict,
    revision: str | None,
    trust_remote_code: bool,
    volumes: VolumeStudent | None,
):
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    config = timm_config(student, revision) or AutoConfig.from_pretrained(student, **options)
    if config.model_type not in ("rd_student", "monai") and type(config).is_custom_code():
        raise StudentError(
            f"The student {student!r} uses custom code, which is not supported for students: choose a model class of "
            "transformers."
        )
    kind.check_checkpoint(student, config)
    check_volume_config(kind, student, config, volumes)
    wrapped = config.classifier_config if config.model_type == "rd_student" else config
    if kind is MASKS:
        refine_output(config)
    vars(wrapped).pop(PROVENANCE, None)  # of the earlier distillation
    set_decisions(wrapped, {})
    if image_size is not None and "image_size" in wrapped.to_dict():
        wrapped.image_size = image_size
    if is_of_timm(wrapped):
        set_side(wrapped, image_size)
    same_task = list(config.id2label.values()) == list(labels["id2label"].values())
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    config.problem_type = labels["problem_type"]
    with repo_as_it_is():
        model, loading = kind.auto_class.from_pretrained(
            student,
            config=config,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
            **options,
        )
    if is_of_timm(wrapped):
        check_blocks(student, model, loading["unexpected_keys"])
    head = _head_weights(kind, config)
    unfit = sorted({key for key, *_ in loading["mismatched_keys"]} - head)
    if unfit:
        argument = "student_image_size" if volumes is None else "crop_size or volume_size"
        raise StudentError(
            f"Weights of the student {student!r} do not fit an image size of {image_size}: {', '.join(unfit)}. Leave "
            f"{argument} out, or choose a student without position embeddings."
        )
    if not same_task:
        fresh = kind.auto_class.from_config(config).state_dict()
        model.load_state_dict({name: fresh[name] for name in head}, strict=False)
    new = sorted({*loading["missing_keys"], *(set() if same_task else head)})
    if new:
        logger.info("Student weights that the checkpoint lacks, so they are initialised: %s", ", ".join(new))
    is_folder = Path(student).is_dir()
    commit = None if is_folder else cached_commit(student, revision)
    return model.float(), {"id": "local" if is_folder else student, "revision": commit}


def _head_weights(kind: Kind, config: PreTrainedConfig) -> set[str]:
    """Names of the weights that depend on the number of classes."""
    more = copy.deepcopy(config)
    more.id2label = {number: str(number) for number in range(config.num_labels + 1)}
    with torch.device("meta"):
        shapes, others = (
            {name: value.shape for name, value in kind.auto_class.from_config(c).state_dict().items()}
            for c in (config, more)
        )
    return {name for name, shape in shapes.items() if others[name] != shape}


def _inline_config(
    kind: Kind, student: dict[str, Any], image_size: int | list[int] | None, labels: dict
) -> PreTrainedConfig:
    fields = dict(student)
    model_type = fields.pop("model_type", None)
    known = [name for name in kind.model_types if name in CONFIG_MAPPING]
    if model_type not in known:
        hint = nearest(model_type or "", known)
        raise StudentError(f"The student's model_type {model_type!r} is not {kind.noun} of transformers.{hint}")
    kind.check_type(model_type)
    if model_type == TIMM:
        check_inline(fields)
    config_class = CONFIG_MAPPING[model_type]
    known = list(config_class().to_dict())
    for name in fields:
        if name not in known:
            raise StudentError(
                f"The student's config of model_type {model_type} has no field `{name}`.{nearest(name, known)}"
            )
    fields = DEFAULTS.get(model_type, {}) | fields
    if image_size is not None and "image_size" in known:
        fields.setdefault("image_size", image_size)
    classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(model_type, "")
    if kind is not MASKS and not isinstance(classes, str):  # levit has a second one, for which its authors distil
        fields.setdefault("architectures", [classes[0]])
    if model_type == MonaiNetConfig.model_type:
        fields = with_monai_defaults(fields)
    elif kind is MASKS:
        fields = with_output_stride(fields, known)
    try:
        config = config_class(**fields, **labels, num_labels=len(labels["id2label"]))  # pvt's own is 1000
    except (TypeError, ValueError) as error:
        raise StudentError(f"The student's config of model_type {model_type} is not valid: {error}") from error
    kind.check_network(config)
    if is_of_timm(config):
        set_side(config, image_size)
    return config


def _side(config: PreTrainedConfig, image_size: int | None) -> int:
    """The input side of a student from scratch."""
    if image_size is not None:
        return image_size
    if is_of_timm(config):
        return side_of(config)
    declared = config.to_dict().get("image_size", DEFAULT_IMAGE_SIZE)
    return declared if isinstance(declared, int) else declared[0]
