"""Classification of images, with one label per image or several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments.words import some_of
from ..models.grids import at_least_float32
from ..scoring import plots
from ..scoring.classification import METRICS, Predictions, point_values, validation_score
from ..scoring.metric import MetricError
from ..scoring.metrics import compute_metrics
from ..scoring.operating_point import decisions
from .dist import dist, dist_of_labels
from .task import Task, check_smoothing, softmax_divergence

ALWAYS_DEFINED = "accuracy"
NAMED_CLASSES = 5  # in a message


@dataclass(frozen=True)
class Classification(Task):
    """What both kinds share: a row is the image's K logits and its label.

    A row holds logits and not probabilities, since a sigmoid's last bit depends on where in an array a number stands;
    probabilities are computed of a whole split at once.

    :ivar exclusive: whether each image has exactly one class.
    :param operating_point: `rule` and `thresholds` by class name, which decide in place of the likeliest class, or of
        a probability of 0.5; see `rd_hf.models.configuration_rd.RDStudentConfig`.
    :param temperature: that logits are divided by for probabilities, but not for what an operating point decides.
    """

    pipeline_tag = "image-classification"
    metrics = METRICS
    default_metric = "auroc"
    validation_metrics = tuple(metric.name for metric in METRICS if metric.higher_is_better)
    card_template = "classification.md"
    figures_of_scores: ClassVar[dict[str, str]] = {"confusion_matrix.png": "Confusion matrix"}
    figures_of_rows: ClassVar[dict[str, str]] = {"roc.png": "ROC curves"}
    exclusive: ClassVar[bool]

    operating_point: dict[str, Any] | None = field(default=None, kw_only=True)
    temperature: float | None = field(default=None, kw_only=True)

    @staticmethod
    @abstractmethod
    def probabilities(logits: Tensor) -> np.ndarray:
        """Probabilities (N, K), float64, of logits (N, K)."""

    @abstractmethod
    def labels(self, rows: np.ndarray) -> np.ndarray:
        """The labels in the rows (N, S)."""

    @abstractmethod
    def named(self, decision: np.ndarray) -> dict[str, Any]:
        """The part of an answer that names classes, from what `decided` gives of one image."""

    @abstractmethod
    def decision_names(self, label: np.ndarray, decision: np.ndarray) -> list[str]:
        """One image's true and predicted classes as text.

        :param decision: what `decided` gives of it.
        """

    def row(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, K + 1), or (B, 2K) with several labels per image."""
        return torch.cat([logits, labels.to(logits).reshape(len(logits), -1)], dim=1)

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """The logits (N, K) in the rows."""
        return rows[:, : len(self.names)]

    def uncalibrated(self, rows: np.ndarray) -> np.ndarray:
        """The probabilities (N, K) in the rows, whatever the temperature."""
        return self.probabilities(torch.from_numpy(self.logits(rows)))

    def predicted(self, rows: np.ndarray) -> np.ndarray:
        """The probabilities (N, K) in the rows."""
        return self._shown(torch.from_numpy(self.logits(rows)))

    def _shown(self, logits: Tensor) -> np.ndarray:
        return self.probabilities(logits if self.temperature is None else logits.double() / self.temperature)

    def decided(self, probabilities: np.ndarray) -> np.ndarray:
        """What `rd_hf.scoring.operating_point.decisions` gives of probabilities (N, K) that are not calibrated."""
        return decisions(probabilities, self.names, self.exclusive, self.operating_point)

    def scores(
        self, rows: np.ndarray, bootstrap_samples: int = 1000, seed: int = 0, groups: Sequence | None = None
    ) -> dict[str, Any]:
        """What `rd_hf.scoring.metrics.compute_metrics` gives."""
        return compute_metrics(
            self.predicted(rows), self.labels(rows), self.names, self.exclusive, bootstrap_samples, seed, groups
        )

    def point_scores(self, rows: np.ndarray) -> dict[str, float]:
        """The value alone of each metric."""
        return point_values(Predictions.check(self.predicted(rows), self.labels(rows), self.names, self.exclusive))[0]

    def validation_score(self, rows: np.ndarray, metric: str) -> float:
        """One metric, which chooses the best model."""
        return validation_score(self.predicted(rows), self.labels(rows), self.exclusive, metric)

    def check_metric(self, splits: Mapping[str, np.ndarray], metric: str) -> None:
        """Whether labels define a metric depends on no prediction."""
        labels = splits["validation"]
        guess = np.full((len(labels), len(self.names)), 1 / len(self.names))
        truth = Predictions.check(guess, labels, self.names, self.exclusive)
        if not np.isnan(point_values(truth)[0][metric]):
            return
        advice = f"Choose another metric, such as `metric_for_best_model` {ALWAYS_DEFINED}"
        if not self.exclusive:
            names = ", ".join(map(repr, self.names))
            raise MetricError(
                f"`metric_for_best_model` is {metric}, which validation does not define: none of the labels {names} "
                f"has both positive and negative images there. {advice}, or add images to validation."
            )
        counts = {name: self.marks(own).sum(axis=0) for name, own in splits.items()}
        missing = np.flatnonzero(counts["validation"] == 0)
        held = [
            f"{self.names[k]!r} ({', '.join(f'{count[k]} in {split}' for split, count in counts.items())})"
            for k in missing
        ]
        raise MetricError(
            f"`metric_for_best_model` is {metric}, which needs images of every class in validation, but there are none "
            f"of {some_of(held, NAMED_CLASSES, '; ', '; and ')}. {advice}, add images, or leave such a class out "
            "of the data."
        )

    def answers(self, logits: Tensor) -> list[dict[str, Any]]:
        """What `predict` says of each image: `label`, or `labels` with several, and `probabilities` by class name."""
        decided, shown = self.decided(self.probabilities(logits)), self._shown(logits).tolist()
        return [
            self.named(own) | {"probabilities": dict(zip(self.names, values, strict=True))}
            for own, values in zip(decided, shown, strict=True)
        ]

    def columns(self) -> list[str]:
        """True class, predicted class and each class's probability."""
        return ["label", "prediction", *(f"probability_{name}" for name in self.names)]

    def table(self, rows: np.ndarray) -> Iterator[list[str]]:
        """Several labels of an image are separated by `|`, and predicted as by `decided`."""
        decided = self.decided(self.uncalibrated(rows))
        for label, own, values in zip(self.labels(rows), decided, self.predicted(rows), strict=True):
            yield [*self.decision_names(label, own), *(f"{value:.6f}" for value in values)]

    def draw_scores(self, scores: dict[str, Any], folder: Path) -> None:
        """Confusion matrix."""
        plots.plot_confusion_matrix(scores["confusion_matrix"], self.names, folder / "confusion_matrix.png")

    def draw_rows(self, rows: np.ndarray, folder: Path) -> None:
        """ROC curves."""
        plots.plot_roc(self.predicted(rows), self.labels(rows), self.names, self.exclusive, folder / "roc.png")


@dataclass(frozen=True)
class SingleLabel(Classification):
    """One class per image: labels (n,) int64, softmax.

    :param class_weights: (K,) weights of the cross-entropy, as in torch. A sum is divided by the number of images and
        not by their weights, which another process may hold; so weights should average 1 over the training images, as
        `balanced_class_weights` do.
    :raises ValueError: if `label_smoothing` is out of range.
    """

    problem_type = "single_label_classification"
    exclusive = True

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_smoothing(self.label_smoothing)

    def for_training(self, labels: Tensor, balanced: bool, label_smoothing: float) -> SingleLabel:
        """With the weights of `balanced_class_weights` if asked for."""
        weights = None
        if balanced:
            weights = balanced_class_weights(torch.bincount(labels, minlength=len(self.names)))
        return replace(self, class_weights=weights, label_smoothing=label_smoothing)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        logits = at_least_float32(logits)
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, labels, weight=weight, label_smoothing=self.label_smoothing, reduction="sum")

    def divergence(self, hybrid: Tensor, student: Tensor, temperature: float) -> Tensor:
        """KL of the softmaxes."""
        return softmax_divergence(hybrid, student, temperature) * temperature**2

    def dist(self, student: Tensor, target: Tensor, temperature: float) -> Tensor:
        """Of the softmaxes."""
        return dist(student, target, temperature=temperature)

    def marks(self, labels: np.ndarray) -> np.ndarray:
        """(N, K) int64: 1 where an image is of a class."""
        return (labels[:, None] == np.arange(len(self.names))).astype(np.int64)

    def describe_label(self, label: np.ndarray) -> str:
        """The class's name."""
        return self.names[int(label)]

    @staticmethod
    def probabilities(logits: Tensor) -> np.ndarray:
        """Softmax over the classes."""
        return torch.softmax(logits.double(), dim=-1).numpy()

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """(N,) int64."""
        return rows[:, -1].astype(np.int64)

    def named(self, decision: np.ndarray) -> dict[str, Any]:
        """`label`."""
        return {"label": self.names[int(decision)]}

    def decision_names(self, label: np.ndarray, decision: np.ndarray) -> list[str]:
        """One image's true class, and the one that it is answered with."""
        return [self.names[int(label)], self.names[int(decision)]]


@dataclass(frozen=True)
class MultiLabel(Classification):
    """Any number of classes per image: labels (n, K) of 0 and 1, a sigmoid per class; losses are means over classes.

    A label may be NaN, which is not known: the loss is then the mean over the image's other classes.

    :param pos_weight: (K,) weights of the positives in the cross-entropy, as in torch.
    :param has_unknown: whether a training label is NaN.
    """

    problem_type = "multi_label_classification"
    exclusive = False

    pos_weight: Tensor | None = None
    has_unknown: bool = False

    def for_training(self, labels: Tensor, balanced: bool, label_smoothing: float) -> MultiLabel:
        """With the weights of `balanced_pos_weight` if asked for."""
        if label_smoothing:
            raise ValueError(
                "`label_smoothing` is for single-label tasks only, but the data has several labels per image: leave it "
                "out. If rare labels are the reason, `class_weights` balanced gives them more weight."
            )
        known = ~labels.isnan()
        weights = balanced_pos_weight(labels.nansum(dim=0), known.sum(dim=0)) if balanced else None
        return replace(self, pos_weight=weights, has_unknown=not bool(known.all()))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy."""
        logits = at_least_float32(logits)
        pos_weight = None if self.pos_weight is None else self.pos_weight.to(logits)
        labels = labels.to(logits)
        if self.has_unknown:
            known = ~labels.isnan()
            labels = labels.nan_to_num()
        losses = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=pos_weight, reduction="none")
        if self.has_unknown:
            return ((losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)).sum()
        return losses.mean(dim=1).sum()

    def divergence(self, hybrid: Tensor, student: Tensor, temperature: float) -> Tensor:
        """KL of each class's two probabilities."""
        hybrid, student = at_least_float32(hybrid) / temperature, at_least_float32(student) / temperature
        positive = F.kl_div(F.logsigmoid(student), F.logsigmoid(hybrid), reduction="none", log_target=True)
        negative = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-hybrid), reduction="none", log_target=True)
        return (positive + negative).mean(dim=1).sum() * temperature**2

    def dist(self, student: Tensor, target: Tensor, temperature: float) -> Tensor:
        """Of each class's two probabilities."""
        return dist_of_labels(student, target, temperature=temperature)

    def centred(self, logits: Tensor) -> Tensor:
        """As they are: a sigmoid has no free shift."""
        return logits

    def marks(self, labels: np.ndarray) -> np.ndarray:
        """(N, K) int64: 1 where an image has a class."""
        return (labels > 0.5).astype(np.int64)

    def describe_label(self, label: np.ndarray) -> str:
        """The names of the image's classes."""
        return " and ".join(name for name, on in zip(self.names, label, strict=True) if on > 0.5) or "none"

    @staticmethod
    def probabilities(logits: Tensor) -> np.ndarray:
        """A sigmoid per class."""
        return torch.sigmoid(logits.double()).numpy()

    def row(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, 2K); a label that is not known is -1, so that only logits can make a row not finite."""
        return super().row(logits, labels.nan_to_num(nan=-1))

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """(N, K) float32 of 0 and 1, NaN where not known."""
        labels = rows[:, len(self.names) :]
        return np.where(labels < 0, np.float32(np.nan), labels)

    def named(self, decision: np.ndarray) -> dict[str, Any]:
        """`labels`."""
        return {"labels": [name for name, on in zip(self.names, decision, strict=True) if on]}

    def decision_names(self, label: np.ndarray, decision: np.ndarray) -> list[str]:
        """One image's true classes, and those that it is answered with."""
        return ["|".join(self.named(marks)["labels"]) for marks in (label > 0.5, decision)]


def balanced_class_weights(class_counts: Tensor) -> Tensor:
    """Weights under which every class counts the same in the training set; they average 1 over its samples.

    :param class_counts: Training samples of each class (num_labels,).
    :return: n / (classes that occur * count), and 0 for a class that does not occur.
    """
    counts = class_counts.to(torch.float32)
    occurring = counts > 0
    return torch.where(occurring, counts.sum() / (occurring.sum() * counts.clamp(min=1)), 0.0)


def balanced_pos_weight(positive_counts: Tensor, total: Tensor | int) -> Tensor:
    """Weights under which the positives of every label count as much as its negatives.

    :param positive_counts: Training samples that have each label (num_labels,).
    :param total: Training samples; or those of which each label is known (num_labels,).
    :return: negatives / positives, and 1 for a label that no sample or every sample has.
    """
    positives = positive_counts.to(torch.float32)
    balanced = (total - positives) / positives.clamp(min=1)
    return torch.where((positives > 0) & (positives < total), balanced, 1.0)
