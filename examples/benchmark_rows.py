"""The rows of a benchmark: trainings that take turns, an epoch each, for the benchmarks beside this file."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.training.assembly import build_models, build_trainer
from rd_hf.training.run_data import load_run_data

ALONE = "student alone"  # the row that times are given as ratios to


class BenchmarkRow:
    """One kind of training, an epoch of which is run again and again.

    :param folder: has data.npz.
    :param options: those of the command: `steps` of an epoch, `processor_time`, `image_size` and `batch_size`.
    :param arguments: others of the training.
    """

    def __init__(self, name: str, folder: Path, options: argparse.Namespace, **arguments: Any):
        self.name, self.steps = name, options.steps
        self.clock = time.process_time if options.processor_time else time.perf_counter
        arguments = DistillationArguments(
            dataset=str(folder / "data.npz"), output_dir=str(folder / "run"), num_views=1, max_steps=1_000_000,
            student_image_size=options.image_size, per_device_train_batch_size=options.batch_size, **arguments,
        )  # fmt: skip
        accelerator = Accelerator()
        run_data = load_run_data(arguments)
        arguments = run_data.with_defaults(arguments)
        self.models = build_models(arguments, run_data, accelerator)
        run_data.open_images(self.models.transforms, "error")
        self.trainer = build_trainer(arguments, accelerator, run_data, self.models, folder / "run")

    def run(self) -> float:
        """Seconds of an epoch."""
        started = self.clock()
        batches, targets = iter(self.trainer.loader()), self.trainer.update.targets
        if targets is not None and self.trainer.step == 0:  # in the round that warms up
            targets.read_means()
        for _ in range(self.steps):
            self.step(batches)
        return self.clock() - started

    def step(self, batches: Iterator) -> None:
        """One step of the training."""
        self.trainer.optimizer_step(batches)
        self.trainer.step += 1


def print_times(rows: Sequence[BenchmarkRow], rounds: int, title: str) -> None:
    """Run the rows in turns, and print the seconds of each, and their ratio to the student alone in the same round.

    A round before warms up, and fills the caches that are to be warm.
    """
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for round_number in range(rounds + 1):
        for row in rows:
            elapsed = row.run()
            if round_number:
                seconds[row.name].append(elapsed)
    print(f"| {title} | seconds (median) | ratio to {ALONE}: median (range) |")
    print("|---|---|---|")
    for name, values in seconds.items():
        ratios = [value / alone for value, alone in zip(values, seconds[ALONE], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {statistics.median(values):.2f} | {spread} |")
