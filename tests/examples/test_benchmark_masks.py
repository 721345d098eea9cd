"""The benchmark of masks runs, and its table has every row."""

import sys

import pytest
from conftest import REPOSITORY
from transformers import ViTConfig

sys.path.insert(0, str(REPOSITORY / "examples"))

import benchmark_masks


@pytest.mark.usefixtures("kept_log_level")
def test_the_benchmark_prints_every_row(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_masks, "keep_freed_memory", lambda: None)  # it holds for the whole process
    schedules = benchmark_masks.stage_schedule
    monkeypatch.setattr(schedules, "STEPS_PER_PULL", schedules.STEPS_PER_PULL)  # what main sets is taken back
    teacher = ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    monkeypatch.setattr(benchmark_masks, "TEACHER", teacher)
    options = ["--batch_size", "4", "--steps", "1", "--rounds", "1", "--image_size", "32", "--students", "unet"]
    monkeypatch.setattr(sys, "argv", ["benchmark_masks.py", *options])
    benchmark_masks.main()
    printed = capsys.readouterr().out
    for row in benchmark_masks.ROWS:
        assert f"| {row} | " in printed
