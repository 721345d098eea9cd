"""The student for masks: a transformers segmenter or a network of MONAI, with the origin that distillation gave it."""

from __future__ import annotations

from transformers import AutoModelForSemanticSegmentation

from .configuration_rd import RDStudentConfig
from .modeling_rd_student import RDStudent


class RDStudentForSemanticSegmentation(RDStudent):
    """A segmenter of any architecture, held as `model`; its logits (B, num_labels, h, w) are the wrapped model's own.

    :param config: the student's configuration; the segmenter is built from its `classifier_config`.
    """

    config_class = RDStudentConfig
    wrapped_class = AutoModelForSemanticSegmentation


# `save_pretrained` then puts this file and those that it imports beside the weights
RDStudentForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
