"""MeshNet for T1 volumes of the brain as a teacher: a folder that transformers load, from the weights in ../shared.

    python examples/compare/meshnet.py ../shared/models/meshnet_brain_t1/channels21 runs/meshnet_brain_t1

The folder holds this file, so `trust_remote_code` is to be true. The network was trained on volumes whose axes run to
the left, down and to the front; its kernels are turned, so that it reads those of rd_hf (right, front, head).
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class MeshNetConfig(PreTrainedConfig):
    """Configuration of a MeshNet.

    :param channels: of every layer.
    :param dilations: of the layers, from the first on.
    """

    model_type = "meshnet"

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 21,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1),
        **kwargs: Any,
    ) -> None:
        self.in_channels, self.channels, self.dilations = in_channels, channels, list(dilations)
        self.spatial_dims = 3
        super().__init__(**kwargs)


class MeshNet(PreTrainedModel):
    """Dilated convolutions at full resolution (Fedorov et al. 2017, arXiv 1612.00940), without the head.

    The last stage is the hypercolumn (Hariharan et al. 2015, arXiv 1411.5752): the features of all layers, averaged
    over cubes of two voxels a side.
    """

    config_class = MeshNetConfig
    main_input_name = "pixel_values"
    _no_split_modules = ()

    def __init__(self, config: MeshNetConfig) -> None:
        super().__init__(config)
        widths = [config.in_channels] + [config.channels] * (len(config.dilations) - 1)
        self.layers = nn.ModuleList(
            nn.Conv3d(width, config.channels, 3, padding=dilation, dilation=dilation)
            for width, dilation in zip(widths, config.dilations, strict=True)
        )
        self.hypercolumn = nn.AvgPool3d(2)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As torch draws them."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The hypercolumn (B, layers * channels, X / 2, Y / 2, Z / 2) of volumes (B, in_channels, X, Y, Z) in 0..1."""
        features = [pixel_values]
        for layer in self.layers:
            features.append(F.elu(layer(features[-1])))
        return self.hypercolumn(torch.cat(features[1:], dim=1))


MeshNetConfig.register_for_auto_class()
MeshNet.register_for_auto_class("AutoModel")


def convert(source: Path, folder: Path) -> None:
    """Write the folder of a teacher.

    :param source: with config.json and model.safetensors, as in ../shared/models.
    """
    from safetensors.torch import load_file

    stated = json.loads((source / "config.json").read_text(encoding="utf-8"))
    model = MeshNet(MeshNetConfig(**{name: stated[name] for name in ("in_channels", "channels", "dilations")}))
    weights = load_file(source / "model.safetensors")
    weights = {name: value.float() for name, value in weights.items() if not name.startswith("head.")}
    model.load_state_dict({name: _turned(value) if value.ndim == 5 else value for name, value in weights.items()})
    model.save_pretrained(folder)


def _turned(kernel: Tensor) -> Tensor:
    """A kernel (O, I, left, down, front) as one of (O, I, right, front, up)."""
    return kernel.permute(0, 1, 2, 4, 3).flip(2, 4).contiguous()


def main() -> None:
    """Parse the arguments and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("folder", type=Path, help="folder of the teacher")
    options = parser.parse_args()
    # transformers save no code of __main__, and take an import statement here for a package that the teacher needs
    importlib.import_module("meshnet").convert(options.source, options.folder)


if __name__ == "__main__":
    main()
