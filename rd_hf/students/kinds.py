"""The two kinds of students, of classes and of masks: which models each can be, and how they are wrapped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
)

from ..models.configuration_monai import CLASSIFIERS, SEGMENTERS, MonaiNetConfig
from ..models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from ..models.modeling_rd_student import RDStudent, RDStudentForImageClassification
from ..tasks.segmentation import Segmentation

SEGMENTER_CLASS = "ForSemanticSegmentation"  # how transformers' classes of segmenters end
# Classifiers' encoders reduce an image 32 times, which leaves 4 x 4 logits of a mask of 128 pixels.
OUTPUT_STRIDE = 8
# what these networks of MONAI cannot be built without; the U-Nets' widths are those of MONAI's tutorials
MONAI_DEFAULTS: dict[str, dict[str, Any]] = {
    "AttentionUnet": {"channels": [16, 32, 64, 128], "strides": [2, 2, 2]},
    "DynUNet": {
        "kernel_size": [3, 3, 3, 3], "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2],
        "filters": [16, 32, 64, 128],
    },
    "ResNet": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [16, 32, 64, 128]},
    "UNet": {"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2},
}  # fmt: skip
# transformers lists these as image classifiers
NO_STUDENTS = {
    "imagegpt": "reads colours as words of a language, and no pixels",
    "perceiver": "mixes the image into latents that have no place in it, so that it has no stages",
    "pp_lcnet": "answers no `logits`, so that no pipeline of transformers can use it",
    "shieldgemma2": "is a language model that answers yes or no",
    "siglip2": "reads packed patches of any grid (SigLIP 2's checkpoints of one image size have the model_type siglip)",
}
# With the default initializer_range, 0.02, the first logits of all images are equal to 1e-30: it does not learn.
DEFAULTS = {"efficientnet": {"initializer_range": 0.1}}


class StudentError(ValueError):
    """The student cannot be built from what was given; the message says what to change."""


@dataclass(frozen=True)
class Kind:
    """What a student can be, for one kind of labels.

    :param noun: what its models are called, with an article.
    :param labels: what the data have.
    :param student_class: wraps its models.
    :param model_types: those of transformers that have such a model.
    :param networks: those of MONAI.
    """

    noun: str
    labels: str
    student_class: type[RDStudent]
    model_types: tuple[str, ...]
    networks: tuple[str, ...]

    @property
    def auto_class(self) -> Any:
        """The Auto class of these models."""
        return self.student_class.wrapped_class

    def problem_type(self, of_task: str) -> str | None:
        """What a model's config says of the problem; transformers knows none for masks."""
        return None if self is MASKS else of_task

    def check_model(self, model: PreTrainedModel) -> None:
        """:raises StudentError: for a model in memory of the other kind, and for one without a head."""
        name = type(model).__name__
        if name.endswith("Model"):
            raise StudentError(f"The student is a {name}, which gives neither classes nor masks: give {self.noun}.")
        if name.endswith(SEGMENTER_CLASS) != (self is MASKS):
            raise StudentError(f"The student is a {name}, but the data have {self.labels}: give {self.noun}.")

    def check_checkpoint(self, name: str, config: PreTrainedConfig) -> None:
        """Let a checkpoint of the other kind pass where its encoder serves this kind too.

        :raises StudentError: where it does not.
        """
        other = MASKS if self is CLASSES else CLASSES
        is_student = config.model_type == RDStudent.config_class.model_type
        of_other = is_student and other.student_class.__name__ in (config.architectures or [])
        if of_other or (not is_student and config.model_type not in self.model_types):
            what = (config.architectures or [config.model_type])[0]
            raise StudentError(
                f"The student {name!r} is a {what}, but the data have {self.labels}: choose {self.noun} of "
                "transformers, or write a config inline."
            )
        self.check_type(config.model_type)
        self.check_network(config)

    def check_type(self, model_type: str) -> None:
        """:raises StudentError: for a model of transformers that only looks like an image classifier."""
        if model_type in NO_STUDENTS:
            raise StudentError(
                f"The student is of model_type {model_type}, which {NO_STUDENTS[model_type]}: choose another student."
            )

    def check_network(self, config: PreTrainedConfig) -> None:
        """:raises StudentError: for the config of a network of MONAI of the other kind."""
        if config.model_type == MonaiNetConfig.model_type and config.network not in self.networks:
            raise StudentError(
                f"MONAI's {config.network} gives no {self.labels}, but the data have {self.labels}: choose one of "
                f"{', '.join(self.networks)}."
            )


CLASSES = Kind(
    "an image classifier",
    "classes",
    RDStudentForImageClassification,
    (*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, MonaiNetConfig.model_type),
    CLASSIFIERS,
)
MASKS = Kind(
    "a semantic segmenter",
    "masks",
    RDStudentForSemanticSegmentation,
    (*MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, MonaiNetConfig.model_type),
    SEGMENTERS,
)


def kind_of(problem_type: str) -> Kind:
    """The kind of students for a task's problem type."""
    return MASKS if problem_type == Segmentation.problem_type else CLASSES


def with_monai_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an inline config of a network of MONAI, with what it needs where the user says nothing of it."""
    defaults = MONAI_DEFAULTS.get(fields.get("network", ""), {})
    arguments = fields.get("arguments") or {}
    return fields if defaults.keys() & arguments.keys() else fields | {"arguments": defaults | arguments}


def with_output_stride(fields: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of an inline config of a segmenter, with the resolution that masks need, unless the user names one.

    :param known: fields of the model type.
    """
    return {"output_stride": OUTPUT_STRIDE, **fields} if "output_stride" in known else fields


def refine_output(config: PreTrainedConfig) -> None:
    """Let a classifier's encoder keep a resolution that masks need; its weights are the same at any."""
    is_segmenter = any(name.endswith(SEGMENTER_CLASS) for name in config.architectures or [])
    if not is_segmenter and "output_stride" in config.to_dict():
        config.output_stride = OUTPUT_STRIDE
