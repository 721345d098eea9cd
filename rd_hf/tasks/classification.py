"""Classification: what a class weighs in the loss."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_class_weights(class_counts: Tensor) -> Tensor:
    """Weights under which every class counts the same in the training set; they average 1 over its samples.

    :param class_counts: Training samples of each class (num_labels,).
    :return: n / (classes that occur * count), and 0 for a class that does not occur.
    """
    counts = class_counts.to(torch.float32)
    occurring = counts > 0
    return torch.where(occurring, counts.sum() / (occurring.sum() * counts.clamp(min=1)), 0.0)


def balanced_pos_weight(positive_counts: Tensor, total: int) -> Tensor:
    """Weights under which the positives of every label count as much as its negatives.

    :param positive_counts: Training samples that have each label (num_labels,).
    :param total: Training samples.
    :return: negatives / positives, and 1 for a label that no sample or every sample has.
    """
    positives = positive_counts.to(torch.float32)
    balanced = (total - positives) / positives.clamp(min=1)
    return torch.where((positives > 0) & (positives < total), balanced, 1.0)
