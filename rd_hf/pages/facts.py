"""What a report page shows, as plain values. Whoever has the models and the data collects them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..scoring.classification import Predictions
from ..scoring.metric import Metric
from ..scoring.segmentation import MaskRows


@dataclass(frozen=True)
class ScoredModel:
    """A column of the table of scores.

    :param title: such as "student".
    :param scores: what `rd_hf.scoring.metrics.compute_metrics` or `rd_hf.scoring.mask_metrics` gives of the test split.
    """

    title: str
    scores: dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture of an image, or a part of it.

    :param pixels: (rows, columns, 3) uint8.
    :param caption: what it shows, in one or two words.
    """

    pixels: np.ndarray
    caption: str


@dataclass(frozen=True)
class Example:
    """An image of the gallery.

    :param position: of the image among the scored ones.
    :param pictures: of it, the plain one first.
    """

    position: int
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Gallery:
    """Images that are looked at one by one.

    :param title: such as "Most confident errors".
    :param text: how they were chosen.
    """

    title: str
    text: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Curve:
    """A line of the training's course.

    :param steps: of the optimiser.
    """

    title: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass
class ReportFacts:
    """All of a page. What a field lacks (None, or nothing in it) the page leaves out.

    :param title: names the model.
    :param summary: a sentence under the title.
    :param names: of the K classes.
    :param unit: "image" or "volume".
    :param split: name of the split that is scored.
    :param rows: the numbers of the scored images in the split.
    :param files: their files, as predictions.csv names them.
    :param metrics: what the models are scored by; the first two stand at the top of the page.
    :param models: the one that the page is about first.
    :param predictions: of that one, where it gives classes.
    :param masks: of that one, where it gives masks.
    :param operating_point: `rule` and `thresholds`, {label: threshold}, as in the student's config.
    :param point_values: what it comes to, a dict per label as in metrics.json: `label`, `threshold`, and per split the
        four shares, each with `value`, `interval` and `count`.
    :param calibrated: (N, K) probabilities after temperature scaling.
    :param calibration: `temperature`, and per split `ece_before` and `ece_after`, as in metrics.json.
    :param subgroups: {column: {value: {"images": n, metric: value, "intervals": {metric: [low, high]}}}}.
    :param origins: what the model was made from, pairs of a label and a value.
    :param splits: a row per split: `name`, `images` and `counts` of the classes.
    :param remarks: what is remarkable about the data, a sentence each.
    :param leaks: what splits share, a sentence each; None where nobody looked.
    :param course: groups of curves, by title.
    :param costs: a row per network: `name`, `parameters`, `gflop`, `milliseconds`.
    :param training: pairs of a label and a value.
    :param arguments: of the training that differ from their defaults.
    :param galleries: pictures, empty where images are left out.
    :param thumbnails: small pictures by the image's position, the most wanted first.
    :param maps: a sentence on what the maps over the images show, or on why there are none.
    :param with_images: whether pictures were asked for.
    """

    title: str
    summary: str
    names: list[str]
    unit: str
    split: str
    rows: list[int]
    files: list[str] | None
    metrics: Sequence[Metric]
    models: list[ScoredModel]
    predictions: Predictions | None = None
    masks: MaskRows | None = None
    operating_point: dict[str, Any] | None = None
    point_values: list[dict[str, Any]] = field(default_factory=list)
    calibrated: np.ndarray | None = None
    calibration: dict[str, Any] | None = None
    subgroups: dict[str, Any] | None = None
    origins: list[tuple[str, str]] = field(default_factory=list)
    splits: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    leaks: list[str] | None = None
    course: dict[str, list[Curve]] = field(default_factory=dict)
    costs: list[dict[str, Any]] = field(default_factory=list)
    training: list[tuple[str, str]] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    galleries: list[Gallery] = field(default_factory=list)
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)
    maps: str = ""
    with_images: bool = True

    @property
    def kind(self) -> str:
        """What is answered: "single" or "multi" (classes per image), or "masks"."""
        if self.predictions is None:
            return "masks"
        return "single" if self.predictions.exclusive else "multi"

    def name_of(self, position: int) -> str:
        """An image's file, or its row where it has none."""
        if self.files is None:
            return f"row {self.rows[position]}"
        return self.files[position].encode("utf-8", "replace").decode()  # a name on disk need not be UTF-8
