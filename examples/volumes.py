"""Volumes in a few minutes, with nothing to download: `python examples/volumes.py` (needs rd-hf[volumes]).

The volumes are drawn: blurred, noisy ellipsoids in NIfTI files, in the layout of the Medical Segmentation Decathlon. A
small 3D network first learns to segment three tissues of many volumes; it then serves as the foundation model: it is
frozen, and has never seen the task. The task has other tissues: a lesion is to be found beside a bright cyst. Four
volumes have a mask, and forty have none. The student is a 3D U-Net from random weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter
from transformers.utils import logging as transformers_logging

import rd_hf

SIZE = 32
VALIDATION, TEST = 8, 20  # volumes
SPACING = (1.0, 1.0, 1.5)  # mm
FOUNDATION = {
    "model_type": "monai", "network": "UNet", "spatial_dims": 3,
    "arguments": {"channels": [12, 24, 48], "strides": [2, 2], "num_res_units": 1},
}  # fmt: skip
STUDENT = {
    "model_type": "monai", "network": "UNet", "spatial_dims": 3,
    "arguments": {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1},
}  # fmt: skip
# The value of each tissue, and its class in the mask; the first is the background.
MANY_TISSUES = {"background": (300, 0), "organ": (500, 1), "vessel": (150, 2), "bone": (800, 3)}
LESION = {"background": (450, 0), "cyst": (700, 0), "lesion": (280, 1)}


def draw(tissues: dict[str, tuple[int, int]], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A volume of ellipsoids under noise, and its mask."""
    values = list(tissues.values())
    volume = np.full((SIZE,) * 3, values[0][0], dtype=np.float32)
    mask = np.zeros((SIZE,) * 3, dtype=np.uint8)
    voxels = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), axis=-1)
    for value, number in values[1:]:
        for _ in range(generator.integers(1, 3)):
            centre, radii = generator.uniform(6, SIZE - 6, 3), generator.uniform(3, 8, 3)
            inside = (((voxels - centre) / radii) ** 2).sum(axis=-1) < 1
            volume[inside] = value + generator.normal(0, 25)
            mask[inside] = number
    return gaussian_filter(volume, 0.7) + generator.normal(0, 60, volume.shape), mask


def write(folder: Path, tissues: dict[str, tuple[int, int]], seed: int, train: int, labelled: int) -> Path:
    """Drawn volumes as files; those of train behind the first `labelled` have no mask."""
    generator = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    affine = np.diag([*SPACING, 1.0])
    for ending, count, with_mask in (("Tr", train, labelled), ("Va", VALIDATION, VALIDATION), ("Ts", TEST, TEST)):
        for number in range(count):
            volume, mask = draw(tissues, generator)
            name = f"case{ending}_{number:03d}.nii.gz"
            for kind, array in {"images": volume.astype(np.int16), "labels": mask}.items():
                if kind == "images" or number < with_mask:
                    (folder / f"{kind}{ending}").mkdir(parents=True, exist_ok=True)
                    nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{kind}{ending}" / name)
    names = [name for name, (_, number) in tissues.items() if number or name == "background"]
    (folder / "dataset.json").write_text(json.dumps({"labels": {str(n): name for n, name in enumerate(names)}}))
    return folder


def pretrain(folder: Path, max_steps: int) -> Path:
    """Train the network that plays the foundation model, and save it as an ordinary checkpoint."""
    run = folder / "pretraining"
    network = rd_hf.distill(
        method="ce", student=FOUNDATION, dataset=str(write(folder / "tissues", MANY_TISSUES, 0, train=40, labelled=40)),
        crop_size=SIZE, max_steps=max_steps, output_dir=str(run), overwrite_output_dir=True,
        per_device_train_batch_size=4, learning_rate=2e-3,
    )  # fmt: skip
    network.model.save_pretrained(folder / "foundation_model")
    shutil.copy(run / "student" / "preprocessor_config.json", folder / "foundation_model")
    return folder / "foundation_model"


def main() -> None:
    """Run the example and print what happens in plain words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/volumes"))
    parser.add_argument("--max_steps", type=int, default=100, help="optimiser steps per training")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # of loading models outside of rd_hf
    started = time.perf_counter()

    print("\nThe volumes are drawn. The results say nothing about medical images.")
    print("\n1. A small 3D network learns to segment three tissues. It serves as the frozen foundation model.")
    teacher = pretrain(options.output_dir, options.max_steps)

    task = write(options.output_dir / "lesions", LESION, seed=1, train=44, labelled=4)
    settings = {
        "student": STUDENT, "dataset": str(task), "crop_size": SIZE, "max_steps": options.max_steps,
        "learning_rate": 2e-3, "per_device_train_batch_size": 4, "overwrite_output_dir": True,
    }  # fmt: skip
    print("\n2. A U-Net learns to find lesions alone, from 4 volumes with a mask.")
    rd_hf.distill(method="ce", output_dir=str(options.output_dir / "student_alone"), **settings)

    print("\n3. The same U-Net learns from the teacher's reprogrammed features, and from 40 volumes without a mask.")
    rd_hf.distill(
        teacher=str(teacher), method="rd", use_unlabeled=True, output_dir=str(options.output_dir / "rd"), num_views=4,
        cache_dir=str(options.output_dir / "teacher_features"), per_device_unlabeled_batch_size=8, **settings,
    )  # fmt: skip

    print("\n4. The student is loaded again, as any user would load it, and segments a volume.")
    masks = options.output_dir / "masks"
    shutil.rmtree(masks, ignore_errors=True)
    folder = str(options.output_dir / "rd" / "student")
    answer = rd_hf.predict(folder, [str(task / "imagesTs" / "caseTs_000.nii.gz")], output_dir=str(masks))[0]
    print(f"   {answer['millilitres']['lesion']:.1f} ml are lesion: {answer['mask']}")

    print(f"\n   {'on the test volumes':28}{'Dice':>8}{'HD95, mm':>10}{'parameters':>12}")
    for name, run in (("student alone", "student_alone"), ("student by RD", "rd")):
        scores = json.loads((options.output_dir / run / "metrics.json").read_text())
        test, size = scores["test"], scores["training"]["student_parameters"]
        print(f"   {name:28}{test['dice']:8.3f}{test['hd95']:10.1f}{size:12,}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Models, scores and pictures are in {options.output_dir}/.")
    print("For your own volumes, in imagesTr and labelsTr:")
    print("   rd-hf distill --teacher facebook/dinov2-small --student '{model_type: monai, network: SegResNet}' \\")
    print("       --dataset ./my_volumes --output_dir runs/mine")


if __name__ == "__main__":
    main()
