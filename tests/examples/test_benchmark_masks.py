"""The benchmark of masks runs, and its table has every row."""

import logging
import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "examples"))

import benchmark_masks


def test_the_benchmark_prints_every_row(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_masks, "keep_freed_memory", lambda: None)  # it holds for the whole process
    options = ["--batch_size", "4", "--steps", "1", "--rounds", "1", "--image_size", "32", "--students", "unet"]
    monkeypatch.setattr(sys, "argv", ["benchmark_masks.py", *options])
    logger = logging.getLogger("rd_hf")
    level = logger.level
    try:
        benchmark_masks.main()
    finally:
        logger.setLevel(level)
    printed = capsys.readouterr().out
    for row in benchmark_masks.ROWS:
        assert f"| {row} | " in printed
