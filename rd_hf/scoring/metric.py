"""The names and the direction of a metric, and the error of what cannot be scored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Metric(NamedTuple):
    """A metric's names.

    :ivar name: in JSON files, in tables and in arguments.
    :ivar title: in cards and figures.
    :ivar higher_is_better: whether the best model is the one with the highest value.
    :ivar hub_name: the name of the Hub's own metric; None where the Hub has none.
    """

    name: str
    title: str
    higher_is_better: bool = True
    hub_name: str | None = None


class MetricError(ValueError):
    """Predictions or labels that cannot be scored, or a score that this split does not define."""


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
