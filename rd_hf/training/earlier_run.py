"""What an earlier run has left in its folder, which a new one replaces. Everything else is the user's, and stays."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..arguments.words import some_of
from ..cards.card import CARD_FILE, EVAL_RESULTS_FILE, IMAGES, is_edited
from ..runtime.files import CHECKPOINTS

logger = logging.getLogger(__name__)

_CODE = [path.name for path in (Path(__file__).parents[1] / "models").glob("*.py")]  # travels with a model
_OF_MODEL = (
    "config.json", "preprocessor_config.json", "processor_config.json", "model.safetensors",
    "model-*-of-*.safetensors", "model.safetensors.index.json", CARD_FILE, EVAL_RESULTS_FILE, *IMAGES, *_CODE,
)  # fmt: skip
# the folders of a run, and by pattern what it writes into each
WRITTEN = {
    "student": _OF_MODEL,
    "teacher": _OF_MODEL,
    CHECKPOINTS: ("step-*", ".*-step-*"),
    "trackers": ("rd_hf", "wandb"),
    "logs": ("process-*.log",),
}
_MODELS = ("student", "teacher")


def remove_earlier_run(folder: Path, files: tuple[str, ...]) -> None:
    """Remove what a run leaves, and name what stays: files of the user, and a model card that was edited.

    A link goes without what it leads to.

    :param folder: of the run.
    :param files: the names of those that a run writes beside its folders.
    """
    for name in _MODELS:
        card = folder / name / CARD_FILE
        own = card.is_file() and not (folder / name).is_symlink()
        if own and is_edited(card.read_text(encoding="utf-8")):
            kept = card.replace(folder / f"edited_card_of_{name}.md")
            logger.warning("The edited model card of the earlier run is kept as %s.", kept)
    for name in files:
        (folder / name).unlink(missing_ok=True)
    for name, patterns in WRITTEN.items():
        if (folder / name).is_symlink():
            (folder / name).unlink()
            continue
        for path in [path for pattern in patterns for path in (folder / name).glob(pattern)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        _remove_empty(folder / name)
        left = sorted(path.relative_to(folder).as_posix() for path in _files_below(folder / name))
        if left:
            logger.warning("No run of rd_hf wrote %s in %s: kept.", some_of(left, 3), folder)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they hold no file."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                _remove_empty(path)
        if not any(folder.iterdir()):
            folder.rmdir()


def _files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
