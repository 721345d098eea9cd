"""`rd_hf.report`: the report of a run from its folder alone, as the run's own end writes it, without training."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.torch import load_file
from stopped_runs import stopped_at
from test_distillation import settings
from test_teacher_cache import make_teacher

import rd_hf
from rd_hf import cli
from rd_hf.arguments.config import read_config
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.backbone import Backbone
from rd_hf.runtime.checkpoint import CheckpointError
from rd_hf.runtime.interrupts import Stopped
from rd_hf.tasks.classification import Classification, SingleLabel
from rd_hf.training.report import summary
from rd_hf.training.run_folder import read_history
from rd_hf.training.trainer import Trainer

LEFT = {"metrics.json", "predictions.csv", "report.html", "curves.png", "cka.png", "confusion_matrix.png", "roc.png"}


class Killed(BaseException):
    """What ends a run without its own report."""


def kill_before(monkeypatch, values, step):
    """Run until `step` would begin."""
    stopped_at(monkeypatch, values, step, Mock(side_effect=Killed), Killed)


@contextmanager
def no_training():
    """A training step meanwhile fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", Mock(side_effect=AssertionError("trained")))
        yield


@pytest.fixture
def ended(teacher, blobs_npz, tmp_path):
    """The folder of a run that has ended."""
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run"))
    return tmp_path / "run"


def test_an_ended_run_gets_the_same_report_again(ended, monkeypatch, caplog):
    before = json.loads((ended / "metrics.json").read_text())
    rows = (ended / "predictions.csv").read_text()
    weights = load_file(ended / "student" / "model.safetensors")
    for name in LEFT - {"metrics.json"}:
        (ended / name).unlink()
    shutil.rmtree(ended / "student")
    no_calibration = Mock(side_effect=AssertionError("the teacher ran for projectors that a checkpoint holds"))
    monkeypatch.setattr("rd_hf.training.assembly.calibrate_projectors", no_calibration)
    with no_training():
        scores = rd_hf.report(ended)
    assert scores == before == json.loads((ended / "metrics.json").read_text())
    assert {path.name for path in ended.iterdir()} >= LEFT
    assert (ended / "predictions.csv").read_text() == rows
    again = load_file(ended / "student" / "model.safetensors")
    assert all((again[name] == value).all() for name, value in weights.items())
    assert "The run has ended at step 6" in caplog.text
    (ended / "metrics.json").unlink()
    card = (ended / "student" / "README.md").read_text()
    before["training"]["seconds"] = None  # which nothing else remembers
    assert rd_hf.report(ended) == before
    assert "6 optimiser steps in " in card
    # by default that of the task, which a resumed run and a card of an earlier version have too
    assert read_config(ended / "config.yaml")["metric_for_best_model"] == "auroc"
    assert "`metric_for_best_model` auroc" in card.split("<details><summary>The other arguments")[1]
    assert "6 optimiser steps on " in (ended / "student" / "README.md").read_text()


@pytest.mark.parametrize("method", ["drd", "ce"])
def test_without_checkpoints_the_saved_models_are_scored(teacher, blobs_npz, tmp_path, method, monkeypatch):
    run = tmp_path / "run"
    rd_hf.distill(**settings(teacher, blobs_npz, run, method=method))
    before = json.loads((run / "metrics.json").read_text())
    shutil.rmtree(run / "checkpoints")
    monkeypatch.setattr("rd_hf.training.assembly.calibrate_projectors", lambda *_: pytest.fail("needs no start"))
    with no_training():
        assert rd_hf.report(run) == before
    config = json.loads((run / "student" / "config.json").read_text())
    names = config["id2label"]
    config["id2label"] = names | {"0": names["1"], "1": names["0"]}
    (run / "student" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=f"classes {names['1']}, {names['0']}, .*, but the data now has {names['0']}"
    ):
        rd_hf.report(run)


def test_a_killed_run_is_reported_as_far_as_it_was_saved_and_can_go_on(
    teacher, blobs_npz, tmp_path, monkeypatch, caplog
):
    values = settings(teacher, blobs_npz, tmp_path / "run", save_steps=3)
    kill_before(monkeypatch, values, 5)
    run = tmp_path / "run"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    log = (run / "metrics.jsonl").read_text()
    with no_training():
        scores = rd_hf.report(run)
    assert "The run is at step 3 of 6. This report is about its best weights, those of step 3." in caplog.text
    assert scores["training"]["steps"] == scores["training"]["best_step"] == 3
    assert scores["training"]["seconds"] is None
    validation = [row["validation/auroc"] for row in read_history(run) if "validation/auroc" in row]
    assert scores["validation"]["auroc"] == validation[-1]
    assert (run / "metrics.jsonl").read_text() == log
    (run / "student" / "README.md").write_text("mine")
    rd_hf.report(run)
    assert (run / "student" / "README.md").read_text() == "mine"
    rd_hf.distill(**values, resume=True)
    whole = settings(teacher, blobs_npz, tmp_path / "whole", save_steps=3)
    rd_hf.distill(**whole)
    resumed, uninterrupted = (
        load_file(Path(folder) / "student" / "model.safetensors") for folder in (run, whole["output_dir"])
    )
    assert all((resumed[name] == value).all() for name, value in uninterrupted.items())


def broken(*_, **__):
    raise TypeError("unsupported format string\nand more")


def test_a_plot_or_card_that_fails_costs_nothing_else_and_report_makes_it(blobs_npz, tmp_path, monkeypatch, caplog):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("rd_hf.scoring.plots.plot_roc", broken)
        patch.setattr("rd_hf.scoring.plots.plot_curves", broken)
        rd_hf.distill(**settings(None, blobs_npz, run, method="ce"))
    reason = f"(TypeError: unsupported format string). The models and metrics.json are complete. `rd-hf report {run}`"
    for name in ("roc.png", "curves.png"):
        assert f"{name} could not be written {reason}" in caplog.text
        assert not (run / name).exists()
    assert (run / "confusion_matrix.png").is_file() and (run / "predictions.csv").is_file()
    card = (run / "student" / "README.md").read_text()
    assert "(confusion_matrix.png)" in card and "roc.png" not in card and "curves.png" not in card
    with no_training(), monkeypatch.context() as patch:
        patch.setattr("rd_hf.training.report.render_card", broken)
        rd_hf.report(run)
    assert f"student/README.md could not be written {reason}" in caplog.text
    assert (run / "student" / "roc.png").is_file() and (run / "curves.png").is_file()
    caplog.clear()
    with no_training():
        rd_hf.report(run)
    assert "could not be written" not in caplog.text
    assert "(roc.png)" in (run / "student" / "README.md").read_text()


def test_a_plot_of_the_student_never_stands_in_for_one_of_the_teacher(teacher, blobs_npz, tmp_path, monkeypatch):
    draw = Classification.draw_scores

    def only_for_the_student(self, scores, folder):
        (broken if folder.name == "teacher" else draw)(self, scores, folder)

    monkeypatch.setattr(Classification, "draw_scores", only_for_the_student)
    run = tmp_path / "run"
    rd_hf.distill(**settings(teacher, blobs_npz, run, max_steps=2))
    assert (run / "student" / "confusion_matrix.png").is_file()
    assert not (run / "teacher" / "confusion_matrix.png").exists()
    assert "confusion_matrix.png" not in (run / "teacher" / "README.md").read_text()


def test_scores_that_cannot_be_computed_cost_no_weights(blobs_npz, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Classification, "scores", broken)
    with pytest.raises(TypeError):
        rd_hf.distill(**settings(None, blobs_npz, run, method="ce", max_steps=2))
    assert (run / "student" / "model.safetensors").is_file()


def test_an_interruption_after_the_training_says_what_is_left_to_do(blobs_npz, tmp_path, monkeypatch, capsys):
    values = settings(None, blobs_npz, tmp_path / "run", method="ce", max_steps=2)
    options = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
    for stopped, code in ((Stopped("SIGUSR1 received.", 85), 85), (KeyboardInterrupt(), cli.EXIT_INTERRUPTED)):
        with monkeypatch.context() as patch:
            patch.setattr(Classification, "scores", Mock(side_effect=stopped))
            assert cli.main(["distill", *options, *(["--overwrite_output_dir"] if code != 85 else [])]) == code
        told = capsys.readouterr().err
        assert f"The training has ended. `rd-hf report {tmp_path / 'run'}` scores its models" in told
        assert ("SIGUSR1 received." in told) == (code == 85)
    assert cli.main(["report", str(tmp_path / "run")]) == 0 and (tmp_path / "run" / "metrics.json").is_file()


TRAINING = {"steps": 9, "best_step": 6}


def test_the_closing_line_gives_a_value_without_its_interval():
    scores = {"auroc": 0.5, "accuracy": None, "intervals": {"auroc": None, "accuracy": None}}
    of_run = {"validation": scores, "test": scores, "training": TRAINING}
    lines = summary(of_run, rows_of(9, 9), Path("run")).splitlines()
    assert lines[2].split() == ["student,", "test", "0.500", "undefined"]
    assert lines[3] == "The weights are those of step 6 of 9, the best on validation."


def test_the_closing_line_counts_very_few_rows_in_place_of_an_interval():
    scores = {"auroc": 0.5, "accuracy": 0.25, "intervals": {"auroc": [0.5, 0.5], "accuracy": [0.2, 0.3]}}
    of_patients = scores | {"groups": 2}
    of_run = {"validation": scores, "test": scores, "training": TRAINING}
    lines = summary(of_run, rows_of(1, 5), Path("run")).splitlines()
    assert lines[0].startswith("(95 % intervals if n > 4)")
    assert lines[1].endswith("0.500 (n = 1)      0.250 (n = 1)") and "0.500 (0.50-0.50)  0.250 (0.20-0.30)" in lines[2]
    lines = summary(of_run | {"test": of_patients}, rows_of(5, 9), Path("run")).splitlines()
    assert "(0.20-0.30)" in lines[1] and lines[2].endswith("0.250 (n = 2)")


def rows_of(validation: int, test: int) -> SimpleNamespace:
    """What `summary` reads of a run's data."""
    counts = {"validation": validation, "test": test}
    splits = {name: SimpleNamespace(name=name, rows=range(count)) for name, count in counts.items()}
    return SimpleNamespace(task=SingleLabel(["a", "b"]), **splits)


def test_what_cannot_be_reported_is_said_in_a_sentence(ended, blobs_npz, tmp_path, capsys):
    with pytest.raises(ArgumentError, match=r"is not the folder of a run, because it has no config.yaml.*output_dir"):
        rd_hf.report(ended / "student")
    with pytest.raises(ArgumentError, match="`run` is None; it must be the folder of a run"):
        rd_hf.report(None)
    config = (ended / "config.yaml").read_text()
    (ended / "config.yaml").write_text(config.replace(str(blobs_npz), "(a data set in memory)"))
    with pytest.raises(ArgumentError, match=r"`dataset` of the run .* in memory.*enter that path in .*config.yaml"):
        rd_hf.report(ended)
    (ended / "config.yaml").write_text(config)
    blobs_npz.rename(tmp_path / "moved.npz")
    with pytest.raises(ArgumentError, match=r"`dataset` of the run .*blobs.npz, does not exist. Put it back"):
        rd_hf.report(ended)
    (tmp_path / "moved.npz").rename(blobs_npz)
    shutil.rmtree(ended / "checkpoints"), shutil.rmtree(ended / "student")
    assert cli.main(["report", str(ended)]) == cli.EXIT_USAGE
    assert "neither a checkpoint nor a student yet" in capsys.readouterr().err


def test_other_data_than_that_of_the_run_is_refused(ended, blobs_npz):
    arrays = dict(np.load(blobs_npz))
    arrays["train_labels"] = arrays["train_labels"][::-1].copy()
    np.savez(blobs_npz, **arrays)
    with pytest.raises(CheckpointError, match="images or labels have changed since the run started"):
        rd_hf.report(ended)


def test_the_command_takes_the_folder_as_it_stands(ended, capsys):
    (ended / "metrics.json").unlink()
    assert cli.main(["report", str(ended)]) == 0
    assert json.loads((ended / "metrics.json").read_text())["training"]["steps"] == 6
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_the_teacher_does_not_run_again_on_images_that_it_has_scored(family, blobs_npz, tmp_path, monkeypatch):
    teacher = make_teacher(tmp_path / "teacher", family)
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=2, cache_dtype="float32")
    rd_hf.distill(**values)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rd_hf.distill(**(values | {"output_dir": str(tmp_path / "live"), "cache": False, "cache_dtype": None}))
    live = json.loads((tmp_path / "live" / "metrics.json").read_text())
    assert first["teacher"] == live["teacher"]
    extract = Backbone.extract

    def only_timed(self, pixel_values):
        assert len(pixel_values) == 1, "the teacher ran for more than its time on one image"
        return extract(self, pixel_values)

    monkeypatch.setattr(Backbone, "extract", only_timed)
    assert rd_hf.report(tmp_path / "run")["teacher"] == first["teacher"]
