"""Configurations of the two models: the student, and the reprogrammed teacher that shares the student's head."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

# the file that reads the configs of networks of MONAI; not imported, because other checkpoints load without it
FILE_OF_MONAI = Path(__file__).with_name("configuration_rd_monai.py")
# how a student decides; the configs of its plain and its ONNX form have these keys too
DECISIONS = ("calibration_temperature", "operating_point")
RULE = re.compile(r"youden|(sensitivity|specificity)=(0?\.\d*[1-9]\d*|1|1\.0*)")

# besides the labels, what a config has in common with the one that it wraps
_SHARED = ("dtype", "problem_type", "output_hidden_states", "output_attentions", "return_dict")


def _nested_config(value: PreTrainedConfig | Mapping[str, Any] | None, field: str) -> PreTrainedConfig:
    """The nested configuration in `field`, built from its JSON form if need be."""
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, Mapping) or "model_type" not in value:
        raise ValueError(f"`{field}` is {value!r}; it must be a transformers config, or its dict with a `model_type`.")
    values = dict(value)
    model_type = values.pop("model_type")
    if model_type == "timm_wrapper":  # whose JSON repeats the labels, which would outlive a change of `id2label`
        values = {name: item for name, item in values.items() if name not in ("num_classes", "label_names")}
        if (values.get("model_args") or {}).get("checkpoint_path"):
            raise ValueError(f"`{field}` has `checkpoint_path`, by which timm would load another file: remove it.")
    return AutoConfig.for_model(model_type, **values)


def _image_size(value: int | Sequence[int], field: str) -> list[int]:
    """Rows and columns in pixels, or the three sides of volumes in voxels."""
    size = [value, value] if isinstance(value, int) else [int(side) for side in value]
    if len(size) not in (2, 3) or min(size) < 1:
        raise ValueError(
            f"`{field}` is {value!r}; it must be one side, [rows, columns] in pixels or [x, y, z] in voxels."
        )
    return size


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{field}` is {value!r}; it must be {' or '.join(map(repr, choices))}.")


def _check_public(value: Any, field: str) -> None:
    """A config is published: what describes its origin must be plain JSON and tell nothing of the machine it ran on."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_public(key, f"{field} (a key)")
            _check_public(item, f"{field}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_public(item, f"{field}[{index}]")
    elif isinstance(value, str):
        is_absolute = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
        if is_absolute or value.startswith(("~", "file:")):
            raise ValueError(f"`{field}` is the local path {value!r}; give a Hub id, or the word 'local' and a hash.")
    elif value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(f"`{field}` must be plain JSON, but contains a {type(value).__name__}.")


def checked_operating_point(value: Any, labels: Sequence[str], problem_type: str | None) -> dict[str, Any]:
    """An operating point as a config holds it: a rule, and the thresholds of some of the classes."""
    rule, found = (value.get("rule"), value.get("thresholds")) if isinstance(value, Mapping) else (None, None)
    valid = isinstance(rule, str) and RULE.fullmatch(rule) and isinstance(found, Mapping) and len(found) > 0
    valid = valid and all(name in labels and isinstance(p, int | float) and 0 <= p <= 1 for name, p in found.items())
    if not valid or (problem_type == "single_label_classification" and len(found) > 1):
        raise ValueError(
            f"`operating_point` is {value!r}; it must have a `rule` (youden, sensitivity=0.95 or specificity=0.9) and "
            f"`thresholds` of one class, or of several labels ({', '.join(labels)}). If these were renamed, remove it."
        )
    return {"rule": rule, "thresholds": {name: float(p) for name, p in found.items()}}


def _without_origin(values: dict[str, Any]) -> dict[str, Any]:
    """Clears in nested configs the folder that they were loaded from, and the code files that were saved with them."""
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    for key, value in nested.items():
        nested[key] = _without_origin({n: item for n, item in value.items() if n not in ("_name_or_path", "auto_map")})
    return values | nested


def _has_monai_network(values: Mapping[str, Any]) -> bool:
    """Tell whether one of the nested configs is that of a network of MONAI."""
    nested = [value for value in values.values() if isinstance(value, Mapping)]
    return any(value.get("model_type") == "monai" or _has_monai_network(value) for value in nested)


def _of_wrapped(name: str, meaning: str) -> property:
    """A property of a config that is the one of the config that it wraps."""

    def read(self: _OneSourceOfLabels) -> Any:
        return getattr(self._wrapped_config, name)

    def write(self: _OneSourceOfLabels, value: Any) -> None:
        setattr(self._wrapped_config, name, value)

    return property(read, write, doc=meaning)


class _OneSourceOfLabels(PreTrainedConfig):
    """A config whose labels, and what else must not differ, are those of the config of the model that it wraps.

    A subclass names the wrapped config in `wrapped` and sets it before it calls this `__init__`.
    """

    wrapped = ""
    has_no_defaults_at_init = True

    def __init__(self, **kwargs: Any) -> None:
        wrapped = self._wrapped_config
        for name in _SHARED:
            kwargs.setdefault(name, getattr(wrapped, name))
        id2label, label2id = kwargs.pop("id2label", None), kwargs.pop("label2id", None)
        num_labels = kwargs.pop("num_labels", None)
        kwargs["id2label"] = id2label or wrapped.id2label
        super().__init__(**kwargs)
        if id2label is None:
            self.label2id = label2id
        if num_labels is not None:
            self.num_labels = num_labels

    @property
    def _wrapped_config(self) -> PreTrainedConfig:
        return self.__dict__[self.wrapped]

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each class."""
        return self._wrapped_config.id2label

    @id2label.setter
    def id2label(self, names: Mapping[int, str] | None) -> None:
        if names is None:  # transformers' own default, set before the value proper
            return
        names = {int(index): name for index, name in names.items()}
        self._wrapped_config.id2label = names
        self._wrapped_config.label2id = {name: index for index, name in names.items()}

    @property
    def label2id(self) -> dict[str, int]:
        """Index of each class; of classes that share a name, of the last one."""
        return self._wrapped_config.label2id

    @label2id.setter
    def label2id(self, indices: Mapping[str, int] | None) -> None:
        # names may repeat (as in ImageNet), so what agrees with id2label must not rebuild it
        if indices is None or dict(indices) == {name: index for index, name in self.id2label.items()}:
            return
        self.id2label = {int(index): name for name, index in sorted(indices.items(), key=lambda item: int(item[1]))}

    dtype = _of_wrapped("dtype", "Precision of the weights.")
    problem_type = _of_wrapped("problem_type", "Kind of classification problem; the loss infers it if it is None.")
    output_hidden_states = _of_wrapped("output_hidden_states", "Whether a call returns hidden states by default.")
    return_dict = _of_wrapped("return_dict", "Whether a call returns a `ModelOutput` by default.")
    _output_attentions = _of_wrapped("_output_attentions", "Whether a call returns attentions by default.")

    @property
    def _attn_implementation(self) -> str | None:
        return self._wrapped_config._attn_implementation

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, str] | None) -> None:
        # None is transformers' default when a config is built: it must not undo the wrapped config's choice
        if value is not None:
            PreTrainedConfig._attn_implementation.fset(self, value)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with the labels at the top level too, where the Hub looks for them, and without local paths."""
        values = _without_origin(super().to_dict())
        values |= {"id2label": self.id2label, "label2id": self.label2id}
        values |= {name: getattr(self, name) for name in _SHARED}
        self.dict_dtype_to_str(values)
        if "auto_map" in values and _has_monai_network(values):
            values["auto_map"] = values["auto_map"] | {"AutoConfig": f"{FILE_OF_MONAI.stem}.{type(self).__name__}"}
        return {name: value for name, value in values.items() if value is not None or name not in DECISIONS}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in transformers; with the code of MONAI's networks, where the model has one."""
        super().save_pretrained(save_directory, **kwargs)
        if _has_monai_network(self.to_dict()):
            for file in (FILE_OF_MONAI, *get_relative_import_files(FILE_OF_MONAI)):
                shutil.copy(file, save_directory)


class RDStudentConfig(_OneSourceOfLabels):
    """Configuration of a distilled student.

    :param classifier_config: config of the image classifier or segmenter that the student is; the one source of the
        class names and of the problem type.
    :param image_size: rows and columns, or one side, in pixels, of the images that the student was trained on; the
        three sides of volumes in voxels.
    :param provenance: what the student was made from (teacher, base checkpoint, data set, method, version of rd_hf),
        as plain JSON without local paths.
    :param calibration_temperature: what logits are divided by where calibrated probabilities are asked for.
    :param operating_point: `rule` ("sensitivity=0.95", "youden") and `thresholds`: from which probability on, not
        calibrated, a class is answered. Both fields are forgotten when the classes change.
    :raises ValueError: for a classifier of images without three channels, a local path in `provenance`, or a bad value.
    """

    model_type = "rd_student"
    wrapped = "classifier_config"
    sub_configs: ClassVar = {"classifier_config": AutoConfig}

    def __init__(
        self,
        classifier_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        image_size: int | Sequence[int] = 224,
        provenance: Mapping[str, Any] | None = None,
        calibration_temperature: float | None = None,
        operating_point: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.classifier_config = _nested_config(classifier_config, "classifier_config")
        values = self.classifier_config.to_dict()
        channels = values.get("num_channels", values["in_channels"] if values["model_type"] == "monai" else 3)
        if channels != 3 and self.spatial_dims == 2:
            raise ValueError(
                f"The student's classifier ({self.classifier_config.model_type}) has {channels} for its number of "
                "channels, which must be 3, because pipelines convert images to RGB. Grey becomes three equal channels."
            )
        self.image_size = _image_size(image_size, "image_size")
        self.provenance = provenance or {}
        num_labels = kwargs.pop("num_labels", None)
        super().__init__(**kwargs)
        self.calibration_temperature, self.operating_point = calibration_temperature, operating_point
        if num_labels is not None:
            self.num_labels = num_labels

    @property
    def spatial_dims(self) -> int:
        """2 for a student of images, 3 for one of volumes."""
        wrapped = self.classifier_config
        return wrapped.spatial_dims if wrapped.model_type == "monai" else 2

    @property
    def in_channels(self) -> int:
        """Channels of the images or volumes; images have three."""
        return self.classifier_config.in_channels if self.spatial_dims == 3 else 3

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "provenance":  # at once, not when a long training is saved
            _check_public(value, name)
            value = json.loads(json.dumps(value))
        elif name == "calibration_temperature" and value is not None:
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"`{name}` is {value!r}; it must be a number above 0, or None.")
        elif name == "operating_point" and value is not None:
            value = checked_operating_point(value, list(self.id2label.values()), self.problem_type)
        before = self.id2label if name in ("id2label", "label2id", "num_labels") else None
        super().__setattr__(name, value)
        if before is not None and self.id2label != before:  # a new head decides in its own way
            self.calibration_temperature = self.operating_point = None


class RDTeacherConfig(_OneSourceOfLabels):
    """Configuration of a reprogrammed teacher: a frozen backbone, projectors, and the student whose head it shares.

    :param student_config: the student's config; the one source of the class names and of the problem type.
    :param backbone_config: transformers config of the frozen backbone, needed where `backbone_included`.
    :param backbone_source: where the backbone is from: `id` (a Hub id or "local"), `revision`, and `sha256`, the hash
        of its weights as `rd_hf.models.backbone.weights_hash` computes it.
    :param backbone_included: whether the checkpoint holds the backbone's weights.
    :param teacher_stages: the backbone's stages as `Stage.to_dict()` gives them, one for each of the student's, so that
        the projectors are built without running the backbone.
    :param student_stages: the student's stages that reprogrammed features are injected after, shallow to deep.
    :param hidden_channels: width of the projectors' bottleneck.
    :param projector_layers: convolutions of a projector.
    :param teacher_image_size: rows and columns, or one side, in pixels, of the backbone's input; the three sides of
        volumes in voxels.
    :param skips: where a hybrid pass takes the features of the stages shallower than its own from: "own", the student,
        or "reprogrammed", the projectors.
    :param hybrid_stages: the stages whose hybrid passes are run, as indices of `student_stages`, ascending; None: all.
    :param hybrid_norms: the running statistics of batch norms in hybrid passes: "student", the student's, which hybrid
        passes do not move, or "own", those of each hybrid pass.
    :param slices: how a backbone of images reads volumes, as `SliceReading.to_dict()` gives it; None: it reads what it
        is given.
    :raises ValueError: when the stages are not paired, the source of the backbone is not complete or a local path, or
        another field has an impossible value.
    """

    model_type = "rd_teacher"
    wrapped = "student_config"
    sub_configs: ClassVar = {"student_config": RDStudentConfig, "backbone_config": AutoConfig}

    def __init__(
        self,
        student_config: RDStudentConfig | Mapping[str, Any] | None = None,
        backbone_config: PreTrainedConfig | Mapping[str, Any] | None = None,
        backbone_source: Mapping[str, Any] | None = None,
        backbone_included: bool = False,
        teacher_stages: Sequence[Mapping[str, Any]] = (),
        student_stages: Sequence[Mapping[str, Any]] = (),
        hidden_channels: int = 256,
        projector_layers: int = 3,
        teacher_image_size: int | Sequence[int] = 224,
        skips: str = "own",
        hybrid_stages: Sequence[int] | None = None,
        hybrid_norms: str = "student",
        slices: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(student_config, Mapping):
            student_config = RDStudentConfig(**{k: v for k, v in student_config.items() if k != "model_type"})
        if not isinstance(student_config, RDStudentConfig):
            raise ValueError(f"`student_config` is {student_config!r}; it must be an RDStudentConfig or its dict.")
        if not isinstance(backbone_source, Mapping) or set(backbone_source) != {"id", "revision", "sha256"}:
            raise ValueError(f"`backbone_source` is {backbone_source!r}; it must have `id`, `revision` and `sha256`.")
        if len(teacher_stages) != len(student_stages) or not student_stages:
            raise ValueError(
                f"`teacher_stages` and `student_stages` have {len(teacher_stages)} and {len(student_stages)} entries; "
                "they must be paired one to one and not be empty."
            )
        passes = list(range(len(student_stages))) if hybrid_stages is None else [int(index) for index in hybrid_stages]
        if not passes or passes != sorted(set(passes) & set(range(len(student_stages)))):
            raise ValueError(
                f"`hybrid_stages` is {hybrid_stages!r}; it must be ascending indices of {len(student_stages)} stages."
            )
        _check_choice("skips", skips, ("own", "reprogrammed"))
        _check_choice("hybrid_norms", hybrid_norms, ("student", "own"))
        self.student_config = student_config
        self.backbone_config = None if backbone_config is None else _nested_config(backbone_config, "backbone_config")
        _check_public(backbone_source, "backbone_source")
        self.backbone_source = dict(backbone_source)
        self.backbone_included = backbone_included
        self.teacher_stages = [dict(stage) for stage in teacher_stages]
        self.student_stages = [dict(stage) for stage in student_stages]
        self.hidden_channels = hidden_channels
        self.projector_layers = projector_layers
        self.teacher_image_size = _image_size(teacher_image_size, "teacher_image_size")
        self.skips, self.hybrid_stages, self.hybrid_norms = skips, passes, hybrid_norms
        self.slices = None if slices is None else dict(slices)
        super().__init__(**kwargs)


# `save_pretrained` then puts this file beside the weights, for those who load the checkpoint without rd_hf
RDStudentConfig.register_for_auto_class()
RDTeacherConfig.register_for_auto_class()
