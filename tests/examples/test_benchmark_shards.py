"""The benchmark of shards indexes and loads what it has written."""

import importlib.util

from conftest import REPOSITORY


def test_the_small_benchmark_prints_every_row(capsys):
    spec = importlib.util.spec_from_file_location("benchmark_shards", REPOSITORY / "examples" / "benchmark_shards.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.main(["--images", "1200", "--visits", "256"])
    printed = capsys.readouterr().out
    assert "| 1200 images indexed | " in printed and "| 4 x 64 images loaded | " in printed
