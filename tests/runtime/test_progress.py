"""Progress: bars where a bar can be redrawn, elsewhere lines at intervals, and silence where it is asked for."""

import io
import logging
import sys

import pytest
from datasets.utils import are_progress_bars_disabled
from test_distillation import settings

import rd_hf
from rd_hf.runtime import progress
from rd_hf.runtime.progress import Progress, console, hidden_progress


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when `clock.now` is set."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_at_intervals_with_values_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO, "rd_hf")
    with Progress("training", 1000, "step", initial=100) as bar:
        for step in range(100, 1000):
            clock.now += 0.5
            bar.advance()
            bar.note(loss=f"{step / 1000:.3f}", auroc="0.900")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "training: step 150 of 1000, loss 0.148, auroc 0.900, 2 steps/s, 7 min left"
    assert lines[-1] == "training: step 1000 of 1000, loss 0.999, auroc 0.900, 2 steps/s"
    assert len(lines) == 18  # one for each twentieth


def test_slow_loops_have_a_line_every_five_minutes_and_fast_ones_one_at_the_end(clock, caplog):
    caplog.set_level(logging.INFO, "rd_hf")
    with Progress("comparing", 100, "run") as bar:
        for _ in range(3):
            clock.now += 200
            bar.advance()
    assert [record.getMessage() for record in caplog.records] == [
        "comparing: run 2 of 100, 0.005 runs/s, 5 h 27 min left",
        "comparing: run 3 of 100, 0.005 runs/s, 5 h 23 min left",
    ]
    caplog.clear()
    with Progress("reading train", 5000, "image") as bar:
        for _ in range(5000):
            bar.advance()
    assert [record.getMessage() for record in caplog.records] == ["reading train: image 5000 of 5000"]


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "rd_hf")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress("training", 3, "step") as bar:
        for _ in range(3):
            bar.advance()
            bar.note(loss="0.5")
    assert "100%" in screen.getvalue() and "loss=0.5" in screen.getvalue() and not caplog.records
    with hidden_progress(), Progress("training", 3, "step") as bar:
        screen.truncate(0)
        bar.advance(3)
    assert not screen.getvalue() and not caplog.records


def test_the_console_restores_logging_and_the_bars_of_libraries():
    logger = logging.getLogger("rd_hf")
    before = logger.level, list(logger.handlers)
    assert not are_progress_bars_disabled()
    with console():
        assert are_progress_bars_disabled() and logger.isEnabledFor(logging.INFO)
    with console(verbose=False):
        assert not logger.isEnabledFor(logging.INFO) and logger.isEnabledFor(logging.WARNING)
    assert (logger.level, list(logger.handlers)) == before and not are_progress_bars_disabled()


def test_distill_in_python_says_what_the_command_says_or_nothing(python, teacher, blobs_npz, tmp_path):
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=2)
    code = f"import rd_hf\nrd_hf.distill(**{values!r}, overwrite_output_dir=True"
    shown = python("-c", f"{code})")
    assert shown.returncode == 0, shown.stderr
    assert "training: step 2 of 2, loss " in shown.stderr and "The student is in " in shown.stderr
    assert "\r" not in shown.stderr and "%|" not in shown.stderr
    silent = python("-c", f"{code}, verbose=False)")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


def test_a_users_own_logging_is_used(teacher, blobs_npz, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", max_steps=1))
    assert any("The student is in" in record.getMessage() for record in caplog.records)
    assert "The student is in" not in capfd.readouterr().err
