"""A plain network as a frozen teacher: a model that is not one of transformers, in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class TeacherNetworkConfig(PreTrainedConfig):
    """Configuration of a plain network.

    :param in_channels: channels of the images or volumes that it reads.
    :param network: the network in words, which tells apart two networks of the same weights.
    """

    model_type = "rd_teacher_network"

    def __init__(self, in_channels: int = 3, network: str = "", **kwargs: Any) -> None:
        self.in_channels = in_channels
        self.network = network
        super().__init__(**kwargs)


class TeacherNetwork(PreTrainedModel):
    """Any network that reads images (B, C, H, W) or volumes (B, C, X, Y, Z), as a teacher for `distill_from_models`.

    It cannot be loaded by name: who loads a reprogrammed teacher made from it gives it again, as `backbone`.

    :param network: reads a tensor and returns anything; its stages are found, or named with `teacher_stages`.
    :param in_channels: channels of what it reads.
    """

    config_class = TeacherNetworkConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, network: nn.Module, in_channels: int = 3) -> None:
        super().__init__(TeacherNetworkConfig(in_channels, f"{type(network).__qualname__}: {network}"))
        self.network = network

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> TeacherNetwork:
        """Refuse to load one.

        :raises ValueError: because a folder does not hold the network's code.
        """
        raise ValueError(
            "A TeacherNetwork cannot be loaded, because a folder does not hold the network's code. Build the network, "
            "load its weights, and wrap it again: rd_hf.TeacherNetwork(network, in_channels)."
        )

    def forward(self, pixel_values: Tensor) -> Any:
        """What the network returns.

        :param pixel_values: (B, in_channels, *image size).
        """
        return self.network(pixel_values)
