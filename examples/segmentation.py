"""Masks in a few minutes, with nothing to download: `python examples/segmentation.py` (needs rd-hf[masks]).

The pictures are drawn: blurred, speckled ellipses of several tissues. A small network first learns to segment three
tissues of many pictures; it then serves as the foundation model: it is frozen, and has never seen the task. The task
has other tissues: a lesion is to be found beside a bright cyst that is none. Four pictures have a mask, and two hundred
have none. The student is a U-Net from random weights, which learns such plain pictures well alone, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, Image
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter
from transformers.utils import logging as transformers_logging

import rd_hf

SIZE = 64
FOUNDATION = {
    "model_type": "segformer", "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "decoder_hidden_size": 64,
    "num_attention_heads": [1, 2, 4, 4],
}  # fmt: skip
STUDENT = {
    "model_type": "monai", "network": "UNet", "spatial_dims": 2,
    "arguments": {"channels": [12, 24, 48], "strides": [2, 2], "num_res_units": 1},
}  # fmt: skip
# The grey value of each tissue, and its class in the mask; the first is the background.
MANY_TISSUES = {"background": (70, 0), "organ": (120, 1), "vessel": (35, 2), "bone": (190, 3)}
LESION = {"background": (110, 0), "cyst": (165, 0), "lesion": (70, 1)}


def draw(tissues: dict[str, tuple[int, int]], speckle: float, generator: np.random.Generator) -> tuple:
    """A picture of ellipses under multiplicative noise, and its mask."""
    values = list(tissues.values())
    picture = PillowImage.new("L", (SIZE, SIZE), values[0][0])
    mask = PillowImage.new("L", (SIZE, SIZE), 0)
    for value, number in values[1:]:
        for _ in range(generator.integers(1, 3)):
            centre, radii = generator.uniform(10, SIZE - 10, 2), generator.uniform(5, 14, 2)
            box = [*(centre - radii), *(centre + radii)]
            ImageDraw.Draw(picture).ellipse(box, fill=int(value + generator.normal(0, 8)))
            ImageDraw.Draw(mask).ellipse(box, fill=number)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.2)), dtype=float)
    pixels *= generator.gamma(1 / speckle**2, speckle**2, pixels.shape)
    return PillowImage.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def pictures(
    tissues: dict[str, tuple[int, int]], speckle: float, seed: int, train: int, labelled: int | None = None
) -> DatasetDict:
    """Drawn pictures in three splits; without `labelled` every picture of train has its mask."""
    generator = np.random.default_rng(seed)
    splits = {}
    for split, count in (("train", train), ("validation", 24), ("test", 60)):
        images, masks = zip(*(draw(tissues, speckle, generator) for _ in range(count)), strict=True)
        if split == "train" and labelled is not None:
            masks = [*masks[:labelled], *[None] * (count - labelled)]
        features = Features({"image": Image(), "mask": Image()})
        splits[split] = Dataset.from_dict({"image": list(images), "mask": list(masks)}, features=features)
    return DatasetDict(splits)


def pretrain(folder: Path, max_steps: int) -> Path:
    """Train the network that plays the foundation model, and save it as an ordinary checkpoint."""
    run = folder / "pretraining"
    network = rd_hf.distill(
        method="ce", student=FOUNDATION, dataset=pictures(MANY_TISSUES, 0.5, seed=0, train=200),
        max_steps=2 * max_steps, student_image_size=SIZE, label_names=list(MANY_TISSUES), output_dir=str(run),
        overwrite_output_dir=True, per_device_train_batch_size=8,
    )  # fmt: skip
    network.model.save_pretrained(folder / "foundation_model")
    shutil.copy(run / "student" / "preprocessor_config.json", folder / "foundation_model")
    return folder / "foundation_model"


def main() -> None:
    """Run the example and print what happens in plain words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/segmentation"))
    parser.add_argument("--max_steps", type=int, default=200, help="optimiser steps per training")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # of loading models outside of rd_hf
    started = time.perf_counter()

    print("\nThe pictures are drawn. The results say nothing about medical images.")
    print("\n1. A small network learns to segment three tissues. It serves as the frozen foundation model.")
    teacher = pretrain(options.output_dir, options.max_steps)

    task = pictures(LESION, 0.5, seed=1, train=204, labelled=4)
    settings = {
        "student": STUDENT, "dataset": task, "student_image_size": SIZE, "label_names": ["background", "lesion"],
        "max_steps": options.max_steps, "learning_rate": 2e-3, "per_device_train_batch_size": 8,
        "overwrite_output_dir": True,
    }  # fmt: skip
    print("\n2. A U-Net learns to find lesions alone, from 4 pictures with a mask.")
    rd_hf.distill(method="ce", output_dir=str(options.output_dir / "student_alone"), **settings)

    print("\n3. The same U-Net learns from the teacher's reprogrammed features, and from 200 pictures without a mask.")
    rd_hf.distill(
        teacher=str(teacher), method="rd", use_unlabeled=True, output_dir=str(options.output_dir / "rd"), num_views=8,
        cache_dir=str(options.output_dir / "teacher_features"), per_device_unlabeled_batch_size=16, **settings,
    )  # fmt: skip

    print("\n4. The student is loaded again, as any user would load it, and segments a picture.")
    picture = options.output_dir / "picture.png"
    task["test"][0]["image"].save(picture)
    masks = options.output_dir / "masks"
    shutil.rmtree(masks, ignore_errors=True)
    folder = str(options.output_dir / "rd" / "student")
    answer = rd_hf.predict(folder, [str(picture)], output_dir=str(masks), overlay=True)[0]
    print(f"   {answer['pixels']['lesion']} of {SIZE * SIZE} pixels are lesion: {answer['mask']}, {answer['overlay']}")

    print(f"\n   {'on the test pictures':28}{'Dice':>8}{'HD95':>8}{'parameters':>12}")
    for name, run in (("student alone", "student_alone"), ("student by RD", "rd")):
        scores = json.loads((options.output_dir / run / "metrics.json").read_text())
        test, size = scores["test"], scores["training"]["student_parameters"]
        print(f"   {name:28}{test['dice']:8.3f}{test['hd95']:8.1f}{size:12,}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Models, scores and pictures are in {options.output_dir}/.")
    print("For your own images, with masks beside them:")
    print("   rd-hf distill --teacher facebook/dinov2-small --student nvidia/mit-b0 --dataset ./my_images \\")
    print("       --task segmentation --output_dir runs/mine")


if __name__ == "__main__":
    main()
