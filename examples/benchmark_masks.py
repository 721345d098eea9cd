"""Measure what RD and DRD cost beside the student alone on masks, with the teacher's features in the cache.

    python examples/benchmark_masks.py --students unet segformer --rounds 5

Rows take turns, an epoch each, in one process, on the same images, all of which have a mask. Times are given as ratios
to the student alone in the same round, because absolute times on a shared machine say little. Models have random
weights. A row is a whole training step as `rd-hf distill` makes it, with fetching and augmenting. `--processor_time` is
that of benchmark_epoch.py.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmark_rows import ALONE, BenchmarkRow, print_times
from step_operations import print_operations
from transformers import AutoModel, ViTConfig

from rd_hf.data.pixels import default_processor
from rd_hf.runtime.allocator import keep_freed_memory
from rd_hf.training import stage_schedule

ROWS = {
    ALONE: {"method": "ce"},
    "RD": {"method": "rd"},
    "RD, narrow projectors": {"method": "rd", "projector_channels": 64},
    "RD, own skips": {"method": "rd", "skips": "own"},
    "RD, own skips, narrow projectors": {"method": "rd", "skips": "own", "projector_channels": 64},
    "DRD": {"method": "drd"},
    "DRD, own skips": {"method": "drd", "skips": "own"},
    "DRD, round_robin": {"method": "drd", "stage_schedule": "round_robin"},
    "DRD, round_robin, own skips, narrow projectors": {
        "method": "drd",
        "stage_schedule": "round_robin",
        "skips": "own",
        "projector_channels": 64,
    },
}
STUDENTS = {
    "unet": {
        "model_type": "monai", "network": "UNet", "spatial_dims": 2,
        "arguments": {"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 1},
    },
    "segformer": {
        "model_type": "segformer", "hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 6], "decoder_hidden_size": 64,
    },
}  # fmt: skip
TEACHER = ViTConfig(hidden_size=384, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, image_size=224)


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """A teacher with random weights, and images with masks of three classes."""
    AutoModel.from_config(TEACHER).save_pretrained(folder / "teacher")
    default_processor(TEACHER.image_size).save_pretrained(folder / "teacher")
    generator, arrays = np.random.default_rng(0), {}
    for split, count in (("train", options.batch_size * options.steps), ("val", 6), ("test", 6)):
        size = (count, options.image_size, options.image_size)
        arrays[f"{split}_images"] = generator.integers(0, 256, size, dtype=np.uint8)
        arrays[f"{split}_masks"] = generator.integers(0, 3, size, dtype=np.uint8)
    np.savez(folder / "data.npz", **arrays)


def measure(folder: Path, options: argparse.Namespace, student: str) -> None:
    """Print the rows of one student."""
    rows = [
        BenchmarkRow(
            name, folder, options, teacher=str(folder / "teacher"), student=STUDENTS[student],
            cache_dir=str(folder / "caches" / student / name), **arguments,
        )
        for name, arguments in ROWS.items()
    ]  # fmt: skip
    print()
    print_times(rows, options.rounds, f"{student}: epoch of")
    print_operations({row.name: row.trainer for row in rows}, ALONE)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="steps per epoch; a multiple of 3 and 4 stages")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--processor_time", action="store_true", help="count the time of this process alone")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    options = parser.parse_args()
    keep_freed_memory()
    stage_schedule.STEPS_PER_PULL = 1  # so that short epochs have each stage on equally often
    logging.getLogger("rd_hf").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(f"Batch of {options.batch_size}, {options.steps} steps per epoch, {options.rounds} rounds, ", end="")
    print(f"{torch.get_num_threads()} threads, student {options.image_size} px")
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), options)
        for student in options.students:
            measure(Path(folder), options, student)


if __name__ == "__main__":
    main()
