"""Converts a MONAI bundle into a folder that rd_hf loads as a teacher or student, without running anything of it.

MONAI itself evaluates Python expressions in a bundle's configs, and reads weights in a format that can run code. Here
expressions are refused, and weights are read as tensors alone.
"""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ..arguments.yaml_text import read_yaml
from ..models.configuration_monai import CLASSIFIERS, SEGMENTERS, MonaiNetConfig
from ..models.modeling_monai import (
    OF_ONE_SIZE,
    OWN_NAMES,
    SETTLED,
    MonaiNet,
    MonaiNetForImageClassification,
    MonaiNetForSemanticSegmentation,
)
from ..runtime.files import new_folder
from ..runtime.stand_ins import HEAD_BYTES, stand_in

logger = logging.getLogger(__name__)

CONFIGS = [f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml")]
WEIGHTS = ("models/model.safetensors", "models/model.pt")
NETWORKS = {name.lower(): name for name in CLASSIFIERS + SEGMENTERS}
MOST_VALUES = 10_000  # of a network's definition, which has some dozens
STATES = ("state_dict", "model", "network", "net")  # under which training code keeps the weights beside other things


class BundleError(ValueError):
    """A bundle cannot be converted; the message says why and what to do."""


def convert_bundle(bundle: str | os.PathLike[str], output_dir: str | os.PathLike[str]) -> Path:
    """Write the network of a MONAI bundle as a model of transformers with safetensors weights.

    The folder is what `--teacher` or `--student` takes. The log says what the bundle does to volumes before its network
    sees them, because rd_hf shows a teacher values from 0 to 1.

    :param bundle: folder with `configs/inference.json` (or .yaml) and `models/model.pt` or `models/model.safetensors`.
    :param output_dir: a folder that does not exist or is empty.
    :return: `output_dir`.
    :raises ArgumentError: when `output_dir` holds something.
    :raises BundleError: when the network is not one of those that rd_hf knows, when its arguments are Python
        expressions, or when the weights are not plain tensors or not those of the network.
    """
    folder, target = Path(os.path.expanduser(bundle)), Path(os.path.expanduser(output_dir))
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if path is None:
        raise BundleError(f"{folder} has none of {', '.join(CONFIGS)}: give the folder of a MONAI bundle.")
    values = _read(path)
    key = next((name for name in ("network_def", "network") if isinstance(values.get(name), Mapping)), None)
    if key is None:
        raise BundleError(f"{path} has no `network_def` with a `_target_`: write the network's definition there.")
    definition = _plain(values[key], values, path, key, itertools.count(1))
    model = _build(definition, _labels(folder), path)
    _load(model, _weights(folder), definition, folder)
    with new_folder(target) as written:
        model.save_pretrained(written)
    before = values.get("preprocessing")
    if before is None:
        logger.info("The bundle does not say what it does before its network.")
    else:
        logger.info("Before its network the bundle does this: %s", json.dumps(before, default=str))
    logger.warning("%s has no processor, so volumes are shown to it in 0..1: save an RDVolumeProcessor there.", target)
    return target


def _read(path: Path) -> Mapping[str, Any]:
    """The config in a file. JSON may be indented with tabs, which YAML refuses.

    :raises BundleError: when it is damaged, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise BundleError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise BundleError(f"{path} holds no mapping of names to values: give the folder of a MONAI bundle.")
    return values


def _plain(
    value: Any, values: Mapping[str, Any], path: Path, where: str, counted: Iterator[int], depth: int = 0
) -> Any:
    """A value of a config with its references followed.

    :param counted: counts the values, which references to references multiply.
    :raises BundleError: for a Python expression, a reference to nothing, or more values than a network has.
    """
    if next(counted) > MOST_VALUES:
        raise BundleError(f"{path} has more than {MOST_VALUES} values with its references followed: write fewer.")
    if isinstance(value, Mapping):
        return {name: _plain(item, values, path, f"{where}#{name}", counted, depth) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, values, path, f"{where}#{place}", counted, depth) for place, item in enumerate(value)]
    if not isinstance(value, str) or not value.startswith(("$", "@", "%")):
        return value
    found: Any = values
    for name in value[1:].replace("::", "#").split("#"):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not value.startswith("@") or found is None or depth > 10:
        raise BundleError(
            f"`{where}` in {path} is {value!r}, which only running the bundle's code would tell. Write the value "
            "itself there, if you trust the bundle."
        )
    return _plain(found, values, path, where, counted, depth + 1)


def _build(definition: dict[str, Any], labels: dict[int, str], path: Path) -> MonaiNet:
    """The network with random weights."""
    import monai.networks.nets as nets

    target = str(definition.get("_target_"))
    network = NETWORKS.get(target.rsplit(".", maxsplit=1)[-1].lower())
    if network is None:
        raise BundleError(
            f"The network of {path} is {target}, but rd_hf knows only {', '.join(sorted(NETWORKS.values()))} of MONAI."
        )
    parameters = inspect.signature(getattr(nets, network)).parameters
    arguments = {name: value for name, value in definition.items() if not name.startswith("_")}

    def take(name: str) -> Any:
        return arguments.pop(name, parameters[name].default)

    own = OWN_NAMES.get(network, {})
    settings = {
        "spatial_dims": take("spatial_dims"),
        "in_channels": take(own.get("in_channels", "in_channels")),
        "num_labels": take(own.get("out_channels", "out_channels")),
    }
    if network in OF_ONE_SIZE:
        settings["image_size"] = take("img_size")
    for name in SETTLED.get(network, {}):
        arguments.pop(name, None)
    if len(labels) == settings["num_labels"]:
        settings["id2label"] = labels
    model_class = MonaiNetForImageClassification if network in CLASSIFIERS else MonaiNetForSemanticSegmentation
    try:
        return model_class(MonaiNetConfig(network, arguments=arguments, **settings)).eval()
    except (TypeError, ValueError) as error:
        raise BundleError(f"The network of {path} cannot be built: {error}") from error


def _labels(folder: Path) -> dict[int, str]:
    """The names of the network's classes, where the metadata has them."""
    path = folder / "configs" / "metadata.json"
    values = _read(path) if path.is_file() else {}
    for name in ("network_data_format", "outputs", "pred", "channel_def"):
        values = values.get(name) if isinstance(values, Mapping) else None
    names = values if isinstance(values, Mapping) else {}
    return {int(number): str(name).strip() for number, name in names.items() if number.isdigit()}


def _weights(folder: Path) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise BundleError(f"{folder} has none of {', '.join(WEIGHTS)}: download the bundle with its weights.")
    with path.open("rb") as file:
        reason = stand_in(file.read(HEAD_BYTES))
    if reason:
        raise BundleError(f"{path} holds no weights: {reason}.")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise BundleError(
            f"{path} holds more than tensors (or is TorchScript), and reading it could run code. If you trust it, save "
            "its state_dict alone with torch.save."
        ) from error
    nested = next((state[name] for name in STATES if isinstance(state.get(name), Mapping)), state)
    return {name.removeprefix("module."): value for name, value in nested.items() if isinstance(value, Tensor)}


def _load(model: MonaiNet, weights: dict[str, Tensor], definition: dict[str, Any], folder: Path) -> None:
    """Give the network its weights; heads that only training reads are left out.

    :raises BundleError: when they are not those of this network.
    """
    settled = SETTLED.get(model.config.network, {})
    has_more = any(definition.get(name, value) != value for name, value in settled.items())
    same = {name: value for name, value in weights.items() if name in model.network.state_dict()}
    alike = all(value.shape == model.network.state_dict()[name].shape for name, value in same.items())
    missing = set(model.network.state_dict()) - set(same) - _second_names(model, same)
    extra = set(weights) - set(same)
    if missing or not alike or (extra and not has_more):
        example = ", ".join(sorted(missing or extra)[:4]) or "shapes"
        raise BundleError(f"The weights of {folder} are not those of its {model.config.network}: {example} differ.")
    model.network.load_state_dict(same, strict=False)


def _second_names(model: MonaiNet, weights: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that another name among `weights` stands for: some networks hold a block under two names."""
    own = model.network.state_dict(keep_vars=True)
    loaded = {id(own[name]) for name in weights}
    return {name for name, value in own.items() if id(value) in loaded}
