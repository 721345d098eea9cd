"""Runs one training in several layouts of the same global batch; launched by test_step.py in one process and in two.

    python tests/training/trajectory.py FOLDER LAYOUT=ACCUMULATION=CASE,CASE ...

FOLDER holds `teacher/`, `blobs.npz`, `masks.npz` and `volumes/`. What each case of CASES gave goes to
FOLDER/LAYOUT/CASE.
"""

import json
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file

from rd_hf.data.pixels import PixelTransform
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.training import distillation, stage_schedule, target_start
from rd_hf.training.run_folder import read_history

# A key's bias has no true gradient, which is what AdamW would blow up; SGD leaves it at rounding.
TINY_VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "patch_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
# Grids of 4x4, 2x2 and 2x2, the last two with fewer cells than the positions below.
TINY_SWIN = {
    "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 1, 1], "window_size": 2,
    "patch_size": 4, "drop_path_rate": 0.0,
}  # fmt: skip
TINY_UNET = {  # with instance norm, whose statistics are an image's own
    "model_type": "monai", "network": "UNet", "spatial_dims": 2,
    "arguments": {"channels": [4, 8, 8], "strides": [2, 2]},
}  # fmt: skip
TINY_UNET_OF_VOLUMES = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 8], "strides": [2]}}
ROWS, STEPS = 8, 4  # 24 labelled images: the last step begins a second epoch
CASES = {
    "rd": {"method": "rd", "use_unlabeled": False, "dtype": torch.float64},
    "drd_unlabeled": {"method": "drd", "use_unlabeled": True, "dtype": torch.float64},
    "drd_positions": {
        "method": "drd",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "student": TINY_SWIN,
        "cka_features": "positions",
        "cka_positions": 5,
    },
    "masks_rd": {
        "method": "rd",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "dataset": "masks.npz",
        "student": TINY_UNET,
        "class_weights": "balanced",
    },
    "masks_drd_own_skips": {
        "method": "drd",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "dataset": "masks.npz",
        "student": TINY_UNET,
        "skips": "own",
        "cka_features": "positions",
        "cka_positions": 5,
    },
    "drd_optima": {  # of this seed the first stage is drawn first
        "method": "drd",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "stage_schedule": "optima",
        "seed": 6,
    },
    "rd_plus": {"method": "rd_plus", "use_unlabeled": True, "dtype": torch.float64, "num_views": 2},
    "masks_rd_plus": {
        "method": "rd_plus",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "dataset": "masks.npz",
        "student": TINY_UNET,
    },
    "volumes_drd": {
        "method": "drd",
        "use_unlabeled": True,
        "dtype": torch.float64,
        "dataset": "volumes",
        "student": TINY_UNET_OF_VOLUMES,
        "student_image_size": None,
        "crop_size": 8,
        "num_views": 2,
        "shots": 4,
    },
    "drd_float32": {"method": "drd", "use_unlabeled": True, "dtype": torch.float32},
}


def run(folder: Path, layout: str, accumulation: int, case: str) -> None:
    """Train one case and keep weights, evaluation logits and losses."""
    changes = {"student": TINY_VIT, "dataset": "blobs.npz"} | CASES[case]
    dtype, dataset = changes.pop("dtype"), changes.pop("dataset")
    in_precision(dtype)
    share = ROWS // int(os.environ.get("WORLD_SIZE", "1")) // accumulation
    values = {
        "teacher": str(folder / "teacher"), "dataset": str(folder / dataset), "student_image_size": 32, "shots": 8,
        "output_dir": str(folder / layout / case), "max_steps": STEPS, "eval_steps": STEPS, "logging_steps": 1,
        "learning_rate": 0.05, "cache": False, "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": share, "per_device_unlabeled_batch_size": share,
    }  # fmt: skip
    values |= changes
    if not changes["use_unlabeled"]:
        del values["per_device_unlabeled_batch_size"]
    student = distillation.distill(**values)
    if int(os.environ.get("RANK", "0")) == 0:
        shape = (5, 1, 8, 8, 8) if dataset == "volumes" else (5, 3, 32, 32)
        pixels = torch.linspace(-1, 1, math.prod(shape), dtype=dtype).view(shape)
        with torch.no_grad():
            logits = student(pixel_values=pixels).logits
        save_file(student.state_dict() | {"logits": logits}, folder / layout / f"{case}.safetensors")
        rows = [row for row in read_history(folder / layout / case) if "loss" in row]
        for row in rows:
            del row["images_per_second"], row["data_wait"], row["memory_gib"]
        (folder / layout / f"{case}.json").write_text(json.dumps(rows))


def in_precision(dtype: torch.dtype) -> None:
    """Models and pixels in `dtype`."""

    def assemble(*parts):
        models = assemble_models(*parts)
        for model in (models.student, models.teacher, models.backbone.tower):
            model.to(dtype)
        return models

    distillation.assemble_models = assemble
    PixelTransform.normalize = lambda self, pixels: normalize(self, pixels).to(dtype)
    RDVolumeProcessor.normalized = lambda self, *parts: normalized(self, *parts).to(dtype)


if __name__ == "__main__":
    assemble_models, normalize = distillation.assemble_models, PixelTransform.normalize
    normalized = RDVolumeProcessor.normalized
    torch.optim.AdamW = torch.optim.SGD
    distillation.write_report = distillation.summary = lambda *_: ""
    stage_schedule.STEPS_PER_PULL = 1
    target_start.FIT_STEPS = 20
    for word in sys.argv[2:]:
        layout, accumulation, names = word.split("=")
        for name in names.split(","):
            run(Path(sys.argv[1]), layout, int(accumulation), name)
