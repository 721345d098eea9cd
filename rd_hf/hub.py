"""Publish the folder of a model on the Hub in one commit, or say in one sentence why not and what to do.

Everything that can be refused is checked before a byte goes up: the folder, the token's rights, what the repo already
holds. The token is the one of huggingface_hub's login or HF_TOKEN; nothing here reads, keeps or prints it.
"""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from httpx2 import HTTPError, TransportError
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelInfo, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .model_card import CARD_FILE, card_for, is_edited

logger = logging.getLogger(__name__)

# What a published folder consists of. Other files of the user (pictures, tables, notebooks) stay where they are.
SUFFIXES = {".safetensors", ".py", ".onnx"}
NAMES = {
    CARD_FILE, "LICENSE", "config.json", "preprocessor_config.json", "processor_config.json",
    "model.safetensors.index.json", "confusion_matrix.png", "roc.png", "curves.png", "cka.png",
}  # fmt: skip
# What a repo may hold before anything was published in it.
HARMLESS = {".gitattributes", CARD_FILE, "LICENSE"}

ATTEMPTS = 4
PASSING_TROUBLE = {408, 429, 500, 502, 503, 504}
LONGEST_WAIT = 60.0
PASSED_ON = (HTTPError, OSError, RuntimeError, ValueError)
REASONS = {
    401: "The Hub does not accept the token: log in again with `hf auth login`",
    403: "The token has no right to do this",
    404: "The Hub does not find the repo or the branch",
    409: "Somebody else is changing the repo",
    412: "Somebody else has changed the repo meanwhile",
    422: "The Hub refuses an uploaded file",
    429: "The Hub asks for fewer requests: wait a while",
}
Answer = TypeVar("Answer")


class PushError(ValueError):
    """Nothing, or not all, was published; the message says why, what is safe and how to go on."""


@dataclass(frozen=True)
class Destination:
    """Where a push goes, as it was found.

    :param repo_id: with namespace.
    :param head: the commit that the push builds on, None for a repo yet to be made.
    :param card: the card that is there.
    """

    repo_id: str
    head: str | None
    card: str | None


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> str:
    """Publish a model's folder in one commit.

    :param folder: a saved student, reprogrammed teacher or exported model.
    :param repo_id: `namespace/name`; a name alone is in the namespace of whoever is logged in.
    :param private: make a new repo private; that of one that exists is not changed.
    :param revision: branch, made from main where it does not exist.
    :param create_pr: open a pull request instead of committing.
    :return: the address of the commit or pull request.
    :raises PushError: in one sentence; the folder is never changed.
    """
    folder = Path(folder)
    files = _files(folder)
    config = _config(folder)
    message = commit_message or f"Upload {config['model_type']} with rd_hf"
    if create_pr and revision is not None:
        raise PushError("`create_pr` opens a pull request against main: leave `revision` out.")
    again = _again(folder, repo_id, private, revision, create_pr)
    try:
        destination = check_destination(repo_id, config, revision=revision, create_pr=create_pr)
    except PushError as error:
        if isinstance(error.__cause__, ValueError):  # refused for good: another try would end as this one
            raise
        raise PushError(f"{error} {again}") from error
    try:
        return _send(folder, files, destination, private, revision, create_pr, message)
    except PASSED_ON as error:
        state = _state(destination, revision)
        raise PushError(f"{_explain(error)} {state} {again}") from error


def check_destination(
    repo_id: str, config: dict[str, Any], *, revision: str | None = None, create_pr: bool = False
) -> Destination:
    """Whether this user may publish a model with this config in `repo_id`; sends nothing.

    :param config: of the model, with `model_type` and `id2label`.
    :raises PushError: for a malformed name, a namespace without rights, or a repo that holds something else.
    """
    try:
        return _destination(repo_id, config, revision, create_pr)
    except PASSED_ON as error:
        raise PushError(f"{_explain(error)} Nothing was sent.") from error


def _destination(repo_id: str, config: dict[str, Any], revision: str | None, create_pr: bool) -> Destination:
    validate_repo_id(repo_id)
    api = HfApi()
    user = _patiently(api.whoami)
    repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
    if not create_pr:
        _check_rights(user, repo_id)
    info = _find(api, repo_id, revision)
    if info is None:
        return Destination(repo_id, None, None)
    if not create_pr:
        _patiently(lambda: api.auth_check(repo_id, write=True))
    names = {sibling.rfilename for sibling in info.siblings}
    remote = json.loads(_read(repo_id, "config.json", info.sha)) if "config.json" in names else {}
    if names - HARMLESS and not _same_kind(remote, config):
        held = f"a {remote['model_type']} of {_labels(remote)}" if "model_type" in remote else "files of another kind"
        raise PushError(
            f"{repo_id} holds {held}, not a {config['model_type']} of {_labels(config)}: name another repo."
        )
    return Destination(repo_id, info.sha, _read(repo_id, CARD_FILE, info.sha) if CARD_FILE in names else None)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise PushError(f"There is no folder {folder}.")
    files = sorted(p for p in folder.iterdir() if p.is_file() and (p.suffix in SUFFIXES or p.name in NAMES))
    left_out = sorted({path.name for path in folder.iterdir()} - {path.name for path in files})
    if left_out:
        logger.info("Not part of a model, and left out: %s", ", ".join(left_out))
    if not any(path.suffix in (".safetensors", ".onnx") for path in files):
        raise PushError(f"{folder} holds no weights: name the folder of a model, such as runs/xray/student.")
    return files


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "model_type" not in config:
        raise PushError(f"{folder} has no config.json with a model_type: name the folder of a model.")
    return config


def _check_rights(user: dict[str, Any], repo_id: str) -> None:
    namespace = repo_id.split("/")[0]
    roles = {org["name"]: org.get("roleInOrg") for org in user.get("orgs", [])}
    if namespace != user["name"] and (namespace not in roles or roles[namespace] == "read"):
        allowed = [user["name"], *(name for name, role in roles.items() if role != "read")]
        raise PushError(f"{user['name']} may not publish in {namespace}; only in {', '.join(allowed)}.")
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushError(f"The token of {user['name']} may only read: log in with one that may write (`hf auth login`).")


def _find(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo | None:
    """The repo at `revision`, at main where there is no such branch yet, or None where there is no such repo."""
    try:
        return _patiently(lambda: api.model_info(repo_id, revision=revision))
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        return _patiently(lambda: api.model_info(repo_id))


def _read(repo_id: str, name: str, commit: str) -> str:
    return Path(_patiently(lambda: hf_hub_download(repo_id, name, revision=commit))).read_text(encoding="utf-8")


def _same_kind(remote: dict[str, Any], config: dict[str, Any]) -> bool:
    """The same type of model for the same classes, such as another seed of it, or the same one trained longer."""
    return remote.get("model_type") == config["model_type"] and _labels(remote) == _labels(config)


def _labels(config: dict[str, Any]) -> str:
    names = config.get("student_config", config).get("id2label", {})
    return ", ".join(names[key] for key in sorted(names, key=int)) or "no named classes"


def _send(
    folder: Path,
    files: list[Path],
    destination: Destination,
    private: bool,
    revision: str | None,
    create_pr: bool,
    message: str,
) -> str:
    """Make what is missing of repo and branch, upload, commit once; :return: the address of commit or pull request."""
    api, repo_id = HfApi(), destination.repo_id
    operations = _operations(folder, files, destination)
    for operation in operations:
        if operation.path_in_repo == CARD_FILE:
            _patiently(ModelCard(operation.path_or_fileobj.decode()).validate)
    head = destination.head
    if head is None:
        _patiently(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
        head = _patiently(lambda: api.model_info(repo_id)).sha
    if revision is not None:
        _patiently(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    logger.info("Pushing to %s: %s", repo_id, ", ".join(operation.path_in_repo for operation in operations))
    # Uploads first, which huggingface_hub retries by itself: what is left for the commit may then be repeated safely.
    api.preupload_lfs_files(repo_id, operations, revision=revision, create_pr=create_pr, free_memory=False)
    # With its parent named, the Hub refuses the commit where somebody else committed meanwhile.
    commit = _patiently(
        lambda: api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr, parent_commit=head
        ),
        repeat_lost=False,
    )
    return commit.pr_url or commit.commit_url


def _operations(folder: Path, files: list[Path], destination: Destination) -> list[CommitOperationAdd]:
    """Every file; the card with the repo's name in it, or none where a person has edited the one in the repo."""
    operations = [CommitOperationAdd(p.name, str(p)) for p in files if p.name != CARD_FILE]
    card = folder / CARD_FILE
    if card not in files:
        return operations
    text = card.read_text(encoding="utf-8")
    if destination.card is not None and is_edited(destination.card) and not is_edited(text):
        logger.info("The model card in %s was edited there and is kept as it is.", destination.repo_id)
        return operations
    return [*operations, CommitOperationAdd(CARD_FILE, card_for(text, destination.repo_id).encode())]


def _patiently(call: Callable[[], Answer], repeat_lost: bool = True) -> Answer:
    """`call`, again after a while where the Hub is busy or away; huggingface_hub itself repeats uploads only.

    :param repeat_lost: also where the connection broke, and the call may have been carried out.
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in PASSING_TROUBLE or attempt == ATTEMPTS - 1:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = float(asked) if asked.isdigit() else 2.0**attempt
        except TransportError:
            if not repeat_lost or attempt == ATTEMPTS - 1:
                raise
            wait = 2.0**attempt
        logger.info("The Hub is busy or away; trying again in %g s.", min(wait, LONGEST_WAIT))
        time.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def _explain(error: BaseException) -> str:
    """A sentence on what went wrong."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # of a thread that uploads
        return _explain(error.__cause__)
    if isinstance(error, LocalTokenNotFoundError):
        return "You are not logged in: run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that nothing reaches the Hub."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"{REASONS.get(status, 'The Hub failed')} (HTTP {status})."
    if isinstance(error, HTTPError):
        return f"The connection to the Hub broke ({type(error).__name__})."
    return " ".join(str(error).split()).rstrip(".") + "."


def _state(destination: Destination, revision: str | None) -> str:
    """What the failed push left in the repo, as far as the Hub still answers. A commit is whole or not there at all."""
    repo_id = destination.repo_id
    try:
        info = _find(HfApi(), repo_id, revision)
    except (HTTPError, OSError):
        return f"What {repo_id} holds now cannot be asked; a commit in it is whole or not there at all."
    if info is None:
        return f"{repo_id} does not exist."
    if info.sha == destination.head or not {sibling.rfilename for sibling in info.siblings} - HARMLESS:
        return f"{repo_id} is as it was before." if destination.head else f"{repo_id} was made and is empty."
    return f"{repo_id} has a new commit, of this push or of somebody else: look there first."


def _again(folder: Path, repo_id: str, private: bool, revision: str | None, create_pr: bool) -> str:
    """What is safe, and the command to go on with."""
    words = ["rd-hf", "push", str(folder), "--repo_id", repo_id]
    words += ["--private"] * private + ["--revision", revision] * (revision is not None) + ["--create_pr"] * create_pr
    return f"{folder} is complete on disk; push again with `{shlex.join(words)}`."
