"""What is wrong with the files of a model that cannot be loaded: looked at only then, and said in words."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_INDEX_NAME

from ..models.open_clip_tower import CONFIG_FILE as OPEN_CLIP_CONFIG
from ..runtime.stand_ins import HEAD_BYTES, stand_in

CONVERTER = "https://huggingface.co/spaces/safetensors/convert"
PYTORCH_FILES = (b"PK\x03\x04", b"\x80\x02")  # a zip archive, a pickle
OTHER_LIBRARIES = {  # by a file of theirs, the first that is found
    OPEN_CLIP_CONFIG: "open_clip",
    "open_clip_pytorch_model.bin": "open_clip",
    "configs/metadata.json": "a MONAI bundle (rd_hf.convert_bundle makes a model of it)",
    "pytorch_lightning.ckpt": "PyTorch Lightning",
}


def problem_of(name: str, kind: str) -> str | None:
    """What is wrong with a model's files, in one clause; None if nothing shows.

    :param name: a folder, or a Hub id, of which only files that were downloaded are looked at.
    :param kind: the Auto class of transformers that loads it.
    """
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        if kind == "AutoModel" and (folder / OPEN_CLIP_CONFIG).is_file():  # of a teacher
            return None
        return _problem_of_config(folder, kind) or _problem_of_weights(folder) or _nothing_to_read(name, kind, folder)
    try:
        cached = try_to_load_from_cache(name, CONFIG_NAME)
    except ValueError:  # not a name that the Hub allows
        return None
    if not isinstance(cached, str):
        return None
    return _problem_of_config(Path(cached).parent, kind) or _problem_of_weights(Path(cached).parent)


def problem_of_processor(name: str) -> str | None:
    """The same of the file of the image processor in a folder; a model of rd_hf must have one."""
    path = Path(os.path.expanduser(name)) / IMAGE_PROCESSOR_NAME
    if not path.is_file():
        return _missing_processor(path.parent)
    return _disguise(path) or _problem_of_json(path)


def _missing_processor(folder: Path) -> str | None:
    """Why no other processor may stand in: a student of rd_hf was trained on what its own one shows."""
    if not (folder / CONFIG_NAME).is_file() or _problem_of_json(folder / CONFIG_NAME):
        return None
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    if not str(config.get("model_type")).startswith("rd_") and "rd_hf_provenance" not in config:
        return None
    return (
        f"the folder has no {IMAGE_PROCESSOR_NAME}, which says what the model reads. Copy the file from where the "
        "model comes from; in the folder of its run, `rd-hf report RUN` writes it again."
    )


def how_to_convert(name: str, kind: str) -> str:
    """Why PyTorch's own weight files are not read, and what to do; a clause."""
    why = (
        "it has weights in PyTorch's own format only (pytorch_model.bin), and rd_hf reads safetensors only, because "
        "the other can run code. "
    )
    if _is_of_timm(name):
        return why + (
            "Copy its config.json to a new folder, and write the weights there in Python with safetensors.torch."
            "save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors'), which reads tensors "
            "alone."
        )
    return why + (
        "If you trust the file, convert it in Python with transformers."
        f"{kind}.from_pretrained({name!r}, use_safetensors=False).save_pretrained('a_new_folder'), and copy "
        f"preprocessor_config.json there; for a repo on the Hub, {CONVERTER} does it."
    )


def _is_of_timm(name: str) -> bool:
    """Whether a folder, or what was downloaded of a repo, has the config of a model of timm."""
    folder = Path(os.path.expanduser(name))
    path = folder / CONFIG_NAME if folder.is_dir() else try_to_load_from_cache(name, CONFIG_NAME)
    if not isinstance(path, str | Path):
        return False
    return "architecture" in json.loads(Path(path).read_text(encoding="utf-8"))


def _problem_of_config(folder: Path, kind: str) -> str | None:
    path = folder / CONFIG_NAME
    if not path.is_file():
        library = next((library for file, library in OTHER_LIBRARIES.items() if (folder / file).is_file()), None)
        made = f"; its files are those of {library}, which rd_hf does not read here" if library else ""
        return f"the folder has no {CONFIG_NAME}, which every model of transformers has{made}."
    found = _disguise(path)
    if found:
        return found
    found = _problem_of_json(path)
    if found:
        return found
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not ({"model_type", "architecture"} & config.keys()):  # timm's has the second
        return f"{CONFIG_NAME} has no model_type, so it is not that of a model of transformers."
    if kind == "AutoModel" and config.get("model_type") == "rd_student":
        return (
            "it is a student of rd_hf. Write it as a plain checkpoint with `rd-hf export --model THIS --output_dir "
            "FOLDER`, and give that folder."
        )
    if kind == "AutoModel" and config.get("model_type") == "rd_teacher":
        return "it is a reprogrammed teacher of rd_hf. Give the foundation model that it was made from."
    return None


def _problem_of_json(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also for bytes that are no text
        return f"{path.name} is not valid JSON ({error}). Download it again."
    return None


def _problem_of_weights(folder: Path) -> str | None:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} cannot be read, so it is damaged or incomplete. Download it again."
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            return f"of its {len(names)} files of weights, {', '.join(missing[:5])} is missing. Download it again."
    return next(filter(None, map(_problem_of_safetensors, sorted(folder.glob("*.safetensors")))), None)


def _nothing_to_read(name: str, kind: str, folder: Path) -> str | None:
    if list(folder.glob("*.safetensors")):
        return None
    files = [path for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}")]
    if not files:
        return "the folder has no weights (model.safetensors)."
    return _disguise(files[0]) or how_to_convert(name, kind)


def _problem_of_safetensors(path: Path) -> str | None:
    found = _disguise(path)
    if found:
        return found
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        try:
            header: dict[str, Any] = json.loads(file.read(length)) if 0 < length <= size - 8 else {}
        except ValueError:
            header = {}
    ends = [value["data_offsets"][1] for value in header.values() if "data_offsets" in value]
    if not header:
        return f"{path.name} cannot be read, so it is damaged or incomplete. Download it again."
    whole = 8 + length + max(ends, default=0)
    if whole != size:
        return f"{path.name} is damaged or incomplete: it has {size:,} of {whole:,} bytes. Download it again."
    return None


def _disguise(path: Path) -> str | None:
    """What a file is that is not what its name says."""
    with path.open("rb") as file:
        start = file.read(HEAD_BYTES)
    if reason := stand_in(start):
        return f"{path.name} cannot be read: {reason}."
    if path.suffix == ".safetensors" and start.startswith(PYTORCH_FILES):
        return f"{path.name} is a file of PyTorch's own format under another name. Convert it: see {CONVERTER}."
    return None
