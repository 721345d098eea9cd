"""What a resumed run goes on from, what may differ then, and what it says of that."""

import json
import shutil
import signal

import pytest
import torch
from filelock import FileLock
from stopped_runs import interrupted, losses
from test_distillation import TINY_RESNET, TINY_VIT, settings
from test_interrupts import options
from transformers import AutoConfig, AutoModel

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.runtime.checkpoint import OWN_DIGEST, CheckpointError, _state_digest
from rd_hf.training import distillation
from rd_hf.training.run_folder import read_history
from rd_hf.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_report")
STEADY_VIT = TINY_VIT | {"hidden_dropout_prob": 0.0}


def test_another_number_of_processes_goes_on_along_the_same_course(teacher, blobs_npz, tmp_path, monkeypatch, job):
    values = settings(teacher, blobs_npz, tmp_path / "whole", student=STEADY_VIT)
    rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 3)
    values |= {"per_device_train_batch_size": 4, "per_device_unlabeled_batch_size": 4, "max_run_time": 5}
    done, other = job(2, "-m", "rd_hf", *options(values), "--resume")
    assert done.returncode == other.returncode == 0, done.stderr[-3000:]
    assert "The run had 1 process and now has 2 processes. Results match up to rounding" in done.stderr
    assert "per_device_train_batch_size: 8 then, 4 now" in done.stderr
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    assert len(losses(tmp_path / "cut")) == 6


def test_a_step_of_other_rows_and_other_settings_are_refused_by_name(teacher, blobs_npz, tmp_path, monkeypatch):
    values = settings(teacher, blobs_npz, tmp_path / "run")
    interrupted(monkeypatch, values, 2)
    with pytest.raises(CheckpointError, match="8 labelled and 8 unlabelled.*Now it has 4 and 8.*accumulation"):
        rd_hf.distill(**(values | {"per_device_train_batch_size": 4}), resume=True)
    with pytest.raises(
        ArgumentError, match=r"cka_weight: 1.0 then, 0.5 now\nThese arguments may differ:\n  save_total_limit: 2"
    ):
        rd_hf.distill(**(values | {"cka_weight": 0.5, "save_total_limit": 5}), resume=True)


def test_another_teacher_under_the_same_name_is_refused(teacher, blobs_npz, tmp_path, monkeypatch):
    own = shutil.copytree(teacher, tmp_path / "teacher")
    values = settings(own, blobs_npz, tmp_path / "run")
    interrupted(monkeypatch, values, 2)
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    torch.manual_seed(6)
    AutoModel.from_config(AutoConfig.from_pretrained(own)).save_pretrained(own)
    said = "weights of `teacher` are not those that the run was begun with: .*Give the teacher of then, or start again"
    with pytest.raises(CheckpointError, match=said):
        rd_hf.distill(**values, resume=True)
    with pytest.raises(CheckpointError, match=said):
        rd_hf.report(tmp_path / "run")
    # an earlier version wrote nothing of the teacher
    for state in (tmp_path / "earlier").glob("checkpoints/step-*/state.json"):
        content = json.loads(state.read_text())
        assert len(content.pop("teacher")) == 64
        content.pop(OWN_DIGEST)
        state.write_text(json.dumps(content | {OWN_DIGEST: _state_digest(content)}))
    rd_hf.distill(**values | {"output_dir": str(tmp_path / "earlier")}, resume=True)
    assert len(losses(tmp_path / "earlier")) == 6


def test_two_runs_never_write_into_one_folder(teacher, blobs_npz, tmp_path, monkeypatch):
    values = settings(teacher, blobs_npz, tmp_path / "run")
    rd_hf.distill(**values)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with FileLock(tmp_path / "run" / ".lock"), monkeypatch.context() as patch:
        patch.setattr(distillation, "load_run_data", lambda *_: pytest.fail("reads data"))
        for choice in ("resume", "overwrite_output_dir"):
            with pytest.raises(ArgumentError, match="Another run is writing into `output_dir` .*run. Wait for it"):
                rd_hf.distill(**values, **{choice: True})
    assert {path: path.read_bytes() for path in before} == before
    load = distillation.open_trainer

    def slowly(*arguments):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "config.yaml").write_text("of another run")
        return load(*arguments)

    monkeypatch.setattr(distillation, "open_trainer", slowly)
    with pytest.raises(ArgumentError, match="`output_dir` .*new is not empty"):
        rd_hf.distill(**values | {"output_dir": str(tmp_path / "new")})
    assert (tmp_path / "new" / "config.yaml").read_text() == "of another run"


def test_early_stopping_counts_on_from_where_it_was(teacher, blobs_npz, tmp_path, monkeypatch):
    changes = {"learning_rate": 1e-9, "eval_steps": 1, "early_stopping_patience": 4, "max_steps": 20}
    values = settings(teacher, blobs_npz, tmp_path / "whole", student=TINY_RESNET, **changes)
    rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 3)
    rd_hf.distill(**values, resume=True)
    assert read_history(tmp_path / "cut")[-1] == read_history(tmp_path / "whole")[-1]
    assert 3 < read_history(tmp_path / "whole")[-1]["step"] < 20


def test_the_scale_of_float16_gradients_comes_back(teacher, blobs_npz, tmp_path, monkeypatch):
    """No training in float16 without a GPU: the scaler is there only while a checkpoint is written and read."""
    values = settings(teacher, blobs_npz, tmp_path / "run")
    found = []

    def with_scaler(method, scaler):
        def run(self, *args):
            self.accelerator.scaler = scaler
            method(self, *args)
            found.append(scaler.state_dict()["scale"])
            self.accelerator.scaler = None

        return run

    scalers = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8.0, 2.0)]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "write_checkpoint", with_scaler(Trainer.write_checkpoint, scalers[0]))
        interrupted(monkeypatch, values, 2)
    monkeypatch.setattr(Trainer, "restore_from", with_scaler(Trainer.restore_from, scalers[1]))
    rd_hf.distill(**values, resume=True)
    assert found == [8.0, 8.0]


def test_a_run_without_a_checkpoint_yet_starts_from_the_beginning(teacher, blobs_npz, tmp_path, monkeypatch, caplog):
    values = settings(teacher, blobs_npz, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", lambda self, deadline: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            rd_hf.distill(**values)
    rd_hf.distill(**values, resume=True)
    assert "no checkpoint yet" in caplog.text and len(losses(tmp_path / "run")) == 6


def test_the_run_of_a_version_without_an_argument_is_resumed_under_its_default(
    teacher, blobs_npz, tmp_path, monkeypatch
):
    values = settings(teacher, blobs_npz, tmp_path / "run")
    interrupted(monkeypatch, values, 2)
    config = tmp_path / "run" / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if not line.startswith("label_kind")]
    config.write_text("\n".join(kept) + "\n")
    with pytest.raises(ArgumentError, match="label_kind: 'auto' then, 'single' now"):
        rd_hf.distill(**values, label_kind="single", resume=True)
    rd_hf.distill(**values, resume=True)
