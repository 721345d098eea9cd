"""What a cached teacher feature depends on: a key in words, the folder that follows from it, and what has changed."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.image_processing_utils import BaseImageProcessor

from ..data.augmentation import AUGMENTATION_VERSION, AugmentationParameters
from ..models.backbone import Backbone
from ..models.modeling_rd_teacher import RDTeacherForImageClassification
from ..models.teacher_network import TeacherNetwork
from . import int8
from .file import Layout, make_file
from .network_state import network_state

FORMAT = "rd_hf teacher features 1"
KEY_FILE = "key.json"
SMALL_MAPS = "maps_in_float16"  # in a key of int8: the stages whose maps would be larger in int8
VIEW_FILES = "view_*.safetensors"
READABLE = 40  # letters of a value in a sentence
# Of a model's config: what does not enter its features.
NOT_OF_THE_FEATURES = {
    "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id",
    "problem_type", "output_hidden_states", "output_attentions", "return_dict",
}  # fmt: skip


def teacher_key(
    teacher: RDTeacherForImageClassification,
    backbone: Backbone,
    processor: BaseImageProcessor,
    augmentation: AugmentationParameters | None,
    seed: int,
    data: str,
    rows: int,
    dtype: torch.dtype,
    volumes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that a stored feature depends on, besides row and view, as plain JSON values.

    :param teacher: the projectors, whose grids the features are resampled to.
    :param augmentation: strengths, or None where images are shown as they are; the seed then only draws crops.
    :param data: fingerprint of the images that rows number, in their order.
    :param rows: number of these.
    :param dtype: in which features are stored.
    :param volumes: how volumes are read and their views drawn, as plain JSON; None for images.
    """
    config = {n: v for n, v in backbone.config.to_dict().items() if n not in NOT_OF_THE_FEATURES}
    # a field of such keys alone, so that caches of others keep their names
    network = backbone.tower.network if isinstance(backbone.tower, TeacherNetwork) else None
    shown = processor.to_dict()
    crops = volumes is not None and "crop_size" in volumes  # which are drawn also where nothing else changes
    key = {
        "format": FORMAT,
        "teacher_sha256": backbone.source["sha256"],
        "teacher_class": type(backbone.tower).__name__,
        "teacher_code": _model_code(backbone),
        **({} if network is None else {"teacher_network": network_state(network)}),
        "teacher_config": config,
        "teacher_dtype": str(backbone.dtype).removeprefix("torch."),
        "image_size": list(teacher.config.teacher_image_size),
        "processor": {n: v for n, v in shown.items() if not n.startswith("_") and n != "name_or_path"},
        **({} if backbone.slices is None else {"slices": backbone.slices.to_dict()}),
        "stages": [stage.to_dict() for stage in teacher.teacher_stages],
        "grids": [list(projector.input_grid) for projector in teacher.projectors],
        "augmentation_version": AUGMENTATION_VERSION,
        "augmentation": None if augmentation is None else asdict(augmentation),
        "seed": seed if augmentation is not None or crops else None,
        "data": data,
        "rows": rows,
        "dtype": str(dtype).removeprefix("torch."),
        **({} if volumes is None else {"volumes": volumes}),
    }
    if dtype == torch.int8:  # likewise
        small = [number for number, grid in enumerate(key["grids"]) if not int8.saves_space(grid)]
        key |= {SMALL_MAPS: small} if small else {}
    return json.loads(json.dumps(key, default=str))


def entry_layout(key: dict[str, Any]) -> Layout:
    """Shapes and precision of the entries under a key; beside maps of int8, tokens and small maps are float16."""
    dtype = getattr(torch, key["dtype"])
    parts, others = {}, {}
    for number, (stage, grid) in enumerate(zip(key["stages"], key["grids"], strict=True)):
        parts[f"map_{number}"] = (stage["channels"], *grid)
        if dtype == torch.int8 and number in key.get(SMALL_MAPS, ()):
            others[f"map_{number}"] = torch.float16
        elif dtype == torch.int8:
            parts[f"scale_{number}"] = (stage["channels"],)
            others[f"scale_{number}"] = torch.float32
        if stage["prefix_tokens"]:
            parts[f"prefix_{number}"] = (stage["prefix_tokens"], stage["channels"])
            if dtype == torch.int8:
                others[f"prefix_{number}"] = torch.float16
    return Layout(key["rows"], parts, dtype, others)


def rounding_bound(key: dict[str, Any]) -> float:
    """The largest difference, relative to an entry's norm, between what is stored under a key and what was computed."""
    dtype = getattr(torch, key["dtype"])
    if dtype == torch.int8:
        grids = [grid for number, grid in enumerate(key["grids"]) if number not in key.get(SMALL_MAPS, ())]
        return max(map(int8.rounding_bound, grids), default=4 * torch.finfo(torch.float16).eps)
    return 4 * torch.finfo(dtype).eps


def key_id(key: dict[str, Any]) -> str:
    """The name of a key's folder."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class KeyFolder:
    """A cache's folder and what its key.json says.

    :param teacher: Hub id of the teacher, or "local".
    :param made: seconds since the epoch.
    """

    path: Path
    key: dict[str, Any]
    teacher: str
    made: float

    @property
    def used(self) -> float:
        """When a run last opened it, in seconds since the epoch."""
        return (self.path / KEY_FILE).stat().st_mtime

    def identity(self) -> tuple[float, int] | None:
        """What tells this folder from those of other nodes at the same path; None where it cannot be read.

        It is when the folder was made and the number of its key file, which nodes see alike on a disk that they share.
        """
        found = read_folder(self.path)
        try:
            return None if found is None else (found.made, (self.path / KEY_FILE).stat().st_ino)
        except OSError:
            return None


def cache_root(folder: str | os.PathLike | None = None) -> Path:
    """The folder of the caches: `folder`, else the environment variable RD_HF_CACHE, else a folder in HF_HOME."""
    from huggingface_hub.constants import HF_HOME

    named = folder or os.environ.get("RD_HF_CACHE") or os.path.join(HF_HOME, "rd_hf", "teacher_features")
    return Path(os.path.expanduser(named))


def open_folder(root: Path, key: dict[str, Any], teacher: str) -> KeyFolder:
    """The folder of a key, made if it is not there, and marked as used now.

    :raises OSError: when it cannot be made.
    """
    path = root / key_id(key)
    made = KeyFolder(path, key, teacher, time.time())
    found = read_folder(path)
    if found is None:
        (path / KEY_FILE).unlink(missing_ok=True)
        content = {"teacher": teacher, "made": made.made, "key": key}
        make_file(path / KEY_FILE, json.dumps(content, indent=2).encode())
    with suppress(OSError):  # features on a disk that only reads are read
        os.utime(path / KEY_FILE)
    return found or made


def read_folder(path: Path) -> KeyFolder | None:
    """Read a folder's key.json; None if it is missing or not rd_hf's."""
    try:
        content = json.loads((path / KEY_FILE).read_text(encoding="utf-8"))
        folder = KeyFolder(path, content["key"], content["teacher"], content["made"])
        return folder if folder.key["format"] == FORMAT and key_id(folder.key) == path.name else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_folders(root: Path) -> list[KeyFolder]:
    """All caches under a root, the one used last first."""
    paths = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()] if root.is_dir() else []
    return sorted(filter(None, map(read_folder, paths)), key=lambda folder: -folder.used)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The fields in which two keys differ, such as "rotation_degrees was 10.0, is 15.0"; long values are not shown."""
    old, new = _flat(before), _flat(now)
    found = []
    for name in {**old, **new}:
        was, is_now = _short(old.get(name)), _short(new.get(name))
        if old.get(name) != new.get(name):
            readable = max(len(was), len(is_now)) <= READABLE
            found.append(f"{name} was {was}, is {is_now}" if readable else f"{name} differ" + "s" * (name[-1] != "s"))
    return found


def nearest_difference(key: dict[str, Any], others: Sequence[KeyFolder]) -> list[str]:
    """What differs from the most similar cache of the same teacher and images; empty where there is none."""
    shared = ("teacher_sha256", "data")
    same = [o.key for o in others if all(o.key[name] == key[name] for name in shared) and o.key != key]
    return min((differences(other, key) for other in same), key=len, default=[])


def in_words(key: dict[str, Any]) -> list[str]:
    """A key's fields, one per line."""
    return [f"{name}: {_short(value)}" for name, value in _flat(key).items() if value is not None]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested fields; strengths of views keep the names of their arguments."""
    flat = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, "" if name == "augmentation" else f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:100]} ... ({len(text)} characters)"


def _model_code(backbone: Backbone) -> str | None:
    """SHA-256 of the file of a model class that is not part of transformers: such code changes without the weights.

    None also for a class that was typed into a session: it has no file. A plain network has a field of its own.
    """
    if not type(backbone.config).is_custom_code() or isinstance(backbone.tower, TeacherNetwork):
        return None
    try:
        path = Path(inspect.getfile(type(backbone.tower)))
    except (TypeError, OSError):
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
