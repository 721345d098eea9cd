"""The check of a GPU runs on a CPU too, on tiny models, and its table has every row."""

import importlib.util

import pytest
import torch
from conftest import REPOSITORY


@pytest.mark.usefixtures("kept_log_level")
def test_the_tiny_check_prints_every_row(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("gpu_check", REPOSITORY / "examples" / "gpu_check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    kept = ("student alone", "RD, cold cache", "RD, warm int8 cache")
    monkeypatch.setattr(check, "ROWS", {name: check.ROWS[name] for name in kept})
    monkeypatch.delitem(check.TEACHERS, "ViT-L/16")
    monkeypatch.setattr(check.STUDENT, "hidden_sizes", [8, 8, 8, 8])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        check.main([])
    assert "there is no GPU. `--tiny` tries the script" in capsys.readouterr().err
    check.main(["--tiny", "--no-bf16"])
    printed = capsys.readouterr().out
    assert all(f"| ViT-B/16, tiny | {row} | " in printed for row in (*kept, "its forward alone"))
    assert len([line for line in printed.splitlines() if line.startswith("| ViT")]) == 4
