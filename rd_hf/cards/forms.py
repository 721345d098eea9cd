"""The card of a student in another form: plain transformers checkpoint, ONNX, or MONAI bundle.

It is the student's own card, with another section on how to use it. In a card that a person has edited nothing is
replaced: an ONNX export's section is put at its end.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, snapshot_download

from ..runtime.files import write_text
from .card import CARD_FILE, EVAL_RESULTS_FILE, IMAGES, is_edited, render_use, shown_images, stamp

logger = logging.getLogger(__name__)

COMPANIONS = (CARD_FILE, "LICENSE", *IMAGES, EVAL_RESULTS_FILE)
BEFORE, AFTER = "\n## Use\n\n", "\n## Where it comes from\n"


def copy_companions(model: str, revision: str | None, folder: Path) -> None:
    """Copy what stands beside a model's weights and says what it is: card, the plots in it, licence, results.

    :param model: folder or Hub id.
    """
    source = Path(model)
    if not source.is_dir():
        source = Path(snapshot_download(model, revision=revision, allow_patterns=list(COMPANIONS)))
    shown = shown_images(source / CARD_FILE)
    for name in COMPANIONS:
        if name in IMAGES and name not in shown:  # perhaps of patients, and taken back
            continue
        if (source / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)


def write_transformers_card(
    folder: Path, model_type: str, trained_on: dict[str, Any], pipeline_tag: str, network: str | None = None
) -> None:
    """Change the student's card in `folder`, if there is one, to that of the plain checkpoint there.

    :param model_type: of the checkpoint; a network of MONAI needs MONAI and the code beside its weights.
    :param trained_on: what is recorded of the student's training data.
    :param pipeline_tag: the Hub's name of its task.
    :param network: of volumes, the Python expression that builds the network.
    """
    use = render_use("transformers", trained_on, pipeline_tag, model_type=model_type, network=network)
    _replace_use(folder / CARD_FILE, use)


def write_bundle_card(folder: Path, report: dict[str, Any], trained_on: dict[str, Any], pipeline_tag: str) -> None:
    """Change the student's card in `folder` to that of the MONAI bundle there, or write a short one.

    :param report: of the export.
    :param trained_on: what is recorded of the student's training data.
    :param pipeline_tag: the Hub's name of its task.
    """
    path, use = folder / CARD_FILE, render_use("bundle", trained_on, pipeline_tag)
    if path.is_file():
        _replace_use(path, use)
    else:
        data = ModelCardData(library_name="monai", pipeline_tag=pipeline_tag, tags=["rd_hf", "monai"])
        title = f"{report['model_type']} as a MONAI bundle"
        write_text(stamp(f"---\n{data.to_yaml()}\n---\n\n# {title}\n{BEFORE}{use}"), path)


def _replace_use(path: Path, use: str) -> None:
    """Give a generated card another section on how to use the model; a card that a person has edited stays."""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if is_edited(text):
            logger.warning(
                "The model card was edited, so it is kept: check what it says on how to use the model, whose form is "
                "another one now."
            )
        else:
            write_text(_with_use(text, use), path)


def write_onnx_card(folder: Path, report: dict[str, Any], trained_on: dict[str, Any], pipeline_tag: str) -> None:
    """Change the student's card in `folder` to that of the ONNX model there, or write a short one where there is none.

    :param report: of the export. Results of the student are not listed as those of a quantised model.
    :param trained_on: what is recorded of the student's training data.
    :param pipeline_tag: the Hub's name of its task.
    """
    path, use = folder / CARD_FILE, render_use("onnx", trained_on, pipeline_tag, report=report)
    if not path.is_file():
        data = ModelCardData(library_name="onnx", pipeline_tag=pipeline_tag, tags=["rd_hf", "onnx"])
        text = stamp(f"---\n{data.to_yaml()}\n---\n\n# {report['model_type']} in ONNX\n{BEFORE}{use}")
    else:
        text = path.read_text(encoding="utf-8")
        text = f"{text.rstrip()}\n\n## ONNX\n\n{use}" if is_edited(text) else _onnx_card(text, use, report)
    write_text(text, path)
    if "scores" in report:
        (folder / EVAL_RESULTS_FILE).unlink(missing_ok=True)


def _onnx_card(text: str, use: str, report: dict[str, Any]) -> str:
    card = ModelCard(text)
    card.data.library_name = "onnx"
    card.data.tags = [*(card.data.tags or []), "onnx"]
    if "scores" in report:
        card.data.eval_results = card.data.model_name = None
    return _with_use(str(card), use)


def _with_use(text: str, use: str) -> str:
    """A generated card with another section on how to use the model."""
    before, rest = text.split(BEFORE, maxsplit=1)
    return stamp(f"{before}{BEFORE}{use}{AFTER}{rest.split(AFTER, maxsplit=1)[1]}")
