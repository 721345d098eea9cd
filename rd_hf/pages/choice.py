"""Decisions at an operating point, and which images are worth looking at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..scoring.classification import Predictions

HALF = 0.5


class Case(NamedTuple):
    """An image, and of several labels per image the one in question.

    :ivar position: among the scored images.
    :ivar label: number of the answered class; of several labels per image, of the label.
    """

    position: int
    label: int


def decisions(probabilities: np.ndarray, names: Sequence[str], exclusive: bool, point: Mapping[str, Any] | None):
    """What the model answers: (N,) class numbers, or (N, K) bool with several labels per image.

    With one label per image an operating point has a threshold of one label: it is answered from there on, and else the
    likeliest of the others. Without one the likeliest is answered, and of several labels those from 0.5 on.

    :param probabilities: (N, K).
    :param point: `thresholds` by label name; None for none.
    """
    thresholds = {} if point is None else point["thresholds"]
    if not exclusive:
        return probabilities >= np.array([thresholds.get(name, HALF) for name in names])
    if not thresholds:
        return probabilities.argmax(axis=1)
    name, threshold = next(iter(thresholds.items()))
    label = list(names).index(name)
    others = np.where(np.arange(len(names)) == label, -np.inf, probabilities).argmax(axis=1)
    return np.where(probabilities[:, label] >= threshold, label, others)


def confident_errors(predictions: Predictions, decided: np.ndarray, count: int) -> list[Case]:
    """The wrong answers that the model was surest of, the surest first.

    :param decided: what `decisions` gives.
    """
    if predictions.exclusive:
        wrong = np.flatnonzero(predictions.truth.argmax(axis=1) != decided)
        sure = predictions.probabilities[wrong, decided[wrong]]
        chosen = wrong[np.argsort(-sure, kind="stable")[:count]]
        return [Case(int(position), int(decided[position])) for position in chosen]
    positions, labels = np.nonzero((predictions.truth != decided) & predictions.known)
    sure = np.abs(predictions.probabilities[positions, labels] - HALF)
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
    thresholds = {} if point is None else point["thresholds"]
    if not predictions.exclusive:
        distances = np.abs(probabilities - np.array([thresholds.get(name, HALF) for name in names]))
        labels, distances = distances.argmin(axis=1), distances.min(axis=1)
    else:
        labels = decided
        if thresholds:
            name, threshold = next(iter(thresholds.items()))
            distances = np.abs(probabilities[:, names.index(name)] - threshold)
        elif len(names) > 1:
            highest = np.partition(probabilities, -2, axis=1)
            distances = highest[:, -1] - highest[:, -2]
        else:
            distances = 1 - probabilities[:, 0]
    order = np.argsort(distances, kind="stable")[:count]
    return [Case(int(position), int(labels[position])) for position in order]
