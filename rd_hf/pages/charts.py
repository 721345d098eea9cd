"""Charts of a page as inline SVG, coloured by its style sheet, with the values that its script shows at the pointer.

A chart's numbers stand in `data-series` too: the pointer, or the arrow keys, move a cursor over them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from .facts import Curve

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 46
MOST_POINTS = 240  # of a curve
MARKED = 30  # points that are marked one by one
STYLES = 6  # colours and dashes in the style sheet
HISTOGRAM_HEIGHT = 200


def line_chart(
    curves: Sequence[Curve],
    label: str,
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
) -> dict[str, Any]:
    """Lines over a common axis.

    :param label: what the chart shows, for who cannot see it.
    :param x_range: by default that of the values, as `y_range`.
    :param diagonal: whether the line of equal values is drawn.
    :return: `svg` and `legend`, the titles of the curves; `empty` where none has a finite value.
    """
    drawn = [curve for curve in map(_thinned, curves) if len(curve.steps)]
    if not drawn:
        return {"svg": Markup(""), "legend": [], "empty": True}
    frame = Frame(
        x_range or _extent([value for curve in drawn for value in curve.steps]),
        y_range or _extent([value for curve in drawn for value in curve.values]),
    )
    parts = [frame.axes(x_title, y_title)]
    if diagonal:
        (x0, y0), (x1, y1) = frame.place(0, 0), frame.place(1, 1)
        parts.append(Markup('<line class="chance" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x0, y0, x1, y1))
    for number, curve in enumerate(drawn):
        parts.append(_curve(frame, curve, number % STYLES))
    series = [
        {"title": c.title, "x": list(map(_short, c.steps)), "y": list(map(_short, c.values))} for c in drawn
    ]  # fmt: skip
    return {
        "svg": frame.svg(Markup("").join(parts), label, series, x_title),
        "legend": [curve.title for curve in drawn],
        "empty": False,
    }


def histogram(values: Sequence[float], label: str, x_title: str, y_title: str, bins: int = 20) -> dict[str, Any]:
    """How many values of 0 to 1 lie in each of some equal bins."""
    finite = np.asarray([value for value in values if math.isfinite(value)])
    if not len(finite):
        return {"svg": Markup(""), "legend": [], "empty": True}
    number = np.clip(np.ceil(finite * bins).astype(int) - 1, 0, bins - 1)  # (low, high], as of the calibration error
    counts, edges = np.bincount(number, minlength=bins), np.linspace(0, 1, bins + 1)
    frame = Frame((0, 1), (0, max(1, int(counts.max()))), HISTOGRAM_HEIGHT)
    frame.y_ticks = [tick for tick in frame.y_ticks if tick.is_integer()]
    parts = [frame.axes(x_title, y_title)]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        (left, top), (right, bottom) = frame.place(low, count), frame.place(high, 0)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                round(left + 0.5, 1), top, round(right - left - 1, 1), round(bottom - top, 1)
            )
        )
    middles = [_short(float(low + high) / 2) for low, high in pairwise(edges)]
    series = [{"title": y_title, "x": middles, "y": counts.tolist()}]
    return {"svg": frame.svg(Markup("").join(parts), label, series, x_title), "legend": [], "empty": False}


def whiskers(entries: Sequence[tuple[float | None, Sequence[float] | None]], low: float, high: float) -> Markup:
    """Values with their intervals on a common scale, one under the other."""
    width, row = 220, 14
    height = row * len(entries) + 6

    def at(value: float) -> float:
        return round(6 + (width - 12) * (min(max(value, low), high) - low) / (high - low or 1), 1)

    parts = [Markup('<line class="grid" x1="{0}" y1="0" x2="{0}" y2="{1}"/>').format(x, height) for x in (6, width - 6)]
    for number, (value, bounds) in enumerate(entries):
        y, style = row * number + row / 2 + 3, number % STYLES
        if bounds is not None:
            parts.append(
                Markup('<line class="whisker s{}" x1="{}" y1="{y}" x2="{}" y2="{y}"/>').format(
                    style, at(bounds[0]), at(bounds[1]), y=y
                )
            )
        if value is not None and math.isfinite(value):
            parts.append(Markup('<circle class="dot s{}" cx="{}" cy="{}" r="4"/>').format(style, at(value), y))
    return Markup(
        '<svg class="whiskers" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-hidden="true">{2}</svg>'
    ).format(width, height, Markup("").join(parts))


class Frame:
    """Axes, and where a pair of values lies between them.

    :param x_range: of the horizontal axis.
    :param y_range: of the vertical axis.
    """

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], height: int = HEIGHT):
        self.x_ticks, self.y_ticks = ticks(*x_range), ticks(*y_range)
        self.x = (min(x_range[0], self.x_ticks[0]), max(x_range[1], self.x_ticks[-1]))
        self.y = (min(y_range[0], self.y_ticks[0]), max(y_range[1], self.y_ticks[-1]))
        self.height, self.bottom, self.right = height, height - BOTTOM, WIDTH - RIGHT

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The point of two values."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return round(LEFT + (self.right - LEFT) * across, 1), round(self.bottom - (self.bottom - TOP) * up, 1)

    def axes(self, x_title: str, y_title: str) -> Markup:
        """Grid, ticks and titles."""
        parts = []
        for tick in self.y_ticks:
            y = self.place(self.x[0], tick)[1]
            parts.append(Markup('<line class="grid" x1="{}" y1="{y}" x2="{}" y2="{y}"/>').format(LEFT, self.right, y=y))
            parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 7, y + 4, _tick(tick)))
        for tick in self.x_ticks:
            x = self.place(tick, self.y[0])[0]
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x, self.bottom + 18, _tick(tick))
            )
        base = Markup('<line class="axis" x1="{}" y1="{y}" x2="{}" y2="{y}"/>')
        parts.append(base.format(LEFT, self.right, y=self.bottom))
        titles = Markup(
            '<text class="title" x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text class="title" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format((LEFT + self.right) / 2, self.height - 8, x_title, (TOP + self.bottom) / 2, y_title)
        return Markup("").join([*parts, titles])

    def svg(self, inside: Markup, label: str, series: list[dict[str, Any]], x_title: str) -> Markup:
        """The whole chart, which the script lets the reader walk through."""
        frame = json.dumps([LEFT, TOP, self.right, self.bottom, *map(_short, (*self.x, *self.y))])
        return Markup(
            '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" data-frame="{}" data-series="{}" '
            'data-x="{}">{}</svg>'
        ).format(WIDTH, self.height, label, frame, json.dumps(series), x_title, inside)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers over a range, about as many as wanted."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _curve(frame: Frame, curve: Curve, style: int) -> Markup:
    points = [frame.place(x, y) for x, y in zip(curve.steps, curve.values, strict=True)]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    marks = Markup("").join(
        Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2.6"/>').format(style, x, y)
        for x, y in points
        if len(points) <= MARKED
    )
    return Markup('<path class="line s{}" d="{}"/>{}').format(style, path, marks)


def _thinned(curve: Curve) -> Curve:
    """The finite points, evenly chosen where there are many."""
    pairs = [(x, y) for x, y in zip(curve.steps, curve.values, strict=True) if y is not None and math.isfinite(y)]
    if len(pairs) > MOST_POINTS:
        pairs = [pairs[number] for number in np.linspace(0, len(pairs) - 1, MOST_POINTS).astype(int)]
    return Curve(curve.title, [x for x, _ in pairs], [y for _, y in pairs])


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _short(value: float) -> float | int:
    """Five digits: more than anyone sees in a chart."""
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _tick(value: float) -> Markup:
    return escape(f"{value:g}" if abs(value) < 1e5 else f"{value:.0e}")
