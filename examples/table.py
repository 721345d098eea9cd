"""The tables of docs/results/busi-pneumonia.md: student alone, RD and DRD, with and without unlabelled images.

    python examples/table.py                          # both data sets; finished runs are not run again
    python examples/table.py --print_only             # the table from the finished runs
    python examples/table.py --print_only --cards_dir model_cards   # and the cards of their students

Every cell is one `rd-hf distill --config examples/<data>.yaml` with other flags, so you can also run each one by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SEEDS = {"busi": (0, 1, 2), "pneumonia": (0,)}
FALLING = ["--kl_weight_end", "0", "--temperature", "1"]  # as it was when the page's runs were made
METHODS = {
    "student alone": ["--method", "ce", "--use_unlabeled", "false"],
    "RD, labelled images only": ["--method", "rd", "--use_unlabeled", "false", *FALLING],
    "DRD, labelled images only": ["--method", "drd", "--use_unlabeled", "false", *FALLING],
    "RD": ["--method", "rd", *FALLING],
    "DRD": ["--method", "drd", *FALLING],
}


def command(data: str, method: str, seed: int, output_dir: Path) -> list[str]:
    """The command of one cell."""
    options = ["--config", f"examples/{data}.yaml", *METHODS[method], "--seed", str(seed)]
    return [
        sys.executable,
        "-m",
        "rd_hf",
        "distill",
        *options,
        "--output_dir",
        str(output_dir),
    ]


def run(cell: tuple[str, str, int], folder: Path, extra: list[str], threads: int) -> None:
    """Run one cell unless it is finished."""
    output_dir = cell_folder(folder, *cell)
    if (output_dir / "metrics.json").exists():
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    line = [*command(*cell, output_dir), "--overwrite_output_dir", *extra]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    print(f"{output_dir}: {'done' if done.returncode == 0 else done.stderr[-500:]}", file=sys.stderr)


def cell_folder(folder: Path, data: str, method: str, seed: int) -> Path:
    """Where a cell's run goes."""
    return (
        folder / data / f"{method.replace(', labelled images only', '_labelled').replace(' ', '_').lower()}_seed{seed}"
    )


def scores(folder: Path, data: str, method: str) -> list[dict]:
    """metrics.json of every finished seed."""
    paths = [cell_folder(folder, data, method, seed) / "metrics.json" for seed in SEEDS[data]]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def entry(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    if not values:
        return ""
    spread = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def print_table(folder: Path) -> None:
    """Print the table as Markdown."""
    for data, seeds in SEEDS.items():
        print(
            f"\n**{data}**, test split, {len(seeds)} seed{'s: mean (standard deviation)' if len(seeds) > 1 else ''}\n"
        )
        print("| | AUROC | accuracy | reprogrammed teacher's AUROC |\n|---|---|---|---|")
        for method in METHODS:
            runs = scores(folder, data, method)
            columns = [
                entry([one["test"]["auroc"] for one in runs]),
                entry([one["test"]["accuracy"] for one in runs]),
                entry([one["teacher"]["test"]["auroc"] for one in runs if "teacher" in one]),
            ]
            print(f"| {method} | " + " | ".join(columns) + " |")


def write_cards(folder: Path, cards_dir: Path, data_sets: list[str]) -> None:
    """Write the card of one student of every cell that has run: of the seed that was best on validation."""
    for data in data_sets:
        for method in METHODS:
            cells = [cell_folder(folder, data, method, seed) for seed in SEEDS[data]]
            paths = [cell / "metrics.json" for cell in cells if (cell / "metrics.json").exists()]
            if paths:
                best = max(paths, key=lambda path: json.loads(path.read_text())["validation"]["auroc"]).parent
                name, seed = best.name.rsplit("_seed", maxsplit=1)
                note = (
                    f"This is the card of seed {seed}, the best of {len(paths)} seed(s) on validation; see "
                    "`examples/table.py`."
                )
                text = card_of(best / "student", f"{data}/{best.name}/student", note)
                (cards_dir / f"{data}_{name}.md").write_text(text, encoding="utf-8")


def card_of(student: Path, name: str, note: str) -> str:
    """The card of a student that is not beside it: with a note under its title, and without plots."""
    card = (student / "README.md").read_text(encoding="utf-8")
    card = re.sub(r"^!\[.*\]\(.*\)\n\n", "", card, flags=re.MULTILINE)
    card = re.sub("^model_id = .*$", f'model_id = "{name}"  # in the output_dir', card, flags=re.MULTILINE)
    card = re.sub(r"\n<!-- rd_hf card .* -->\n", "", card)
    return re.sub("^(# .*)$", rf"\1\n\n{note}", card, count=1, flags=re.MULTILINE)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/table"))
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; they share the CPU cores")
    parser.add_argument("--data", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--print_only", action="store_true")
    parser.add_argument("--cards_dir", type=Path, help="also copy the students' cards to this folder")
    options, extra = parser.parse_known_args()
    cells = [(data, method, seed) for data in options.data for method in METHODS for seed in SEEDS[data]]
    if not options.print_only:
        threads = max(1, (os.cpu_count() or 1) // options.workers)
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda cell: run(cell, options.output_dir, extra, threads), cells))
    print_table(options.output_dir)
    if options.cards_dir is not None:
        write_cards(options.output_dir, options.cards_dir, options.data)


if __name__ == "__main__":
    main()
