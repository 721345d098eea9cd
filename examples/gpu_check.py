"""Measure training on a GPU: the teacher's throughput, cold and warm epochs, waiting for data, and memory.

    python examples/gpu_check.py

Models have random weights, images are noise: only time and memory are measured. A row is an epoch of whole training
steps as `rd-hf distill` makes them; its first epoch is not counted. `--tiny` checks on any machine that the script
runs, without the compiled row.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate.state import AcceleratorState
from transformers import AutoModel, AutoModelForImageClassification, ResNetConfig, ViTConfig
from transformers.utils.logging import disable_progress_bar

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.data.pixels import default_processor
from rd_hf.runtime.memory import PeakMemory
from rd_hf.runtime.processes import start_accelerator
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.training.assembly import build_models, build_trainer
from rd_hf.training.compilation import compiled_models
from rd_hf.training.run_data import load_run_data

TEACHERS = {
    "ViT-B/16": ViTConfig(),
    "ViT-L/16": ViTConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
TINY = ViTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
STUDENT = ResNetConfig(
    layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], embedding_size=64, num_labels=3
)
ROWS = {
    "student alone": {"method": "ce"},
    "RD, teacher at every step": {"method": "rd", "cache": False},
    "RD, cold cache": {"method": "rd"},
    "RD, warm cache": {"method": "rd"},
    "RD, warm int8 cache": {"method": "rd", "cache_dtype": "int8"},
    "DRD, warm cache": {"method": "drd"},
    "DRD, warm cache, compiled": {"method": "drd", "torch_compile": True},
}


class Epoch(NamedTuple):
    """One epoch: its seconds, those spent waiting for data, and the highest use of memory in MiB."""

    seconds: float
    waited: float
    mib: float


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_alone(folder: Path, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> float:
    """Images per second of the teacher's plain forward on pixels that lie on the device."""
    model = AutoModel.from_pretrained(folder, dtype=dtype).to(device).eval()
    side = model.config.image_size
    pixels = torch.randn(options.batch_size, 3, side, side, device=device, dtype=dtype)
    with torch.inference_mode():
        for repeat in range(2 * options.steps):
            if repeat == options.steps:
                synchronize(device)
                started = time.perf_counter()
            model(pixels)
        synchronize(device)
    return options.steps * options.batch_size / (time.perf_counter() - started)


def measure(name: str, teacher: str, folder: Path, options: argparse.Namespace) -> Epoch:
    """An epoch of one row, after one that is not counted."""
    precisions = {"bf16": True, "teacher_dtype": "bfloat16"} if options.bf16 else {}
    arguments = DistillationArguments(
        dataset=str(folder / "data.npz"), teacher=str(folder / teacher), student=str(folder / "student"),
        output_dir=str(folder / "run"), cache_dir=str(folder / "caches"), student_image_size=options.image_size,
        num_views=1, max_steps=1_000_000, per_device_train_batch_size=options.batch_size,
        dataloader_num_workers=options.workers, **precisions, **ROWS[name],
    )  # fmt: skip
    accelerator = start_accelerator(arguments)
    run_data = load_run_data(arguments)
    arguments = run_data.with_defaults(arguments)
    models = build_models(arguments, run_data, accelerator)
    run_data.open_images(models.transforms, "error")
    trainer = build_trainer(arguments, accelerator, run_data, models, folder / "run")
    with compiled_models(models) if arguments.torch_compile else nullcontext():
        batches = trainer.timed(iter(trainer.loader()))
        for counted in (False, True):
            if counted and name.endswith("cold cache"):
                shutil.rmtree(trainer.inputs.cache.folder.path)
                trainer.inputs.cache.folder.path.mkdir()
                trainer.inputs.cache = FeatureCache(trainer.inputs.cache.folder, accelerator.device)
                batches = trainer.timed(iter(trainer.loader()))  # whose workers see the empty cache
            synchronize(accelerator.device)
            trainer.data_wait, started = 0.0, time.perf_counter()
            with PeakMemory(accelerator.device) as peak:
                for _ in range(options.steps):
                    trainer.optimizer_step(batches)
                    trainer.step += 1
                synchronize(accelerator.device)
            seconds = time.perf_counter() - started
    AcceleratorState._reset_state(reset_partial_state=True)
    return Epoch(seconds, trainer.data_wait, peak.mib or 0.0)


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Models with random weights, and as many images as an epoch has rows."""
    for name, config in TEACHERS.items():
        save(AutoModel.from_config(TINY if options.tiny else config), folder / name.replace("/", "_"))
    save(AutoModelForImageClassification.from_config(STUDENT), folder / "student")
    arrays = {}
    for split, count in (("train", options.batch_size * options.steps), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, (count, 64, 64), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 3)[:, None]
    np.savez(folder / "data.npz", **arrays)


def save(model: torch.nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)
    default_processor(224).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Measure every row, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16, help="steps per epoch")
    parser.add_argument("--workers", type=int, default=8, help="processes that load batches")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 for both models")
    parser.add_argument("--tiny", action="store_true", help="tiny teachers, a few small images, no workers")
    options = parser.parse_args(arguments)
    options.image_size = 224
    if options.tiny:
        options.batch_size, options.steps, options.image_size, options.workers = 4, 1, 64, 0
    elif not torch.cuda.is_available():
        parser.error("there is no GPU. `--tiny` tries the script on the CPU.")
    rows = [row for row in ROWS if not (options.tiny and "compiled" in row)]
    logging.getLogger("rd_hf").setLevel(logging.ERROR)
    disable_progress_bar()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shown = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    print(f"{shown}, torch {torch.__version__}, batch of {options.batch_size}, {options.workers} workers, {dtype}\n")
    columns = ("teacher", "epoch of", "images per second", "of the forward alone", "ratio to student alone")
    print(f"| {' | '.join(columns)} | waiting for data | peak GiB beside weights |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder, options)
        for teacher in TEACHERS:
            own = teacher.replace("/", "_")
            forward = forward_alone(folder / own, options, device, dtype)
            title = f"{teacher}, tiny" if options.tiny else teacher
            print(f"| {title} | its forward alone | {forward:.0f} | 1.00 | | | |", flush=True)
            alone = None
            for row in rows:
                epoch = measure(row, own, folder, options)
                alone = alone or epoch.seconds
                speed = options.steps * options.batch_size / epoch.seconds
                share = f"{100 * epoch.waited / epoch.seconds:.0f} %"
                numbers = f"{speed:.0f} | {speed / forward:.2f} | {epoch.seconds / alone:.2f} | {share}"
                print(f"| {title} | {row} | {numbers} | {epoch.mib / 1024:.1f} |", flush=True)


if __name__ == "__main__":
    main()
