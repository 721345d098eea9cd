"""Writes the page around an exported ONNX student: a folder that any static server, or a static Space, serves."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from ..._version import __version__
from ...arguments.values import ArgumentError
from ...cards.card import LOCAL, is_hub_id, read_metadata, stamp
from ...cards.provenance import PROVENANCE
from ...data.decoding.reading import Reading
from ...inference.loading import LoadedModel
from ...runtime.files import write_json
from ...scoring.mask_pictures import class_colors
from ...tasks.classification import MultiLabel
from ...tasks.segmentation import Segmentation
from ..inputs import is_of_volumes
from .layout import FILES, LICENSE_FILE, PAGE_FILE, README_FILE, STUDENT_FILE
from .runtime import RUNTIME_FOLDER, linked, vendored
from .steps import preprocessing


def start_page(folder: Path, loaded: LoadedModel, web_runtime: str | None, cdn: bool) -> dict[str, Any]:
    """Copy what is the same for every page, before the model is exported: whatever can be refused is refused now.

    :param folder: of the export.
    :param web_runtime: npm package of onnxruntime-web, a file or a folder; by default npm fetches it.
    :param cdn: link to onnxruntime-web on a public server instead.
    :return: what `write_page` needs: `preprocessing`, and where the page finds its `runtime`.
    :raises ArgumentError: for a model that no page can show, or when the runtime cannot be had.
    """
    if is_of_volumes(loaded):
        raise ArgumentError(
            "`format` web is for students of images, because a volume is too large for a page to read and to show: "
            "export students of volumes to onnx or bundle."
        )
    prepared = preprocessing(loaded.transform)
    shutil.copytree(FILES, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):  # of an installed package that may not be written
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    if cdn:
        shutil.rmtree(folder / RUNTIME_FOLDER)
    return {"preprocessing": prepared, "runtime": linked() if cdn else vendored(folder, web_runtime), "cdn": cdn}


def write_page(
    folder: Path, loaded: LoadedModel, started: dict[str, Any], model_id: str, companions: Path
) -> dict[str, Any]:
    """Write index.html, student.json and README.md around the ONNX model in a folder.

    :param folder: with `model.onnx` and `config.json`.
    :param started: what `start_page` gave.
    :param model_id: of the student; README.md names it if it is on the Hub.
    :param companions: folder with what stands beside the student's weights; its licence is that of the page.
    :return: for the report, where the runtime is, and the bytes of the whole folder.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    student, cdn = _student(loaded, config, started), started["cdn"]
    write_json(student, folder / STUDENT_FILE)
    page = folder / PAGE_FILE
    page.write_text(_render(page, student=student, cdn=cdn, runtime=started["runtime"]), encoding="utf-8")
    if (companions / LICENSE_FILE).is_file():
        shutil.copyfile(companions / LICENSE_FILE, folder / LICENSE_FILE)
    card = companions / README_FILE
    license = read_metadata(card).license if card.is_file() else None
    (folder / README_FILE).write_text(_readme(student, model_id, license, cdn), encoding="utf-8")
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"format": "web", "runtime": "linked" if cdn else "vendored", "page_bytes": total}


def _student(loaded: LoadedModel, config: dict[str, Any], started: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page knows of the student."""
    provenance = config.get(PROVENANCE) or {}
    has_masks = isinstance(loaded.task, Segmentation)
    reading = Reading.recorded(loaded.trained_on)
    return {
        "title": "Masks of images" if has_masks else "Image classifier",
        "labels": loaded.task.names,
        "masks": has_masks,
        "several_labels": isinstance(loaded.task, MultiLabel),
        "colors": [list(color) for color in class_colors(len(loaded.task.names))] if has_masks else None,
        "operating_point": config.get("operating_point"),
        "calibration_temperature": config.get("calibration_temperature"),
        "preprocessing": started["preprocessing"],
        "reading": reading.chosen(),
        "model": _architecture_in_words(config, sum(parameter.numel() for parameter in loaded.model.parameters())),
        "teacher": (provenance.get("teacher") or {}).get("id"),
        "dataset": (provenance.get("dataset") or {}).get("id"),
        "runtime": {name: value for name, value in started["runtime"].items() if name != "script_integrity"},
        "made_by": f"rd_hf {__version__}",
    }


def _architecture_in_words(config: dict[str, Any], parameters: int) -> str:
    """A model in words: its architecture, and how large it is."""
    kind = f"{config['network']} of MONAI" if config["model_type"] == "monai" else config["model_type"]
    size = f"{parameters / 1e6:.1f} million" if parameters >= 1e6 else f"{parameters / 1e3:.0f} thousand"
    return f"{kind}, {size} parameters"


def _render(template: Path, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def _readme(student: dict[str, Any], model_id: str, license: str | None, cdn: bool) -> str:
    """README.md with the metadata of a static Space; a push leaves it alone where a person has edited it."""
    is_public = is_hub_id(model_id) and not Path(model_id).exists()
    data = ModelCardData(
        title=student["title"], sdk="static", app_file=PAGE_FILE, pinned=False, tags=["rd_hf", "medical", "vision"],
        models=[model_id] if is_public else None, license=license,
    )  # fmt: skip
    origin = student["teacher"]
    made = "distilled from " + ("a local foundation model" if origin == LOCAL else f"`{origin}`")
    made = "trained" if origin is None else made
    classes = ", ".join(f"`{' '.join(name.split()).replace('`', chr(39))}`" for name in student["labels"])
    source = "onnxruntime-web comes from a public server" if cdn else "nothing comes from another server"
    return stamp(
        f"""---
{data.to_yaml()}
---

# {student["title"]}

A web page that runs a small model on images in the browser. The images never leave the computer: the page's content
security policy forbids it to send anything to another server, and {source}.

The model ({student["model"]}) was {made} with rd_hf. Its classes: {classes}.

**This is no medical device.** It is made for research, and no patient may be treated by its answers.

To serve it on your own computer, run `python -m http.server` in this folder and open the address that it prints.
"""
    )
