"""What a forward pass of one image or volume costs: parameters, arithmetic, time on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..arguments.words import counted
from ..models.grids import Grid
from ..models.tape import input_channels

MAX_RUNS = 10
MAX_SECONDS = 2.0


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a model costs.

    :param gflop: 1e9 floating-point operations, a multiplication and an addition being two, of products of matrices
        and convolutions.
    :param milliseconds: median time, None where it was not measured on a CPU.
    """

    parameters: int
    gflop: float
    milliseconds: float | None


@torch.no_grad()
def measure_cost(forward: Callable[[Tensor], Any], module: nn.Module, size: Grid) -> Cost:
    """Count and time `forward` on one image or volume.

    :param forward: takes (1, channels, *size) on the device of `module`.
    :param module: the module whose parameters are counted; it should be in eval mode.
    :param size: rows and columns of the image, or the three sides of the volume.
    """
    device = next(module.parameters()).device
    pixels = torch.zeros(1, input_channels(module), *size, device=device)
    # The counter does not know the CPU's fused attention; taken apart, attention is products of matrices.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(pixels)
    milliseconds = median_milliseconds(forward, pixels) if device.type == "cpu" else None
    return Cost(sum(p.numel() for p in module.parameters()), counter.get_total_flops() / 1e9, milliseconds)


def median_milliseconds(forward: Callable[[Tensor], Any], pixels: Tensor) -> float:
    """The median time of some calls on the CPU."""
    times: list[float] = []
    while len(times) < MAX_RUNS and sum(times) < MAX_SECONDS:
        started = time.perf_counter()
        forward(pixels)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def threads(count: int) -> str:
    """That a time was taken with so many, in words."""
    return counted(count, "thread")
