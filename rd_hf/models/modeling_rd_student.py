"""The student: an ordinary transformers model, with the names and the origin that distillation gave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .configuration_rd import RDStudentConfig


class RDStudent(PreTrainedModel):
    """A transformers model of any architecture, held as `model`; its logits are the wrapped model's own.

    :cvar wrapped_class: transformers' Auto class of the wrapped model.
    :param config: the student's configuration; the wrapped model is built from its `classifier_config`.
    """

    wrapped_class: ClassVar[type]
    config_class = RDStudentConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # the wrapped model decides, and refuses what it does not support
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RDStudentConfig) -> None:
        super().__init__(config)
        # the precision that this model is being built in, whatever the nested config says: no mixed model
        dtype = torch.get_default_dtype()
        self.model = self.wrapped_class.from_config(config.classifier_config, dtype=dtype)
        self.supports_gradient_checkpointing = self.model.supports_gradient_checkpointing
        self.post_init()

    @classmethod
    def from_classifier(
        cls,
        model: PreTrainedModel,
        provenance: Mapping[str, Any] | None = None,
        image_size: int | Sequence[int] | None = None,
    ) -> Any:
        """Wraps a transformers model; the weights are shared with `model`, not copied.

        :param model: an image classifier or segmenter of transformers, as this class says; of images with three
            channels.
        :param provenance: see :class:`RDStudentConfig`.
        :param image_size: rows and columns, or one side, in pixels, of volumes three sides in voxels; by default that
            of the model's config, or 224 for architectures that take images of any size.
        :raises ValueError: when the model does not take three channels.
        """
        if image_size is None:
            image_size = model.config.to_dict().get("image_size", 224)
        config = RDStudentConfig(classifier_config=model.config, image_size=image_size, provenance=provenance)
        with torch.device("meta"):
            student = cls(config)
        config.dtype = model.dtype
        student.model = model
        return student.train(model.training)

    def to_transformers(self) -> PreTrainedModel:
        """The wrapped model: one of transformers' own, which loads without this code, with the same labels.

        :returns: the model itself, not a copy; its config says nothing of what the student was made from.
        """
        self.model.config.name_or_path = ""  # where the weights were first loaded from, which may be a local folder
        return self.model

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish the folder of the student, with its image processor, card and plots, in one commit.

        The copy of this file that travels with the weights does what every model of transformers does instead.

        :param options: of `rd_hf.push`: format, private, revision, create_pr, commit_message.
        :returns: the address of the commit.
        """
        if __package__ != "rd_hf.models":
            return super().push_to_hub(repo_id, **options)
        return import_module("rd_hf.hub.push").push_student(self, repo_id, **options)

    def forward(self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any) -> ModelOutput:
        """Logits of the student, and the loss where there are labels.

        :param pixel_values: (B, 3, H, W), or volumes (B, C, X, Y, Z), normalised by the student's image processor.
        :param labels: of a classifier (B,) class indices, or (B, num_labels) zeros and ones for a multi-label problem;
            of a segmenter (B, H, W) or (B, X, Y, Z) class indices, 255 where there is no label.
        :param kwargs: passed on to the wrapped model.
        :returns: the wrapped model's own output, with `logits` (B, num_labels), or (B, num_labels, h, w) of a
            segmenter, whose sides h and w may be smaller than the image's; of volumes (B, num_labels, x, y, z).
        :raises ValueError: when the images do not have three channels, or volumes not those of the student.
        """
        rank, channels = self.config.spatial_dims, self.config.in_channels
        if pixel_values is None or pixel_values.ndim != 2 + rank or pixel_values.shape[1] != channels:
            shape = None if pixel_values is None else tuple(pixel_values.shape)
            raise ValueError(
                f"pixel_values has shape {shape}; it must be (batch, 3, rows, columns). Convert grey images to RGB "
                "with image.convert('RGB') before the image processor."
                if rank == 2
                else f"pixel_values has shape {shape}; it must be (batch, {channels}, x, y, z). Prepare volumes with "
                "the student's own processor."
            )
        return self.model(pixel_values=pixel_values, labels=labels, **kwargs)


class RDStudentForImageClassification(RDStudent):
    """A transformers image classifier of any architecture, held as `model`; its logits are the wrapped model's own.

    :param config: the student's configuration; the classifier is built from its `classifier_config`.
    """

    wrapped_class = AutoModelForImageClassification


# `save_pretrained` then puts this file and those that it imports beside the weights
RDStudentForImageClassification.register_for_auto_class("AutoModelForImageClassification")
