"""Today's code against runs, a student and a cache of an earlier version: numbers and files that must not change.

A commit that means to change a run's numbers stores them anew (`reference_runs.py --store`) and says why. Each file of
references is of one kind of processor, and a run must give the numbers of one of them.
"""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

import rd_hf

HERE = Path(__file__).resolve().parent
STORED = [json.loads(path.read_text()) for path in sorted(HERE.glob("references*.json"))]
NAMES = list(STORED[0])
OTHER_PROCESSOR = (
    "No file of references has these numbers. If the code is not meant to change them, and an older commit fails here "
    "too, then this is another kind of processor: store its references beside the others."
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    """What `reference_runs.py` prints today."""
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run([sys.executable, HERE / "reference_runs.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{\n") :])


@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_log_the_same_values(name, runs):
    now = runs[name]["metrics"]
    for stored in STORED:
        assert [sorted(row) for row in now] == [sorted(row) for row in stored[name]["metrics"]]
    assert any(are_close(now, stored[name]["metrics"]) for stored in STORED), OTHER_PROCESSOR


def are_close(now: list[dict], stored: list[dict]) -> bool:
    return all(new == pytest.approx(old, rel=1e-5, abs=1e-7) for old, new in zip(stored, now, strict=True))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the stored bits are those of x86-64 processors")
@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_give_the_same_weights_to_the_bit(name, runs):
    assert runs[name]["weights_sha256"] in [stored[name]["weights_sha256"] for stored in STORED], OTHER_PROCESSOR


@pytest.mark.parametrize("name", NAMES)
def test_cache_keys_are_the_same(name, runs):
    for stored in STORED:
        assert runs[name]["caches"] == stored[name]["caches"]


def test_a_cache_of_an_earlier_version_is_read(tmp_path, blobs_npz):
    """The stored cache holds all entries that this run trains on: none is added to it, and no other cache of train."""
    cache = tmp_path / "cache"
    shutil.copytree(HERE / "cache", cache)
    settings = json.loads((HERE / "cached_run.json").read_text())
    rd_hf.distill(
        teacher=str(HERE / "teacher"), dataset=str(blobs_npz), output_dir=str(tmp_path / "run"), cache_dir=str(cache),
        **settings,
    )  # fmt: skip
    assert features_in(cache) == features_in(HERE / "cache")


def features_in(cache: Path) -> dict[str, bytes]:
    """Entries of train, which is augmented and so has a seed of views."""
    keys = [path for path in cache.glob("*/key.json") if json.loads(path.read_text())["key"]["seed"] is not None]
    return {str(p.relative_to(cache)): p.read_bytes() for key in keys for p in key.parent.glob("*.safetensors")}


def test_a_student_of_an_earlier_version_loads_and_gives_the_same_logits():
    stored = load_file(HERE / "student_logits.safetensors")
    student = AutoModelForImageClassification.from_pretrained(HERE / "student")
    assert type(student) is rd_hf.RDStudentForImageClassification
    with torch.no_grad():
        logits = student(pixel_values=stored["pixel_values"]).logits
    torch.testing.assert_close(logits, stored["logits"], rtol=1e-4, atol=1e-5)
    assert list(student.config.id2label.values()) == ["benign", "malignant", "normal"]
    assert pipeline("image-classification", model=str(HERE / "student"), device="cpu").model.config == student.config
