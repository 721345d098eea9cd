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


@dataclass(frozen=True)
class Rise:
    """A share that is 0 in the first quarter of the steps, and rises linearly to its end at half of them.

    :param total_steps: Optimiser steps of the training.
    """

    end: float
    total_steps: int

    def share(self, step: int) -> float:
        """The share at an optimiser step, counted from 0."""
        return self.end * min(max(4.0 * step / self.total_steps - 1.0, 0.0), 1.0)
