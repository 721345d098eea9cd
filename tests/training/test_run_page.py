"""report.html of a run and of an evaluation: what it says is what was measured, and it says nothing of the machine."""

import configparser
import csv
import fnmatch
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import REPOSITORY, blob_arrays
from test_distillation import settings
from test_run_report import broken, no_training

import rd_hf
from rd_hf import cli
from rd_hf.arguments.config import read_config
from rd_hf.arguments.values import ArgumentError
from rd_hf.hub.publication import publishable_files
from rd_hf.inference import saliency
from rd_hf.pages.report import FOLDER, REPORT_FILE


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, **blob_arrays())
    return path


@pytest.fixture(scope="module")
def run(teacher, data, tmp_path_factory):
    """A run that has ended."""
    folder = tmp_path_factory.mktemp("run") / "run"
    rd_hf.distill(**settings(teacher, data, folder, method="drd"))
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """A run without a teacher on the same data."""
    folder = tmp_path_factory.mktemp("alone") / "alone"
    rd_hf.distill(**settings(None, data, folder, method="ce", max_steps=3))
    return folder


def test_the_page_has_the_scores_the_course_and_maps_but_no_path(run):
    html, scores = (run / REPORT_FILE).read_text(), json.loads((run / "metrics.json").read_text())
    for values in (scores["test"], scores["teacher"]["test"]):
        assert f"<b>{values['auroc']:.3f}</b>" in html and f"<b>{values['accuracy']:.3f}</b>" in html
    for shown in (
        "reprogrammed teacher",
        "Loss and its terms",
        "CKA",
        "drd",
        "No two splits share an image",
        "foundation model",
    ):
        assert shown in html
    assert "map of the answer" in html and saliency.WHAT[:40] in html
    for path in (run, run.parent, REPOSITORY):
        assert str(path) not in html


def test_the_page_can_be_made_again_without_images_and_beside_a_student_alone(run, alone, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    scores = json.loads((alone / "metrics.json").read_text())["test"]
    with no_training():
        assert cli.main(["report", str(again), "--report_images", "false", "--student_alone", str(alone)]) == 0
    html = (again / REPORT_FILE).read_text()
    assert "data:image/jpeg" not in html and "student alone" in html and f"<b>{scores['auroc']:.3f}</b>" in html
    assert read_config(again / "config.yaml")["report_images"] is True


def test_another_run_stands_beside_only_on_the_same_data_and_without_a_teacher(run, alone, tmp_path):
    with pytest.raises(ArgumentError, match="is a run with method drd. Name one with method ce"):
        rd_hf.report(run, student_alone=run)
    with pytest.raises(ArgumentError, match="has no config.yaml"):
        rd_hf.report(run, student_alone=run / "student")
    other = shutil.copytree(alone, tmp_path / "other")
    config = json.loads((other / "student" / "config.json").read_text())
    config["provenance"]["dataset"]["fingerprint"]["test"] = "sha256:0"
    (other / "student" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match="scored on other data"):
        rd_hf.report(run, student_alone=other)


def test_a_page_that_fails_costs_nothing_else(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("rd_hf.training.page.render_report", broken)
    rd_hf.distill(**settings(None, data, tmp_path / "run", method="ce", max_steps=1))
    assert "report.html could not be written (TypeError" in caplog.text
    assert not (tmp_path / "run" / REPORT_FILE).exists() and (tmp_path / "run" / "student" / "README.md").is_file()


def test_evaluate_writes_a_page_with_its_scores(run, data, tmp_path, capsys):
    page = tmp_path / "page.html"
    command = ["evaluate", "--model", str(run / "student"), "--dataset", str(data), "--split", "validation"]
    assert cli.main([*command, "--report", str(page)]) == 0
    scores, html = json.loads(capsys.readouterr().out), page.read_text()
    assert f"<b>{scores['auroc']:.3f}</b>" in html and "Report on the validation split" in html
    assert "was not looked at" in html and "map of the answer" in html and str(tmp_path) not in html
    assert cli.main([*command, "--report", str(tmp_path / "bare.html"), "--report_images", "false"]) == 0
    assert "data:image/jpeg" in page.read_text() and "data:image/jpeg" not in (tmp_path / "bare.html").read_text()
    capsys.readouterr()
    refused = {"page.txt": "must end with .html", "nowhere/page.html": "no folder", "page.html": "exists already"}
    for name, words in refused.items():
        assert cli.main([*command, "--report", str(tmp_path / name)]) == cli.EXIT_USAGE
        assert words in capsys.readouterr().err


def test_without_captum_the_page_says_how_to_get_maps(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(saliency, "find_spec", lambda name: None)
    rd_hf.evaluate(str(run / "student"), str(data), report=str(tmp_path / "page.html"))
    html = (tmp_path / "page.html").read_text()
    assert "rd-hf[report]" in html and "map of the answer" not in html and "data:image/jpeg" in html


def test_the_page_is_never_part_of_what_is_published(run, tmp_path):
    folder = shutil.copytree(run / "student", tmp_path / "student")
    shutil.copy(run / REPORT_FILE, folder / REPORT_FILE)
    assert REPORT_FILE not in publishable_files(folder)


def test_every_part_of_the_page_is_installed():
    listed = configparser.ConfigParser()
    listed.read(REPOSITORY / "setup.cfg")
    patterns = listed["options.package_data"]["rd_hf.pages"].split(", ")
    parts = [path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"]
    assert parts and all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in parts)


def test_a_map_finds_the_pixels_that_an_answer_depends_on():
    import torch

    pixels = torch.zeros(1, 3, 40, 40)
    pixels[..., 8:16, 24:32] = 1.0
    pixels[..., 30:38, 2:10] = 1.0

    def forward(values):
        return torch.stack([values[..., 8:16, 24:32].sum((1, 2, 3)), values[..., 30:38, 2:10].sum((1, 2, 3))], dim=1)

    for label, (row, column) in enumerate([(12, 28), (34, 6)]):
        found = saliency.saliency_map(forward, pixels, label)
        assert np.unravel_index(found.argmax(), found.shape) == pytest.approx((row, column), abs=4)
        assert found.shape == (40, 40) and found[20, 14] < 0.05
    assert saliency.saliency_map(lambda values: values.sum((1, 2, 3))[:, None] * 0, pixels, 0).max() == 0


def test_the_page_starts_at_the_stored_operating_point(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    with no_training():
        scores = rd_hf.report(again, operating_point="sensitivity=0.8", positive_label="normal")
    html, point = (again / REPORT_FILE).read_text(), scores["operating_point"]
    data = json.loads(html.split('id="values">')[1].split("</script>")[0])
    assert data["first"] == 2 and data["curves"][2]["stored"] == point["threshold"]
    with (again / "predictions.csv").open() as file:
        pairs = Counter((row["label"], row["prediction"]) for row in csv.DictReader(file))
    for row, truth in enumerate(data["names"]):
        for column, answer in enumerate(data["names"]):
            assert data["counts"][row][column] == pairs[truth, answer]
    for split in ("validation", "test"):
        low, high = point[split]["sensitivity"]["interval"]
        assert f"{low:.3f} to {high:.3f}" in html
    errors = scores.get("calibration")
    assert errors is None or f"<b>{errors['test']['ece_after']:.3f}</b>" in html
