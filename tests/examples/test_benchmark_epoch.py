"""The benchmark of an epoch runs, on tiny models, and its table has every row."""

import subprocess
import sys

from conftest import REPOSITORY


def test_the_tiny_benchmark_prints_every_row():
    command = [sys.executable, str(REPOSITORY / "examples" / "benchmark_epoch.py"), "--tiny", "--rounds", "1"]
    options = ["--batch_size", "6", "--teachers", "vit_b_16", "--students", "mobilenet_v2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for row in ("student alone", "reference loop", "RD live", "RD filling", "RD warm", "DRD live", "DRD warm"):
        assert f"| {row} | " in done.stdout
    assert done.stdout.count("KB per image and view, on disk") == 2 and "100,000 entries" in done.stdout
