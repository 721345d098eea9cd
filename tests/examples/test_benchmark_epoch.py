"""The benchmark of an epoch runs, on tiny models, and its table has every row."""

import sys

import pytest
from conftest import REPOSITORY
from transformers import ResNetConfig

sys.path.insert(0, str(REPOSITORY / "examples"))

import benchmark_epoch as benchmark


@pytest.mark.usefixtures("kept_log_level")
@pytest.mark.parametrize("more", [[], ["--schedules", "--processor_time"]], ids=["teacher and cache", "schedules"])
def test_the_tiny_benchmark_prints_every_row(monkeypatch, capsys, more):
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: None)  # it holds for the whole process
    monkeypatch.setattr(benchmark, "ENTRIES", 2000)  # test_feature_file reads all of them
    monkeypatch.setattr(benchmark, "TOUCHED", 200)
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic")
    monkeypatch.setitem(benchmark.STUDENTS, "resnet_18", small)
    options = ["--batch_size", "6", "--steps", "1", "--rounds", "1"]
    models = ["--teachers", "vit_b_16", "--students", "resnet_18"]
    monkeypatch.setattr(sys, "argv", ["benchmark_epoch.py", "--tiny", *options, *models, *more])
    benchmark.main()
    printed = capsys.readouterr().out
    for row in benchmark.SCHEDULES if more else benchmark.ROWS:
        assert f"| {row} | " in printed
    assert printed.count("KB per image and view, on disk") == (3 if more else 2) and ("2,000 entries" in printed) == (
        not more
    )
    lines = [line.split("|") for line in printed.partition("| operations of")[2].splitlines() if line.startswith("| ")]
    operations = {line[1].strip(): float(line[2]) for line in lines}
    assert operations["student alone"] == 1 < operations["RD warm"] < operations["DRD warm"]
    if more:
        assert operations["DRD warm, last"] < operations["DRD warm, round_robin"] < operations["DRD warm"]
