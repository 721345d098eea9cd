"""Kill one training with SIGKILL at random moments, resume it each time, and compare it with an uninterrupted one.

    python examples/kill_and_resume.py --kills 25

The data are scikit-learn's digits, and the models are tiny and random: the test is that nothing is lost. A kill hits
the start of a run, or one of the first steps after it, with their evaluations and saves. The step is drawn, and how
much of its time passes. The run's own rows tell the step, so that a busy machine does not change what is hit.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from transformers import AutoModel, ResNetConfig, ViTImageProcessorPil

STUDENT = "{model_type: vit, hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 32, patch_size: 4, hidden_dropout_prob: 0.1}"  # noqa: E501
LAST_KILLED_STEP = 6  # after the first save
MACHINE = ("images_per_second", "data_wait", "memory_gib")  # what two equal runs may differ in


class Pace(NamedTuple):
    """Seconds from the command to the first row of metrics.jsonl, and those of a step."""

    start: float
    step: float


def prepare(folder: Path) -> None:
    """Write the data set and the teacher."""
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target[:, None].astype(np.uint8)
    parts = {"train": slice(0, 600), "val": slice(600, 700), "test": slice(700, 800)}
    arrays = {f"{split}_images": images[rows] for split, rows in parts.items()}
    np.savez(folder / "digits.npz", **arrays, **{f"{split}_labels": labels[rows] for split, rows in parts.items()})
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(folder / "teacher")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder / "teacher")


def command(folder: Path, run: Path, steps: int) -> list[str]:
    """The command of a run; with --resume once it has opened its folder."""
    options = {
        "teacher": folder / "teacher", "student": STUDENT, "dataset": folder / "digits.npz", "student_image_size": 16,
        "shots": 20, "use_unlabeled": True, "method": "drd", "max_steps": steps, "save_steps": 4, "eval_steps": 8,
        "logging_steps": 1, "output_dir": run, "per_device_train_batch_size": 8, "per_device_unlabeled_batch_size": 8,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    resume = ["--resume"] if (run / "config.yaml").exists() else []
    return [sys.executable, "-m", "rd_hf", "distill", *words, *resume]


def killed_run(folder: Path, run: Path, arguments: argparse.Namespace, pace: Pace) -> dict[str, int]:
    """Start, kill and resume until there were as many kills as asked for; then let the run end. Where the kills hit."""
    hits = {"before the first checkpoint": 0, "later": 0}
    generator = random.Random(arguments.seed)
    with (folder / "log.txt").open("w") as log:
        while sum(hits.values()) < arguments.kills:
            steps_before, rows_before = saved_step(run), rows_written_at(run)
            process = subprocess.Popen(command(folder, run, arguments.steps), stderr=log, stdout=log)
            wait_until_moment(process, run, steps_before, rows_before, pace, generator)
            if process.poll() == 0:
                raise SystemExit(f"The run ended after only {sum(hits.values())} kills: give more --steps.")
            if process.poll() is not None:
                raise SystemExit(f"The run failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
            process.kill()
            process.wait()
            hits["later" if saved_step(run) else "before the first checkpoint"] += 1
        subprocess.run(command(folder, run, arguments.steps), stderr=log, stdout=log, check=True)
    return hits


def wait_until_moment(
    process: subprocess.Popen, run: Path, steps_before: int, rows_before: int, pace: Pace, generator: random.Random
) -> None:
    """Return at a random moment of the start (step 0) or of one of the steps after it, or when the process has ended.

    :param steps_before: of the checkpoint that the process continues with.
    :param rows_before: when metrics.jsonl was last written before the process started.
    """

    def reached(step: int) -> bool:
        return rows_written_at(run) != rows_before and logged_step(run) >= steps_before + step

    def wait(step: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while process.poll() is None and not reached(step) and time.monotonic() < end:
            time.sleep(0.005)

    step = generator.randint(0, LAST_KILLED_STEP)
    if step:
        wait(step, math.inf)
    wait(step + 1, generator.random() * (pace.step if step else pace.start))


def rows_written_at(run: Path) -> int:
    """When metrics.jsonl was last written, in nanoseconds; 0 before it is there."""
    path = run / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def logged_step(run: Path) -> int:
    """The step of the last whole row of metrics.jsonl; 0 before there is one."""
    rows = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    return json.loads(rows[-1])["step"] if rows else 0


def saved_step(run: Path) -> int:
    """The step of the last checkpoint; 0 before there is one."""
    return max((int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")), default=0)


def whole_run(folder: Path, run: Path, steps: int) -> Pace:
    """Run without a kill."""
    began, first = time.monotonic(), None
    with (folder / "log_of_the_whole.txt").open("w") as log:
        process = subprocess.Popen(command(folder, run, steps), stderr=log, stdout=log)
        while process.poll() is None:
            if first is None and rows_written_at(run):
                first = time.monotonic()
            time.sleep(0.05)
    if process.returncode or first is None:
        raise SystemExit(f"The run failed:\n{(folder / 'log_of_the_whole.txt').read_text()[-3000:]}")
    return Pace(first - began, (time.monotonic() - first) / steps)


def differences(one: Path, other: Path) -> list[str]:
    """Tensors, logged values and predictions that differ between two finished runs."""
    found = []
    for kind in ("student", "teacher"):
        first, second = (load_file(run / kind / "model.safetensors") for run in (one, other))
        found += [f"{kind}: {name}" for name in first if not torch.equal(first[name], second[name])]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for run in rows:
        for row in run:
            for name in MACHINE:
                row.pop(name, None)
    if rows[0] != rows[1]:
        found.append("metrics.jsonl")
    if (one / "predictions.csv").read_bytes() != (other / "predictions.csv").read_bytes():
        found.append("predictions.csv")
    return found


def main() -> None:
    """Print what was hit and what differs, as JSON; the exit code is 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        pace = whole_run(folder, folder / "whole", arguments.steps)
        hits = killed_run(folder, folder / "killed", arguments, pace)
        found = differences(folder / "whole", folder / "killed")
    print(json.dumps({"kills": hits, "steps": arguments.steps, "differences": found}))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
