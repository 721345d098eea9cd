"""Throughput of one training in several layouts of the same global batch, as ratios to one process with all threads.

    python examples/benchmark_processes.py --rounds 5

Layouts alternate, since other jobs on the machine come and go; each row is a median over the rounds with its range.
Models have random weights, images are noise: only time is measured. A run that is not counted fills the cache of the
teacher's features; the others read it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import AutoModel, MobileNetV2Config, ViTImageProcessorPil

STUDENT = (
    "{model_type: resnet, embedding_size: 24, hidden_sizes: [24, 48, 96, 160], depths: [1, 1, 1, 1], layer_type: basic}"
)
ROWS, STEPS, SIZE = 64, 12, 96
LAYOUTS = {  # processes, accumulated batches, cka_batch
    "1 process": (1, 1, "global"),
    "2 processes, CKA local": (2, 1, "local"),
    "2 processes, CKA global": (2, 1, "global"),
    "2 accumulated batches, CKA local": (1, 2, "local"),
    "2 accumulated batches, CKA global": (1, 2, "global"),
}


def prepare(folder: Path) -> None:
    """Write the data set and the teacher."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 256), ("val", 32), ("test", 32)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(folder / "noise.npz", **arrays)
    torch.manual_seed(0)
    AutoModel.from_config(MobileNetV2Config(image_size=SIZE)).save_pretrained(folder / "teacher")
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder / "teacher")


def images_per_second(folder: Path, layout: str, method: str) -> float:
    """Of one run of a layout, without its first steps."""
    processes, accumulation, cka_batch = LAYOUTS[layout]
    options = {
        "teacher": folder / "teacher", "student": STUDENT, "dataset": folder / "noise.npz", "student_image_size": SIZE,
        "method": method, "max_steps": STEPS, "eval_steps": STEPS, "logging_steps": 4, "output_dir": folder / "run",
        "per_device_train_batch_size": ROWS // processes // accumulation, "cka_batch": cka_batch,
        "gradient_accumulation_steps": accumulation, "cache_dir": folder / "cache",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "rd_hf", "distill", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // processes))}
    subprocess.run([*command, "--overwrite_output_dir"], check=True, capture_output=True, env=environment)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return statistics.median([row["images_per_second"] for row in rows if "loss" in row][1:])


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--method", default="rd", choices=["rd", "drd"])
    arguments = parser.parse_args()
    measured: dict[str, list[float]] = {layout: [] for layout in LAYOUTS}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        images_per_second(Path(name), "1 process", arguments.method)
        for _ in range(arguments.rounds):
            for layout in LAYOUTS:
                measured[layout].append(images_per_second(Path(name), layout, arguments.method))
    base = measured["1 process"]
    print(f"| {arguments.method}, {ROWS} rows per step | throughput relative to 1 process |\n|---|---|")
    for layout, values in measured.items():
        ratios = [value / one for value, one in zip(values, base, strict=True)]
        print(f"| {layout} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")


if __name__ == "__main__":
    main()
