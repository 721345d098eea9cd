"""Runs that are stopped at a step, and the losses of a run's log."""

import os
import signal

import pytest

import rd_hf
from rd_hf.runtime.interrupts import Stopped
from rd_hf.training.run_folder import read_history
from rd_hf.training.trainer import Trainer


def stopped_at(monkeypatch, values, step, stop, error, match=None):
    """Run until `stop` is called as `step` begins; `error` is what then comes out of the run."""
    whole_step = Trainer.optimizer_step

    def stopping(self, batches):
        if self.step == step - 1:
            stop()
        return whole_step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", stopping)
        with pytest.raises(error, match=match):
            rd_hf.distill(**values)


def interrupted(monkeypatch, values, step, number=signal.SIGTERM, error=Stopped, match=None):
    """Run until `step` is done, in which the run gets a signal."""
    stopped_at(monkeypatch, values, step, lambda: os.kill(os.getpid(), number), error, match)


def losses(folder):
    """Of the steps that were logged."""
    return [row["loss"] for row in read_history(folder) if "loss" in row]
