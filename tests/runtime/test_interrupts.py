"""Told to stop, a run saves and ends with the code of what stopped it; killed, it loses nothing."""

import json
import os
import runpy
import signal
import sys
from functools import partial
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from test_distillation import settings
from warm_server import EMPTY_PLOTS

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.runtime.checkpoint import list_checkpoints
from rd_hf.training import fill_cache
from rd_hf.training.run_folder import read_history
from rd_hf.training.trainer import Trainer


def options(values):
    values = values | {"student": json.dumps(values["student"])}
    return ["distill", *[word for name, value in values.items() for word in (f"--{name}", str(value))]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 85)])
def test_each_signal_saves_the_step_and_has_its_exit_code(
    teacher, blobs_npz, tmp_path, monkeypatch, capsys, number, code
):
    values = settings(teacher, blobs_npz, tmp_path / "run", save_steps=100)
    before = signal.getsignal(number)
    step = Trainer.optimizer_step

    def signalled(self, batches):
        if self.step == 3:
            os.kill(os.getpid(), number)
        return step(self, batches)

    monkeypatch.setattr(Trainer, "optimizer_step", signalled)
    assert main(options(values)) == code
    assert "Step 4 of 6 is saved. To continue, repeat the command or call with `resume`." in capsys.readouterr().err
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000004"]
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("patience", [None, 1])
def test_a_signal_during_the_last_save_is_not_forgotten(teacher, blobs_npz, tmp_path, monkeypatch, capsys, patience):
    """That of the last step, or of an early stop."""
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=6, save_steps=100, eval_steps=1)
    save = Trainer.save

    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        save(self)

    monkeypatch.setattr(Trainer, "save", signalled)
    if patience is not None:
        monkeypatch.setattr(Trainer, "out_of_patience", lambda self: self.step == 4)
    assert main(options(values)) == 143
    last = 6 if patience is None else 4
    assert (
        f"Step {last} of 6 is saved. To continue, repeat the command or call with `resume`." in capsys.readouterr().err
    )
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.setattr(Trainer, "save", save)
    assert main([*options(values), "--resume"]) == 0 and (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 85)])
def test_a_signal_while_the_cache_is_built_has_its_exit_code(
    teacher, blobs_npz, tmp_path, monkeypatch, capsys, number, code
):
    fill = fill_cache._fill

    def signalled(*arguments):
        fill(*arguments)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(fill_cache, "_fill", signalled)
    line = ["cache", "build", *options(settings(teacher, blobs_npz, tmp_path / "run"))[1:]]
    before = signal.getsignal(number)
    assert main(line) == code
    told = capsys.readouterr().err
    assert f"{signal.Signals(number).name} received" in told
    assert "entries are kept. Repeat the command to continue" in told
    assert signal.getsignal(number) == before


def test_a_signal_while_methods_are_compared_has_its_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rd_hf.comparison.run.run_comparison", lambda plan: os.kill(os.getpid(), signal.SIGUSR1))
    line = ["compare", "--data", "{x: {dataset: d}}", "--methods", "ce", "--arguments", "{student: s}"]
    assert main([*line, "--output_dir", str(tmp_path / "compared")]) == 85
    assert "SIGUSR1 received" in capsys.readouterr().err


def test_a_signal_before_the_training_ends_the_command_with_the_same_code(teacher, blobs_npz, tmp_path, monkeypatch):
    monkeypatch.setattr("rd_hf.training.distillation.load_run_data", lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    assert main(options(settings(teacher, blobs_npz, tmp_path / "run"))) == 85


def test_when_its_time_is_over_a_run_saves_and_can_be_resumed_with_more_of_it(teacher, blobs_npz, tmp_path, capsys):
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=3)
    assert main(options(values | {"max_run_time": 1e-9})) == 85
    assert "`max_run_time` has elapsed. Step 1 of 3 is saved" in capsys.readouterr().err
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000001"]
    assert main([*options(values | {"max_run_time": "10:00:00"}), "--resume"]) == 0
    assert [row["step"] for row in read_history(tmp_path / "run") if "loss" in row] == [1, 2, 3]


def test_the_run_time_is_hours_or_hours_minutes_and_seconds():
    def seconds(value):
        return DistillationArguments(dataset="x", student="y", teacher="z", max_run_time=value).seconds_to_run()

    assert seconds(None) is None and seconds(1.5) == 5400 and seconds("0.5") == 1800
    assert seconds("01:30:05") == 5405 and seconds("47:59:59") == 172799
    for wrong in ("soon", "1:30", 0, -1, "nan", 43200, "00:00:00", "01:-3:00"):
        with pytest.raises(ArgumentError, match="max_run_time.*HH:MM:SS"):
            seconds(wrong)


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(teacher, blobs_npz, tmp_path, job):
    values = settings(teacher, blobs_npz, tmp_path / "run", save_steps=100)
    script = (
        "import os, signal, sys; from rd_hf.cli import main; from rd_hf.training.step import Update\n"
        "call = Update.__call__\n"
        "def signalled(self, step, batches):\n"
        "    if step == 2 and self.accelerator.process_index == 1: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return call(self, step, batches)\n"
        "Update.__call__ = signalled\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for done in job(2, "-c", script, *options(values)):
        assert done.returncode == 143
        assert "Step 3 of 6 is saved" in done.stderr, done.stderr[-3000:]
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000003"]


class Forked:
    """A `subprocess.Popen` in a fork of the warm Python, as far as examples/kill_and_resume.py uses it."""

    def __init__(self, warm_python, command, **options):
        self.finish = warm_python.start(*command[1:], cwd=REPOSITORY, environment=EMPTY_PLOTS)
        self.log, self.returncode = options["stderr"], None

    def poll(self):
        if self.returncode is None and self.finish.ended():
            self.wait()
        return self.returncode

    def wait(self):
        done = self.finish()
        self.returncode = done.returncode
        self.log.write(done.stderr)
        self.log.flush()
        return self.returncode

    def kill(self):
        os.kill(self.finish.pid, signal.SIGKILL)


def test_killed_at_random_moments_and_resumed_a_run_ends_as_if_it_had_not_been(monkeypatch, capsys, warm_python):
    script = REPOSITORY / "examples" / "kill_and_resume.py"
    example = runpy.run_path(str(script))["main"]

    def run(command, check, **options):
        assert Forked(warm_python, command, **options).wait() == 0

    forks = SimpleNamespace(Popen=partial(Forked, warm_python), run=run)
    monkeypatch.setitem(example.__globals__, "subprocess", forks)
    monkeypatch.setattr(sys, "argv", [str(script), "--kills", "2", "--steps", "30"])
    with pytest.raises(SystemExit) as end:
        example()
    assert end.value.code == 0, end.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [] and sum(found["kills"].values()) == 2
