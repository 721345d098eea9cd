"""The image tower of a checkpoint of open_clip. Its text tower is neither read nor built: it may need other repos."""

from __future__ import annotations

import json
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from torch import Tensor
from transformers.utils import CONFIG_NAME

from .teacher_network import TeacherNetwork

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
VISUAL = "visual."
SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


class OpenClipError(ValueError):
    """A checkpoint of open_clip that cannot be read."""


def is_open_clip(name: str, revision: str | None = None) -> bool:
    """Whether a folder or repo has the config of open_clip, and none by which transformers would load it.

    :param name: Hub id or folder.
    """
    own = file_of(name, CONFIG_NAME, revision)
    if own is not None and {"model_type", "architecture"} & json.loads(own.read_text(encoding="utf-8")).keys():
        return False
    return file_of(name, CONFIG_FILE, revision) is not None


def read_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """The config of a checkpoint of open_clip: `model_cfg`, and `preprocess_cfg` where there is one.

    :raises OpenClipError: when it describes no model.
    """
    path = file_of(name, CONFIG_FILE, revision)
    values = json.loads(path.read_text(encoding="utf-8"))
    if not {"embed_dim", "vision_cfg"} <= values.get("model_cfg", {}).keys():
        raise OpenClipError(f"{CONFIG_FILE} has no model_cfg with an embed_dim and a vision_cfg.")
    return values


def open_clip_tower(name: str, revision: str | None = None) -> tuple[TeacherNetwork, set[str]]:
    """The image tower, and the names of its weights that the checkpoint does not have.

    :param name: Hub id or folder.
    :raises ImportError: when open_clip is not installed.
    :raises OpenClipError: when the weights cannot be read, or are not those of the config.
    """
    config = read_config(name, revision)["model_cfg"]
    try:
        open_clip = import_module("open_clip")
    except ImportError as error:
        raise ImportError("Models of open_clip need it: pip install open_clip_torch") from error
    vision = config["vision_cfg"] | {"timm_model_pretrained": False}
    clip = open_clip.CLIP(config["embed_dim"], vision, SMALLEST_TEXT, quick_gelu=config.get("quick_gelu", False))
    weights = _visual_weights(name, revision)
    loaded = clip.visual.load_state_dict(weights, strict=False)
    if loaded.unexpected_keys:
        raise OpenClipError(
            f"its weights are not those of the model in {CONFIG_FILE}, which has no {loaded.unexpected_keys[0]!r}."
        )
    return TeacherNetwork(clip.visual), {f"network.{key}" for key in loaded.missing_keys}


def _visual_weights(name: str, revision: str | None) -> dict[str, Tensor]:
    """The weights of the image tower. Files of PyTorch's own format are read as tensors alone, which runs no code."""
    path = next((found for file in WEIGHT_FILES if (found := file_of(name, file, revision)) is not None), None)
    if path is None:
        raise OpenClipError(f"it has none of {', '.join(WEIGHT_FILES)}.")
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys() if key.startswith(VISUAL)}  # noqa: SIM118
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            raise OpenClipError(
                f"{path.name} holds more than tensors, and reading it could run code. If you trust it, save its "
                f"state_dict with safetensors as {WEIGHT_FILES[0]}."
            ) from error
        state = state.get("state_dict", state)
        weights = {key.removeprefix("module."): value for key, value in state.items()}
        weights = {key: value for key, value in weights.items() if key.startswith(VISUAL)}
    if not weights:
        raise OpenClipError(f"{path.name} has no weights of an image tower (their names begin with {VISUAL!r}).")
    return {key.removeprefix(VISUAL): value for key, value in weights.items()}


def file_of(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a folder or of a repo; None where it is not there."""
    folder = Path(name)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except EntryNotFoundError:  # also of one that is not in the cache where the Hub cannot be reached
        return None
