"""Small checkpoints of timm in the layouts of its repos on the Hub, without any download."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

LABELS = ("benign", "malignant", "normal")


def save_model(folder: Path, architecture: str = "test_resnet", num_classes: int = 7, side: int = 32, **arguments):
    """What `timm.models.save_for_hf` writes, with a normalisation of its own; :return: the model, in eval mode."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=num_classes, **arguments).eval()
    images = {"input_size": (3, side, side), "mean": (0.6, 0.5, 0.4), "std": (0.3, 0.2, 0.1), "crop_pct": 0.9}
    timm.models.save_for_hf(
        model,
        folder,
        model_config={"pretrained_cfg": images},
        model_args={"num_classes": num_classes, **arguments},
        safe_serialization="both",
    )
    return model


def rewrite(folder: Path, **changes) -> None:
    """Change fields of config.json; None removes one."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def as_of_the_first_releases(folder: Path) -> None:
    """Put the fields of `pretrained_cfg` beside the architecture, without arguments of the model."""
    values = json.loads((folder / "config.json").read_text())
    rewrite(folder, pretrained_cfg=None, model_args=None, **values["pretrained_cfg"])


def save_weights(folder: Path, name: str, weights: dict[str, torch.Tensor]) -> None:
    """A file of weights, of safetensors or of PyTorch, by its suffix."""
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name)
    else:
        torch.save(weights, folder / name)
