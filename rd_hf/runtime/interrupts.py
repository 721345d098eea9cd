"""Handles signals and the run's time limit during training: the current step is finished and saved.

| what                                      | exit code |
|-------------------------------------------|-----------|
| Ctrl-C (SIGINT)                           | 130       |
| SIGTERM                                   | 143       |
| SIGUSR1 (SLURM's warning), `max_run_time` | 85        |
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

logger = logging.getLogger(__name__)

EXIT_GO_ON_LATER = 85  # not an exit code of a shell, of Python or of a signal
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGUSR1"):  # not on Windows
    EXIT_CODES[signal.SIGUSR1] = EXIT_GO_ON_LATER


class Stopped(KeyboardInterrupt):
    """The run was told to stop and has stopped. The message names the step from which it can be resumed."""

    def __init__(self, message: str, exit_code: int):
        """:param exit_code: what the process ends with."""
        super().__init__(message)
        self.exit_code = exit_code


def with_more(interrupt: KeyboardInterrupt, text: str) -> KeyboardInterrupt:
    """The interrupt with one more sentence; one by a signal keeps its exit code."""
    if isinstance(interrupt, Stopped):
        return Stopped(f"{interrupt} {text}", interrupt.exit_code)
    return KeyboardInterrupt(text)


class Interrupts:
    """A context in which a signal or the time limit is only noted; a second Ctrl-C stops immediately.

    With several processes the second does not, since launchers pass on to each what the terminal has sent already.
    """

    def __init__(self, accelerator: Accelerator, deadline: float | None = None):
        """:param deadline: when the time is over, by `time.monotonic`."""
        self.accelerator, self.deadline, self.noted, self._before = accelerator, deadline, 0, {}
        self.reason = ""

    def __enter__(self) -> Interrupts:
        self._before = _handle(EXIT_CODES, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def in_any_process(self) -> int:
        """The exit code to stop with, or 0. All processes get it at the same step, so they leave the loop together."""
        if self.deadline is not None and not self.noted and time.monotonic() >= self.deadline:
            self.noted = EXIT_GO_ON_LATER
            self.reason = "`max_run_time` has elapsed. "
            logger.info("%sSaving.", self.reason)
        if self.accelerator.num_processes == 1:
            return self.noted
        import torch  # not above: the command line reads the exit codes before it needs torch

        noted = torch.tensor([self.noted], device=self.accelerator.device)
        return int(self.accelerator.gather(noted).max())

    def stop(self, exit_code: int, checkpoints: Path, done: int, max_steps: int) -> None:
        """Stop for an exit code that is not 0.

        :param checkpoints: their folder.
        :param done: steps.
        :raises Stopped: whose message says which step is saved, and how to resume.
        """
        if not exit_code:
            return
        from .checkpoint import checkpoint_step, list_checkpoints  # not above, for the same reason

        kept = list_checkpoints(checkpoints)
        if not kept:
            where_it_stands = f"Step {done} of {max_steps} could not be saved, and no checkpoint is kept."
            raise Stopped(self.reason + where_it_stands, exit_code)
        step = checkpoint_step(kept[-1])
        lost = "" if step == done else f" (step {done} could not be saved)"
        saved = f"Step {step} of {max_steps} is saved{lost}. To continue, repeat the command or call with `resume`."
        raise Stopped(self.reason + saved, exit_code)

    def _note(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.noted and self.accelerator.num_processes == 1:
            raise Stopped("Stopped immediately; the last checkpoint, if any, is kept.", EXIT_CODES[signal.SIGINT])
        self.noted = self.noted or EXIT_CODES[number]
        more = " Press Ctrl-C again to stop immediately." if number == signal.SIGINT else ""
        logger.info("%s received: saving a checkpoint after this step.%s", signal.Signals(number).name, more)


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Outside the training loop, a signal ends the command with the same exit code as inside it."""

    def stop(number: int, frame) -> None:
        name = signal.Signals(number).name
        raise Stopped(f"{name} received; the last checkpoint, if any, is kept.", EXIT_CODES[number])

    before = _handle([number for number in EXIT_CODES if number != signal.SIGINT], stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(numbers, handler) -> dict:
    """Set a handler, and return the previous ones. In Python only the main thread can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in numbers}


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """For data-loading processes: signals to a job reach them too, but the last step still needs its batches."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
