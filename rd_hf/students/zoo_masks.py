"""Small segmenters of transformers and networks of MONAI, ready to be taken as students for masks.

The widths of MONAI's networks, and those of Segformer below b0, are ours; the others are those of the papers.
"""

from __future__ import annotations

from typing import Any

from .zoo import B1_WIDTHS, MOBILEVIT, SMALLEST_SIDE, ReadyStudent, monai, ready, unet_arguments


def _ready(name: str, pretrained: str | None, model_type: str, **fields: Any) -> ReadyStudent:
    return ready(name, pretrained, model_type, task="segmentation", **fields)


def _monai(name: str, network: str, side_step: int, **arguments: Any) -> ReadyStudent:
    return monai(name, network, "segmentation", 2, SMALLEST_SIDE, side_step, **arguments)


READY_SEGMENTERS = (
    _monai("unet_8", "UNet", 8, **unet_arguments(8)),
    _monai("unet_16", "UNet", 8),
    _monai("unet_32", "UNet", 8, **unet_arguments(32)),
    _monai("basic_unet_16", "BasicUNet", 1, features=[16, 16, 32, 64, 128, 16]),
    _monai("basic_unet_32", "BasicUNet", 1),
    _monai("segresnet_8", "SegResNet", 8),
    _monai("segresnet_16", "SegResNet", 8, init_filters=16),
    _ready(
        "segformer_tiny", None, "segformer",
        hidden_sizes=[16, 32, 64, 128], num_attention_heads=[1, 2, 4, 8], decoder_hidden_size=64,
    ),
    _ready("segformer_b0", "nvidia/mit-b0", "segformer"),
    _ready("segformer_b1", "nvidia/mit-b1", "segformer", hidden_sizes=B1_WIDTHS),
    _ready("mobilenet_v2_0.35_deeplab", "google/mobilenet_v2_0.35_96", "mobilenet_v2", depth_multiplier=0.35),
    _ready("mobilenet_v2_1.0_deeplab", "google/deeplabv3_mobilenet_v2_1.0_513", "mobilenet_v2"),
    _ready(
        "mobilevit_xx_small_deeplab", "apple/deeplabv3-mobilevit-xx-small", "mobilevit",
        hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0, **MOBILEVIT,
    ),
    _ready(
        "mobilevit_x_small_deeplab", "apple/deeplabv3-mobilevit-x-small", "mobilevit",
        hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 384], **MOBILEVIT,
    ),
)  # fmt: skip
