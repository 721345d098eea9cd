"""The benchmark of an epoch runs, on tiny models, and its table has every row."""

import importlib.util
import sys

import pytest
from conftest import REPOSITORY
from transformers import MobileNetV2Config


@pytest.mark.usefixtures("kept_log_level")
def test_the_tiny_benchmark_prints_every_row(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("benchmark", REPOSITORY / "examples" / "benchmark_epoch.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)  # it holds for the whole process
    monkeypatch.setattr(benchmark, "ENTRIES", 2000)  # test_feature_file reads all of them
    monkeypatch.setattr(benchmark, "TOUCHED", 200)
    monkeypatch.setitem(benchmark.STUDENTS, "mobilenet_v2", MobileNetV2Config(depth_multiplier=0.35))
    options = ["--batch_size", "6", "--steps", "1", "--rounds", "1"]
    models = ["--teachers", "vit_b_16", "--students", "mobilenet_v2"]
    monkeypatch.setattr(sys, "argv", ["benchmark_epoch.py", "--tiny", *options, *models])
    benchmark.main()
    printed = capsys.readouterr().out
    for row in ("student alone", "reference loop", "RD live", "RD filling", "RD warm", "DRD live", "DRD warm"):
        assert f"| {row} | " in printed
    assert printed.count("KB per image and view, on disk") == 2 and "2,000 entries" in printed
