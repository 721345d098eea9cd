"""The benchmark of shards indexes and loads what it has written."""

import importlib.util

import pytest
from conftest import REPOSITORY


@pytest.mark.parametrize(("options", "words"), [
    ([], ["| 1200 images indexed | "]),
    (["--streaming"], ["| 1200 images opened | ", "| 320 images passed over | "]),
])  # fmt: skip
def test_the_small_benchmark_prints_every_row(capsys, options, words):
    spec = importlib.util.spec_from_file_location("benchmark_shards", REPOSITORY / "examples" / "benchmark_shards.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.main(["--images", "1200", "--visits", "256", *options])
    printed = capsys.readouterr().out
    assert all(word in printed for word in [*words, "| 4 x 64 images loaded | "])
