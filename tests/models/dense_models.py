"""Tiny random segmenters of transformers and networks of MONAI, and what their stages are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import monai.networks.nets as nets
import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    ConvNextV2Config,
    Data2VecVisionConfig,
    Data2VecVisionForSemanticSegmentation,
    DPTConfig,
    DPTForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    MobileViTV2Config,
    MobileViTV2ForSemanticSegmentation,
    PreTrainedModel,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

SIDE = {2: 64, 3: 32}


@dataclass(frozen=True)
class Dense:
    """One model and its stages, written down by hand from the architecture.

    :ivar stages: module paths, a common prefix in front of ":".
    :ivar sides: the side of each stage's grid.
    :ivar follows: whether the output depends on the image through the stages alone.
    """

    name: str
    make: Callable[[], nn.Module]
    rank: int
    stages: str
    sides: list[int]
    follows: bool = True

    @property
    def image_size(self) -> tuple[int, ...]:
        return (SIDE[self.rank],) * self.rank

    @property
    def stage_names(self) -> list[str]:
        prefix, names = self.stages.split(":")
        return [prefix + name for name in names.split()]

    def build(self) -> nn.Module:
        """The model in eval mode, the same at every call; its signal does not die out on the way."""
        torch.manual_seed(0)
        model = self.make().eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and isinstance(model, PreTrainedModel):
                nn.init.kaiming_normal_(module.weight)
        return model


HIDDEN = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 1]}
OUT = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
VIT = {
    "hidden_size": 16, "num_hidden_layers": 8, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 64,
    "patch_size": 16, "num_labels": 3,
}  # fmt: skip
# as in transformers' own defaults, the heads read the features in front of the last blocks
UNREAD = {"out_indices": [2, 4, 5, 7], "pool_scales": [1, 2], "auxiliary_channels": 4}
MOBILE = {"image_size": 64, "num_labels": 3, "aspp_out_channels": 8}


def upernet(backbone: Any) -> UperNetForSemanticSegmentation:
    values = {"hidden_size": 8, "pool_scales": [1, 2], "auxiliary_channels": 4, "num_labels": 3}
    third = backbone.hidden_sizes[2] if hasattr(backbone, "hidden_sizes") else 4 * backbone.embed_dim
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, auxiliary_in_channels=third, **values)
    )


def segformer() -> SegformerForSemanticSegmentation:
    values = {"num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8, "num_labels": 3}
    return SegformerForSemanticSegmentation(SegformerConfig(**{**HIDDEN, "hidden_sizes": [4, 6, 8, 12]}, **values))


def upernet_swin() -> UperNetForSemanticSegmentation:
    sizes = {"embed_dim": 4, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64}
    return upernet(SwinConfig(**sizes, **OUT))


def mobilevit() -> MobileViTForSemanticSegmentation:
    sizes = {"hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 4, 6, 8, 10, 12, 16], "num_attention_heads": 2}
    return MobileViTForSemanticSegmentation(MobileViTConfig(**sizes, **MOBILE))


def mobilevitv2() -> MobileViTV2ForSemanticSegmentation:
    sizes = {"width_multiplier": 0.125, "n_attn_blocks": [1, 1, 1], "base_attn_unit_dims": [64, 64, 64]}
    return MobileViTV2ForSemanticSegmentation(MobileViTV2Config(**sizes, **MOBILE))


def dpt() -> DPTForSemanticSegmentation:
    neck = {"backbone_out_indices": [1, 3, 5, 7], "neck_hidden_sizes": [4, 6, 8, 10], "fusion_hidden_size": 8}
    return DPTForSemanticSegmentation(DPTConfig(is_hybrid=False, **neck, **VIT))


HALVED = [16, 8, 4, 2]
TRANSFORMERS = [
    Dense("Segformer", segformer, 2, "segformer.stages.:0 1 2 3", HALVED),
    Dense("UperNet+ConvNeXtV2", lambda: upernet(ConvNextV2Config(**HIDDEN, **OUT)), 2,
          "backbone.encoder.stages.:0 1 2 3", HALVED),
    Dense("UperNet+ResNet", lambda: upernet(ResNetConfig(embedding_size=4, layer_type="basic", **HIDDEN, **OUT)), 2,
          "backbone.encoder.stages.:0 1 2 3", HALVED),
    Dense("UperNet+Swin", upernet_swin, 2,
          "backbone.swin.encoder.layers.:0.blocks.0 1.blocks.0 2.blocks.1 3.blocks.0", HALVED),
    Dense("MobileNetV2", lambda: MobileNetV2ForSemanticSegmentation(
        MobileNetV2Config(depth_multiplier=0.1, num_labels=3)), 2, "mobilenet_v2.layer.:1 4 11 15", HALVED),
    Dense("MobileViT", mobilevit, 2, "mobilevit.encoder.layer.:0 1 2 3 4", [32, *HALVED]),
    Dense("MobileViTV2", mobilevitv2, 2, "mobilevitv2.encoder.layer.:0 1 2 3 4", [32, *HALVED]),
    Dense("DPT", dpt, 2, "dpt.encoder.layer.:1 3 5 7", [4] * 4),
    # the last two of eight layers reach no output
    Dense("BEiT", lambda: BeitForSemanticSegmentation(BeitConfig(**UNREAD, **VIT)), 2, "beit.layers.:0 2 3 5", [4] * 4),
    Dense("Data2VecVision", lambda: Data2VecVisionForSemanticSegmentation(Data2VecVisionConfig(**UNREAD, **VIT)), 2,
          "data2vec_vision.encoder.layer.:0 2 3 5", [4] * 4),
]  # fmt: skip


def networks(rank: int) -> list[Dense]:
    """The networks of MONAI for images (rank 2) or volumes (rank 3)."""
    side = SIDE[rank]
    common = {"spatial_dims": rank, "in_channels": 3, "out_channels": 3}
    image = {"spatial_dims": rank, "in_channels": 3, "num_classes": 3}
    levels = {"channels": (4, 6, 8, 10), "strides": (2, 2, 2)}
    sides = [side, side // 2, side // 4, side // 8]
    blocks = {"blocks_down": (1, 1, 1, 1), "init_filters": 4}
    made = [
        ("UNet", lambda: nets.UNet(**common, **levels),
         # at its lowest resolution the bottleneck's channels and those of the skip around it, concatenated
         "model.:0 1.submodule.0 1.submodule.1.submodule.1", sides[1:]),
        ("BasicUNet", lambda: nets.BasicUNet(**common, features=(4, 4, 6, 8, 10, 4)),
         ":conv_0 down_1 down_2 down_3 down_4", [*sides, side // 16]),
        ("AttentionUnet", lambda: nets.AttentionUnet(**common, **levels),
         "model.:0 1.submodule.0 1.submodule.1.submodule.0 1.submodule.1.submodule.1.submodule", sides),
        ("SegResNet", lambda: nets.SegResNet(**common, **blocks, norm=("GROUP", {"num_groups": 2})),
         "down_layers.:0 1 2 3", sides),
        ("SegResNetDS", lambda: nets.SegResNetDS(**common, **blocks),
         "encoder.layers.:0.blocks 1.blocks 2.blocks 3.blocks", sides),
        ("DynUNet", lambda: nets.DynUNet(
            **common, kernel_size=[3] * 4, strides=[1, 2, 2, 2], upsample_kernel_size=[2] * 3, filters=[4, 6, 8, 10]),
         ":input_block downsamples.0 downsamples.1 bottleneck", sides),
        ("UNETR", lambda: nets.UNETR(
            **common, img_size=side, feature_size=4, hidden_size=16, mlp_dim=16, num_heads=2),
         "vit.blocks.:2 5 8 11", [side // 16] * 4),
        ("SwinUNETR", lambda: nets.SwinUNETR(
            **common, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), feature_size=12, window_size=2, norm_name="batch"),
         "swinViT.:layers1.0 layers2.0 layers3.0 layers4.0", [side // 4, side // 8, side // 16, side // 32]),
        ("ResNet", lambda: nets.ResNet(
            "bottleneck", [1, 1, 1, 1], [4, 6, 8, 10], spatial_dims=rank, n_input_channels=3, num_classes=3),
         ":bn1 layer1 layer2 layer3 layer4", [*sides, side // 16]),
        ("DenseNet", lambda: nets.DenseNet(**common, init_features=4, growth_rate=4, block_config=(1, 1, 1)),
         "features.:norm0 denseblock1 denseblock2 norm5", [side // 2, side // 4, side // 8, side // 16]),
        ("ViT", lambda: nets.ViT(
            **image, img_size=side, patch_size=8, hidden_size=16, mlp_dim=16, num_layers=4, num_heads=2,
            classification=True, post_activation=None),
         "blocks.:0 1 2 3", [side // 8] * 4),
        ("EfficientNetBN", lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False, **image),
         ":_blocks.0 _blocks.1 _blocks.2 _blocks.4 _bn1" if rank == 2 else ":_blocks.0 _blocks.1 _blocks.2 _blocks.4",
         [side // 2, side // 4, side // 8, side // 16, side // 32][: 5 if rank == 2 else 4]),
    ]  # fmt: skip
    # the decoders of these two read the image and its patch embedding as well
    return [Dense(f"{n} {rank}D", *rest[:1], rank, *rest[1:], "UNETR" not in n) for n, *rest in made]


MODELS = [*TRANSFORMERS, *networks(2), *networks(3)]
