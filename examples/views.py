"""How many views of an image are enough, and what half precision costs: validation scores of RD by number of views.

    python examples/views.py                              # the number of views
    python examples/views.py --rows precision             # cached features in float32 and in float16
    python examples/views.py --print_only

Smaller images and fewer steps than in the results table, so that many seeds fit; 20 labels a class.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from table import entry

SEEDS = {"busi": range(5), "pneumonia": range(2)}
ROWS = {
    "views": {f"{number} views": ["--num_views", number] for number in ("1", "2", "4", "8", "16", "endless")},
    "precision": {
        precision: ["--num_views", "4", "--teacher_dtype", "float32", "--cache_dtype", precision]
        for precision in ("float32", "float16")
    },
}
SMALL = {
    "method": "rd", "student_image_size": 64, "max_steps": 300, "teacher_dtype": "bfloat16",
    "per_device_train_batch_size": 16, "per_device_unlabeled_batch_size": 32,
}  # fmt: skip


def run(data: str, row: str, flags: list[str], seed: int, folder: Path) -> dict | None:
    """The scores of one run, which is not run again if it is finished."""
    output_dir = folder / data / f"{row.replace(' ', '_')}_seed{seed}"
    if not (output_dir / "metrics.json").exists():
        small = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
        line = [sys.executable, "-m", "rd_hf", "distill", "--config", f"examples/{data}.yaml", *small, *flags]
        line += ["--seed", str(seed), "--output_dir", str(output_dir), "--overwrite_output_dir"]
        done = subprocess.run(line, capture_output=True, text=True)
        print(f"{output_dir}: {'done' if done.returncode == 0 else done.stderr[-500:]}", file=sys.stderr)
        if done.returncode:
            return None
    return json.loads((output_dir / "metrics.json").read_text())


def print_table(rows: dict[str, list[dict]], data: str) -> None:
    """Print one data set's table as Markdown."""
    print(f"\n**{data}**, {len(SEEDS[data])} seeds: mean (standard deviation)\n")
    print("| | validation AUROC | reprogrammed teacher's | test AUROC |\n|---|---|---|---|")
    for row, runs in rows.items():
        columns = [
            entry([one["validation"]["auroc"] for one in runs]),
            entry([one["teacher"]["validation"]["auroc"] for one in runs]),
            entry([one["test"]["auroc"] for one in runs]),
        ]
        print(f"| {row} | " + " | ".join(columns) + " |")


def main() -> None:
    """Run what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", choices=ROWS, default="views")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/views"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at a time, of one thread each")
    parser.add_argument("--data", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--print_only", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = ROWS[options.rows]
    cells = [(data, row, seed) for data in options.data for seed in SEEDS[data] for row in rows]
    folder = options.output_dir / options.rows
    if not options.print_only:
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda cell: run(cell[0], cell[1], rows[cell[1]], cell[2], folder), cells))
    for data in options.data:
        finished = {
            row: [
                json.loads(path.read_text())
                for path in sorted((folder / data).glob(f"{row.replace(' ', '_')}_seed*/metrics.json"))
            ]
            for row in rows
        }
        print_table(finished, data)


if __name__ == "__main__":
    main()
