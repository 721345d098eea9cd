"""Weights that change during training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """A weight that goes linearly from a start to an end, and stays there.

    :param total_steps: Optimiser steps until the end is reached.
    """

    start: float
    end: float
    total_steps: int

    def weight(self, step: int) -> float:
        """The weight at an optimiser step, counted from 0."""
        return self.start + (self.end - self.start) * min(step / self.total_steps, 1.0)

    @property
    def is_off(self) -> bool:
        """Whether the weight is 0 throughout."""
        return not (self.start or self.end)
