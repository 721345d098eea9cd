"""The tables of a page: scores with intervals of each model, and of each class."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..scoring.bootstrap import FEWEST_FOR_INTERVAL
from ..scoring.metric import Metric
from .charts import ticks, whiskers
from .facts import ReportFacts
from .text import UNDEFINED, cut, interval, number, shown_names

OF_MASKS = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "surface_dice": "surface Dice"}
HEADLINES = 2
LABELS = 3  # whose operating points a table of subgroups has


def estimate(value: float | None, bounds: list[float] | None, reason: str | None = None) -> dict[str, Any]:
    """A cell: the value, its interval, and why it is undefined where it is."""
    text = number(value)
    return {"value": text, "interval": interval(bounds), "reason": cut(reason or ""), "undefined": text == UNDEFINED}


def reasons(facts: ReportFacts) -> list[str]:
    """Why scores of the first model are undefined or leave out a class, a sentence each."""
    titles = {metric.name: metric.title for metric in facts.metrics}
    found: dict[str, list[str]] = {}
    for name, reason in facts.models[0].scores["undefined"].items():
        if name in titles:
            found.setdefault(reason, []).append(titles[name])
    return [f"{', '.join(names)}: {cut(reason)}." for reason, names in found.items()]


def score_rows(facts: ReportFacts) -> list[dict[str, Any]]:
    """A row per metric, with a cell per model and its intervals drawn on one scale."""
    return [_score_row(facts, metric) for metric in facts.metrics]


def headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first metrics of the model that the page is about.

    :param rows: what `score_rows` gives.
    """
    return [{"title": row["title"], **row["cells"][0]} for row in rows[:HEADLINES]]


def _score_row(facts: ReportFacts, metric: Metric) -> dict[str, Any]:
    values = [_of(facts, model.scores, metric.name) for model in facts.models]
    why = [model.scores["undefined"].get(metric.name) for model in facts.models]
    cells = [estimate(*pair, reason) for pair, reason in zip(values, why, strict=True)]
    numbers = [n for value, bounds in values for n in (value, *(bounds or ())) if n is not None and math.isfinite(n)]
    low, high = _scale(numbers)
    return {
        "title": metric.title,
        "better": "higher is better" if metric.higher_is_better else "lower is better",
        "cells": cells,
        "drawn": whiskers(values, low, high),
        "scale": f"{low:g} to {high:g}",
    }


def _scale(numbers: list[float]) -> tuple[float, float]:
    """Round ends of a scale that some numbers lie on."""
    if not numbers:
        return 0.0, 1.0
    found = ticks(min(numbers), max(numbers), 2)
    return max(0.0, found[0]), found[-1] if max(numbers) > 1 else min(1.0, found[-1])


def has_intervals(facts: ReportFacts) -> bool:
    """Whether there are enough images, or groups of them, for intervals."""
    return min(len(facts.rows), facts.models[0].scores.get("groups") or len(facts.rows)) >= FEWEST_FOR_INTERVAL


def _of(facts: ReportFacts, scores: dict[str, Any], name: str) -> tuple[float | None, list[float] | None]:
    return scores.get(name), scores["intervals"].get(name) if has_intervals(facts) else None


def class_table(facts: ReportFacts, areas: dict[str, np.ndarray]) -> dict[str, Any]:
    """Heads and rows of the scores of each class.

    :param areas: what `rd_hf.scoring.classification.class_values` gives; empty for masks.
    """
    names = shown_names(facts.names)
    scores = facts.models[0].scores
    if facts.kind == "masks":
        measures = [name for name in OF_MASKS if f"{name}_per_class" in scores]
        unit = {"hd95": f", {scores['unit']}"}
        heads = [f"{facts.unit}s with it", *(OF_MASKS[name] + unit.get(name, "") for name in measures)]
        rows = []
        for name, shown in zip(facts.names[1:], names[1:], strict=True):
            cells = [_class_cell(facts, f"{measure}_per_class", name, measure) for measure in measures]
            rows.append({"name": shown, "count": scores["images"][name]["in_truth"], "cells": cells})
        return {"heads": heads, "rows": rows}
    rows = []
    for k, (name, shown) in enumerate(zip(facts.names, names, strict=True)):
        cells = [_class_cell(facts, measure, name, measure) for measure in ("sensitivity", "specificity")]
        cells += [estimate(float(areas[measure][k]), None) for measure in ("auroc", "average_precision")]
        rows.append({"name": shown, "count": int(facts.predictions.truth[:, k].sum()), "cells": cells})
    heads = [f"{facts.unit}s", "sensitivity", "specificity", "AUROC", "average precision"]
    return {"heads": heads, "rows": rows}


def _class_cell(facts: ReportFacts, measure: str, name: str, reason: str) -> dict[str, Any]:
    scores = facts.models[0].scores
    bounds = scores["intervals"].get(measure, {}).get(name) if has_intervals(facts) else None
    return estimate(scores[measure][name], bounds, scores["undefined"].get(f"{reason}/{name}"))


def subgroup_tables(facts: ReportFacts) -> list[dict[str, Any]]:
    """A table per column of the data, with a row per value and the scores of the images that have it.

    Where there is an operating point, its sensitivity and specificity follow.
    """
    tables = []
    for column, values in (facts.subgroups or {}).items():
        metrics = [metric for metric in facts.metrics if any(metric.name in own for own in values.values())]
        every = list(next(iter(values.values()), {}).get("operating_point", {}))
        labels = every[:LABELS]
        left_out = f"Points of {len(labels)} of {len(every)} labels are shown." if len(every) > len(labels) else ""
        shares = [(label, measure) for label in labels for measure in ("sensitivity", "specificity")]
        several = len(labels) > 1
        heads = [f"{facts.unit}s", *(metric.title for metric in metrics)]
        heads += [f"{measure} at the point" + (f", {label}" if several else "") for label, measure in shares]
        rows = [_subgroup_row(value, own, metrics, shares) for value, own in values.items()]
        drawn = metrics[0].title if metrics else ""
        tables.append({"column": column, "heads": heads, "rows": rows, "drawn": drawn, "left_out": left_out})
    return tables


def _subgroup_row(
    value: str, scores: dict[str, Any], metrics: list[Metric], shares: list[tuple[str, str]]
) -> dict[str, Any]:
    found = [(scores.get(metric.name), scores.get("intervals", {}).get(metric.name)) for metric in metrics]
    points = [scores["operating_point"][label][measure] for label, measure in shares]
    cells = [estimate(*pair) for pair in found] + [estimate(point["value"], point["interval"]) for point in points]
    return {"name": value, "count": scores["images"], "cells": cells, "drawn": whiskers(found[:1], 0, 1)}
