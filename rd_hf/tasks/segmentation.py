"""Segmentation of images and volumes: one class per pixel or voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..models.grids import at_least_float32, channels_last, resize
from ..models.volume_grid import classes_on_source
from ..scoring import mask_plots
from ..scoring.mask_metrics import segmentation_scores
from ..scoring.mask_rows import check_monai, count_row, distance_row
from ..scoring.metric import MetricError
from ..scoring.segmentation import IMAGES, METRICS, VOLUMES, MaskRows, Measured, mask_metrics, point_values
from ..scoring.volume_target import VolumeTarget
from .classification import balanced_class_weights
from .dist import dist
from .mask_losses import pixel_cross_entropy, soft_dice_loss
from .task import Task, check_smoothing, softmax_divergence


@dataclass(frozen=True)
class Segmentation(Task):
    """One of K classes per pixel; class 0 is the background. Labels are masks of class numbers.

    Logits may be of any size: they are resized to that of the labels, bilinearly as by transformers'
    `post_process_semantic_segmentation`. As a statistic of an image, its label is the pixels of each class (K,).

    A row holds the pixels of each class where truth and prediction agree and differ, and in a full row also the
    distances of their outlines; see `rd_hf.scoring.mask_rows`.

    :cvar measured: what the masks are of, in words.
    :param class_weights: (K,) weights of the cross-entropy; they should average 1 over the training pixels.
    :param label_smoothing: of the cross-entropy, as in torch.
    :raises ValueError: if `label_smoothing` is out of range.
    """

    problem_type = "segmentation"
    pipeline_tag = "image-segmentation"
    metrics = METRICS
    default_metric = "dice"
    validation_metrics = ("dice", "iou")
    card_template = "segmentation.md"
    figures_of_scores: ClassVar[dict[str, str]] = {"dice.png": "Dice of each class"}
    figures_of_rows: ClassVar[dict[str, str]] = {"dice_images.png": "Dice of each test image"}
    measured: ClassVar[Measured] = IMAGES

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_smoothing(self.label_smoothing)

    def for_training(self, labels: Tensor, balanced: bool, label_smoothing: float) -> Segmentation:
        """With weights under which each class counts the same over all pixels if asked for.

        :param labels: (N, K) pixels of each class.
        """
        weights = balanced_class_weights(labels.sum(dim=0)) if balanced else None
        return replace(self, class_weights=weights, label_smoothing=label_smoothing)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Dice and cross-entropy of each image, as in nnU-Net (Isensee et al. 2021).

        :param logits: (n, K, h', w'), or (n, K, x', y', z').
        :param labels: (n, h, w) or (n, x, y, z) int64, with `rd_hf.scoring.segmentation.IGNORED_LABEL` where a pixel
            has no label.
        """
        logits = resize(at_least_float32(logits), tuple(labels.shape[1:]))
        cross_entropy = pixel_cross_entropy(logits, labels, self.class_weights, self.label_smoothing)
        return soft_dice_loss(logits, labels) + cross_entropy

    def divergence(self, hybrid: Tensor, student: Tensor, temperature: float) -> Tensor:
        """KL of each pixel's softmaxes, mean over the pixels.

        :param hybrid: (B, K, h', w'), or (B, K, x', y', z').
        :param student: of the same shape.
        """
        return softmax_divergence(hybrid, student, temperature) * (temperature**2 / student.shape[2:].numel())

    def dist(self, student: Tensor, target: Tensor, temperature: float) -> Tensor:
        """Of the pixels' softmaxes: the samples are the pixels of all images.

        :param student: (B, K, h', w'), or (B, K, x', y', z').
        :param target: of the same shape.
        """
        return dist(*(channels_last(side).flatten(0, -2) for side in (student, target)), temperature=temperature)

    def row(self, logits: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """(B, 3K): pixels per class, at the size of each image's own mask.

        :param logits: (B, K, h', w').
        :param labels: masks (H, W) uint8, each of its own size.
        """
        return self._rows(logits, labels, full=False)

    def full_row(self, logits: Tensor, labels: Sequence[Tensor]) -> Tensor:
        """(B, 5K): `row`, and the distances of outlines per class.

        :raises MetricError: when MONAI is not installed.
        """
        return self._rows(logits, labels, full=True)

    def _rows(self, logits: Tensor, labels: Sequence[Tensor], full: bool) -> Tensor:
        rows = []
        for own, mask in zip(logits, labels, strict=True):
            truth = mask.to(logits.device)
            rows.append(self._row(own, class_map(own, truth.shape), truth, None, full))
        return torch.stack(rows)

    def _row(
        self, logits: Tensor, prediction: Tensor, truth: Tensor, spacing: Sequence[float] | None, full: bool
    ) -> Tensor:
        """The row of one image or volume; all NaN where its logits are not finite."""
        parts = [count_row(prediction, truth, len(self.names))]
        if full:
            parts.append(distance_row(prediction, truth, len(self.names), spacing))
        row = torch.cat(parts)
        return torch.where(logits.isfinite().all(), row, torch.nan)

    def masks_of(self, logits: Tensor, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """The predicted mask of each image, uint8 class numbers.

        :param logits: (B, K, h', w').
        :param sizes: rows and columns of each mask.
        """
        return [class_map(own, size).cpu().numpy() for own, size in zip(logits, sizes, strict=True)]

    def scores(
        self, rows: np.ndarray, bootstrap_samples: int = 1000, seed: int = 0, groups: Sequence | None = None
    ) -> dict[str, Any]:
        """What `rd_hf.scoring.mask_metrics.segmentation_scores` gives.

        :param rows: full ones.
        :param groups: of the images, which intervals draw together.
        """
        return segmentation_scores(MaskRows.of(rows, self.names, self.measured), bootstrap_samples, seed, groups)

    def point_scores(self, rows: np.ndarray) -> dict[str, float]:
        """The value alone of each metric; without full rows the distances are undefined."""
        return point_values(MaskRows.of(rows, self.names, self.measured))

    def validation_score(self, rows: np.ndarray, metric: str) -> float:
        """Dice or IoU, mean over the foreground classes."""
        value = self.point_scores(rows)[self.selection_metric(metric)]
        if np.isnan(value):
            image, pixel, _ = self.measured
            raise MetricError(
                f"{metric} of the validation split is undefined: it has no {pixel} of {self._foreground()}, and the "
                f"prediction has none either. Add {image}s that show one of them to validation"
            )
        return value

    def check_metric(self, splits: Mapping[str, np.ndarray], metric: str) -> None:
        """Validation must have an image with a foreground class, and MONAI must be there for the report.

        :param splits: (N, K) pixels of each class.
        :raises MetricError: when MONAI is not installed.
        """
        check_monai()
        counts = {name: int(self.marks(own)[:, 1:].any(axis=1).sum()) for name, own in splits.items()}
        if not counts["validation"]:
            held = ", ".join(f"{count} of {len(splits[name])} in {name}" for name, count in counts.items())
            images = f"{self.measured.image}s"
            raise MetricError(
                f"`metric_for_best_model` is {metric}, which needs one of the {images} in validation to have a mask "
                f"with {self._foreground()}, but none has ({images} with one: {held}). Move such {images} to "
                "validation, or leave the validation split out, so that one is made from train."
            )

    def _foreground(self) -> str:
        return " or ".join(map(repr, self.names[1:]))

    def marks(self, labels: np.ndarray) -> np.ndarray:
        """(N, K) int64: 1 where an image's mask has a pixel of a class."""
        return (labels > 0).astype(np.int64)

    def describe_label(self, label: np.ndarray) -> str:
        """The names of the classes in the image's mask."""
        return " and ".join(name for name, pixels in zip(self.names, label, strict=True) if pixels > 0) or "none"

    def columns(self) -> list[str]:
        """Dice of each foreground class, and its pixels in truth and prediction."""
        pixels = f"{self.measured.pixel}s"
        kinds = ("dice", pixels, f"predicted_{pixels}")
        return [f"{kind}_{name}" for name in self.names[1:] for kind in kinds]

    def table(self, rows: np.ndarray) -> Iterator[list[str]]:
        """Dice is empty where neither truth nor prediction has the class. Pixels without a label are not counted."""
        read = MaskRows.of(rows, self.names, self.measured)
        dice = read.per_image["dice"]
        true = (read.true_positives + read.false_negatives)[:, 1:]
        predicted = (read.true_positives + read.false_positives)[:, 1:]
        for image in zip(dice, true, predicted, strict=True):
            cells = []
            for value, *pixels in zip(*image, strict=True):
                cells += ["" if np.isnan(value) else f"{value:.6f}", *(f"{count:.0f}" for count in pixels)]
            yield cells

    def draw_scores(self, scores: dict[str, Any], folder: Path) -> None:
        """Dice of each class."""
        mask_plots.plot_dice(scores, self.names, folder / "dice.png")

    def draw_rows(self, rows: np.ndarray, folder: Path) -> None:
        """Dice of each image, by class."""
        dice = MaskRows.of(rows, self.names, self.measured).per_image["dice"]
        mask_plots.plot_dice_of_images(dice, self.names, folder / "dice_images.png", self.measured)


@dataclass(frozen=True)
class VolumeSegmentation(Segmentation):
    """`Segmentation` of volumes: one class per voxel, scored on the grid of each source file, distances in mm."""

    metrics = mask_metrics(VOLUMES)
    figures_of_rows: ClassVar[dict[str, str]] = {"dice_images.png": "Dice of each test volume"}
    measured: ClassVar[Measured] = VOLUMES

    def _rows(self, logits: Tensor, labels: Sequence[VolumeTarget], full: bool) -> Tensor:
        """:param logits: (B, K, *grid), of the student's grid."""
        rows = []
        for own, target in zip(logits, labels, strict=True):
            prediction = classes_on_source(own, target.mask.shape, target.affine)
            rows.append(self._row(own, prediction, target.mask.to(own.device), target.spacing, full))
        return torch.stack(rows)

    def masks_of(self, logits: Tensor, sources: Sequence[tuple[Sequence[int], np.ndarray]]) -> list[np.ndarray]:
        """The predicted mask of each volume on the grid of its source, uint8 class numbers.

        :param logits: (B, K, *grid), of the student's grid.
        :param sources: shape (X, Y, Z) and affine (4, 4) of each.
        """
        pairs = zip(logits, sources, strict=True)
        return [classes_on_source(own, shape, affine).cpu().numpy() for own, (shape, affine) in pairs]


def class_map(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The likeliest class of each pixel (H, W), uint8; one class's logits are resized at a time, to save memory.

    :param logits: (K, h', w') float32 of one image.
    :param size: H and W.
    """
    best = resize(logits[None, :1], tuple(size))[0, 0]
    found = torch.zeros(best.shape, dtype=torch.uint8, device=logits.device)
    for number in range(1, len(logits)):
        own = resize(logits[None, number : number + 1], tuple(size))[0, 0]
        found = torch.where(own > best, number, found)
        best = torch.maximum(own, best)
    return found
