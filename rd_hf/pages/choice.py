"""Which images of a report page are worth looking at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..scoring.classification import Predictions
from ..scoring.operating_point import margins


class Case(NamedTuple):
    """An image, and of several labels per image the one in question.

    :ivar position: among the scored images.
    :ivar label: number of the answered class; of several labels per image, of the label.
    """

    position: int
    label: int


def confident_errors(
    predictions: Predictions, decided: np.ndarray, point: Mapping[str, Any] | None, count: int
) -> list[Case]:
    """The wrong answers that the model was surest of, the surest first.

    :param decided: what `rd_hf.scoring.operating_point.decisions` gives.
    """
    if predictions.exclusive:
        wrong = np.flatnonzero(predictions.truth.argmax(axis=1) != decided)
        sure = predictions.probabilities[wrong, decided[wrong]]
        chosen = wrong[np.argsort(-sure, kind="stable")[:count]]
        return [Case(int(position), int(decided[position])) for position in chosen]
    positions, labels = np.nonzero((predictions.truth != decided) & predictions.known)
    sure = margins(predictions.probabilities, predictions.label_names, point)[positions, labels]
    order = np.argsort(-sure, kind="stable")
    cases: dict[int, Case] = {}  # an image once
    for number in order:
        cases.setdefault(int(positions[number]), Case(int(positions[number]), int(labels[number])))
    return list(cases.values())[:count]


def least_certain(
    predictions: Predictions, decided: np.ndarray, point: Mapping[str, Any] | None, count: int
) -> list[Case]:
    """The images whose answer would change first, the closest first.

    With one label per image it is the distance of the two likeliest classes, or where there is an operating point that
    of its label from its threshold; with several that of the closest label.
    """
    probabilities, names = predictions.probabilities, predictions.label_names
    if not predictions.exclusive:
        distances = margins(probabilities, names, point)
        labels, distances = distances.argmin(axis=1), distances.min(axis=1)
    else:
        labels = decided
        if point is not None:
            name, threshold = next(iter(point["thresholds"].items()))
            distances = np.abs(probabilities[:, names.index(name)] - threshold)
        elif len(names) > 1:
            highest = np.partition(probabilities, -2, axis=1)
            distances = highest[:, -1] - highest[:, -2]
        else:
            distances = 1 - probabilities[:, 0]
    order = np.argsort(distances, kind="stable")[:count]
    return [Case(int(position), int(labels[position])) for position in order]
