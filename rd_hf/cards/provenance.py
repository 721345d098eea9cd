"""Reads a model's origin from its config, in whichever form the model was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Keys in the config of a plain transformers checkpoint, which carries them through loading and saving unread.
PROVENANCE = "rd_hf_provenance"
FORM = "rd_hf_form"
ONNX = "onnx"


def read_provenance(config: PreTrainedConfig) -> dict[str, Any]:
    """What is recorded of what a student or teacher was made from; empty for other models."""
    values = config.to_dict()
    if values["model_type"] == "rd_teacher":
        values = values["student_config"]
    return values.get("provenance" if values["model_type"] == "rd_student" else PROVENANCE) or {}


def is_onnx(config: PreTrainedConfig) -> bool:
    """Whether this is the config of an ONNX export."""
    return config.to_dict().get(FORM) == ONNX
