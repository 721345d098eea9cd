"""Training checkpoints in safetensors and JSON. Each is written elsewhere, synced and renamed: complete or absent."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
OWN_DIGEST = "sha256_of_the_rest"


class CheckpointError(ValueError):
    """There is no readable checkpoint."""


@dataclass
class Checkpoint:
    """:param step: optimiser steps done. :param tensors: named groups of tensors. :param state: plain JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def put_into(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load tensors into a module; of one that has several names one is enough.

    :raises CheckpointError: when they are not those of the module.
    """
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    state = module.state_dict()
    found = {state[name].data_ptr() for name in tensors if name in state}
    lacking = [name for name in missing if state[name].numel() and state[name].data_ptr() not in found]
    if lacking or unexpected:
        raise CheckpointError(
            f"The saved weights are not those of this model: {(lacking or unexpected)[0]} is "
            f"{'missing' if lacking else 'unknown'}. Another version of a library may name them otherwise: use the "
            "versions that the run was begun with, or start again with `overwrite_output_dir`."
        )


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `checkpoint` into `folder/step-N` and drop the oldest ones beyond `keep`.

    :raises OSError: when it cannot be written, for instance on a full disk; earlier checkpoints are untouched.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    aside = folder / f".writing-{target.name}"
    for left in folder.glob(".*-step-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    _sync(folder.parent)
    try:
        digests = {}
        for group, tensors in checkpoint.tensors.items():
            path = aside / f"{group}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
            digests[path.name] = file_digest(path)
            _sync(path)
        state = {"step": checkpoint.step, "sha256": digests, **checkpoint.state}
        state[OWN_DIGEST] = _state_digest(state)
        (aside / STATE_FILE).write_text(json.dumps(state, indent=2), encoding="utf-8")
        _sync(aside / STATE_FILE)
        _sync(aside)
    except SafetensorError as error:  # safetensors raises this if the disk is full
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(str(error)) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _remove(target)
    os.replace(aside, target)
    _sync(folder)
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return target


def _remove(path: Path) -> None:
    """Rename, then delete: a half-deleted checkpoint does not look like one."""
    if path.exists():
        aside = path.with_name(f".removing-{path.name}")
        os.replace(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def checkpoint_step(path: Path) -> int:
    """The step of a checkpoint, by its folder's name."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def load_latest(folder: Path) -> Checkpoint:
    """Read the newest checkpoint whose files have the recorded sha256; damaged ones are logged and skipped.

    :raises CheckpointError: when there is none.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("Checkpoint %s is damaged (%s); rd_hf tries the previous one.", path.name, error)
    raise CheckpointError(
        f"{folder} has no readable checkpoint. To start again, give `overwrite_output_dir` in place of `resume`."
    )


def _load(path: Path) -> Checkpoint:
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    if state.pop(OWN_DIGEST) != _state_digest(state):
        raise ValueError(f"the content of {STATE_FILE} has changed")
    tensors = {}
    for name, digest in state.pop("sha256").items():
        if file_digest(path / name) != digest:
            raise ValueError(f"the content of {name} has changed")
        tensors[Path(name).stem] = load_file(path / name)
    return Checkpoint(step=state.pop("step"), tensors=tensors, state=state)


def _state_digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors named `parameter number/name`."""
    state = optimizer.state_dict()["state"]
    return {f"{number}/{name}": value for number, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put what `optimizer_tensors` gave back into an optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
