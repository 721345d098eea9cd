"""Small random models of any family of transformers: its default config, made shallow and narrow."""

from __future__ import annotations

from typing import Any

import torch
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from rd_hf.models.grids import Grid
from rd_hf.models.stages import image_tower

DEPTHS = (
    "num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layer", "n_layers", "depth",
    "num_encoder_layers", "num_decoder_layers",
)  # fmt: skip
WIDTHS = (
    "hidden_size", "intermediate_size", "ffn_dim", "mlp_dim", "projection_dim", "d_model", "encoder_ffn_dim",
    "decoder_ffn_dim",
)  # fmt: skip
HEADS = (
    "num_attention_heads", "num_key_value_heads", "encoder_attention_heads", "decoder_attention_heads",
    "attention_heads", "num_heads",
)  # fmt: skip
LAYERS, WIDTH, HEAD_COUNT, HEAD_WIDTH = 4, 64, 2, 32
LARGEST = 600_000_000  # parameters that are built
DEFAULT_SIZE = (224, 224)
SIZES: dict[str, Grid] = {
    "depth_pro": (1536, 1536), "lw_detr": (1024, 1024), "rf_detr": (560, 560), "align": DEFAULT_SIZE,
    "efficientnet": DEFAULT_SIZE, "pixtral": DEFAULT_SIZE, "lighton_ocr": DEFAULT_SIZE,
    "mistral3": DEFAULT_SIZE, "mistral_large4": DEFAULT_SIZE, "glm_image": DEFAULT_SIZE,
    "glm_image_vision": DEFAULT_SIZE, "minimax_m3_vl": DEFAULT_SIZE, "unlimited_ocr": DEFAULT_SIZE,
}  # fmt: skip


def shrink(config: PreTrainedConfig, narrow: bool) -> PreTrainedConfig:
    """Make a config, and those inside it, shallow, and where it is possible narrow."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            shrink(value, narrow)
        elif name in DEPTHS and isinstance(value, int):
            setattr(config, name, min(value, LAYERS))
        elif name in ("depths", "layers") and isinstance(value, list | tuple):
            setattr(config, name, [min(depth, 2) if isinstance(depth, int) else depth for depth in value])
        elif name == "layer_types" and isinstance(value, list):
            setattr(config, name, value[:LAYERS])
        elif narrow and isinstance(value, int) and not isinstance(value, bool):
            limit = {**dict.fromkeys(WIDTHS, WIDTH), **dict.fromkeys(HEADS, HEAD_COUNT), "head_dim": HEAD_WIDTH}
            setattr(config, name, min(value, limit.get(name, value)))
        elif narrow and name in ("hidden_sizes", "embed_dims") and isinstance(value, list | tuple):
            setattr(config, name, [max(width // 4, 8) for width in value])
    return config


def small_model(model_type: str, narrow: bool = True) -> PreTrainedModel:
    """The image tower of a family, with random weights, in eval mode.

    What stands around the tower (language models) is only built without storage.

    :raises MemoryError: for a tower that is large even so.
    """
    torch.manual_seed(0)
    config = shrink(AutoConfig.for_model(model_type), narrow)
    kind = MODEL_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    with torch.device("meta"):
        whole = kind(config)
        tower = image_tower(whole)
    if sum(parameter.numel() for parameter in tower.parameters()) > LARGEST:
        raise MemoryError("its smallest config is too large for this sweep")
    is_own = isinstance(tower, PreTrainedModel)
    kind, config = (type(tower), tower.config) if is_own else (kind, config)
    return (kind(config) if is_own else image_tower(kind(config))).eval()


def stated_size(model: PreTrainedModel, model_type: str) -> Grid:
    """Rows and columns of the images that a model is made for."""
    return SIZES.get(model_type) or _size_in(model.config.to_dict()) or DEFAULT_SIZE


def _size_in(values: dict[str, Any]) -> Grid | None:
    for name in ("image_size", "img_size", "input_size"):
        value = values.get(name)
        if isinstance(value, int) and value >= 16:
            return (value, value)
        if isinstance(value, list | tuple) and len(value) == 2:
            return tuple(value)
        if isinstance(value, dict) and "height" in value:
            return (value["height"], value["width"])
    return next((size for value in values.values() if isinstance(value, dict) and (size := _size_in(value))), None)
