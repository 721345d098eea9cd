"""The names and the direction of a metric, and the error of what cannot be scored."""

from __future__ import annotations

from collections.abc import Sequence
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


def check_names(names: Sequence[str]) -> None:
    """:raises MetricError: for classes of one name."""
    if len(set(names)) != len(names):
        raise MetricError(f"label_names {list(names)} repeat a name, but results are keyed by name: rename one")


def defined_or_none(value: float) -> float | None:
    """A plain number for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
