"""Configuration of a network of MONAI as a model of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

CLASSIFIERS = ("DenseNet", "EfficientNetBN", "ResNet", "ViT")
SEGMENTERS = (
    "AttentionUnet", "BasicUNet", "DynUNet", "SegResNet", "SegResNetDS", "SwinUNETR", "UNETR", "UNet",
)  # fmt: skip
DEFAULT_SIDE = {2: 224, 3: 96}
EVALUATED = ("$", "@", "%")  # a bundle of MONAI runs a text that begins so, and builds what `_target_` names


class MonaiNetConfig(PreTrainedConfig):
    """Configuration of a network of `monai.networks.nets`.

    :param network: name of the class there: one of `CLASSIFIERS` or `SEGMENTERS`.
    :param spatial_dims: 2 for images, 3 for volumes.
    :param in_channels: channels of the images.
    :param image_size: one side, or all, in pixels; ViT and UNETR are built for it. By default 224 in 2D and 96 in 3D.
    :param arguments: what else the network's class takes, in plain JSON, e.g. {"init_filters": 16}.
    :raises ValueError: when the network is not of these, when `spatial_dims` or `image_size` is impossible, or when
        `arguments` has what a bundle of MONAI would run.
    """

    model_type = "monai"

    def __init__(
        self,
        network: str = "DenseNet",
        spatial_dims: int = 2,
        in_channels: int = 3,
        image_size: int | Sequence[int] | None = None,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if network not in CLASSIFIERS + SEGMENTERS:
            known = ", ".join(sorted(CLASSIFIERS + SEGMENTERS))
            raise ValueError(f"`network` is {network!r}; it must be one of MONAI's {known}.")
        if spatial_dims not in DEFAULT_SIDE:
            raise ValueError(f"`spatial_dims` is {spatial_dims!r}; it must be 2 (images) or 3 (volumes).")
        size = DEFAULT_SIDE[spatial_dims] if image_size is None else image_size
        size = [size] * spatial_dims if isinstance(size, int) else [int(side) for side in size]
        if len(size) != spatial_dims or min(size) < 1:
            raise ValueError(f"`image_size` is {image_size!r}; it must be one side or {spatial_dims} sides, in pixels.")
        _refuse_code(arguments, "arguments")
        self.network = network
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.image_size = size
        self.arguments = dict(arguments or {})
        kwargs.setdefault(
            "tie_word_embeddings", True
        )  # transformers' word for any tying: DynUNet's blocks have two names
        super().__init__(**kwargs)


def _refuse_code(value: Any, place: str) -> None:
    """Refuse expressions of MONAI's bundles, at any depth: a config of another's must not run anything."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).startswith(("_", *EVALUATED)):
                raise ValueError(f"`{place}` has the key {key!r}, which a bundle of MONAI would run. Leave it out.")
            _refuse_code(item, f"{place}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            _refuse_code(item, place)
    elif isinstance(value, str) and value.strip().startswith(EVALUATED):
        raise ValueError(f"`{place}` is {value!r}, which a bundle of MONAI would run. Write the value itself.")


# `save_pretrained` then puts this file beside the weights, for those who load the checkpoint without rd_hf
MonaiNetConfig.register_for_auto_class()
