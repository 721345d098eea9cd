"""Which image classifiers of transformers work as students: distils a tiny one of each family, and exports it.

    PYTHONPATH=.:tests python tests/models/sweep_students.py RESULTS.jsonl [--onnx] [MODEL_TYPE ...]

One line of JSON for each family of `vision_families.py` and each type that rd_hf refuses; families that the file has
already are skipped. It takes some minutes of one core, and with the export to ONNX a quarter of an hour.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from conftest import blob_arrays
from drawing import leave_plots_empty
from transformers import CONFIG_MAPPING, AutoModel, ResNetConfig, ViTImageProcessorPil, pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from vision_families import FAMILIES, Family

import rd_hf
from rd_hf.data.decoding.images import to_rgb
from rd_hf.data.pixels import default_processor
from rd_hf.exports.run import export
from rd_hf.students.loading import StudentError, load_student
from rd_hf.training import distillation

LARGEST_SIDE = 64


def distilled(family: Family, folder: Path, data: Path) -> Path:
    """The folder of a student of this family, after two steps of DRD."""
    known = CONFIG_MAPPING[family.model_type]().to_dict()
    config = {name: value for name, value in family.config.items() if name in known or family.nested_config}
    config = config if family.nested_config is None else {family.nested_config: config}
    side = min(family.image_size)
    if isinstance(config.get("image_size"), tuple):
        config["image_size"] = side
    student = rd_hf.distill(
        teacher=str(folder.parent / "teacher"), student={"model_type": family.model_type, **config}, dataset=str(data),
        output_dir=str(folder / "run"), method="drd", student_image_size=side, max_steps=2, eval_steps=2, shots=4,
        num_views=1, per_device_train_batch_size=6, cache=False,
    )  # fmt: skip
    student.save_pretrained(folder / "student")
    default_processor(side).save_pretrained(folder / "student")
    return folder / "student"


def sweep(family: Family, folder: Path, data: Path, with_onnx: bool) -> dict[str, Any]:
    """One row of results: the differences of the exported forms, and what fails."""
    row: dict[str, Any] = {"type": family.model_type}
    step = "distil"
    try:
        student = distilled(family, folder, data)
        step = "transformers"
        row[step] = export(str(student), str(folder / "plain"))["max_abs_difference"]
        step = "pipeline"
        image = to_rgb(np.load(data)["test_images"][0])
        row[step] = len(pipeline("image-classification", model=str(folder / "plain"))(image)) == 3
        if with_onnx:
            step = "onnx"
            row[step] = export(str(student), str(folder / "onnx"), "onnx")["max_abs_difference"]
    except StudentError as error:
        row["refused"] = str(error)
    except Exception as error:
        row["fails"] = f"{step}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


def refusal(model_type: str) -> dict[str, Any]:
    """What rd_hf says of a type of which there is no tiny family."""
    try:
        load_student({"model_type": model_type}, ["no", "yes"], "single_label_classification", LARGEST_SIDE)
    except StudentError as error:
        return {"type": model_type, "refused": str(error)}
    return {"type": model_type, "untried": True}


def main() -> None:
    """Sweep the families that are named, or all."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    leave_plots_empty()
    distillation.write_report, distillation.summary = (lambda *_: {}), (lambda *_: "")  # scores, plots and cards
    named = [name for name in sys.argv[2:] if name != "--onnx"]
    results = Path(sys.argv[1])
    done = {json.loads(line)["type"] for line in results.read_text().splitlines()} if results.exists() else set()
    families = {family.model_type: family for family in FAMILIES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "blobs.npz", **blob_arrays())
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
        AutoModel.from_config(config).save_pretrained(folder / "teacher")
        ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder / "teacher")
        for model_type in named or MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            if model_type not in done:
                family = families.get(model_type)
                own, data = folder / model_type, folder / "blobs.npz"
                row = sweep(family, own, data, "--onnx" in sys.argv) if family else refusal(model_type)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
