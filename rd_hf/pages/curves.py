"""What a page needs to draw ROC and precision-recall curves and to move an operating point along them.

For each class against the rest a page has a table of thresholds with the counts of images at or above each. The counts
are exact. Where there are too many thresholds, some are left out, and the page says how many.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..scoring.classification import Predictions
from ..scoring.metric import defined_or_none
from ..scoring.operating_point import HALF

POINTS = 22_000  # of all classes together: about half a megabyte as text
FEWEST = 24  # of a class


def curve_tables(
    predictions: Predictions, thresholds: dict[str, float], areas: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A table per class, ready for JSON.

    :param thresholds: of the stored operating point by label, which no thinning leaves out, nor 0.5.
    :param areas: what `rd_hf.scoring.classification.class_values` gives.
    :return: of each class `positives` and `negatives`, AUROC and average precision (None where undefined), `all` (the
        number of its distinct thresholds), `stored`, and of the thresholds that are kept, from the highest down, `t`
        (little-endian float64), `tp` and `fp` (uint32), as base64.
    """
    most = max(FEWEST, POINTS // len(predictions.label_names))
    tables = []
    for k, name in enumerate(predictions.label_names):
        known = predictions.known[:, k]
        truth, scores = predictions.truth[known, k], predictions.probabilities[known, k]
        stored = thresholds.get(name)
        asked = (HALF,) if stored is None else (HALF, stored)
        values, hits, alarms = counts_at(scores, truth, asked)
        kept = kept_points(values, hits, alarms, most, asked)
        tables.append(
            {
                "positives": int(truth.sum()), "negatives": int((~truth).sum()), "all": len(values), "stored": stored,
                "auroc": defined_or_none(areas["auroc"][k]), "ap": defined_or_none(areas["average_precision"][k]),
                "t": _encoded(values[kept], "<f8"), "tp": _encoded(hits[kept], "<u4"),
                "fp": _encoded(alarms[kept], "<u4"),
            }
        )  # fmt: skip
    return tables


def counts_at(
    scores: np.ndarray, truth: np.ndarray, also: tuple[float, ...] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every threshold at which a count changes, from the highest down, with the images at or above it.

    :param scores: (N,) probabilities of a class.
    :param truth: (N,) bool.
    :param also: further thresholds.
    :return: thresholds, true positives and false positives, each (T,).
    """
    values = np.unique(np.concatenate([scores, np.asarray(also, dtype=np.float64)]))[::-1]
    positive, negative = np.sort(scores[truth]), np.sort(scores[~truth])
    hits = len(positive) - np.searchsorted(positive, values, side="left")
    alarms = len(negative) - np.searchsorted(negative, values, side="left")
    return values, hits, alarms


def kept_points(
    values: np.ndarray, hits: np.ndarray, alarms: np.ndarray, most: int, asked: Sequence[float]
) -> np.ndarray:
    """The points of a curve that a page holds: all, or the ends, those asked for, Youden's, and an even choice.

    :param values: (T,) thresholds.
    :param most: points that an even choice has.
    :param asked: thresholds among the values.
    """
    if len(values) <= most:
        return np.arange(len(values))
    gain = hits / max(1, hits[-1]) - alarms / max(1, alarms[-1])
    youden = np.flatnonzero(gain >= gain.max() - 1e-12)[-1]  # of equals the most sensitive
    forced = [0, len(values) - 1, youden, *np.flatnonzero(np.isin(values, asked))]
    # evenly along the curve, and not along the images, of which most may lie in a corner
    length = hits / max(1, hits[-1]) + alarms / max(1, alarms[-1])
    even = np.searchsorted(length, np.linspace(0, length[-1], most)).clip(0, len(values) - 1)
    return np.unique(np.concatenate([forced, even]))


def _encoded(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()
