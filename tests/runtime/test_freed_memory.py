"""Memory that is freed goes back to the system."""

import platform
from pathlib import Path

import numpy as np
import pytest

from rd_hf.runtime import allocator
from rd_hf.runtime.allocator import return_freed_memory


def held() -> float:
    """MiB."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_between_kept_arrays_goes_back():
    """Small arrays lie in one heap, which can only shrink at its end by itself."""
    arrays = [np.ones(2**13) for _ in range(2000)]  # 125 MiB
    last, before = arrays[-1], held()
    del arrays
    return_freed_memory()
    assert held() < before - 100 and last[0] == 1


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("the C library is asked"))
    return_freed_memory()
