"""Reads a model's origin, and how it decides, from its config, in whichever form the model was published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..models.configuration_rd import DECISIONS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Keys in the config of a plain transformers checkpoint, which carries them through loading and saving unread.
PROVENANCE = "rd_hf_provenance"
FORM = "rd_hf_form"
ONNX = "onnx"


def read_provenance(config: PreTrainedConfig) -> dict[str, Any]:
    """What is recorded of what a student or teacher was made from; empty for other models."""
    return recorded_provenance(config.to_dict())


def recorded_provenance(values: dict[str, Any]) -> dict[str, Any]:
    """The same from a config as a dict."""
    if values.get("model_type") == "rd_teacher":
        values = values["student_config"]
    return values.get("provenance" if values.get("model_type") == "rd_student" else PROVENANCE) or {}


def is_onnx(config: PreTrainedConfig) -> bool:
    """Whether this is the config of an ONNX export."""
    return config.to_dict().get(FORM) == ONNX


def read_decisions(values: dict[str, Any]) -> dict[str, Any]:
    """`calibration_temperature` and `operating_point` of a student, those that it has.

    :param values: its config as a dict, or that of its plain or ONNX form.
    """
    return {name: values[name] for name in DECISIONS if values.get(name) is not None}


def set_decisions(config: PreTrainedConfig, decisions: dict[str, Any]) -> None:
    """Put these into the config of a plain checkpoint, in place of those that it was loaded with."""
    for name in DECISIONS:
        vars(config).pop(name, None)
    config.update(decisions)
