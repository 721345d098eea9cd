"""Small random models of any family of transformers: its default config, made shallow and narrow."""

from __future__ import annotations

import copy
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
    "depth_pro": (448, 448), "lw_detr": (512, 512), "rf_detr": (560, 560), "align": DEFAULT_SIZE,
    "efficientnet": DEFAULT_SIZE, "pixtral": DEFAULT_SIZE, "lighton_ocr": DEFAULT_SIZE,
    "mistral3": DEFAULT_SIZE, "mistral_large4": DEFAULT_SIZE, "glm_image": DEFAULT_SIZE,
    "glm_image_vision": DEFAULT_SIZE, "minimax_m3_vl": DEFAULT_SIZE, "unlimited_ocr": DEFAULT_SIZE,
}  # fmt: skip
DINOV2: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
HIERA: dict[str, Any] = {
    "hidden_size": 16, "image_size": [512, 512], "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3],
    "embed_dim_per_stage": [16, 32, 64, 128],
}  # fmt: skip
SAM2: dict[str, Any] = {
    "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA}, "backbone_channel_list": [128, 64, 32, 16],
    "backbone_feature_sizes": [[128, 128], [64, 64], [32, 32]],
}  # fmt: skip
REPVIT: dict[str, Any] = {
    "backbone_config": {
        "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    },
}  # fmt: skip
LCNET: dict[str, Any] = {  # its own default is for lines of text, whose rows alone it halves
    "model_type": "pp_lcnet_v4", "out_features": [f"stage{number}" for number in (1, 2, 3, 4)],
    "block_configs": [
        [[3, 96, 96, 1, True]], [[3, 96, 96, 2, False]], [[3, 96, 192, 2, True]], [[3, 192, 384, 2, False]],
    ],
}  # fmt: skip
KERNELS = {"longratio": [7, 1, 3], "midratio": [5, 1, 2], "shortratio": [3, 1, 1]}
INTRACLASS = {
    "reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0],
    **{f"{way}_{ratio}": kernel for ratio, kernel in KERNELS.items() for way in (
        "vertical_long_to_small_conv", "horizontal_small_to_long_conv", "symmetric_conv_long",
    )},
}  # fmt: skip
# Whole configs of families whose fields depend on each other, or whose default builds no model.
FIELDS: dict[str, dict[str, Any]] = {
    "depth_pro": {
        "patch_size": 112, "fusion_hidden_size": 16, "intermediate_hook_ids": [3, 1],
        "intermediate_feature_dims": [16, 16], "scaled_images_feature_dims": [32, 32, 16],
        **{f"{name}_model_config": {"model_type": "dinov2", "image_size": 112, **DINOV2}
           for name in ("image", "patch", "fov")},
    },
    "edgetam": {"vision_config": {"model_type": "edgetam_vision_model", **REPVIT}},
    "edgetam_vision_model": REPVIT,
    "llama4": {
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 4,
            "image_size": 224, "vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64,
        },
    },
    "lw_detr": {
        "backbone_config": {
            "model_type": "lw_detr_vit", "image_size": 512, "hidden_size": 64, "num_hidden_layers": 4,
            "num_attention_heads": 2, "window_block_indices": [0, 2], "out_indices": [1, 2, 3, 4],
        },
        "projector_scale_factors": [1.0],
    },
    "pp_ocrv6_medium_det": {
        "backbone_config": LCNET, "intraclass_block_config": INTRACLASS, "scale_factor_list": [1, 2, 4, 8],
        "kernel_list": [3, 2, 2], "neck_out_channels": 32,
    },
    "pp_ocrv6_small_det": {"backbone_config": LCNET, "layer_list_out_channels": [96, 96, 192, 384]},
    "rf_detr": {
        "backbone_config": {
            "model_type": "rf_detr_dinov2", "image_size": 560, **DINOV2,
            "out_features": [f"stage{number}" for number in (1, 2, 3, 4)],
        },
    },
    "sam2": {"vision_config": {"model_type": "sam2_vision_model", **SAM2}},
    "sam2_hiera_det_model": HIERA,
    "sam2_vision_model": SAM2,
    "uvdoc": {
        "backbone_config": {
            "model_type": "uvdoc_backbone", "out_features": [f"stage{number}" for number in range(1, 7)],
        },
    },
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
    fields = FIELDS.get(model_type)
    config = shrink(AutoConfig.for_model(model_type), narrow) if fields is None else _whole(model_type, fields)
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


def _whole(model_type: str, fields: dict[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(model_type, **copy.deepcopy(fields))  # configs take values out of those inside them


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
