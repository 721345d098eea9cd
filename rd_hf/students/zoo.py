"""Small classifiers of transformers, ready to be taken as students: their inline configs, and pre-trained weights.

Widths and depths are those of the papers, except for the ResNets below ResNet-18, which are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

SMALLEST_SIDE = 32  # of all of them; the deepest maps of most are then one pixel


@dataclass(frozen=True)
class ReadyStudent:
    """An architecture that `rd-hf students` lists.

    :param config: what `--student` takes, with only the fields that differ from the defaults of its model type.
    :param pretrained: Hub id of weights of this architecture, which `--student` takes instead.
    :param pretrained_side: side of the square images in pixels that these weights are bound to; None: any.
    :param smallest_side: side in pixels of the smallest images that the architecture runs on.
    :param side_step: it runs on sides that are multiples of this.
    :param task: "classification" or "segmentation".
    :param dimensions: 2 for images, 3 for volumes, whose sides are in voxels.
    """

    name: str
    config: dict[str, Any]
    pretrained: str | None = None
    pretrained_side: int | None = None
    smallest_side: int = SMALLEST_SIDE
    side_step: int = 1
    task: str = "classification"
    dimensions: int = 2

    def takes(self, image_size: int) -> bool:
        """Whether the architecture runs on square images, or cubes of volumes, of this side."""
        return image_size >= self.smallest_side and image_size % self.side_step == 0

    def pretrained_for(self, image_size: int) -> str | None:
        """The Hub id, if its weights fit images of this side."""
        return self.pretrained if self.pretrained_side in (None, image_size) else None


def config_text(config: dict[str, Any]) -> str:
    """An inline config as one line of YAML, to be typed after `--student` in single quotes."""
    return yaml.safe_dump(config, default_flow_style=True, sort_keys=False, width=float("inf")).strip()


def ready(
    name: str,
    pretrained: str | None,
    model_type: str,
    pretrained_side: int | None = None,
    smallest_side: int = SMALLEST_SIDE,
    side_step: int = 1,
    task: str = "classification",
    dimensions: int = 2,
    **fields: Any,
) -> ReadyStudent:
    """An entry.

    :param fields: of its inline config.
    """
    config = {"model_type": model_type, **fields}
    return ReadyStudent(name, config, pretrained, pretrained_side, smallest_side, side_step, task, dimensions)


def monai(
    name: str, network: str, task: str, dimensions: int, smallest_side: int, side_step: int, **arguments: Any
) -> ReadyStudent:
    """An entry of a network of MONAI.

    :param arguments: of the network.
    """
    fields = {"network": network} | ({"arguments": arguments} if arguments else {})
    return ready(name, None, "monai", None, smallest_side, side_step, task, dimensions, **fields)


def unet_arguments(width: int) -> dict[str, Any]:
    """Of MONAI's UNet: those of a network that starts with so many channels."""
    return {"channels": doubling(width), "strides": [2, 2, 2], "num_res_units": 2}


def _mobilenet(version: str, width: float, pretrained: str | None) -> ReadyStudent:
    fields = {} if width == 1 else {"depth_multiplier": width}
    return ready(f"mobilenet_{version}_{width}", pretrained, f"mobilenet_{version}", **fields)


def _resnet(name: str, depths: list[int], width: int = 64, pretrained: str | None = None) -> ReadyStudent:
    widths = ({} if width == 64 else {"embedding_size": width}) | {"hidden_sizes": doubling(width)}
    return ready(name, pretrained, "resnet", **widths, depths=depths, layer_type="basic")


def _convnextv2(size: str, width: int, third: int) -> ReadyStudent:
    fields = {"hidden_sizes": doubling(width), "depths": [2, 2, third, 2]}
    return ready(f"convnextv2_{size}", f"facebook/convnextv2-{size}-1k-224", "convnextv2", **fields)


def _regnet(size: str, depths: list[int], widths: list[int], groups_width: int) -> ReadyStudent:
    fields = {"hidden_sizes": widths, "depths": depths, "groups_width": groups_width}
    fields |= {"layer_type": "x"} if size.startswith("x") else {}
    return ready(f"regnet_{size}", f"facebook/regnet-{size.replace('_', '-')}", "regnet", **fields)


def _efficientnet(size: str, depth: float) -> ReadyStudent:
    fields = {"width_coefficient": 1.0, "depth_coefficient": depth, "hidden_dim": 1280, "dropout_rate": 0.2}
    return ready(f"efficientnet_{size}", f"google/efficientnet-{size}", "efficientnet", **fields)


def _levit(size: str, **fields: list[int]) -> ReadyStudent:
    return ready(f"levit_{size.lower()}", f"facebook/levit-{size}", "levit", 224, side_step=16, **fields)


def _vit(size: str, width: int) -> ReadyStudent:
    fields = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    return ready(f"vit_{size}", f"facebook/deit-{size}-patch16-224", "vit", 224, **fields)


def doubling(width: int) -> list[int]:
    """The widths of four stages, each twice that of the one before."""
    return [width, 2 * width, 4 * width, 8 * width]


B1_WIDTHS = [64, 128, 320, 512]  # of SegFormer and PVTv2
# From the default, 0.02, MobileViT learns nothing in the first 20 steps on images that others fit within 10.
MOBILEVIT = {"initializer_range": 0.1}

READY_STUDENTS = (
    ready(
        "resnet_tiny", None, "resnet",
        embedding_size=24, hidden_sizes=[24, 48, 96, 160], depths=[1, 1, 1, 1], layer_type="basic",
    ),
    _resnet("resnet_10_0.25", [1, 1, 1, 1], 16),
    _resnet("resnet_10_0.5", [1, 1, 1, 1], 32),
    _resnet("resnet_10", [1, 1, 1, 1]),
    _resnet("resnet_18_0.5", [2, 2, 2, 2], 32),
    _resnet("resnet_18", [2, 2, 2, 2], pretrained="microsoft/resnet-18"),
    ready("resnet_34", "microsoft/resnet-34", "resnet", hidden_sizes=doubling(64), layer_type="basic"),
    ready("resnet_26", "microsoft/resnet-26", "resnet", depths=[2, 2, 2, 2]),
    _mobilenet("v1", 0.25, None),
    _mobilenet("v1", 0.5, None),
    _mobilenet("v1", 0.75, "google/mobilenet_v1_0.75_192"),
    _mobilenet("v1", 1.0, "google/mobilenet_v1_1.0_224"),
    _mobilenet("v2", 0.35, "google/mobilenet_v2_0.35_96"),
    _mobilenet("v2", 0.5, None),
    _mobilenet("v2", 0.75, "google/mobilenet_v2_0.75_160"),
    _mobilenet("v2", 1.0, "google/mobilenet_v2_1.0_224"),
    _mobilenet("v2", 1.4, "google/mobilenet_v2_1.4_224"),
    _convnextv2("atto", 40, 6),
    _convnextv2("femto", 48, 6),
    _convnextv2("pico", 64, 6),
    _convnextv2("nano", 80, 8),
    _regnet("x_002", [1, 1, 4, 7], [24, 56, 152, 368], 8),
    _regnet("y_002", [1, 1, 4, 7], [24, 56, 152, 368], 8),
    _regnet("y_004", [1, 3, 6, 6], [48, 104, 208, 440], 8),
    _regnet("y_008", [1, 3, 8, 2], [64, 128, 320, 768], 16),
    _regnet("y_016", [2, 6, 17, 2], [48, 120, 336, 888], 24),
    _efficientnet("b0", 1.0),
    _efficientnet("b1", 1.1),
    ready(
        "mobilevit_xx_small", "apple/mobilevit-xx-small", "mobilevit",
        hidden_sizes=[64, 80, 96], neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320], expand_ratio=2.0, **MOBILEVIT,
    ),
    ready(
        "mobilevit_x_small", "apple/mobilevit-x-small", "mobilevit",
        hidden_sizes=[96, 120, 144], neck_hidden_sizes=[16, 32, 48, 64, 80, 96, 384], **MOBILEVIT,
    ),
    ready("mobilevit_small", "apple/mobilevit-small", "mobilevit", **MOBILEVIT),
    ready("mobilevitv2_0.5", None, "mobilevitv2", smallest_side=48, width_multiplier=0.5, **MOBILEVIT),
    ready("mobilevitv2_0.75", None, "mobilevitv2", smallest_side=48, width_multiplier=0.75, **MOBILEVIT),
    ready("mobilevitv2_1.0", "apple/mobilevitv2-1.0-imagenet1k-256", "mobilevitv2", smallest_side=48, **MOBILEVIT),
    ready("swiftformer_xs", "MBZUAI/swiftformer-xs", "swiftformer"),
    ready(
        "swiftformer_s", "MBZUAI/swiftformer-s", "swiftformer", depths=[3, 3, 9, 6], embed_dims=[48, 64, 168, 224]
    ),
    ready("segformer_b0", "nvidia/mit-b0", "segformer"),
    ready("segformer_b1", "nvidia/mit-b1", "segformer", hidden_sizes=B1_WIDTHS),
    ready("pvt_v2_b0", "OpenGVLab/pvt_v2_b0", "pvt_v2"),
    ready("pvt_v2_b1", "OpenGVLab/pvt_v2_b1", "pvt_v2", hidden_sizes=B1_WIDTHS),
    _levit("128S", num_attention_heads=[4, 6, 8], depths=[2, 3, 4]),
    _levit("128"),
    _levit("192", hidden_sizes=[192, 288, 384], num_attention_heads=[3, 5, 6], key_dim=[32, 32, 32]),
    ready("poolformer_s12", "sail/poolformer_s12", "poolformer"),
    _vit("tiny", 192),
    _vit("small", 384),
    ready("cvt_13", "microsoft/cvt-13", "cvt"),
    ready("swin_tiny", "microsoft/swin-tiny-patch4-window7-224", "swin", smallest_side=224),  # 7 windows of 32 pixels
)  # fmt: skip
