"""The file format: what is in it, and what is found when bytes are flipped, cut off or half-written."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file

from rd_hf.teacher_cache.file import Layout, as_bytes, open_file

LAYOUT = Layout(20, {"map_0": (3, 2, 2), "map_1": (4, 1, 1), "prefix_1": (2, 4)}, torch.float16)
METADATA = {"format": "test", "view": "0"}


def entry(row: int, layout: Layout = LAYOUT) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(row)
    return [torch.randn(1, *shape, generator=generator).to(layout.dtype) for shape in layout.parts.values()]


def fill(path: Path, rows, layout: Layout = LAYOUT):
    file = open_file(path, layout, METADATA)
    for row in rows:
        file.write(row, [as_bytes(part)[0] for part in entry(row, layout)])
    return file


def read(file, row):
    parts = [torch.empty(1, *shape, dtype=file.layout.dtype) for shape in file.layout.parts.values()]
    return parts if file.read(row, [as_bytes(part)[0] for part in parts]) else None


def is_right(file, row):
    """Whether an entry is right (True) or absent (False); anything else fails."""
    found = read(file, row)
    assert found is None or all(torch.equal(a, b) for a, b in zip(found, entry(row, file.layout), strict=True)), row
    return found is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_was_written_is_read_by_us_and_by_safetensors(tmp_path, dtype):
    layout = Layout(LAYOUT.rows, LAYOUT.parts, dtype)
    file = fill(tmp_path / "view.safetensors", [0, 7, 19], layout)
    again = open_file(tmp_path / "view.safetensors", layout, METADATA)
    for opened in (file, again):
        assert [row for row in range(20) if is_right(opened, row)] == [0, 7, 19] == opened.present().tolist()
        assert opened.has(7) and not opened.has(8)
    tensors = load_file(tmp_path / "view.safetensors")
    assert list(tensors) == ["checksums", "map_0", "map_1", "prefix_1"]
    assert torch.equal(tensors["prefix_1"][7], entry(7, layout)[2][0]) and tensors["map_0"].shape == (20, 3, 2, 2)
    assert np.flatnonzero(tensors["checksums"].numpy()).tolist() == [0, 7, 19]


def test_flipped_bytes_never_come_back_as_features(tmp_path):
    path, generator = tmp_path / "view.safetensors", random.Random(0)
    for _ in range(150):
        path.unlink(missing_ok=True)
        fill(path, range(0, 20, 2))
        content = bytearray(path.read_bytes())
        place = generator.randrange(len(content))
        content[place] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        file = open_file(path, LAYOUT, METADATA)
        there = [row for row in range(20) if is_right(file, row)]
        in_header = place < len(LAYOUT.header(METADATA))
        assert there == ([] if in_header else there) and set(there) <= set(range(0, 20, 2))
        assert in_header or len(there) >= 9  # one entry is lost at most, and none but that
        file.write(3, [as_bytes(part)[0] for part in entry(3)])
        assert is_right(open_file(path, LAYOUT, METADATA), 3)


def test_an_entry_damaged_after_it_was_opened_is_dropped_and_counted(tmp_path):
    path = tmp_path / "view.safetensors"
    fill(path, range(20))
    file = open_file(path, LAYOUT, METADATA)
    with path.open("r+b") as handle:
        handle.seek(-3, os.SEEK_END)  # prefix_1 of the last row
        handle.write(b"\x55\x55")
    assert not is_right(file, 19) and file.damaged == 1 and not file.has(19)
    assert is_right(file, 18) and open_file(path, LAYOUT, METADATA).drop_damaged() == 0


def test_an_entry_in_another_rows_place_is_damaged(tmp_path):
    path = tmp_path / "view.safetensors"
    fill(path, [4])
    content = bytearray(path.read_bytes())
    start = len(LAYOUT.header(METADATA))
    moved = bytes(content[start + 4 * 8 : start + 5 * 8])
    content[start + 5 * 8 : start + 6 * 8] = moved
    starts, size = start + 20 * 8, LAYOUT.part_bytes
    for part in size:
        content[starts + 5 * part : starts + 6 * part] = content[starts + 4 * part : starts + 5 * part]
        starts += 20 * part
    path.write_bytes(content)
    file = open_file(path, LAYOUT, METADATA)
    assert is_right(file, 4) and read(file, 5) is None and file.damaged == 1


@pytest.mark.parametrize("cut", [0, 5, 300, -1])
def test_a_truncated_file_is_dropped_with_a_warning_and_made_anew(tmp_path, caplog, cut):
    path = tmp_path / "view.safetensors"
    fill(path, range(20))
    size = path.stat().st_size
    os.truncate(path, cut if cut >= 0 else size - 1)
    assert open_file(path, LAYOUT, METADATA, make=False) is None and path.exists()
    file = open_file(path, LAYOUT, METADATA)
    assert "view.safetensors has a damaged header or size" in caplog.text and path.stat().st_size == size
    assert not any(is_right(file, row) for row in range(20))


def test_a_file_truncated_while_it_is_open_loses_entries_and_nothing_else(tmp_path):
    path = tmp_path / "view.safetensors"
    file = fill(path, range(20))
    os.truncate(path, path.stat().st_size - 100)
    there = [is_right(file, row) for row in range(20)]
    assert there[0] and not there[19]


def test_another_layout_or_key_is_not_taken_for_ours(tmp_path):
    path = tmp_path / "view.safetensors"
    for layout, metadata in ((LAYOUT, METADATA | {"view": "1"}), (Layout(20, LAYOUT.parts, torch.bfloat16), METADATA)):
        fill(path, [1])
        assert not open_file(path, layout, metadata).has(1)
        path.unlink()


def test_a_killed_writer_leaves_entries_that_are_right_or_absent(tmp_path, python):
    path = tmp_path / "view.safetensors"
    code = f"""
import os, signal, sys, threading
sys.path[:0] = {sys.path!r}
from pathlib import Path
import test_feature_file as t
t.fill(Path("view.safetensors"), range(20))
threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
while True: t.fill(Path("view.safetensors"), range(20))
"""
    for _ in range(2):
        assert python("-c", code).returncode == -signal.SIGKILL
        file = open_file(path, LAYOUT, METADATA)
        assert any(is_right(file, row) for row in range(20)) and file.damaged == 0


def test_a_write_cut_short_leaves_no_entry(tmp_path, monkeypatch):
    file = fill(tmp_path / "view.safetensors", [])
    write, calls = os.pwrite, []

    def dies_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        file.write(2, [as_bytes(part)[0] for part in entry(2)])
    assert not file.has(2) and read(file, 2) is None


def test_reading_100_000_entries_does_not_grow_resident_memory():
    command = [sys.executable, str(REPOSITORY / "examples" / "benchmark_epoch.py"), "--only_memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after, entries = map(int, re.findall(r"\d+", done.stdout.replace(",", ""))[:3])
    assert entries == 100_000
    assert after < 1.1 * before, done.stdout
