"""The whole job in a few minutes, with nothing to download: `make demo`.

The images are scikit-learn's 8x8 digits. A small network is first trained to tell the digits 0-4 apart; it then serves
as the foundation model: it is frozen, and has never seen the task, which is to tell 5-9 apart. For that there are five
labelled images per digit and several hundred without labels. The student is a vision transformer from random weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PillowImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

import rd_hf

IMAGE_SIZE = 32
TEACHER = {
    "model_type": "resnet", "embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1],
    "layer_type": "basic", "downsample_in_first_stage": False,
}  # fmt: skip
STUDENT = {
    "model_type": "vit", "patch_size": 4, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 128, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def digits(wanted: range) -> DatasetDict:
    """The wanted digits as a data set of images, split into train, validation and test."""
    source = load_digits()
    rows = np.flatnonzero(np.isin(source.target, wanted))
    train, rest = train_test_split(rows, test_size=0.4, random_state=0, stratify=source.target[rows])
    validation, test = train_test_split(rest, test_size=0.6, random_state=0, stratify=source.target[rest])
    features = Features({"image": Image(), "label": ClassLabel(names=[f"digit {digit}" for digit in wanted])})

    def split(rows: np.ndarray) -> Dataset:
        pixels = (source.images[rows] / 16 * 255).astype(np.uint8)
        images = [PillowImage.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE)) for image in pixels]
        labels = (source.target[rows] - wanted.start).tolist()
        return Dataset.from_dict({"image": images, "label": labels}, features=features)

    return DatasetDict(train=split(train), validation=split(validation), test=split(test))


def pretrain_teacher(folder: Path, max_steps: int) -> Path:
    """Train the network that plays the foundation model, on digits 0-4, and save it as an ordinary checkpoint."""
    run = folder / "pretraining"
    network = rd_hf.distill(
        method="ce", student=TEACHER, dataset=digits(range(5)), student_image_size=IMAGE_SIZE, max_steps=max_steps,
        horizontal_flip=False, output_dir=str(run), overwrite_output_dir=True,
    )  # fmt: skip
    network.model.save_pretrained(folder / "foundation_model")
    shutil.copy(run / "student" / "preprocessor_config.json", folder / "foundation_model")
    return folder / "foundation_model"


def main() -> None:
    """Run the demo and print what happens in plain words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--max_steps", type=int, default=300, help="optimiser steps per training")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()  # of loading models outside of rd_hf
    started = time.perf_counter()

    print("\nThis is a demo on 8x8 pictures of digits. Its results say nothing about medical images.")
    print("\n1. A small network learns the digits 0-4. It serves as the frozen foundation model.")
    teacher = pretrain_teacher(options.output_dir, options.max_steps)

    task = digits(range(5, 10))
    settings = {
        "student": STUDENT, "dataset": task, "student_image_size": IMAGE_SIZE, "shots": 5, "horizontal_flip": False,
        "max_steps": options.max_steps, "learning_rate": 1e-3, "overwrite_output_dir": True,
    }  # fmt: skip
    print(f"\n2. A student learns the digits 5-9 alone, from 25 labelled images out of {len(task['train'])}.")
    rd_hf.distill(method="ce", output_dir=str(options.output_dir / "student_alone"), **settings)

    print("\n3. The same student learns from the teacher's reprogrammed features, and also uses the unlabelled images.")
    rd_hf.distill(
        teacher=str(teacher), method="rd", use_unlabeled=True, output_dir=str(options.output_dir / "rd"),
        cache_dir=str(options.output_dir / "teacher_features"), **settings,
    )  # fmt: skip

    print("\n4. The student is loaded again, as any user would load it, and classifies one test image.")
    folder = options.output_dir / "rd" / "student"
    student = AutoModelForImageClassification.from_pretrained(folder)
    picture = options.output_dir / "test_image.png"
    task["test"][0]["image"].save(picture)
    truth = student.config.id2label[task["test"][0]["label"]]
    guess = rd_hf.predict(str(folder), [str(picture)])[0]
    print(f"   It is a {truth}; the student says {guess['label']} ({guess['probabilities'][guess['label']]:.0%}).")

    print(f"\n   {'on the test images':28}{'AUROC':>8}{'accuracy':>10}{'parameters':>12}")
    for name, run in (("student alone", "student_alone"), ("student by RD", "rd")):
        scores = json.loads((options.output_dir / run / "metrics.json").read_text())
        test, size = scores["test"], scores["training"]["student_parameters"]
        print(f"   {name:28}{test['auroc']:8.3f}{test['accuracy']:10.3f}{size:12,}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Models, scores and plots are in {options.output_dir}/.")
    print("For your own images:")
    print("   rd-hf distill --teacher facebook/dinov2-small --student google/mobilenet_v2_0.35_96 \\")
    print("       --dataset ./my_images --output_dir runs/mine")


if __name__ == "__main__":
    main()
