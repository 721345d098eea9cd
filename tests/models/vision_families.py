"""Tiny random configs of transformers' image classifiers, for tests that claim to hold for any of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

Grid = tuple[int, int]
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Family:
    """One family and what its stages are, written down by hand from the architecture."""

    model_type: str
    config: dict[str, Any]
    image_size: Grid
    maps: list[tuple[int, int, int]]  # channels, rows, columns after each stage
    prefix_tokens: list[int] = field(default_factory=list)  # per stage; empty: none anywhere
    head_reads_prefix_only: bool = False
    architectures: list[str] | None = None  # where a family has two classifiers
    nested_config: str | None = None  # the vision config of a two-tower family

    def build(self, **overrides: Any) -> PreTrainedModel:
        """The classifier with random weights, in eval mode, without drop-out and drop path, the same at every call."""
        values = {**self.config, **overrides}
        if self.nested_config is not None:
            values = {self.nested_config: values}
        torch.manual_seed(0)
        config = AutoConfig.for_model(self.model_type, num_labels=3, **values)
        config.architectures = self.architectures
        model = AutoModelForImageClassification.from_config(config).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if type(module).__name__.endswith("DropPath"):
                module.drop_prob = 0.0
        return model

    def logits(self, output: Any) -> torch.Tensor:
        """The logits (B, 3) in a classifier's output, whatever its field is called."""
        return output[0]

    def prefixes(self) -> list[int]:
        """Prefix tokens after each stage."""
        return self.prefix_tokens or [0] * len(self.maps)


SQUARE = (32, 32)
FAMILIES = [
    Family(
        "resnet",
        {"embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 2, 1, 1], "layer_type": "basic"},
        SQUARE,
        [(4, 8, 8), (6, 4, 4), (8, 2, 2), (10, 1, 1)],
    ),
    Family(
        "regnet",
        {"embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 2, 1, 1], "groups_width": 2},
        (64, 64),
        [(4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2)],
    ),
    Family(
        "bit",
        {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_groups": 2},
        (64, 64),
        [(8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)],
    ),
    Family(
        "mobilenet_v1",
        {"depth_multiplier": 0.02},
        (64, 64),
        [(8, 32, 32), (8, 16, 16), (8, 8, 8), (10, 4, 4), (20, 2, 2)],
    ),
    Family(
        "mobilenet_v2",
        {"depth_multiplier": 0.1},
        (64, 64),
        [(8, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2)],
    ),
    Family(
        "efficientnet",
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        (64, 64),
        [(8, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (80, 2, 2)],
    ),
    Family(
        "convnext",
        {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1]},
        SQUARE,
        [(4, 8, 8), (6, 4, 4), (8, 2, 2), (10, 1, 1)],
    ),
    Family(
        "convnextv2",
        {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1]},
        (64, 96),
        [(4, 16, 24), (6, 8, 12), (8, 4, 6), (10, 2, 3)],
    ),
    Family(
        "hgnet_v2",
        {
            "embedding_size": 4,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [6, 8, 10, 12],
            "stem_channels": [3, 4, 4],
            "stage_in_channels": [4, 6, 8, 10],
            "stage_mid_channels": [4, 4, 4, 4],
            "stage_out_channels": [6, 8, 10, 12],
            "stage_num_blocks": [1, 1, 2, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
        },
        (64, 64),
        [(6, 16, 16), (8, 8, 8), (10, 4, 4), (12, 2, 2)],
    ),
    Family(
        "pp_lcnet",
        {"scale": 0.25, "class_expand": 16},
        (64, 64),
        [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)],
    ),
    Family(
        "textnet",
        {
            "stem_out_channels": 4,
            "hidden_sizes": [4, 4, 6, 8, 10],
            "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3], [1, 3]], [[3, 3]], [[3, 1]]],
            "conv_layer_strides": [[1], [2, 1], [2], [2]],
        },
        (64, 64),
        [(4, 32, 32), (6, 16, 16), (8, 8, 8), (10, 4, 4)],
    ),
    Family(
        "poolformer",
        {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1]},
        (64, 64),
        [(4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2)],
    ),
    Family(
        "mobilevit",
        {
            "hidden_sizes": [8, 12, 16],
            "neck_hidden_sizes": [4, 4, 6, 8, 10, 12, 16],
            "num_attention_heads": 2,
            "image_size": 64,
        },
        (64, 64),
        [(4, 32, 32), (6, 16, 16), (8, 8, 8), (10, 4, 4), (12, 2, 2)],
    ),
    Family(
        "mobilevitv2",
        {
            "width_multiplier": 0.125,
            "n_attn_blocks": [1, 1, 1],
            "base_attn_unit_dims": [64, 64, 64],
            "image_size": 64,
        },
        (64, 64),
        [(16, 32, 32), (16, 16, 16), (32, 8, 8), (48, 4, 4), (64, 2, 2)],
    ),
    Family(
        "swiftformer",
        {"embed_dims": [4, 6, 8, 10], "depths": [1, 1, 2, 1], "image_size": 64},
        (64, 64),
        [(4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2)],
    ),
    Family(
        "swin",
        {"embed_dim": 4, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64},
        (64, 64),
        [(8, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2)],
    ),
    Family(
        "swinv2",
        {"embed_dim": 4, "depths": [1, 1, 2], "num_heads": [1, 1, 2], "window_size": 2, "image_size": 32},
        SQUARE,
        [(8, 4, 4), (16, 2, 2), (16, 2, 2)],
    ),
    Family(
        "donut-swin",
        {"embed_dim": 4, "depths": [1, 1, 2], "num_heads": [1, 1, 2], "window_size": 2, "image_size": 64},
        (64, 96),
        [(8, 8, 12), (16, 4, 6), (16, 4, 6)],
    ),
    Family(
        "focalnet",
        {"embed_dim": 4, "hidden_sizes": [4, 8, 16, 32], "depths": [1, 1, 1, 1], "image_size": 64},
        (64, 64),
        [(8, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2)],
    ),
    Family(
        "hiera",
        {
            "embed_dim": 4,
            "image_size": [32, 32],
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "masked_unit_size": [8, 8],
        },
        SQUARE,
        [(4, 8, 8), (8, 4, 4), (16, 2, 2), (32, 1, 1)],
    ),
    Family(
        "segformer",
        {
            "hidden_sizes": [4, 6, 8, 12],
            "depths": [1, 1, 2, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 8,
        },
        (64, 96),
        [(4, 16, 24), (6, 8, 12), (8, 4, 6), (12, 2, 3)],
    ),
    Family(
        "pvt",
        {
            "hidden_sizes": [4, 6, 8, 12],
            "depths": [1, 1, 2, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "image_size": 64,
        },
        (64, 64),
        [(4, 16, 16), (6, 8, 8), (8, 4, 4), (12, 2, 2)],
        [0, 0, 0, 1],
        True,
    ),
    Family(
        "pvt_v2",
        {
            "hidden_sizes": [4, 6, 8, 12],
            "depths": [1, 1, 2, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "image_size": 64,
        },
        (64, 96),
        [(4, 16, 24), (6, 8, 12), (8, 4, 6), (12, 2, 3)],
    ),
    Family(
        "levit",
        {
            "hidden_sizes": [8, 12, 16],
            "num_attention_heads": [1, 2, 2],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
            "image_size": 64,
        },
        (64, 64),
        [(12, 2, 2), (16, 1, 1), (16, 1, 1)],
        [],
        False,
        ["LevitForImageClassification"],
    ),
    Family(
        "cvt",
        {
            "embed_dim": [4, 8, 12],
            "num_heads": [1, 2, 2],
            "depth": [1, 2, 3],
        },
        (64, 64),
        [(4, 16, 16), (8, 8, 8), (12, 4, 4)],
        [0, 0, 1],
        True,
    ),
    Family("vit", VIT, SQUARE, [(16, 4, 4)] * 4, [1] * 4, True),
    Family("vit_msn", {**VIT, "image_size": (32, 64)}, (32, 64), [(16, 4, 8)] * 4, [1] * 4, True),
    Family("deit", VIT, SQUARE, [(16, 4, 4)] * 4, [2] * 4, True, ["DeiTForImageClassification"]),
    Family("beit", VIT, SQUARE, [(16, 4, 4)] * 4, [1] * 4),
    Family("data2vec-vision", {**VIT, "num_hidden_layers": 6}, SQUARE, [(16, 4, 4)] * 4, [1] * 4),
    Family("dinov2", VIT, SQUARE, [(16, 4, 4)] * 4, [1] * 4),
    Family(
        "dinov2_with_registers", {**VIT, "num_hidden_layers": 2, "image_size": 16}, (16, 24), [(16, 2, 3)] * 2, [5] * 2
    ),
    Family("ijepa", {**VIT, "num_hidden_layers": 6}, SQUARE, [(16, 4, 4)] * 4),
    Family("siglip", VIT, SQUARE, [(16, 4, 4)] * 4, nested_config="vision_config"),
    Family("clip", VIT, SQUARE, [(16, 4, 4)] * 4, [1] * 4, nested_config="vision_config"),
    Family("metaclip_2", VIT, SQUARE, [(16, 4, 4)] * 4, [1] * 4, nested_config="vision_config"),
]
