"""Measure the time and memory of a training step, compared with those of its parts.

    python examples/benchmark_step.py
    python examples/benchmark_step.py --torch_compile        # also with the blocks of both models compiled

Rows are timed alternately in one process and reported as ratios to (teacher forward + student step), with the spread
over rounds, because absolute times on a shared machine say little. Memory is the peak of a separate process per row.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig, ViTModel

from rd_hf import RDStudentForImageClassification, RDTeacherForImageClassification
from rd_hf.models.backbone import CPU_BATCH_SIZE, Backbone
from rd_hf.runtime.allocator import keep_freed_memory
from rd_hf.tasks.classification import SingleLabel
from rd_hf.training.compilation import compiled
from rd_hf.training.objective import Objective, ObjectiveWeights
from rd_hf.training.passes import Passes

IMAGE_SIZE = 224
ROWS = ("teacher forward", "student step", "rd step", "drd step")
COMPILED_ROWS = ("rd step, compiled", "drd step, compiled")


class Bench:
    """A ViT-B/16-sized teacher, a ResNet-18 student, and one step of each kind on the same batch."""

    def __init__(self, batch_size: int, tiny: bool, rows: tuple[str, ...] = ROWS):
        torch.manual_seed(0)
        size = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
        needs_teacher = any(row != "student step" for row in rows)
        tower = ViTModel(ViTConfig(**(size if tiny else {})), add_pooling_layer=False) if needs_teacher else None
        self.tower = tower
        student = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=3)
        self.pixels = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
        self.labels = torch.arange(batch_size) % 3
        self.objective = Objective(ObjectiveWeights(total_steps=100), SingleLabel(["a", "b", "c"]))
        self.models, self.optimizers, self.backbones = {}, {}, {}
        self.kept = ExitStack()
        for row in rows:
            if row == "teacher forward":
                continue
            model = RDStudentForImageClassification.from_classifier(
                AutoModelForImageClassification.from_config(student)
            )
            if row != "student step":
                stages = "last" if row.startswith("rd") else "all"
                self.backbones[row] = Backbone.from_model(copy.deepcopy(tower) if row in COMPILED_ROWS else tower)
                model = RDTeacherForImageClassification.from_parts(
                    model, self.backbones[row], IMAGE_SIZE, stages=stages
                )
                if row in COMPILED_ROWS:
                    for staged in (model.staged_student, self.backbones[row].staged):
                        self.kept.enter_context(compiled(staged.model, staged.recorded_modules))
            self.models[row] = model.train()
            self.optimizers[row] = torch.optim.AdamW(model.parameters())

    def run(self, row: str) -> None:
        """One teacher forward in inference mode, or one whole training step."""
        if row == "teacher forward":
            with torch.inference_mode():
                for chunk in self.pixels.split(CPU_BATCH_SIZE):
                    self.tower(chunk)
            return
        model, optimizer = self.models[row], self.optimizers[row]
        if row == "student step":
            loss = model(pixel_values=self.pixels, labels=self.labels).loss
        else:
            features = self.backbones[row].extract(self.pixels)
            output = model(student_pixel_values=self.pixels, teacher_features=features)
            passes, count = Passes.of(output), len(self.labels)
            loss = self.objective(passes, self.labels, step=0, labelled_count=count, total_count=count)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def time_rows(options: argparse.Namespace) -> None:
    """Print median ratios with their spread."""
    keep_freed_memory()
    rows = ROWS + (COMPILED_ROWS if options.torch_compile else ())
    bench = Bench(options.batch_size, options.tiny, rows)
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for round_number in range(options.rounds + 1):
        for row in rows:
            started = time.perf_counter()
            bench.run(row)
            if round_number:  # the first round warms up
                seconds[row].append(time.perf_counter() - started)
    parts = [a + b for a, b in zip(seconds["teacher forward"], seconds["student step"], strict=True)]
    print(f"batch of {options.batch_size}, {torch.get_num_threads()} threads, {options.rounds} rounds\n")
    print("| row | seconds (median) | ratio to teacher forward + student step: median (range) |\n|---|---|---|")
    for row, values in seconds.items():
        ratios = [value / part for value, part in zip(values, parts, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {row} | {statistics.median(values):.2f} | {spread} |")


def measure_memory(options: argparse.Namespace) -> None:
    """Print the peak memory of each kind of step, each in a process of its own."""
    peaks = {}
    for row in ("student step", "rd step", "drd step"):
        command = [sys.executable, __file__, "--memory_of", row, "--batch_size", str(options.batch_size)]
        command += ["--tiny"] if options.tiny else []
        peaks[row] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    weights = peaks["rd step"]["teacher"]
    plain = peaks["student step"]["peak"] + weights
    print(f"\n| row | peak MiB | ratio to student step + teacher weights ({weights:.0f} MiB) |\n|---|---|---|")
    for row, values in peaks.items():
        print(f"| {row} | {values['peak']:.0f} | {values['peak'] / plain:.2f} |")


def print_peak(row: str, batch_size: int, tiny: bool) -> None:
    """The peak resident memory of three steps, and the teacher's weights, in MiB, as JSON."""
    bench = Bench(batch_size, tiny, (row,))
    for _ in range(3):
        bench.run(row)
    tower = bench.tower.parameters() if bench.tower else ()
    teacher = sum(parameter.numel() * parameter.element_size() for parameter in tower) / 2**20
    # VmHWM, because getrusage's peak of a child begins at that of the process that started it.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 2**10
    print(json.dumps({"peak": peak, "teacher": teacher}))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--torch_compile", action="store_true", help="also measure compiled blocks; needs a compiler")
    parser.add_argument("--tiny", action="store_true", help="use a tiny teacher, to check that it runs")
    parser.add_argument("--memory_of", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_peak(options.memory_of, options.batch_size, options.tiny)
        return
    time_rows(options)
    measure_memory(options)


if __name__ == "__main__":
    main()
