"""What is particular to models of timm: the configs of their checkpoints, and the blocks that they name themselves.

transformers wraps these models (`timm_wrapper`) where timm is installed. This file does not import timm.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

if TYPE_CHECKING:
    from torch import nn

TIMM = "timm_wrapper"
STEM_REDUCTION = 2  # an early map of half the image's sides, in which nothing is told apart yet
OF_THE_CALL = ("num_classes", "pretrained", "pretrained_cfg")  # arguments that transformers gives, or must not
OF_THE_MODEL = ("architecture", "num_classes", "num_features", "global_pool", "model_args")
OF_THE_LABELS = ("label_names", "label_descriptions", "labels")


def timm_config(name_or_path: str | os.PathLike[str], revision: str | None = None) -> PreTrainedConfig | None:
    """The config of a checkpoint of timm, in any layout of its releases; None for all other checkpoints.

    :param name_or_path: Hub id or folder.
    :raises OSError: when there is no config.json.
    :raises ValueError: when it names another file for timm to load, at whatever depth.
    :raises ImportError: when the labels are those of ImageNet and timm, which knows them, is not installed.
    """
    values, _ = PreTrainedConfig.get_config_dict(name_or_path, revision=revision)
    check_loads_nothing(values)
    if "architecture" not in values or values.get("model_type", TIMM) != TIMM:
        return None
    config = CONFIG_MAPPING[TIMM].from_dict(_current_layout(values))
    config.name_or_path = os.fspath(name_or_path)
    return without_labels_of_timm(config)


def check_loads_nothing(values: Mapping[str, Any]) -> None:
    """:raises ValueError: for a config, at any depth, by which timm would load another file, perhaps by unpickling."""
    if values.get("checkpoint_path"):
        raise ValueError("its config has `checkpoint_path`, by which timm would load another file: remove it there")
    for item in values.values():
        if isinstance(item, Mapping):
            check_loads_nothing(item)


def _current_layout(values: dict[str, Any]) -> dict[str, Any]:
    """A config.json as timm writes it today.

    The first releases put the fields of `pretrained_cfg` beside the architecture, and today's `save_for_hf` repeats in
    `model_args` what transformers passes itself. transformers does not build a model for the size that `pretrained_cfg`
    fixes.
    """
    values = dict(values)
    if "pretrained_cfg" not in values and "mean" in values:
        fields = {name: values.pop(name) for name in list(values) if name not in (*OF_THE_MODEL, *OF_THE_LABELS)}
        values["pretrained_cfg"] = fields
        if "labels" in values:
            values["label_names"] = values.pop("labels")
    arguments = values.get("model_args") or {}
    values["model_args"] = {name: value for name, value in arguments.items() if name not in OF_THE_CALL}
    pretrained = values.get("pretrained_cfg") or {}
    if pretrained.get("fixed_input_size") and pretrained.get("input_size"):  # as timm.create_model builds it
        values["model_args"].setdefault("img_size", list(pretrained["input_size"][-2:]))
    return values


def without_labels_of_timm(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config, if it is timm's without the labels beside `id2label`, which would outlive a change of these."""
    if config.model_type == TIMM:
        for name in (*OF_THE_LABELS, "num_classes"):
            vars(config).pop(name, None)
    return config


def stated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The modules at whose ends a model of timm hands on features, by name; empty for all other models.

    `feature_info` of a timm model, which may be a part of `model`, lists them: the blocks of an isotropic model, the
    stages of another one. Stems are left out. Where it names what is no module (HRNet), it says nothing.
    """
    modules = dict(model.named_modules())
    for path, module in modules.items():
        stated = vars(module).get("feature_info")
        if isinstance(stated, list) and stated:
            deep = [entry for entry in stated if entry["reduction"] > STEM_REDUCTION] or stated
            names = [f"{path}.{entry['module']}" if path else entry["module"] for entry in deep]
            return {name: modules[name] for name in names} if modules.keys() >= set(names) else {}
    return {}
