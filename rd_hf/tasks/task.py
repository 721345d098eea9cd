"""The interface of a task: what training, evaluation, report and prediction ask of what a model is trained for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..models.grids import at_least_float32
from ..scoring.metric import Metric, MetricError


@dataclass(frozen=True)
class Task(ABC):
    """What a model is trained for.

    An image's logits and label are reduced to one *row* of numbers, before anything is gathered over processes; all
    scores, intervals, figures and predictions of a split are made from its rows.

    :ivar problem_type: in a model's config, as transformers calls it.
    :ivar pipeline_tag: the Hub's name of the task.
    :ivar metrics: what it is scored by; the first two are the ones that a summary shows.
    :ivar default_metric: which of them chooses the best model unless another is asked for.
    :ivar validation_metrics: which of them may choose it.
    :ivar card_template: the file in model_cards/ that puts its scores into a card.
    :ivar figures_of_scores: files that `draw_scores` writes, with captions.
    :ivar figures_of_rows: files that `draw_rows` writes, with captions.
    :param names: of the K classes.
    """

    problem_type: ClassVar[str]
    pipeline_tag: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    default_metric: ClassVar[str]
    validation_metrics: ClassVar[tuple[str, ...]]
    card_template: ClassVar[str]
    figures_of_scores: ClassVar[dict[str, str]]
    figures_of_rows: ClassVar[dict[str, str]]

    names: list[str]

    @abstractmethod
    def for_training(self, labels: Tensor, balanced: bool, label_smoothing: float) -> Task:
        """The task with the settings of its loss.

        :param labels: of the labelled training images.
        :param balanced: whether classes weigh by their inverse frequency in them.
        :raises ValueError: for a setting that the task does not have.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The supervised loss, summed over the images; float32 or wider.

        :param logits: (n, K).
        :param labels: of these images.
        """

    @abstractmethod
    def divergence(self, hybrid: Tensor, student: Tensor, temperature: float) -> Tensor:
        """KL(hybrid || student) of logits (B, K) divided by the temperature, times its square, summed over the images.

        The square keeps the gradient's size over temperatures (Hinton et al. 2015, arXiv 1503.02531).
        """

    @abstractmethod
    def dist(self, student: Tensor, target: Tensor, temperature: float) -> Tensor:
        """DIST of logits, a mean over the batch and not a sum, because it is a statistic of it; see `rd_hf.tasks.dist`.

        :param student: (B, K).
        :param target: (B, K).
        """

    def centred(self, logits: Tensor) -> Tensor:
        """Logits (B, K) without what their probabilities do not depend on, so that those of two models compare.

        Of a softmax that is their mean over the classes.
        """
        return logits - logits.mean(dim=1, keepdim=True)

    @abstractmethod
    def row(self, logits: Tensor, labels: Tensor) -> Tensor:
        """All that scores need of each image.

        :param logits: (B, K) float32, on any device.
        :param labels: of these images.
        :return: (B, S) float32, on the logits' device; not finite where the logits are not.
        """

    def full_row(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`row` with what is too slow for every validation; the row that a report is made of."""
        return self.row(logits, labels)

    @abstractmethod
    def scores(
        self, rows: np.ndarray, bootstrap_samples: int = 1000, seed: int = 0, groups: Sequence | None = None
    ) -> dict[str, Any]:
        """Every metric of a split, with intervals, as plain values ready for JSON.

        :param rows: (N, S).
        :param bootstrap_samples: resamples of the images behind the intervals; 0 for none.
        :param groups: of the images, which intervals draw together.
        """

    @abstractmethod
    def point_scores(self, rows: np.ndarray) -> dict[str, float]:
        """The value alone of each of `metrics`; NaN where the split leaves it undefined."""

    @abstractmethod
    def validation_score(self, rows: np.ndarray, metric: str) -> float:
        """One metric, which chooses the best model.

        :raises MetricError: where the split leaves it undefined.
        """

    def selection_metric(self, name: str | None) -> str:
        """The metric that chooses the best model.

        :param name: as asked for; None is the task's default.
        :raises MetricError: for a metric of another task.
        """
        if name is None:
            return self.default_metric
        if name not in self.validation_metrics:
            raise MetricError(
                f"`metric_for_best_model` is {name}, which is not defined for the task {self.problem_type}: choose one "
                f"of {', '.join(self.validation_metrics)}, or leave it out ({self.default_metric})."
            )
        return name

    @abstractmethod
    def check_metric(self, splits: Mapping[str, np.ndarray], metric: str) -> None:
        """Check before any training that the labels of validation define a metric.

        :param splits: the labels of train, validation and test.
        :raises MetricError: where they do not; it names the classes at fault, and the way out.
        """

    @abstractmethod
    def marks(self, labels: np.ndarray) -> np.ndarray:
        """(N, K) int64: 1 where an image has a class; what is stratified, drawn and counted by."""

    @abstractmethod
    def describe_label(self, label: np.ndarray) -> str:
        """One image's label in words."""

    @abstractmethod
    def columns(self) -> list[str]:
        """The header of predictions.csv after the row's number."""

    @abstractmethod
    def table(self, rows: np.ndarray) -> Iterator[list[str]]:
        """The cells of predictions.csv under `columns`, an image at a time."""

    @abstractmethod
    def draw_scores(self, scores: dict[str, Any], folder: Path) -> None:
        """Write the figures that need no more than what `scores` gives."""

    @abstractmethod
    def draw_rows(self, rows: np.ndarray, folder: Path) -> None:
        """Write the figures that need a split's rows."""


def softmax_divergence(hybrid: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(hybrid || student) of the softmaxes over the classes of logits (B, K, ...), summed over all else."""
    hybrid, student = at_least_float32(hybrid) / temperature, at_least_float32(student) / temperature
    return F.kl_div(F.log_softmax(student, dim=1), F.log_softmax(hybrid, dim=1), reduction="sum", log_target=True)


def check_smoothing(label_smoothing: float) -> None:
    """:raises ValueError: if it is out of range."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}; it must be in [0, 1)")
