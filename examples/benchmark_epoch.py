"""Measure an epoch with the teacher run at every step, and with its features read from the cache.

    python examples/benchmark_epoch.py --batch_size 16 --steps 2 --rounds 5
    python examples/benchmark_epoch.py --batch_size 8 --steps 20 --image_size 112 --schedules --processor_time

Rows take turns, an epoch each, in one process; times are given as ratios to the student alone in the same round,
because absolute times on a shared machine say little. Models have random weights; a row is a whole training step as
`rd-hf distill` makes it, with fetching and augmenting. The reference loop is what one would write with transformers:
teacher forward, student forward, loss, backward, optimiser step. Its pixels are prepared in advance.

`--schedules` compares RD+ and the stage schedules of DRD. A stage stays on for five steps, so in an epoch of 20 steps
each of four stages is on once. `--processor_time` counts the time of this process alone, with which other jobs on the
same cores interfere less than with time on the clock. Give it one thread (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmark_rows import ALONE, BenchmarkRow, print_times
from step_operations import print_operations
from transformers import AutoModel, AutoModelForImageClassification, MobileNetV2Config, ResNetConfig, ViTConfig

from rd_hf.data.pixels import default_processor
from rd_hf.runtime.allocator import keep_freed_memory
from rd_hf.teacher_cache.features import FeatureCache
from rd_hf.teacher_cache.file import CHECKSUM_BYTES, Layout, as_bytes, checksum, open_file

ROWS = {
    ALONE: {"method": "ce"},
    "reference loop": {"method": "rd", "cache": False},
    "RD live": {"method": "rd", "cache": False},
    "RD filling": {"method": "rd"},
    "RD warm": {"method": "rd"},
    "DRD live": {"method": "drd", "cache": False},
    "DRD filling": {"method": "drd"},
    "DRD warm": {"method": "drd"},
}
SCHEDULES = {
    ALONE: {"method": "ce"},
    "RD warm": {"method": "rd"},
    "RD+ warm": {"method": "rd_plus"},
    "DRD warm": {"method": "drd"},
    "DRD warm, last": {"method": "drd", "stage_schedule": "last"},
    "DRD warm, round_robin": {"method": "drd", "stage_schedule": "round_robin"},
    "DRD warm, optima": {"method": "drd", "stage_schedule": "optima"},
}
TEACHERS = {"vit_b_16": ViTConfig(), "mobilenet_v2": MobileNetV2Config()}
STUDENTS = {
    "resnet_18": ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]),
    "mobilenet_v2": MobileNetV2Config(),
}
TINY = ViTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
ENTRIES, TOUCHED = 100_000, 10_000


class Row(BenchmarkRow):
    """A row; the reference loop has a step of its own, and a row that fills its cache begins with an empty one."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace, teacher: str, student: str):
        rows = SCHEDULES if options.schedules else ROWS
        super().__init__(
            name, folder, options, teacher=str(folder / teacher), student=str(folder / student), num_train_epochs=1,
            cache_dir=str(folder / "caches" / name.partition(",")[0]), **rows[name],
        )  # fmt: skip
        if name == "reference loop":
            self.prepare_reference(options)

    def run(self) -> float:
        """Seconds of an epoch."""
        if self.name.endswith("filling"):
            shutil.rmtree(self.trainer.inputs.cache.folder.path)
            self.trainer.inputs.cache.folder.path.mkdir()
            self.trainer.inputs.cache = FeatureCache(self.trainer.inputs.cache.folder, torch.device("cpu"))
        return super().run()

    def step(self, batches: Iterator) -> None:
        """One step of the training."""
        if self.name == "reference loop":
            self.reference_step()
        else:
            super().step(batches)

    def prepare_reference(self, options: argparse.Namespace) -> None:
        self.teacher, self.student = self.models.backbone.tower, self.models.student.model.train()
        sizes = [transform.size for transform in self.models.transforms.each()]
        self.pixels = [torch.randn(options.batch_size, 3, *size) for size in sizes]
        self.labels = torch.arange(options.batch_size) % 3
        with torch.no_grad():
            widths = [self.pooled(model, pixels).shape[1] for model, pixels in self.with_pixels()]
        self.projector = torch.nn.Linear(*widths)
        trained = [*self.student.parameters(), *self.projector.parameters()]
        self.optimizer = torch.optim.AdamW(trained)

    def with_pixels(self):
        return (self.teacher, self.pixels[1]), (self.student, self.pixels[0])

    def pooled(self, model, pixels):
        feature = model(pixels, output_hidden_states=True).hidden_states[-1]
        return feature.mean(dim=1) if feature.ndim == 3 else feature.mean(dim=(2, 3))

    def reference_step(self) -> None:
        with torch.no_grad():
            of_teacher = self.pooled(self.teacher, self.pixels[1])
        output = self.student(self.pixels[0], labels=self.labels, output_hidden_states=True)
        of_student = output.hidden_states[-1].mean(dim=(2, 3))
        loss = output.loss + torch.nn.functional.mse_loss(of_student, self.projector(of_teacher))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_inputs(folder: Path, options: argparse.Namespace) -> None:
    """Models with random weights, and images."""
    configs = {f"teacher_{name}": config for name, config in TEACHERS.items()}
    if options.tiny:
        configs = dict.fromkeys(configs, TINY)
    for name, config in configs.items():
        save(AutoModel.from_config(config), folder / name)
    for name, config in STUDENTS.items():
        config.num_labels = 3
        save(AutoModelForImageClassification.from_config(config), folder / f"student_{name}")
    arrays = {}
    for split, count in (("train", options.batch_size * options.steps), ("val", 6), ("test", 6)):
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, (count, 64, 64), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 3)[:, None]
    np.savez(folder / "data.npz", **arrays)


def save(model: torch.nn.Module, folder: Path) -> None:
    for module in model.modules():  # as they start, MobileNetV2's features are all but 0
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    default_processor(model.config.image_size if hasattr(model.config, "image_size") else 224).save_pretrained(folder)


def compare(folder: Path, options: argparse.Namespace, teacher: str, student: str) -> None:
    """Print the rows of one pair."""
    rows = [
        Row(name, folder, options, f"teacher_{teacher}", f"student_{student}")
        for name in (SCHEDULES if options.schedules else ROWS)
    ]
    print(f"\nTeacher {teacher}, student {student}\n")
    print_times(rows, options.rounds, "epoch of")
    counted = [row for row in rows if row.name == ALONE or ("warm" in row.name and "optima" not in row.name)]
    print_operations({row.name: row.trainer for row in counted}, ALONE)
    for row in rows:
        if row.name.endswith("warm"):
            cache = row.trainer.inputs.cache
            entries = len(cache.present(0))
            size = sum(path.stat().st_blocks * 512 for path in cache.folder.path.iterdir()) / entries
            print(f"{row.name}: estimated {cache.layout.entry_bytes / 1000:.1f} KB per image and view, ", end="")
            print(f"on disk {size / 1000:.1f} KB ({entries} entries)")
    shutil.rmtree(folder / "caches")


def measure_memory() -> None:
    """Print the resident memory before and after reading every entry of a cache with holes for features."""
    layout, metadata = Layout(ENTRIES, {"map_0": (512, 2, 2)}, torch.float16), {"view": "0"}
    zeros = [np.zeros(layout.entry_bytes - CHECKSUM_BYTES, dtype=np.uint8)]
    rows = np.random.default_rng(0).permutation(ENTRIES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.safetensors"
        open_file(path, layout, metadata)
        with path.open("r+b") as file:
            file.seek(len(layout.header(metadata)))
            file.write(b"".join(checksum(row, zeros).to_bytes(CHECKSUM_BYTES, "little") for row in range(ENTRIES)))
        file = open_file(path, layout, metadata)
        before = read_all(file, rows[:TOUCHED])
        after = read_all(file, rows)
    print(
        f"Resident memory: {before} KB after reading a tenth, {after} KB after reading all of the {ENTRIES:,} entries "
        f"({layout.rows * layout.entry_bytes / 1e6:.0f} MB). The ratio is {after / before:.3f}."
    )


def read_all(file, rows: np.ndarray) -> int:
    """Read entries in batches as a training does; resident KB afterwards."""
    for start in range(0, len(rows), 100):
        content = as_bytes(torch.empty(100, *file.layout.parts["map_0"], dtype=file.layout.dtype))
        for place, row in enumerate(rows[start : start + 100]):
            if not file.read(int(row), [content[place]]):
                raise RuntimeError(f"entry {row} was not read")
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2, help="steps per epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image_size", type=int, default=224, help="side of the student's images, in pixels")
    parser.add_argument("--schedules", action="store_true", help="compare RD+ and the stage schedules of DRD")
    parser.add_argument("--processor_time", action="store_true", help="count the time of this process alone")
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--tiny", action="store_true", help="use tiny teachers and small images, to check that it runs")
    parser.add_argument("--only_memory", action="store_true", help="measure resident memory only")
    options = parser.parse_args()
    if options.tiny:
        options.image_size = 64
    if not options.schedules:
        measure_memory()
    if options.only_memory:
        return
    keep_freed_memory()
    logging.getLogger("rd_hf").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(f"Batch of {options.batch_size}, {options.steps} steps per epoch, {options.rounds} rounds, ", end="")
    print(f"{torch.get_num_threads()} threads, student {options.image_size} px")
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), options)
        for teacher, student in itertools.product(options.teachers, options.students):
            compare(Path(folder), options, teacher, student)


if __name__ == "__main__":
    main()
