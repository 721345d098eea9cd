"""The supervised loss of masks, Dice and cross-entropy, as sums over images that add up over parts of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scoring.segmentation import IGNORED_LABEL

SMOOTH = 1.0  # pixels, by which the Dice of a class that is nowhere in an image is defined


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice of each image, mean over the foreground classes, summed over the images.

    Milletari et al. 2016 (V-Net, arXiv 1606.04797) with plain instead of squared probabilities, as in nnU-Net. Equal to
    MONAI's `DiceLoss` without the background, but it needs no MONAI and no one-hot masks of all classes in float.

    :param logits: (n, K, *size), of images or volumes; class 0 is the background.
    :param labels: (n, *size) class numbers; IGNORED_LABEL for pixels that take no part.
    """
    places = tuple(range(2, logits.ndim))
    classes = torch.arange(1, logits.shape[1], device=labels.device).view(-1, *[1] * len(places))
    truth = labels[:, None] == classes
    probabilities = logits.softmax(dim=1)[:, 1:] * (labels != IGNORED_LABEL)[:, None]
    shared = (probabilities * truth).sum(dim=places)
    both = probabilities.sum(dim=places) + truth.sum(dim=places)
    return (1 - (2 * shared + SMOOTH) / (both + SMOOTH)).mean(dim=1).sum()


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy, mean over the labelled pixels of each image, summed over the images.

    :param logits: (n, K, *size), of images or volumes.
    :param labels: (n, *size) class numbers; IGNORED_LABEL for pixels that take no part.
    :param class_weights: (K,). A mean is over pixels and not over their weights, so that weights should average 1.
    """
    weight = None if class_weights is None else class_weights.to(logits)
    losses = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing, reduction="none"
    )
    places = tuple(range(1, labels.ndim))
    pixels = (labels != IGNORED_LABEL).sum(dim=places).clamp(min=1)
    return (losses.sum(dim=places) / pixels).sum()
