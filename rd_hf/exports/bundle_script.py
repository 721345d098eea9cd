"""Runs the network of a MONAI bundle over NIfTI volumes; in the bundle this file is scripts/predict.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .image_processing_rd_volume import RDVolumeProcessor

HERE = Path(__file__).parent


def predict(paths: Sequence[str], network: nn.Module, inferer: Callable, device: Any, output_dir: str) -> list[str]:
    """Write a mask on the grid of each volume (`NAME.nii.gz`), or the probabilities of its classes (`NAME.json`).

    :param paths: of NIfTI files; several channels are the last of four axes.
    :param network: with its weights.
    :param inferer: of MONAI: takes a volume (1, C, X, Y, Z) and the network.
    :return: the paths of the files that were written.
    :raises FileExistsError: before any volume is read, when a file to write exists, or two volumes would have the same.
    :raises ValueError: where the network's output for a volume is NaN or infinite.
    """
    model = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    processor = RDVolumeProcessor.from_pretrained(HERE)
    targets = _targets(paths, Path(output_dir), ".nii.gz" if model["masks"] else ".json")
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    network.to(device).eval()
    for path, target in targets.items():
        pixel_values = processor(str(path), return_tensors="pt")["pixel_values"].to(device)
        with torch.no_grad():
            logits = inferer(pixel_values, lambda values: _logits(network(values))).cpu()
        if not logits.isfinite().all():
            raise ValueError(f"The network's output for {path} is not finite (NaN or infinite), so it has no answer.")
        if model["masks"]:
            _write_mask(processor, logits, model["values"], path, target)
        else:
            shares = logits[0].sigmoid() if model["multi_label"] else logits[0].softmax(0)
            target.write_text(json.dumps(dict(zip(model["labels"], shares.tolist(), strict=True))))
    return [str(target) for target in targets.values()]


def _targets(paths: Sequence[str], folder: Path, suffix: str) -> dict[Path, Path]:
    """The file to write for each volume."""
    targets: dict[Path, Path] = {}
    for path in map(Path, paths):
        target = folder / (path.name.removesuffix(".gz").removesuffix(".nii") + suffix)
        if target.exists():
            raise FileExistsError(f"{target} exists already: choose another output_dir, or move it.")
        if target in targets.values():
            raise FileExistsError(f"Two volumes would have the file {target}: rename one, or run them apart.")
        targets[path] = target
    return targets


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]  # a vision transformer gives its hidden states as well


def _write_mask(
    processor: RDVolumeProcessor, logits: Tensor, values: Sequence[int], source: Path, target: Path
) -> None:
    """:param values: of each class in the file."""
    (mask,) = processor.post_process_semantic_segmentation(ModelOutput(logits=logits), [str(source)])
    image = nibabel.load(source)
    stored = np.array(values, dtype=np.min_scalar_type(max(values)))[mask.numpy()]
    made = nibabel.Nifti1Image(stored, image.affine)
    made.header["xyzt_units"] = image.header["xyzt_units"]
    nibabel.save(made, target)
