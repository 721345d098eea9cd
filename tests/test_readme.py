"""README.md: its length, and its commands, run as they stand there on tiny models in place of those of the Hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from pages import Reader, make_workplace, run_here
from PIL import Image

LONGEST = 8000  # bytes: five minutes


def test_it_is_read_in_five_minutes():
    assert len((REPOSITORY / "README.md").read_bytes()) <= LONGEST


def test_the_installed_command():
    done = subprocess.run([Path(sys.executable).parent / "rd-hf", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "distill" in done.stdout


def test_every_command_and_python_block_runs(python_alone, client, server, tmp_path, monkeypatch):
    """Commands of rd-hf that need no Hub run in this process."""
    make_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return run_here(*words) if words[:2] == ("-m", "rd_hf") else python_alone(*words)

    answers = Reader(run, client, server).read("README.md")

    def answer(part: str) -> str:
        return next(answer for text, answer in answers.items() if part in text)

    # of the run in Python, which replaced the one of the terminal and has the same arguments
    scores = json.loads((tmp_path / "runs/xray/metrics.json").read_text())
    assert json.loads(answer("rd-hf evaluate"))["auroc"] == pytest.approx(scores["test"]["auroc"], abs=1e-9)
    probabilities = json.loads(answer("rd-hf predict --model runs/xray"))["probabilities"]
    assert set(probabilities) == {"class_0", "class_1", "class_2"}
    assert answer("classify =").strip() in ("class_0", "class_1", "class_2")
    assert Image.open(tmp_path / "masks" / "one.png").size == Image.open(tmp_path / "new_images" / "one.png").size
    assert (tmp_path / "runs/busi_cluster/student/model.safetensors").exists()
    published = set(server.repos["me/xray-student"].at("main").files)
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "roc.png"} <= published
    assert not any(name.endswith(".py") for name in published)
