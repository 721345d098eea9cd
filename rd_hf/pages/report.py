"""Renders a report page: one file of HTML that needs nothing else, no network and no library.

The parts lie beside this file: templates, a style sheet, and scripts that are pasted into the page. Everything that is
not theirs is escaped: Jinja2 does it in HTML, and `_embedded` in the values that the scripts read.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..scoring.classification import class_values
from ..scoring.operating_point import decisions, margins
from .cells import confusion, entries
from .charts import histogram, line_chart
from .curves import curve_tables
from .facts import ReportFacts
from .pictures import Budget, shown_galleries, shown_thumbnails
from .reliability import reliability
from .tables import class_table, has_intervals, headlines, reasons, score_rows, subgroup_tables
from .text import count, duration, interval, number, shown_names

REPORT_FILE = "report.html"
MOST_BYTES = 3 * 2**20
PICTURES_BYTES = (1_400_000, 700_000, 200_000, 0)  # of all pictures, as text: what is tried in turn
SCRIPTS = ("statistics.js", "charts.js", "operating.js", "cells.js")
LISTED = 100  # images in the list of a segmenter
FOLDER = Path(__file__).parent


def render_report(facts: ReportFacts) -> str:
    """The whole page: with fewer pictures where it would be too large, as with thousands of long names."""
    areas = {} if facts.predictions is None else class_values(facts.predictions)
    for size in PICTURES_BYTES:
        html = _rendered(facts, areas, Budget(size))
        if len(html.encode()) < MOST_BYTES:
            break
    return html


def _rendered(facts: ReportFacts, areas: dict[str, np.ndarray], budget: Budget) -> str:
    galleries, rows = shown_galleries(facts.galleries, budget), score_rows(facts)
    values: dict[str, Any] = {
        "facts": facts,
        "names": shown_names(facts.names),
        "headlines": headlines(rows),
        "reasons": reasons(facts),
        "has_intervals": has_intervals(facts),
        "groups": facts.models[0].scores.get("groups"),
        "score_rows": rows,
        "class_table": class_table(facts, areas),
        "subgroups": subgroup_tables(facts),
        "galleries": galleries,
        "course": _course(facts),
        "style": Markup(_part("report.css")),
        "script": Markup("\n".join(map(_part, SCRIPTS))),
    }
    of_kind = _of_masks(facts) if facts.kind == "masks" else _of_classes(facts, areas, budget)
    return _template().render(values | of_kind)


def _of_classes(facts: ReportFacts, areas: dict[str, np.ndarray], budget: Budget) -> dict[str, Any]:
    """What a page of a classifier has besides, and `data`, what its scripts read."""
    predictions, point = facts.predictions, facts.operating_point
    decided = decisions(predictions.probabilities, facts.names, predictions.exclusive, point)
    matrix, cells = confusion(facts, decided), entries(facts, decided)
    curves = curve_tables(predictions, {} if point is None else point["thresholds"], areas)
    listed = sorted({position for position, *_ in cells})
    data = {
        "kind": facts.kind, "unit": facts.unit, "names": shown_names(facts.names), "curves": curves,
        "first": _first_class(facts, point), "cells": cells,
        "files": {position: facts.name_of(position) for position in listed},
        "thumbnails": shown_thumbnails(facts.thumbnails, budget),
        "counts": matrix["counts"].tolist() if matrix["whole"] else None,
    }  # fmt: skip
    return {
        "data": _embedded(data),
        "matrix": matrix,
        "curves": curves,
        "reliability": reliability(facts),
        "answers": _answers(facts, decided),
    }


def _of_masks(facts: ReportFacts) -> dict[str, Any]:
    """What a page of a segmenter has besides: the Dice of each image, the worst first."""
    dice = facts.masks.per_image["dice"]
    defined = ~np.isnan(dice)
    sizes = defined.sum(axis=1)
    means = np.where(sizes, np.where(defined, dice, 0).sum(axis=1) / np.maximum(1, sizes), np.nan)
    order = [int(position) for position in np.argsort(means, kind="stable") if not np.isnan(means[position])]
    title = f"Dice of each {facts.unit}, mean over its classes"
    listed = [
        {"name": facts.name_of(position), "mean": number(means[position]), "cells": list(map(number, dice[position]))}
        for position in order[:LISTED]
    ]
    return {
        "data": Markup("{}"),
        "histogram": histogram(means, title, "Dice", f"{facts.unit}s"),
        "worst": listed,
        "scored": len(order),
        "means": {position: number(means[position]) for position in range(len(means))},
        "colors": _colors(facts.names),
    }


def _answers(facts: ReportFacts, decided: np.ndarray) -> dict[int, list[dict[str, Any]]]:
    """Of the images in the galleries: the truth, the answer and its probability."""
    predictions, names = facts.predictions, shown_names(facts.names)
    distances = margins(predictions.probabilities, facts.names, facts.operating_point)
    chosen = {example.position for gallery in facts.galleries for example in gallery.examples}
    found = {}
    for position in chosen:
        probabilities, truth = predictions.probabilities[position], predictions.truth[position]
        if facts.kind == "single":
            likeliest = np.argsort(-probabilities, kind="stable")[:2].tolist()
            shown = dict.fromkeys([*likeliest, int(decided[position]), int(truth.argmax())])
            found[position] = {
                "right": bool(truth[decided[position]]), "truth": names[int(truth.argmax())],
                "answer": names[int(decided[position])],
                "bars": [(names[k], float(probabilities[k]), bool(truth[k])) for k in shown],
            }  # fmt: skip
        else:
            wrong = (truth != decided[position]) & predictions.known[position]
            nearest = np.argsort(distances[position] * np.where(wrong, -1, 1), kind="stable")[:3]
            found[position] = {
                "right": not wrong.any(), "truth": _listed(names, truth), "answer": _listed(names, decided[position]),
                "bars": [(names[k], float(probabilities[k]), bool(truth[k])) for k in nearest],
            }  # fmt: skip
    return found


def _listed(names: list[str], marks: np.ndarray) -> str:
    return ", ".join(names[k] for k in np.flatnonzero(marks)) or "none"


def _first_class(facts: ReportFacts, point: dict[str, Any] | None) -> int:
    """The class whose curve is shown first: the operating point's, else the second of two, else the first."""
    if point is not None and point["thresholds"]:
        return facts.names.index(next(iter(point["thresholds"])))
    return 1 if facts.kind == "single" and len(facts.names) == 2 else 0


def _course(facts: ReportFacts) -> list[dict[str, Any]]:
    charts = []
    for title, curves in facts.course.items():
        y_title = title.split(",")[0]
        lowest = min((value for curve in curves for value in curve.values), default=0.0)
        y_range = (min(0.0, lowest), 1.0) if title.startswith("CKA") else None
        label = f"{title} over the steps of the training"
        chart = line_chart(curves, label, "optimiser step", y_title, y_range=y_range)
        if not chart["empty"]:
            charts.append({"title": title, **chart})
    return charts


def _colors(names: list[str]) -> list[tuple[str, str]]:
    from ..scoring.mask_pictures import class_colors

    shown = shown_names(names)
    return [
        (f"rgb({red} {green} {blue})", name)
        for (red, green, blue), name in list(zip(class_colors(min(len(names), 255)), shown, strict=False))[1:]
    ]


def _embedded(values: dict[str, Any]) -> Markup:
    """Values as JSON that cannot end the script around them: without angle brackets."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "count": count, "interval": interval, "duration": duration}
    return environment.get_template("report.html")
