"""Exports an image classifier or segmenter to ONNX, describes it in the metadata, and quantises it to int8."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._version import __version__
from ..data.pixels import PixelTransform
from ..data.volumes.transform import VolumeTransform
from ..inference.onnx_runtime import INPUT, OUTPUT, OnnxError, OnnxModel, require
from ..models.tape import input_channels
from ..runtime.quiet import quiet

OPSET = 18
SIDES = {2: ("rows", "columns"), 3: ("x", "y", "z")}
# added to the sides of an example with dynamic sides, of volumes to the longest one
LARGER = {2: (64, 96), 3: (32, 64, 96)}
# of the logits' largest magnitude
TOLERANCE = 1e-3
COLORS = {40: "R", 120: "G", 200: "B"}  # bytes of an image by which the order of channels is found


class _Logits(nn.Module):
    """A model as a function of its pixels alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


def write_onnx(model: PreTrainedModel, image_size: tuple[int, ...], path: Path, dynamic_size: bool = False) -> None:
    """Export a model with torch's dynamo exporter: any batch size, float32.

    :param model: a classifier or segmenter of transformers, of images or volumes, in eval mode.
    :param image_size: its input's sides.
    :param dynamic_size: ask for a model that takes images of any size; `check_other_size` sees whether it does.
    :raises OnnxError: when a package is missing, or the exporter cannot follow the model.
    """
    for package in ("onnx", "onnxscript"):
        require(package)
    # dynamic sides must differ from each other, and from one after the last stride, or the exporter takes them as fixed
    sides = list(image_size)
    if dynamic_size:
        least = image_size if len(image_size) == 2 else (max(image_size),) * 3
        sides = [side + extra for side, extra in zip(least, LARGER[len(image_size)], strict=True)]
    example = torch.zeros(2, input_channels(model), *sides)
    names = SIDES[len(image_size)] if dynamic_size else ()
    sizes = {axis: torch.export.Dim(name) for axis, name in enumerate(names, start=2)}
    # its warnings are about torchvision's operators, which no such model of transformers uses
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.onnx.export(
                _Logits(model.float()).eval(),
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={INPUT: {0: torch.export.Dim("batch"), **sizes}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise OnnxError(f"A model of type {model.config.model_type} cannot be exported to ONNX: {reason}") from error
    finally:
        registration.setLevel(level)
    program.save(path, external_data=False)


def describe(
    path: Path,
    transform: PixelTransform | VolumeTransform,
    labels: list[str],
    problem_type: str,
    trained_on: dict[str, Any],
) -> None:
    """Write labels and preprocessing, which every user needs, into the model's metadata.

    :param trained_on: what is recorded of the data set, so that splits made for training can be made again.
    """
    onnx = require("onnx")
    model = onnx.load(path)
    _forget_the_machine(model.graph)
    preprocessing = _of_volumes(transform) if isinstance(transform, VolumeTransform) else _of_images(transform)
    preprocessing["image_processor"] = json.loads(transform.processor.to_json_string())
    values = {
        "labels": labels,
        "preprocessing": preprocessing,
        "trained_on": trained_on,
    }
    texts = {name: json.dumps(value) for name, value in values.items()}
    onnx.helper.set_model_props(model, texts | {"problem_type": problem_type, "rd_hf_version": __version__})
    onnx.save(model, path)


def _of_images(transform: PixelTransform) -> dict[str, Any]:
    """`order` is that of the bytes, and of scale and bias; `channels` are those of the model."""
    order, formula = _order(transform), "pixel_values = byte * scale + bias, for each channel of the resized image"
    if transform.channels == 1:
        formula = "pixel_values = the mean over the three colours of byte * scale + bias, of the resized image"
    return {
        "formula": formula,
        "channels": "grey" if transform.channels == 1 else order,
        "order": order,
        "layout": "batch, channel, row, column",
        "size": list(transform.size),
        "scale": transform.scale.tolist(),
        "bias": transform.bias.tolist(),
    }


def _order(transform: PixelTransform) -> str:
    """The order in which an image processor gives red, green and blue."""
    shown = transform.geometry(Image.new("RGB", (96, 96), tuple(COLORS)))
    middle = shown[:, shown.shape[1] // 2, shown.shape[2] // 2].tolist()
    return "".join(COLORS[min(COLORS, key=lambda value: abs(value - byte))] for byte in middle)


def _of_volumes(transform: VolumeTransform) -> dict[str, Any]:
    return {
        "formula": "see image_processor: axes to RAS+, sides to its spacing or size, values to 0..1, then normalised",
        "channels": transform.channels,
        "layout": "batch, channel, x (right), y (front), z (head)",
        "size": None if transform.size is None else list(transform.size),
    }


def _forget_the_machine(graph: Any) -> None:
    """Remove the exporter's notes about the traced code, which contain file paths."""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def write_int8(source: Path, target: Path, batches: Iterable[Tensor]) -> None:
    """Quantise weights and activations to eight bits, statically.

    Weights are signed, with one scale per channel; activations are unsigned and span what the calibration images show.
    On x86 processors without VNNI products may overflow; onnxruntime's remedy, weights of seven bits, costs more than
    it saves; see docs/explanation/decisions.md.

    :param source: a float32 ONNX file.
    :param target: where the other one goes.
    :param batches: normalised calibration images or windows (B, C, *size).
    :raises OnnxError: when onnxruntime is missing.
    """
    require("onnxruntime")
    quantization = require("onnxruntime.quantization")
    preparation = require("onnxruntime.quantization.shape_inference")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    with TemporaryDirectory() as folder, quiet("root"):  # which says of every norm that it has no channels
        prepared = Path(folder) / "prepared.onnx"
        preparation.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


@torch.no_grad()
def max_difference(model: nn.Module, other: nn.Module, pixel_values: Tensor) -> tuple[float, float]:
    """Largest absolute difference of two models' logits, on the batch and on its first image alone.

    :param pixel_values: (B, C, *size).
    :return: the difference, and the largest magnitude of the first one's logits.
    """
    differences, magnitude = [], 0.0
    for batch in (pixel_values, pixel_values[:1]):
        expected = model(pixel_values=batch).logits
        differences.append(float((other(pixel_values=batch).logits - expected).abs().max()))
        magnitude = max(magnitude, float(expected.abs().max()))
    return float(np.max(differences)), magnitude  # NaN if one is


def checked_difference(model: nn.Module, exported: OnnxModel, pixel_values: Tensor) -> float:
    """Largest absolute difference of the logits of a model and its export.

    :raises OnnxError: when it is more than rounding.
    """
    difference, magnitude = max_difference(model, exported, pixel_values)
    if not difference <= TOLERANCE * max(1.0, magnitude):
        raise OnnxError(
            f"The logits of the ONNX model differ from those of the student by {difference:.2g}, so nothing is written."
        )
    return difference


@torch.no_grad()
def other_size(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Larger images of another shape, which a model that should take any size reads.

    :param pixel_values: (B, C, *size), enlarged by repeating edges.
    :raises OnnxError: when the model itself does not, which the exporter would take minutes to find.
    """
    wider, of_volumes = pixel_values.shape[-1] // 2 + 32, pixel_values.ndim == 5
    larger = (0, 32, 0, 64, 0, 0) if of_volumes else (0, wider, 0, 32)
    other = nn.functional.pad(pixel_values[: 1 if of_volumes else 2], larger, mode="replicate")
    try:
        model(pixel_values=other)
    except (RuntimeError, ValueError) as error:
        raise OnnxError(str(error)) from error
    return other


def check_other_size(model: nn.Module, exported: OnnxModel, pixel_values: Tensor) -> dict[str, Any]:
    """Run an export that should take any image size on what `other_size` gives.

    :return: for the report, the size and the difference of the logits there.
    :raises OnnxError: when these differ, or the graph has kept the size that it was made with.
    """
    try:
        difference = checked_difference(model, exported, pixel_values)
    except (RuntimeError, ValueError) as error:
        raise OnnxError(str(error)) from error
    return {"other_size": list(pixel_values.shape[2:]), "max_abs_difference_at_other_size": difference}


@contextmanager
def any_size(model_type: str) -> Iterator[None]:
    """Around the export of a model that should take images of any size: what goes wrong is said to come of that.

    :raises OnnxError: with the way out.
    """
    try:
        yield
    except OnnxError as error:
        reason = str(error).splitlines()[0]
        raise OnnxError(
            f"A {model_type} with this config supports one image size only: leave `dynamic_size` out. ({reason})"
        ) from error
