"""Measures how much memory something takes in addition to what is there."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Context in which the highest use of memory is found: a GPU's by torch, else this process's resident memory.

    :ivar mib: growth to the highest point, in MiB, after the context; None where the system does not tell (not Linux).
    """

    def __init__(self, device: torch.device):
        self.device, self.mib = device, None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device) / 2**20
        elif PEAK_RESET.exists():
            # What earlier runs freed is kept for reuse, and would hide what this one takes.
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
            if trim is not None:
                trim(0)
            PEAK_RESET.write_text("5")  # proc(5): resets the peak
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.mib = torch.cuda.max_memory_allocated(self.device) / 2**20 - self.before
        elif PEAK_RESET.exists():
            self.mib = _resident("VmHWM") - self.before


def _resident(name: str) -> float:
    return int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1]) / 1024
