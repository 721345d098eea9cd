"""Loads the vision model of a checkpoint of transformers, timm or open_clip."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AutoModel

from .open_clip_tower import is_open_clip, open_clip_tower
from .packed_tower import PackedTower, whole_image_tower
from .stages import image_tower
from .timm_models import TIMM, timm_config

NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"  # of transformers
HUB_PREFIX = "hf-hub:"  # with which timm and open_clip mark names of the Hub


class BackboneError(ValueError):
    """A backbone cannot be used: weights are missing, or it is not the one that was asked for."""


@contextmanager
def repo_as_it_is() -> Iterator[None]:
    """In this context transformers reads the weights that a repo has.

    Of a repo without safetensors it would take those of an open pull request, or ask a Space to open one.
    """
    before = os.environ.get(NO_CONVERSION)
    os.environ[NO_CONVERSION] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_CONVERSION]
        else:
            os.environ[NO_CONVERSION] = before


def load_tower(
    name: str, revision: str | None, trust_remote_code: bool, device_map: str | dict[str, Any] | None
) -> tuple[nn.Module, set[str]]:
    """The vision model, or the image tower of a model with several, as its checkpoint stores it.

    :param name: Hub id or folder.
    :param revision: branch, tag or commit of the Hub repo.
    :param trust_remote_code: run model code found in the repo.
    :param device_map: spreads the weights over devices, as in transformers.
    :return: it, and the names of its weights that the checkpoint does not have.
    :raises BackboneError: when the devices together have no room for the weights, when the model cannot be spread, or
        when the blocks of a model of timm have weights for which its config builds nothing.
    """
    if is_open_clip(name, revision):
        if device_map is not None:
            raise BackboneError(f"The model {name!r} of open_clip cannot be spread over devices: leave that out.")
        return open_clip_tower(name, revision)
    config = timm_config(name, revision)
    with repo_as_it_is():
        model, loading = AutoModel.from_pretrained(
            name,
            **({} if config is None else {"config": config}),
            revision=revision or "main",
            dtype="auto",
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            device_map=device_map,
        )
    if model.config.model_type == TIMM:
        check_blocks(name, model, loading["unexpected_keys"])
    if device_map is not None and any(parameter.is_meta for parameter in model.parameters()):
        raise BackboneError(
            f"The weights of {name!r} do not fit on the devices of the device map {device_map!r}, so some would "
            "be fetched at every step. Use more devices, or a smaller teacher."
        )
    tower = image_tower(model)
    prefix = next(path for path, module in model.named_modules() if module is tower)
    prefix = f"{prefix}." if prefix else ""
    missing = {key.removeprefix(prefix) for key in loading["missing_keys"] if key.startswith(prefix)}
    tower = whole_image_tower(tower)
    return tower, {f"tower.{key}" for key in missing} if isinstance(tower, PackedTower) else missing


def check_blocks(name: str, model: nn.Module, unexpected: Iterable[str]) -> None:
    """:raises BackboneError: for weights of a block that the config builds without them, such as a layer scale."""
    blocks = {path for path, _ in model.named_modules() if path.rpartition(".")[2].isdigit()}
    for key in sorted(unexpected):
        parts = key.split(".")
        if any(".".join(parts[:end]) in blocks for end in range(1, len(parts))):
            raise BackboneError(
                f"The checkpoint {name!r} has weights {key!r}, for which its config.json builds no layer. Write what "
                "its page gives to timm.create_model, such as init_values: 1.0e-5, into `model_args` of the "
                "config.json of a folder."
            )
