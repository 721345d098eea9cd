"""Writes a student as a plain transformers checkpoint, as ONNX or as a web page, and checks it against the student."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..arguments.commands import ExportArguments
from ..arguments.effects import refuse_given
from ..arguments.values import ArgumentError
from ..cards.forms import copy_companions, write_bundle_card, write_onnx_card, write_transformers_card
from ..cards.provenance import FORM, ONNX, PROVENANCE, read_decisions, read_provenance, set_decisions
from ..data.open_split import OpenSplit
from ..data.split_names import standard_split_name
from ..inference.evaluation import load_splits, open_split, split_rows
from ..inference.loading import LoadedModel, load_model, refuse_revision
from ..inference.model_names import loading, name_of_model
from ..inference.onnx_runtime import MODEL_FILE, OnnxModel, require
from ..models.modeling_monai import network_call
from ..models.tape import input_channels
from ..runtime.files import EXPORT_REPORT, new_folder, write_json
from ..students.timm_students import weights_of_timm
from .bundle import bundle_network, write_bundle
from .inputs import calibration_inputs, checked_inputs, input_noun, input_size, is_of_volumes, random_inputs
from .onnx import (
    OPSET,
    SIDES,
    TOLERANCE,
    any_size,
    check_other_size,
    checked_difference,
    describe,
    max_difference,
    other_size,
    write_int8,
    write_onnx,
)
from .web.page import start_page, write_page

FORMATS = ("transformers", "onnx", "web", "bundle")


def export(
    model: str,
    output_dir: str,
    format: str = "transformers",
    *,
    quantize: str | None = None,
    dynamic_size: bool = False,
    dataset: Any = None,
    split: str = "test",
    revision: str | None = None,
    dataset_config_name: str | None = None,
    dataset_revision: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    mask_column: str | None = None,
    mask_colors: Mapping[str, str] | None = None,
    on_bad_image: str = "error",
    batch_size: int = 64,
    web_runtime: str | None = None,
    cdn: bool = False,
) -> dict[str, Any]:
    """Write a student in another format, with its image processor and card, and check that it answers the same.

    :param model: Hub id or folder of a student; for ONNX of any image classifier or segmenter of transformers.
    :param output_dir: a folder that does not exist or is empty; nothing is left there when the export fails.
    :param format: "transformers" (the wrapped model, which loads without rd_hf), "onnx", "web" (a page around the ONNX
        model, which runs it in the browser), or of a student of volumes "bundle" (of MONAI).
    :param quantize: "int8" for an ONNX model in eight bits, calibrated on the train split of `dataset`.
    :param dynamic_size: ONNX only: let the model take images of other sizes too, where it can.
    :param dataset: ONNX and web only: labelled images to check the export on; random ones by default.
    :param split: the split to check on, and to score the quantised model on; no choice is made by its scores.
    :param mask_column: column of masks, if it cannot be found automatically.
    :param mask_colors: the class of each colour of masks; by default as in the model's training.
    :param on_bad_image: "error" or "skip" for unreadable images of the data set.
    :param web_runtime: web only: the npm package of onnxruntime-web, a file or a folder; by default npm fetches it.
    :param cdn: web only: let the page fetch onnxruntime-web from a public server, in place of a copy beside it.
    :return: what was checked: `max_abs_difference` of the logits, on which images; for a quantised model this is that
        of the float32 model, and beside its scores there is `int8_max_abs_difference`.
    :raises ArgumentError: for arguments that contradict each other, or a model of the wrong kind.
    :raises OnnxError: when the model cannot be exported, or the export does not answer the same.
    """
    model, split = name_of_model(model), standard_split_name(split) or split
    _check_arguments(format, quantize, dynamic_size, dataset, split)
    _check_runtime(format, web_runtime, cdn)
    names = {"image_column": image_column, "label_column": label_column}
    names |= {"mask_column": mask_column, "mask_colors": mask_colors}
    of_hub = {"dataset_config_name": dataset_config_name, "dataset_revision": dataset_revision}
    if dataset is None:
        of_data = {"split": split, "on_bad_image": on_bad_image} | of_hub | names
        refuse_given(ExportArguments, of_data, "no `dataset` is given")
    if quantize is None:
        refuse_given(ExportArguments, {"batch_size": batch_size}, "only `quantize` scores the model")
    loaded = _load(model, revision)
    loaded.model.cpu()
    with new_folder(Path(os.path.expanduser(output_dir))) as folder:
        if format == "bundle":
            report = _export_bundle(loaded, folder)
        elif format == "transformers":
            report = _export_transformers(loaded, folder)
        else:
            started = start_page(folder, loaded, web_runtime, cdn) if format == "web" else None
            checked, calibration = None, None
            if dataset is not None:
                data = load_splits(loaded, dataset, split, dataset_config_name, dataset_revision, **names)
                checked = open_split(loaded, data, split, on_bad_image)
                calibration = open_split(loaded, data, "train", on_bad_image) if quantize else None
            report = _export_onnx(loaded, folder, checked, calibration, dynamic_size, batch_size)
            if started is not None:
                with TemporaryDirectory() as aside:
                    copy_companions(model, revision, Path(aside))
                    report |= write_page(folder, loaded, started, model, Path(aside))
            write_json(report, folder / EXPORT_REPORT)
        if format != "web":
            copy_companions(model, revision, folder)
            _write_card(folder, report, loaded)
        return report


def _write_card(folder: Path, report: dict[str, Any], loaded: LoadedModel) -> None:
    facts = loaded.trained_on, loaded.task.pipeline_tag
    if report["format"] == "bundle":
        write_bundle_card(folder, report, *facts)
    elif report["format"] == "transformers":
        write_transformers_card(folder, report["model_type"], *facts, network=report.get("network"))
    else:
        write_onnx_card(folder, report, *facts)


def _check_arguments(format: str, quantize: str | None, dynamic_size: bool, dataset: Any, split: str) -> None:
    if format not in FORMATS:
        raise ArgumentError(f"`format` is {format!r}; it must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    if quantize not in (None, "int8"):
        raise ArgumentError(f"`quantize` is {quantize!r}; it must be int8.")
    if format not in ("onnx", "web") and (quantize or dataset is not None):
        raise ArgumentError("`quantize` and `dataset` are for `format` onnx and web only.")
    if format != "onnx" and dynamic_size:
        raise ArgumentError("`dynamic_size` is for `format` onnx only.")
    if quantize and dataset is None:
        raise ArgumentError("`quantize` needs a `dataset`: it calibrates on the train split and scores on another one.")
    if quantize and split == "train":
        raise ArgumentError("`split` is train, but `quantize` calibrates on train: choose another split to score on.")
    if format in ("onnx", "web"):
        for package in ("onnx", "onnxruntime", "onnxscript"):
            require(package)


def _check_runtime(format: str, web_runtime: str | None, cdn: bool) -> None:
    if format != "web" and (web_runtime is not None or cdn):
        raise ArgumentError("`web_runtime` and `cdn` are for `format` web only.")
    if web_runtime is not None and cdn:
        raise ArgumentError("`cdn` links to a public server, so that no `web_runtime` is needed: leave one out.")
    if web_runtime is not None and not Path(os.path.expanduser(web_runtime)).exists():
        raise ArgumentError(f"`web_runtime` {web_runtime} does not exist.")


def _load(name: str, revision: str | None) -> LoadedModel:
    """:raises ArgumentError: for a model that has no other form."""
    refuse_revision(name, revision)
    with loading("model", name):
        values, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    if values.get("model_type") == "rd_teacher":  # said before its foundation model is asked for
        raise ArgumentError(
            f"{name} is a reprogrammed teacher. It runs the whole foundation model, so it has no other form. Export "
            "its student (the folder `student` beside it), or use the teacher as it is."
        )
    loaded = load_model(name, revision=revision)
    if isinstance(loaded.model, OnnxModel):
        raise ArgumentError(f"{name} is already an ONNX model: give the student that it was made from.")
    return loaded


def _export_transformers(loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    """The wrapped model's own checkpoint; its logits must be the student's to the bit."""
    if loaded.model.config.model_type != "rd_student":
        raise ArgumentError(
            f"The model has model_type {loaded.model.config.model_type}, but only an rd_student can be unwrapped."
        )
    classifier = loaded.model.to_transformers()
    classifier.config.update({PROVENANCE: loaded.model.config.provenance})
    set_decisions(classifier.config, read_decisions(loaded.model.config.to_dict()))
    classifier.save_pretrained(folder, state_dict=weights_of_timm(classifier))
    loaded.transform.processor.save_pretrained(folder)
    again = loaded.model.wrapped_class.from_pretrained(folder).eval()
    pixel_values = random_inputs(loaded).to(again.dtype)
    for one in (loaded.model, again):
        in_own_memory(one)
    difference, _ = max_difference(loaded.model, again, pixel_values)
    if difference != 0:
        raise ValueError(
            f"The logits of the exported {classifier.config.model_type} differ from those of the student by "
            f"{difference:.2g}."
        )
    network = {"network": network_call(classifier.config)} if is_of_volumes(loaded) else {}
    return {
        "format": "transformers",
        "model_type": classifier.config.model_type,
        **network,
        "max_abs_difference": difference,
        "checked_on": f"{len(pixel_values)} random {input_noun(loaded)}",
    }


def _export_bundle(loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    """A MONAI bundle; the network that its configs build must give the student's logits."""
    if not is_of_volumes(loaded) or loaded.model.config.model_type not in ("rd_student", "monai"):
        raise ArgumentError(
            "`format` bundle is for students of volumes, which are networks of MONAI: choose transformers or onnx."
        )
    is_student = loaded.model.config.model_type == "rd_student"
    network = loaded.model.to_transformers() if is_student else loaded.model
    write_bundle(network, loaded, folder)
    again = bundle_network(folder).eval()
    pixel_values = random_inputs(loaded)
    with torch.no_grad():
        answer = again(pixel_values)
        answer = answer if isinstance(answer, torch.Tensor) else answer[0]
        expected = network(pixel_values=pixel_values).logits
    difference = float((expected - answer).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ValueError(f"The logits of the bundle differ from those of the student by {difference:.2g}.")
    return {
        "format": "bundle",
        "model_type": network.config.network,
        "max_abs_difference": difference,
        "checked_on": f"{len(pixel_values)} random windows",
    }


def in_own_memory(model: PreTrainedModel) -> None:
    """Copies weights out of the file that they are mapped from.

    Where a weight starts in its file, which differs from file to file, decides how the processor's kernels read it, and
    with it the last bit of the logits.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _export_onnx(
    loaded: LoadedModel,
    folder: Path,
    checked: OpenSplit | None,
    calibration: OpenSplit | None,
    dynamic_size: bool,
    batch_size: int,
) -> dict[str, Any]:
    """`model.onnx`, with the config and image processor of the model, and the report."""
    provenance, decisions = read_provenance(loaded.model.config), read_decisions(loaded.model.config.to_dict())
    is_student = loaded.model.config.model_type == "rd_student"
    classifier = loaded.model.to_transformers() if is_student else loaded.model
    path, size = folder / MODEL_FILE, input_size(loaded)
    facts = (loaded.transform, loaded.task.names, loaded.task.problem_type, loaded.trained_on)
    pixel_values = random_inputs(loaded) if checked is None else checked_inputs(loaded, checked)
    with any_size(classifier.config.model_type) if dynamic_size else nullcontext():
        larger = other_size(classifier, pixel_values) if dynamic_size else None
        write_onnx(classifier, size, path, dynamic_size)
        describe(path, *facts)
        exported = OnnxModel(path)
        difference = checked_difference(classifier, exported, pixel_values)
        at_larger = {} if larger is None else check_other_size(classifier, exported, larger)
    report = {
        "format": "onnx",
        "model_type": classifier.config.model_type,
        "opset": OPSET,
        "precision": "float32",
        "input": ["batch", input_channels(classifier), *(SIDES[len(size)] if dynamic_size else size)],
        "max_abs_difference": difference,
        "checked_on": _words(len(pixel_values), loaded, checked),
        **at_larger,
    }
    if calibration is not None:
        report |= _quantize(loaded, path, exported, checked, calibration, batch_size)
        report["int8_max_abs_difference"], _ = max_difference(classifier, OnnxModel(path), pixel_values)
    classifier.config.architectures = [type(classifier).__name__]
    classifier.config.update({FORM: ONNX} | ({PROVENANCE: provenance} if provenance else {}))
    set_decisions(classifier.config, decisions)
    classifier.config.save_pretrained(folder)
    loaded.transform.processor.save_pretrained(folder)
    report["bytes"] = path.stat().st_size
    return report


def _words(count: int, loaded: LoadedModel, checked: OpenSplit | None) -> str:
    """What an export was checked on."""
    noun = input_noun(loaded)
    return f"{count} random {noun}" if checked is None else f"{count} {noun} of {checked.name}"


def _quantize(
    loaded: LoadedModel, path: Path, exported: OnnxModel, checked: OpenSplit, calibration: OpenSplit, size: int
) -> dict[str, Any]:
    """Replace the file by one in eight bits; the first two metrics of both on the split."""
    before = _brief_score(loaded, exported, checked, size)
    pixel_values = calibration_inputs(loaded, calibration)
    eight_bits = path.with_name("int8.onnx")
    write_int8(path, eight_bits, pixel_values.split(1 if is_of_volumes(loaded) else 16))
    describe(eight_bits, loaded.transform, loaded.task.names, loaded.task.problem_type, loaded.trained_on)
    after = _brief_score(loaded, OnnxModel(eight_bits), checked, size)
    float32_bytes = path.stat().st_size
    eight_bits.replace(path)
    return {
        "precision": "int8",
        "calibrated_on": f"{len(pixel_values)} {input_noun(loaded)} of train",
        "scored_on": f"{len(checked.rows)} {'volumes' if is_of_volumes(loaded) else 'images'} of {checked.name}",
        "scores": {"float32": before, "int8": after},
        "float32_bytes": float32_bytes,
    }


def _brief_score(loaded: LoadedModel, model: OnnxModel, split: OpenSplit, batch_size: int) -> dict[str, Any]:
    scores = loaded.task.point_scores(split_rows(loaded, split, batch_size, model))
    shown = {metric.name: scores[metric.name] for metric in loaded.task.metrics[:2]}
    return {name: None if np.isnan(value) else value for name, value in shown.items()}
