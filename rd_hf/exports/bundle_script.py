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
from .names import channel_of, file_of_channel, stem_of

HERE = Path(__file__).parent


def predict(paths: Sequence[str], network: nn.Module, inferer: Callable, device: Any, output_dir: str) -> list[str]:
    """Write a mask on the grid of each volume (`NAME.nii.gz`), or the probabilities of its classes (`NAME.json`).

    :param paths: of NIfTI files; several channels are the last of four axes, or where the training had a file of each,
        the files `CASE_0000.nii.gz`, `CASE_0001.nii.gz` and so on, whose answer is named after the case.
    :param network: with its weights.
    :param inferer: of MONAI: takes a volume (1, C, X, Y, Z) and the network.
    :return: the paths of the files that were written.
    :raises FileExistsError: before any volume is read, when a file to write exists, or two volumes would have the same.
    :raises FileNotFoundError: likewise, when the file of a channel is missing.
    :raises ValueError: where the network's output for a volume is NaN or infinite.
    """
    model = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    processor = RDVolumeProcessor.from_pretrained(HERE)
    volumes = _volumes(paths, model["channel_files"])
    targets = _targets(volumes, Path(output_dir), ".nii.gz" if model["masks"] else ".json")
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    network.to(device).eval()
    for (_, files), target in zip(volumes, targets, strict=True):
        pixel_values = processor([files], return_tensors="pt")["pixel_values"].to(device)
        with torch.no_grad():
            logits = inferer(pixel_values, lambda values: _logits(network(values))).cpu()
        if not logits.isfinite().all():
            raise ValueError(
                f"The network's output for {files[0]} is not finite (NaN or infinite), so it has no answer."
            )
        if model["masks"]:
            _write_mask(processor, logits, model["values"], files, target)
        else:
            shares = logits[0].sigmoid() if model["multi_label"] else logits[0].softmax(0)
            target.write_text(json.dumps(dict(zip(model["labels"], shares.tolist(), strict=True))))
    return list(map(str, targets))


def _volumes(paths: Sequence[str], channel_files: int | None) -> list[tuple[str, list[str]]]:
    """What the answer of each volume is named after, and the volume's files.

    :param channel_files: the files of a volume, where each holds a channel.
    """
    if channel_files is None:
        return [(stem_of(Path(path)), [str(path)]) for path in paths]
    cases: dict[Path, tuple[str, list[Path]]] = {}
    for path in map(Path, paths):
        channel = channel_of(path)
        if channel is None:
            raise ValueError(
                f"{path} is of no channel by its name: the network reads {channel_files} files of each case, "
                "CASE_0000.nii.gz, CASE_0001.nii.gz and so on."
            )
        files = [file_of_channel(path, number) for number in range(channel_files)]
        cases.setdefault(files[0], (channel.case, files))
    for _, files in cases.values():
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{file} does not exist: the network reads {channel_files} files of each case.")
    return [(case, list(map(str, files))) for case, files in cases.values()]


def _targets(volumes: Sequence[tuple[str, list[str]]], folder: Path, suffix: str) -> list[Path]:
    """The file to write for each volume."""
    targets: list[Path] = []
    for name, _ in volumes:
        target = folder / f"{name}{suffix}"
        if target.exists():
            raise FileExistsError(f"{target} exists already: choose another output_dir, or move it.")
        if target in targets:
            raise FileExistsError(f"Two volumes would have the file {target}: rename one, or run them apart.")
        targets.append(target)
    return targets


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]  # a vision transformer gives its hidden states as well


def _write_mask(
    processor: RDVolumeProcessor, logits: Tensor, values: Sequence[int], files: list[str], target: Path
) -> None:
    """:param values: of each class in the file."""
    (mask,) = processor.post_process_semantic_segmentation(ModelOutput(logits=logits), [files])
    image = nibabel.load(files[0])
    stored = np.array(values, dtype=np.min_scalar_type(max(values)))[mask.numpy()]
    made = nibabel.Nifti1Image(stored, image.affine)
    made.header["xyzt_units"] = image.header["xyzt_units"]
    nibabel.save(made, target)
