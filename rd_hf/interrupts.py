"""Ctrl-C during a training: the step that is under way ends and is saved."""

from __future__ import annotations

import logging
import signal
import threading

import torch
from accelerate import Accelerator

logger = logging.getLogger(__name__)


class Interrupts:
    """A context in which the first Ctrl-C is only noted; the second stops at once.

    With several processes the second does not, since launchers pass on to each what the terminal has sent already.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator, self.noted, self._before = accelerator, False, None

    def __enter__(self) -> Interrupts:
        # Python lets the main thread alone handle signals.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def in_any_process(self) -> bool:
        """Whether Ctrl-C reached any process; all learn it at the same step, as all have to leave the loop together."""
        if self.accelerator.num_processes == 1:
            return self.noted
        flag = torch.tensor(float(self.noted), device=self.accelerator.device)
        return self.accelerator.reduce(flag).item() > 0

    def _note(self, signum, frame) -> None:
        if self.noted and self.accelerator.num_processes == 1:
            raise KeyboardInterrupt("Stopped at once; the last checkpoint is kept.")
        self.noted = True
        logger.info("Ctrl-C: saving after this step. Once more stops at once.")


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """For data-loading processes: the terminal's Ctrl-C reaches them too, but the last step still needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
