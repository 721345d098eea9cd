"""Small networks of MONAI in three dimensions, ready to be taken as students of volumes; their widths are ours."""

from __future__ import annotations

from typing import Any

from .zoo import ReadyStudent, doubling, monai, unet_arguments


def _classifier(name: str, network: str, smallest_side: int, **arguments: Any) -> ReadyStudent:
    return monai(name, network, "classification", 3, smallest_side, 1, **arguments)


def _segmenter(name: str, network: str, side_step: int, **arguments: Any) -> ReadyStudent:
    return monai(name, network, "segmentation", 3, max(16, 2 * side_step), side_step, **arguments)


def _resnet(name: str, width: int, blocks: int) -> ReadyStudent:
    return _classifier(name, "ResNet", 16, block="basic", layers=[blocks] * 4, block_inplanes=doubling(width))


def _densenet(name: str, width: int, growth: int, blocks: list[int]) -> ReadyStudent:
    return _classifier(name, "DenseNet", 32, init_features=width, growth_rate=growth, block_config=blocks)


READY_VOLUME_SEGMENTERS = (
    _segmenter("unet_8", "UNet", 8, **unet_arguments(8)),
    _segmenter("unet_16", "UNet", 8),
    _segmenter("unet_32", "UNet", 8, **unet_arguments(32)),
    _segmenter("segresnet_8_3", "SegResNet", 4, blocks_down=[1, 1, 1], blocks_up=[1, 1]),
    _segmenter("segresnet_8", "SegResNet", 8),
    _segmenter("segresnet_16", "SegResNet", 8, init_filters=16),
    _segmenter("segresnet_ds_8", "SegResNetDS", 16, init_filters=8),
    _segmenter(
        "dynunet_8", "DynUNet", 8,
        kernel_size=[3, 3, 3, 3], strides=[1, 2, 2, 2], upsample_kernel_size=[2, 2, 2], filters=doubling(8),
    ),
    _segmenter("dynunet_16", "DynUNet", 8),
    _segmenter("basic_unet_8", "BasicUNet", 16, features=[8, 8, 16, 32, 64, 8]),
    _segmenter("basic_unet_16", "BasicUNet", 16, features=[16, 16, 32, 64, 128, 16]),
    _segmenter("attention_unet_8", "AttentionUnet", 8, channels=[8, 16, 32, 64], strides=[2, 2, 2]),
    _segmenter("attention_unet_16", "AttentionUnet", 8),
)  # fmt: skip

READY_VOLUME_CLASSIFIERS = (
    _resnet("resnet_10_8", 8, 1),
    _classifier("resnet_10_16", "ResNet", 16),
    _resnet("resnet_18_16", 16, 2),
    _resnet("resnet_10_32", 32, 1),
    _densenet("densenet_16_8", 16, 8, [2, 4, 8, 4]),
    _densenet("densenet_32_16", 32, 16, [6, 12, 24, 16]),
    _classifier("efficientnet_b0", "EfficientNetBN", 32, model_name="efficientnet-b0"),
)
