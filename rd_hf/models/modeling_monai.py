"""Networks of MONAI as models of transformers: built by name, saved and loaded as any other.

MONAI is imported when a network is built, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from .configuration_monai import CLASSIFIERS, SEGMENTERS, MonaiNetConfig

# the parameters that some classes call otherwise than `in_channels` and `out_channels`
OWN_NAMES = {
    "EfficientNetBN": {"out_channels": "num_classes"},
    "ResNet": {"in_channels": "n_input_channels", "out_channels": "num_classes"},
    "ViT": {"out_channels": "num_classes"},
}
# what must be as it is here for the output to be logits alone, and for no weights to be fetched
SETTLED: dict[str, dict[str, Any]] = {
    "DynUNet": {"deep_supervision": False},
    "EfficientNetBN": {"pretrained": False},
    "SegResNetDS": {"dsdepth": 1},
    "ViT": {"classification": True, "post_activation": None},
}
OF_ONE_SIZE = ("UNETR", "ViT")
IGNORED_LABEL = 255  # of pixels without a label, as in transformers' segmenters


def build_network(config: MonaiNetConfig) -> nn.Module:
    """A network of MONAI with random weights; on the meta device without drawing random numbers.

    :raises ImportError: when MONAI is not installed.
    :raises ValueError: when the network does not take the config's `arguments`.
    """
    try:
        import monai.networks.nets as nets
    except ImportError as error:
        raise ImportError(
            f"The network {config.network} is from MONAI, which cannot be imported ({error}): pip install "
            "rd-hf[volumes]"
        ) from error
    arguments = network_arguments(config)
    return _off_meta(lambda: _call(config, getattr(nets, config.network), arguments))


def network_arguments(config: MonaiNetConfig) -> dict[str, Any]:
    """What the network's class is called with, by its own names and in plain JSON types.

    :raises ValueError: when the config's `arguments` repeat another field.
    """
    own = OWN_NAMES.get(config.network, {})
    given = {
        "spatial_dims": config.spatial_dims,
        own.get("in_channels", "in_channels"): config.in_channels,
        own.get("out_channels", "out_channels"): config.num_labels,
        **SETTLED.get(config.network, {}),
        **({"img_size": list(config.image_size)} if config.network in OF_ONE_SIZE else {}),
    }
    twice = sorted(given.keys() & config.arguments.keys())
    if twice:
        raise ValueError(
            f"`arguments` of {config.network} must not have {twice[0]!r}, because another field of the config sets it."
        )
    return given | config.arguments


def network_call(config: MonaiNetConfig) -> str:
    """The Python expression that builds the network, with `monai` imported."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in network_arguments(config).items())
    return f"monai.networks.nets.{config.network}({arguments})"


def _call(config: MonaiNetConfig, network: Callable[..., nn.Module], given: Mapping[str, Any]) -> nn.Module:
    try:
        return network(**given)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"MONAI's {config.network} does not accept its `arguments`: {error}") from error


def _off_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network off the meta device, where some of MONAI's cannot be built, and move it there."""
    if torch.get_default_device().type != "meta":
        return build()
    with torch.device("cpu"), torch.random.fork_rng(devices=()):
        return build().to("meta")


class MonaiNet(PreTrainedModel):
    """A network of MONAI, held as `network`; itself a foundation model that is read out after its stages.

    :param config: names the network and its arguments.
    """

    config_class = MonaiNetConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    networks = CLASSIFIERS + SEGMENTERS

    def __init__(self, config: MonaiNetConfig) -> None:
        """:raises ValueError: when the network is not one of those that give this class's output."""
        super().__init__(config)
        if config.network not in self.networks:
            raise ValueError(
                f"`network` is {config.network!r}, but {type(self).__name__} supports {', '.join(self.networks)}."
            )
        self.network = build_network(config)
        first_name: dict[nn.Parameter, str] = {}
        self._tied_weights_keys = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            parameter._is_hf_initialized = True  # as MONAI does it
            if first_name.setdefault(parameter, name) != name:
                self._tied_weights_keys[name] = first_name[parameter]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Weights that a checkpoint lacks start as torch's layers do; transformers holds back the others."""
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor) -> Any:
        """The network's own output.

        :param pixel_values: (B, in_channels, *image size).
        """
        return self.network(pixel_values)


class MonaiNetForImageClassification(MonaiNet):
    """A classifier of MONAI, of images or of volumes."""

    networks = CLASSIFIERS

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Logits (B, num_labels), and the loss where there are labels.

        :param pixel_values: (B, in_channels, *image size).
        :param labels: (B,) class indices, or (B, num_labels) zeros and ones for a multi-label problem.
        """
        output = self.network(pixel_values)
        logits = output if isinstance(output, Tensor) else output[0]  # ViT gives its hidden states as well
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)


class MonaiNetForSemanticSegmentation(MonaiNet):
    """A segmenter of MONAI, of images or of volumes."""

    networks = SEGMENTERS

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SemanticSegmenterOutput:
        """Logits (B, num_labels, *image size), and the cross-entropy where there are labels.

        :param pixel_values: (B, in_channels, *image size).
        :param labels: (B, *image size) class indices; 255 where there is no label.
        """
        logits = self.network(pixel_values)
        loss = None if labels is None else F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


# `save_pretrained` then puts this file and those that it imports beside the weights
MonaiNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")
MonaiNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
