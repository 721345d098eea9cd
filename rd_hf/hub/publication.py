"""What of a model's folder is published, in which form, and whether a repo holds a model of the same kind.

A student is published as the plain transformers checkpoint that it wraps, unless the user asks for `rd_hf`: its folder
as it is, with the code that loads it. Every other folder (teacher, ONNX export, plain checkpoint) goes as it is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..cards.card import CARD_FILE, EVAL_RESULTS_FILE, shown_images
from ..cards.provenance import FORM, ONNX, PROVENANCE
from ..exports.web.layout import NEEDED, is_page, paths_of_page
from ..inference.onnx_runtime import MODEL_FILE, is_onnx_folder
from ..runtime.files import EXPORT_REPORT

logger = logging.getLogger(__name__)

FORMATS = ("transformers", "rd_hf")

# What a published folder consists of, besides weights, code and the pictures that its card shows. Other files of the
# user (tables, notebooks, other pictures) stay where they are.
CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")
NAMES = {CARD_FILE, "LICENSE", *CONFIGS, EXPORT_REPORT}
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# What a repo may hold before anything was published in it.
INITIAL_FILES = {".gitattributes", CARD_FILE, "LICENSE"}


class PushError(ValueError):
    """Nothing, or only a part, was published. The message says why, what is safe and how to continue."""


def publishable_files(folder: Path) -> dict[str, Path]:
    """The files that are published, by their name in the repo.

    :raises PushError: when there is no such folder, or no weights in it.
    """
    if not folder.is_dir():
        raise PushError(f"There is no folder {folder}.")
    if is_page(folder):
        raise PushError(f"{folder} is a web page: push it with `space`, or export the student to onnx and push that.")
    if (folder / "configs" / "metadata.json").is_file() and not (folder / "config.json").is_file():
        raise PushError(
            f"{folder} is a MONAI bundle, which asks its user to run code, so rd-hf push publishes none. Push the "
            "student itself, or upload the folder with `hf upload` if you want it as it is."
        )
    weights = _weights(folder)
    names = NAMES | weights | _code_files(folder) | shown_images(folder / CARD_FILE)
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.name in names}
    left_out = sorted({path.name for path in folder.iterdir()} - set(files) - {Path(EVAL_RESULTS_FILE).parts[0]})
    if left_out:
        logger.info("Left out, because they are not part of a model: %s", ", ".join(left_out))
    if not (weights - {SAFE_WEIGHTS_INDEX_NAME}) & set(files):
        raise PushError(f"{folder} has no weights: give the folder of a model, such as runs/xray/student.")
    if (folder / EVAL_RESULTS_FILE).is_file():
        files[EVAL_RESULTS_FILE] = folder / EVAL_RESULTS_FILE
    return files


def weight_files(names: Iterable[str]) -> set[str]:
    """Those of a repo's files that hold a model's weights for transformers, whole or divided, and their index."""
    return {name for name in names if name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME) or SHARD.fullmatch(name)}


def _weights(folder: Path) -> set[str]:
    """The files that a model's weights are in; of several forms the one that is loaded."""
    config, index = folder / "config.json", folder / SAFE_WEIGHTS_INDEX_NAME
    of_onnx = {MODEL_FILE} if is_onnx_folder(folder, _read_json(config) if config.is_file() else {}) else set()
    if (folder / SAFE_WEIGHTS_NAME).is_file() or not index.is_file():
        return {SAFE_WEIGHTS_NAME, *of_onnx}
    return {SAFE_WEIGHTS_INDEX_NAME, *_read_json(index)["weight_map"].values(), *of_onnx}


def _read_json(path: Path) -> dict[str, Any]:
    """:raises PushError: when the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PushError(f"{path} is not valid JSON ({error}): fetch or write it again.") from error


def _code_files(folder: Path) -> set[str]:
    """The Python files that load the model: those that `auto_map` of its configs names, and what these import."""
    found: set[str] = set()
    for path in (folder / name for name in CONFIGS):
        auto_map = _read_json(path).get("auto_map", {}) if path.is_file() else {}
        for entry in auto_map.values():
            for reference in [entry] if isinstance(entry, str) else filter(None, entry or ()):
                file = folder / f"{reference.split('.')[0]}.py"
                if file.is_file():
                    found |= {file.name, *(Path(name).name for name in get_relative_import_files(file))}
    return found


def page_files(folder: Path) -> dict[str, Path]:
    """The files of a web page that are published, by their path in the Space: those that the export writes.

    :raises PushError: when there is no such folder, or it is no export of `format` web.
    """
    if not folder.is_dir():
        raise PushError(f"There is no folder {folder}.")
    written = paths_of_page()
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = [name for name in NEEDED if name not in there]
    if missing:
        raise PushError(
            f"{folder} is no web page, because it has no {missing[0]}: make one with `rd-hf export --format web`."
        )
    left_out = sorted(set(there) - written)
    if left_out:
        logger.info("Left out, because they are not part of the page: %s", ", ".join(left_out))
    return {name: path for name, path in there.items() if name in written}


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json.

    :raises PushError: when it is missing or says no model_type.
    """
    path = folder / "config.json"
    config = _read_json(path) if path.is_file() else {}
    if "model_type" not in config:
        raise PushError(f"{folder} has no config.json with a model_type: give the folder of a model.")
    return config


def is_unwrapped(config: dict[str, Any], format: str | None) -> bool:
    """Whether a model with this config is published as the plain checkpoint that it wraps.

    :raises PushError: for a `format` that there is not, or that is not for this model.
    """
    model_type = config["model_type"]
    if format == ONNX:
        raise PushError(
            "`push` does not write ONNX models. Export the model first: `rd-hf export --format onnx --model ... "
            "--output_dir d`, then `rd-hf push d`."
        )
    if format not in (None, *FORMATS):
        raise PushError(f"`format` is {format!r}; it must be {' or '.join(FORMATS)}.")
    if format is not None and model_type != "rd_student":
        raise PushError(f"`format` is for students only, and a {model_type} is pushed as it is: leave `format` out.")
    return model_type == "rd_student" and format != "rd_hf"


def published_config(config: dict[str, Any], format: str | None) -> dict[str, Any]:
    """The part of the published config that `model_kind` reads."""
    if not is_unwrapped(config, format):
        return config
    return {
        "model_type": config["classifier_config"]["model_type"],
        "id2label": config["id2label"],
        PROVENANCE: config["provenance"],
    }


@dataclass(frozen=True)
class Kind:
    """Which models may take each other's place in a repo: another seed of it, or the same one trained longer.

    :param form: "rd_hf", "ONNX", or "plain": of one student, but not loaded the same way.
    :param distilled: whether it says that rd_hf made it.
    """

    form: str
    model_type: str
    labels: tuple[str, ...]
    distilled: bool

    def __str__(self) -> str:
        name = f"{self.model_type} in ONNX" if self.form == "ONNX" else self.model_type
        origin = "" if self.distilled else ", not made by rd_hf,"
        return f"a {name}{origin} of {', '.join(self.labels) or 'no named classes'}"


def model_kind(config: dict[str, Any]) -> Kind:
    """The kind of a model, from its config.json."""
    model_type = config["model_type"]
    own = model_type in ("rd_student", "rd_teacher")
    names = config.get("student_config", config).get("id2label") or {}
    return Kind(
        form="rd_hf" if own else "ONNX" if config.get(FORM) == ONNX else "plain",
        model_type=model_type,
        labels=tuple(names[key] for key in sorted(names, key=int)),
        distilled=own or PROVENANCE in config,
    )


def refusal(remote: dict[str, Any] | None, names: set[str], config: dict[str, Any]) -> str | None:
    """Why a model must not replace what the repo holds, or None if it may.

    :param remote: config.json of the repo, None if it has none.
    :param names: the repo's files.
    :param config: of the model, as it would be published.
    """
    if not names - INITIAL_FILES:
        return None
    mine = model_kind(config)
    if remote is None or "model_type" not in remote:
        return f"contains files of another kind, not {mine}: choose another repo."
    there = model_kind(remote)
    if there == mine:
        return None
    same_student = there.labels == mine.labels and (there.model_type == "rd_student") and mine.form == "plain"
    way_out = "choose another repo, or push with `format` rd_hf." if same_student else "choose another repo."
    return f"contains {there}, not {mine}: {way_out}"
