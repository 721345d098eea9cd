"""An exported ONNX model, run by onnxruntime and called as the transformers model that it was made from."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from ..cards.provenance import FORM, ONNX

MODEL_FILE = "model.onnx"
INPUT, OUTPUT = "pixel_values", "logits"


class OnnxError(ValueError):
    """A model that cannot be exported to ONNX or run from it; the message says why."""


def require(name: str) -> ModuleType:
    """Import one of the packages of the extra `onnx`.

    :raises OnnxError: when it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OnnxError(f"ONNX needs the package {name}, which is not installed: pip install 'rd-hf[onnx]'.") from error


def is_onnx_folder(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder's model is the exported one in ONNX, by its config; a stray file beside other weights is not.

    :param config: what config.json there holds.
    """
    has_others = any(folder.glob("*.safetensors"))
    return (folder / MODEL_FILE).is_file() and (config.get(FORM) == ONNX or not has_others)


@dataclass
class OnnxOutput(ModelOutput):
    """What a call gives.

    :ivar logits: (B, num_labels), or (B, num_labels, h, w) of a segmenter.
    """

    logits: Tensor | None = None


class OnnxModel(nn.Module):
    """An image classifier or segmenter in `model.onnx`, on the CPU.

    :param path: the file; its metadata holds what `rd_hf.exports.onnx.describe` wrote.
    :raises OnnxError: when onnxruntime is missing, or cannot read the file, or the file is not an export of rd_hf.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised; they need not be printed as well
        errors = runtime.capi.onnxruntime_pybind11_state
        try:
            self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (errors.InvalidProtobuf, errors.NoSuchFile) as error:
            raise OnnxError(f"{path} is not an ONNX model, or cut off: {error}") from error
        except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented) as error:
            reason = str(error).splitlines()[0]
            raise OnnxError(
                f"{path} cannot be run by onnxruntime {runtime.__version__}: {reason} It may be damaged, need a newer "
                "onnxruntime, or lack a file beside it."
            ) from error
        metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        missing = sorted({"labels", "problem_type", "trained_on"} - set(metadata))
        if missing:
            raise OnnxError(f"{path} was not exported by rd_hf, because its metadata lacks {', '.join(missing)}.")
        self.label_names: list[str] = json.loads(metadata["labels"])
        self.problem_type = metadata["problem_type"]
        self.trained_on: dict[str, Any] = json.loads(metadata["trained_on"])

    @property
    def input_shape(self) -> list[int | str]:
        """Batch, channels, rows and columns: a number where it is fixed, else a name."""
        return self.session.get_inputs()[0].shape

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device("cpu")

    def forward(self, pixel_values: Tensor) -> OnnxOutput:
        """Logits of normalised images (B, 3, H, W), on the device of these.

        :raises OnnxError: for images of a size that the model does not take.
        """
        errors = require("onnxruntime.capi.onnxruntime_pybind11_state")
        try:
            logits = self.session.run([OUTPUT], {INPUT: pixel_values.float().cpu().numpy()})[0]
        except (errors.InvalidArgument, errors.Fail, errors.RuntimeException) as error:
            size = " x ".join(map(str, pixel_values.shape))
            raise OnnxError(
                f"The ONNX model does not support images of size {size}: {str(error).splitlines()[0]}"
            ) from error
        return OnnxOutput(logits=torch.from_numpy(logits).to(pixel_values.device))
