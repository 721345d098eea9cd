"""The confusion matrix of a page, and the images behind its cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..scoring.classification import label_matrices
from ..scoring.operating_point import margins
from .facts import ReportFacts

LARGEST_TABLE = 30  # classes of a matrix that is shown whole
CONFUSIONS = 60  # pairs of classes in the list that stands in for a larger one
ENTRIES = 4000  # images behind all cells
NAMES_BYTES = 220_000  # of the names of their files
EACH = 60  # images behind a cell


def confusion(facts: ReportFacts, decided: np.ndarray) -> dict[str, Any]:
    """The matrix with one label per image, or a 2 x 2 matrix per label.

    :param decided: what `rd_hf.scoring.operating_point.decisions` gives.
    :return: `counts`, (K, K) or (K, 2, 2), rows being the truth; `whole`, whether it can be shown as a table; and
        `pairs`, the most frequent confusions: `true`, `decided`, `count`.
    """
    predictions = facts.predictions
    classes = len(facts.names)
    if facts.kind == "single":
        truth = predictions.truth.argmax(axis=1)
        counts = np.bincount(truth * classes + decided, minlength=classes**2).reshape(classes, classes)
        wrong = np.where(np.eye(classes, dtype=bool), 0, counts)
        order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
        pairs = [(int(n // classes), int(n % classes), int(wrong.flat[n])) for n in order if wrong.flat[n]]
        return {"counts": counts, "whole": classes <= LARGEST_TABLE, "pairs": pairs}
    return {"counts": label_matrices(predictions, decided), "whole": True, "pairs": []}


def entries(facts: ReportFacts, decided: np.ndarray) -> list[tuple[int, int, int, float]]:
    """The images behind the cells, those of errors first and the surest ones first in a cell: as many as fit in.

    :return: position, true class, answered class, and the probability of the answer; of several labels per image
        position, label, 2 * truth + answer, and the label's probability.
    """
    predictions = facts.predictions
    if facts.kind == "single":
        truth = predictions.truth.argmax(axis=1)
        positions = np.arange(len(truth))
        columns = (positions, truth, decided, predictions.probabilities[positions, decided])
        wrong = truth != decided
        sure = columns[3]
    else:
        positions, labels = np.nonzero(predictions.known)
        answers = 2 * predictions.truth[positions, labels] + decided[positions, labels]
        columns = (positions, labels, answers, predictions.probabilities[positions, labels])
        wrong = (answers == 1) | (answers == 2)
        sure = margins(predictions.probabilities, facts.names, facts.operating_point)[positions, labels]
    cells = columns[1].astype(np.int64) * max(4, len(facts.names)) + columns[2]
    ranks = _ranks(cells, -sure)
    kept = np.flatnonzero(ranks < EACH)
    order = kept[np.lexsort((ranks[kept], ~wrong[kept]))]
    found, named, room = [], set(), NAMES_BYTES
    for number in order[:ENTRIES]:
        position = int(columns[0][number])
        if position not in named:
            room -= len(facts.name_of(position).encode()) + 10
            if room < 0:
                break
            named.add(position)
        found.append((position, int(columns[1][number]), int(columns[2][number]), round(float(columns[3][number]), 4)))
    return found


def wanted_positions(facts: ReportFacts, decided: np.ndarray, count: int) -> list[int]:
    """The images whose thumbnails a reader of the matrix will want first."""
    return list(dict.fromkeys(position for position, *_ in entries(facts, decided)))[:count]


def _ranks(cells: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of each entry among those of its cell, by its key."""
    order = np.lexsort((keys, cells))
    starts = np.flatnonzero(np.append(True, np.diff(cells[order]) != 0)) if len(order) else order
    ranks = np.empty(len(cells), dtype=np.int64)
    sizes = np.diff(np.append(starts, len(order)))
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks
