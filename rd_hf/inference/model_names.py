"""Errors that name the model at fault: what a library says of one often names neither the model nor the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..arguments.values import ArgumentError, nearest_name
from ..arguments.words import package_needed
from ..data.pixels import PixelError
from ..models.backbone import Backbone, BackboneError
from ..models.features import StageError
from ..students.loading import StudentError
from .model_files import how_to_convert, problem_of, problem_of_processor
from .onnx_runtime import OnnxError

OWN_ERRORS = (ArgumentError, BackboneError, OnnxError, StageError, StudentError)
# What transformers, safetensors, PyTorch and a repo's own code raise for a model that they cannot build.
FOREIGN_ERRORS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError, AssertionError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
_ADDRESS = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.\-]+/[\w.\-]+)")


class ModelNameError(ValueError):
    """A teacher or student that cannot be loaded under the name given."""


def name_of_model(model: str | os.PathLike, role: str = "model", or_else: str = "") -> str:
    """A Hub id, or the path of a folder, with `~` as the home.

    :param or_else: a sentence about what may be given in place of it.
    :raises ArgumentError: for anything else, such as the model itself.
    """
    if model == "":
        raise ArgumentError(f"`{role}` is empty: give a Hub id or a folder.")
    if isinstance(model, (str, os.PathLike)):
        return os.path.expanduser(model)
    folder = getattr(model, "name_or_path", "")
    hint = f", {folder!r}" if folder and Path(folder).is_dir() else ", after its `save_pretrained`"
    raise ArgumentError(
        f"`{role}` is a {type(model).__name__}: give the folder that it is saved in{hint}, or a Hub id.{or_else}"
    )


def check_pair(role: str, given: Any) -> tuple[PreTrainedModel | Backbone, BaseImageProcessor | None]:
    """A model and its image processor.

    :param role: "student", "teacher" or "model".
    :raises ArgumentError: for anything else, such as a model alone or one that is not of transformers.
    """
    if not (isinstance(given, (tuple, list)) and len(given) == 2):
        raise ArgumentError(
            f"The {role} is a {type(given).__name__}: give a pair of the model and its image processor, ({role}, "
            "processor)."
        )
    model, processor = given
    if isinstance(model, PreTrainedModel) or (role == "teacher" and isinstance(model, Backbone)):
        return model, processor
    what = f"The {role} is a {type(model).__name__}, not a model of transformers"
    if role == "teacher" and isinstance(model, nn.Module):
        raise ArgumentError(
            f"{what}: wrap it, as rd_hf.TeacherNetwork(model, in_channels), with the channels of what it reads."
        )
    raise ArgumentError(f"{what}: give one, such as AutoModelForImageClassification.from_pretrained(its folder).")


@contextmanager
def loading(role: str, name: str) -> Iterator[None]:
    """A context for loading a model: errors name `role` and `name`.

    :param role: the argument, such as "teacher".
    :raises ModelNameError: as `check_name`, or when loading fails.
    """
    check_name(role, name)
    with naming(role, name):
        yield


def check_name(role: str, name: str) -> None:
    """:raises ModelNameError: for an address, a file, the folder of a run, and what looks like a missing folder."""
    if "://" in name:
        found = _ADDRESS.match(name)
        way_out = f"Give the name of the repo, {found.group(1)!r}" if found else "Give a Hub id or a folder"
        raise ModelNameError(f"The {role} {name!r} is an address. {way_out}.")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if Path(os.path.expanduser(name)).is_file():
        raise ModelNameError(f"The {role} {name!r} is a file. Give the folder that holds config.json and the weights.")
    if looks_local and not Path(os.path.expanduser(name)).is_dir():
        raise ModelNameError(f"The {role} {name!r} is not a folder ({nearest_name(Path(name).absolute())}).")
    folder = Path(os.path.expanduser(name))
    if not (folder / "config.json").is_file() and (folder / "student" / "config.json").is_file():
        student = str(folder / "student")
        way_out = f"Give its student, {student!r}."
        if role == "teacher":
            way_out = f"Give its student in plain form: `rd-hf export --model {student} --output_dir plain`."
        raise ModelNameError(f"The {role} {name!r} is the folder of a run. {way_out}")


@contextmanager
def naming(role: str, name: str) -> Iterator[None]:
    """A context for work with a model: errors about it name `role` and `name`, and say the reason in a sentence.

    :raises ModelNameError: for what a library raises, and for an image processor that cannot be used.
    """
    try:
        yield
    except PixelError as error:
        found = problem_of_processor(name) or str(error)
        raise ModelNameError(f"The {role} {name!r} cannot be used: {found}") from error
    except (ModelNameError, *OWN_ERRORS):
        raise
    except FOREIGN_ERRORS as error:
        raise ModelNameError(f"The {role} {name!r} cannot be loaded: {_reason(role, name, error)}") from error


def check_backbone(name: str) -> None:
    """Look at the files of a backbone, which is loaded as a part of a teacher.

    :raises ModelNameError: when something is wrong with them.
    """
    with loading("backbone", name):
        found = problem_of(name, _kind("backbone"))
    if found is not None:
        raise ModelNameError(f"The backbone {name!r} cannot be loaded: {found}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the second if it only announces that; its kind where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])


def _kind(role: str) -> str:
    """The Auto class that loads a model: only its features are read of a foundation model."""
    return "AutoModel" if role in ("teacher", "backbone") else "AutoModelForImageClassification"


def _unreachable() -> str:
    """Why a repo that is not in the cache cannot be loaded."""
    if constants.HF_HUB_OFFLINE:
        return "it is not in the cache, and HF_HUB_OFFLINE prevents its download. Unset that, or give a local folder."
    return (
        f"it is not in the cache, and the Hub ({constants.ENDPOINT}) cannot be reached. Check the connection, or "
        "download the repo elsewhere and give its folder."
    )


def _reason(role: str, name: str, error: Exception) -> str:
    """Why a model cannot be loaded: a missing package or right, its files, or else what the library says."""
    chain: list[BaseException] = [error]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    missing = next(filter(None, map(package_needed, chain)), None)
    if missing is not None:
        return missing
    if any(isinstance(cause, GatedRepoError) for cause in chain):
        return (
            f"its repo is gated. Ask for access at https://huggingface.co/{name}, and then log in with `hf auth login` "
            "or set HF_TOKEN."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in chain):
        return (
            "the Hub has no such repo, or it is private. Correct the name, or log in with `hf auth login` or set "
            "HF_TOKEN."
        )
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in chain):
        return _unreachable()
    if "use_safetensors" in str(error) and not Path(os.path.expanduser(name)).is_dir():
        return how_to_convert(name, _kind(role))
    found = problem_of(name, _kind(role))
    if found is not None:
        return found
    if "ignore_mismatched_sizes" in str(error) or "size mismatch" in str(error):
        return "its weights do not have the shapes that its config.json describes. Download both again from one source."
    said = first_line(error)
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError | TypeError | AttributeError) else said
