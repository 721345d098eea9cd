"""Learning rate and weight of each method, chosen on validation from the comparison's grid."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from .cell import is_done, read_result, task_of
from .plan import Plan

TUNING_FILE = "tuning.json"


def choose_settings(plan: Plan, root: Path) -> dict[tuple, tuple[float | None, float]]:
    """Learning rate and weight of each method: the best on validation, averaged over the tuning's data sets and seeds.

    Only settings that were run on all of these are compared; ties go to the one first in the grid.
    """
    scores = _tuning_scores(plan, root)
    chosen = {}
    for setting, by_values in scores.items():
        most = max(map(len, by_values.values()))
        means = {values: statistics.mean(found) for values, found in by_values.items() if len(found) == most}
        chosen[setting] = max(means, key=means.get)
    return chosen


def _tuning_scores(plan: Plan, root: Path) -> dict[tuple, dict[tuple, list[float]]]:
    scores: dict[tuple, dict[tuple, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in plan.tuning_cells():
        if is_done(root, cell):
            result = read_result(root, cell)
            metric = plan.cell_arguments(cell, root, task_of(result)).metric_for_best_model
            scores[cell.setting][(cell.learning_rate, cell.weight)].append(result["validation"][metric])
    return scores


def tuning_in_words(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """What tuning.json holds: every setting that was tried, its scores on validation, and whether it was chosen."""
    return [
        {
            "teacher": teacher,
            "method": method,
            "unlabelled": unlabelled,
            "learning_rate": values[0],
            "weight": values[1],
            "validation": [round(score, 4) for score in found],
            "chosen": plan.tuned[(teacher, method, unlabelled)] == values,
        }
        for (teacher, method, unlabelled), by_values in _tuning_scores(plan, root).items()
        for values, found in by_values.items()
    ]
