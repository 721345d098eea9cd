"""Publishes a model, or its page as a Space, on the Hub in one commit, or says in one sentence why it cannot.

Everything that can be refused is checked before a byte goes up: the folder, the token's rights, what the repo already
holds. The token is the one of huggingface_hub's login or HF_TOKEN; nothing here reads, keeps or prints it.
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, SpaceInfo, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..cards.card import CARD_FILE, EVAL_RESULTS_FILE, IMAGES, card_for, is_edited
from .client import HUB_ERRORS, explain, retrying
from .publication import (
    INITIAL_FILES,
    PushError,
    is_unwrapped,
    page_files,
    publishable_files,
    published_config,
    read_model_config,
    refusal,
    weight_files,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_CHOOSE_ANOTHER = "Choose another name, make it private in its settings on the Hub, or leave `private` out."


@dataclass(frozen=True)
class Destination:
    """Where a push goes, as it was found.

    :param repo_id: with namespace.
    :param repo_type: "model", or "space" for a web page.
    :param head: the commit that the push builds on, None for a repo yet to be made.
    :param card: the card that is there.
    :param files: the names of all files that are there.
    """

    repo_id: str
    repo_type: str
    head: str | None
    card: str | None
    files: frozenset[str] = frozenset()


def push(
    folder: str | Path,
    repo_id: str,
    *,
    format: str | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    space: bool = False,
) -> str:
    """Publish the folder of a model, or of a web page, in one commit.

    :param folder: a saved student, reprogrammed teacher or exported model; with `space` an export of `format` web.
    :param repo_id: `namespace/name`; a name alone is in the namespace of whoever is logged in.
    :param format: of a student: "transformers", the default, is the plain checkpoint that it wraps; "rd_hf" its folder
        as it is, which loads with `trust_remote_code=True`. Other models are published as they are.
    :param private: make a new repo private. One that exists must be private already.
    :param revision: branch, made from main where it does not exist.
    :param create_pr: open a pull request instead of committing.
    :param space: publish a web page as a static Space.
    :return: the address of the commit or pull request.
    :raises PushError: in one sentence; the folder is never changed.
    """
    if os.fspath(folder) == "":
        raise PushError("The folder is empty: give the folder of a model, or . for the working folder.")
    folder = Path(os.path.expanduser(folder))
    files = page_files(folder) if space else publishable_files(folder)
    config = read_model_config(folder)
    unwrap = is_unwrapped(config, format)
    found = published_config(config, format)
    message = commit_message or f"Upload {found['model_type']} {'as a web page ' if space else ''}with rd_hf"
    if create_pr and revision is not None:
        raise PushError("`create_pr` always opens a pull request against main: leave `revision` out.")
    again = _again(folder, repo_id, format, private, revision, create_pr, space, commit_message)
    options = {"revision": revision, "create_pr": create_pr, "repo_type": "space" if space else "model"}
    try:
        destination = check_destination(repo_id, found, private=private, **options)
    except PushError as error:
        if isinstance(error.__cause__, ValueError):  # a final refusal: a retry would fail too
            raise
        raise PushError(f"{error} {again}") from error
    if not space:
        _check_card(folder, files, destination)
    with _unwrapped(folder) if unwrap else nullcontext(files) as ready:
        try:
            return _send(ready, destination, private, revision, create_pr, message)
        except HUB_ERRORS as error:
            state = _state(destination, revision)
            raise PushError(f"{explain(error)} {state} {again}") from error


def push_student(student: PreTrainedModel, repo_id: str, **options: Any) -> str:
    """Publish a student's folder, if the student still has the weights that it was saved with there.

    :param student: of `distill`, or loaded from a folder.
    :param options: of `push`.
    :raises PushError: where its folder is not known, or holds other weights: card and plots would speak of those.
    """
    folder = Path(student.name_or_path)
    weights = "model.safetensors"
    with TemporaryDirectory() as aside:
        if student.name_or_path and (folder / weights).is_file():
            student.save_pretrained(aside)
            if filecmp.cmp(Path(aside) / weights, folder / weights, shallow=False):
                return push(folder, repo_id, **options)
    raise PushError(
        "This student was not loaded from a folder with an image processor and a card, or has changed since then. "
        "Save it and its image processor in a folder (`save_pretrained`), then call `rd_hf.push(folder, repo_id)`."
    )


def _check_card(folder: Path, files: dict[str, Path], destination: Destination) -> None:
    """:raises PushError: where new weights would stand under the card of the ones before."""
    repo_id, card = destination.repo_id, destination.card
    if CARD_FILE in files:
        return
    if card is None:
        logger.warning("%s has no model card (README.md), so %s gets none.", folder, repo_id)
    elif is_edited(card):
        logger.warning("%s has no model card (README.md), so the card in %s stays as it is.", folder, repo_id)
    else:
        raise PushError(
            f"{folder} has no model card (README.md), and the card in {repo_id} has the scores of the model that was "
            "pushed before. Write a README.md for this model into the folder, or push to another repo."
        )


def check_destination(
    repo_id: str,
    config: dict[str, Any],
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    repo_type: str = "model",
) -> Destination:
    """Whether this user may publish a model with this config in `repo_id`; sends nothing.

    :param config: of the model in the form in which it is published, see `publication.published_config`.
    :param private: whether nobody else may see the repo.
    :raises PushError: for a malformed name, a namespace without rights, or a repo that is public or holds something
        else.
    """
    try:
        return _destination(repo_id, config, private, revision, create_pr, repo_type)
    except HUB_ERRORS as error:
        raise PushError(f"{explain(error)} Nothing was uploaded.") from error


def _destination(
    repo_id: str, config: dict[str, Any], private: bool, revision: str | None, create_pr: bool, repo_type: str
) -> Destination:
    validate_repo_id(repo_id)
    api = HfApi()
    user = retrying(api.whoami)
    repo_id = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
    if not create_pr:
        _check_rights(user, repo_id)
    info = _find(api, repo_id, revision, repo_type)
    if info is None:
        return Destination(repo_id, repo_type, None, None)
    if private and info.private is False:
        raise PushError(
            f"{repo_id} exists and is public, so what is pushed there would not be private. {_CHOOSE_ANOTHER}"
        )
    if not create_pr:
        retrying(lambda: api.auth_check(repo_id, repo_type=repo_type, write=True))
    names = {sibling.rfilename for sibling in info.siblings}
    remote = json.loads(_read(repo_id, "config.json", info.sha, repo_type)) if "config.json" in names else None
    reason = refusal(remote, names, config)
    if reason is not None:
        raise PushError(f"{repo_id} {reason}")
    card = _read(repo_id, CARD_FILE, info.sha, repo_type) if CARD_FILE in names else None
    return Destination(repo_id, repo_type, info.sha, card, frozenset(names))


def _check_rights(user: dict[str, Any], repo_id: str) -> None:
    namespace = repo_id.split("/")[0]
    roles = {org["name"]: org.get("roleInOrg") for org in user.get("orgs", [])}
    if namespace != user["name"] and (namespace not in roles or roles[namespace] == "read"):
        allowed = [user["name"], *(name for name, role in roles.items() if role != "read")]
        raise PushError(f"{user['name']} cannot publish in {namespace}, only in {', '.join(allowed)}.")
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PushError(
            f"The token of {user['name']} is read-only: log in with a token that can write (`hf auth login`)."
        )


def _find(api: HfApi, repo_id: str, revision: str | None, repo_type: str) -> ModelInfo | SpaceInfo | None:
    """The repo at `revision`, at main where there is no such branch yet, or None where there is no such repo."""
    try:
        return retrying(lambda: api.repo_info(repo_id, revision=revision, repo_type=repo_type))
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        return retrying(lambda: api.repo_info(repo_id, repo_type=repo_type))


def _read(repo_id: str, name: str, commit: str, repo_type: str) -> str:
    path = retrying(lambda: hf_hub_download(repo_id, name, revision=commit, repo_type=repo_type))
    return Path(path).read_text(encoding="utf-8")


@contextmanager
def _unwrapped(folder: Path) -> Iterator[dict[str, Path]]:
    """The files of the plain checkpoint that a student wraps, written aside and checked against it."""
    from ..exports.run import export

    with TemporaryDirectory() as aside:
        export(str(folder), f"{aside}/plain", "transformers")
        yield publishable_files(Path(aside) / "plain")


def _send(
    files: dict[str, Path],
    destination: Destination,
    private: bool,
    revision: str | None,
    create_pr: bool,
    message: str,
) -> str:
    """Make what is missing of repo and branch, upload, commit once; :return: the address of commit or pull request."""
    api, repo_id = HfApi(), destination.repo_id
    of_type = {"repo_type": destination.repo_type}
    operations = _operations(files, destination)
    head = destination.head
    if head is None:
        sdk = {"space_sdk": "static"} if destination.repo_type == "space" else {}
        # None leaves what an organisation has chosen for its new repos, which False would make public
        retrying(lambda: api.create_repo(repo_id, private=private or None, exist_ok=True, **of_type, **sdk))
        made = retrying(lambda: api.repo_info(repo_id, **of_type))
        if private and made.private is False:  # by somebody else, since it was looked for
            raise PushError(f"{repo_id} has meanwhile been made as a public repo. {_CHOOSE_ANOTHER}")
        head = made.sha
    if revision is not None:
        retrying(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True, **of_type))
    sent = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
    logger.info("Pushing to %s: %s", repo_id, ", ".join(operation.path_in_repo for operation in sent))
    # Uploads first, which huggingface_hub retries by itself: what is left for the commit may then be repeated safely.
    api.preupload_lfs_files(repo_id, sent, revision=revision, create_pr=create_pr, free_memory=False, **of_type)
    # Because the parent is named, the Hub rejects the commit if someone else has committed in the meantime.
    of_type |= {"revision": revision, "create_pr": create_pr, "parent_commit": head}
    commit = retrying(
        lambda: api.create_commit(repo_id, operations, commit_message=message, **of_type), repeat_lost=False
    )
    return commit.pr_url or commit.commit_url


def _operations(files: dict[str, Path], destination: Destination) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Every file; the card with the repo's name in it, or none where a person has edited the one in the repo.

    With an earlier card go its scores and pictures, perhaps of patients, that the new one does not have. With earlier
    weights go those of their files that the new ones do not have, as transformers might load them.
    """
    operations: list[CommitOperationAdd | CommitOperationDelete]
    operations = [CommitOperationAdd(name, str(path)) for name, path in files.items() if name != CARD_FILE]
    if weight_files(files):
        replaced = sorted(weight_files(destination.files) - set(files))
        operations += map(CommitOperationDelete, replaced)
        if replaced:
            logger.info("Removed from %s with the earlier weights: %s", destination.repo_id, ", ".join(replaced))
    if CARD_FILE not in files:
        return operations
    text = files[CARD_FILE].read_text(encoding="utf-8")
    if destination.card is not None and is_edited(destination.card) and not is_edited(text):
        words = "The model card in %s was edited there, so it is kept. Check that its scores are of these weights."
        logger.warning(words, destination.repo_id)
        return operations
    card = CommitOperationAdd(CARD_FILE, card_for(text, destination.repo_id).encode())
    has_earlier = destination.card is not None and destination.repo_type == "model"
    earlier = [] if not has_earlier else sorted({*IMAGES, EVAL_RESULTS_FILE} & destination.files - set(files))
    if earlier:
        logger.info("Removed from %s with the earlier card: %s", destination.repo_id, ", ".join(earlier))
    return [*operations, card, *map(CommitOperationDelete, earlier)]


def _state(destination: Destination, revision: str | None) -> str:
    """What the failed push left in the repo, if the Hub still answers. A commit is either complete or absent."""
    repo_id = destination.repo_id
    try:
        info = _find(HfApi(), repo_id, revision, destination.repo_type)
    except HUB_ERRORS:
        return f"The state of {repo_id} cannot be checked now. A commit is either complete in it or absent."
    if info is None:
        return f"{repo_id} does not exist."
    if info.sha == destination.head or not {sibling.rfilename for sibling in info.siblings} - INITIAL_FILES:
        return f"{repo_id} is unchanged." if destination.head else f"{repo_id} was created and is empty."
    return f"{repo_id} has a new commit, from this push or from someone else: look at it before you retry."


def _again(
    folder: Path,
    repo_id: str,
    format: str | None,
    private: bool,
    revision: str | None,
    create_pr: bool,
    space: bool,
    commit_message: str | None,
) -> str:
    """What is safe, and the command to continue with."""
    words = ["rd-hf", "push", str(folder), "--repo_id", repo_id]
    words += ["--format", format] if format is not None else []
    words += (
        ["--space"] * space
        + ["--private"] * private
        + ["--revision", revision] * (revision is not None)
        + ["--create_pr"] * create_pr
        + (["--commit_message", commit_message] if commit_message is not None else [])
    )
    return f"{folder} is complete on disk. Push again with `{shlex.join(words)}`."
