"""What scores of masks need of one image: pixels that agree and differ per class, and distances of outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .metric import MetricError
from .segmentation import IGNORED_LABEL, NO_DISTANCE, SURFACE_TOLERANCE


def full_rows(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """The rows of masks in hand: `count_row` and `distance_row` of each image.

    :param predictions: masks (H, W) of class numbers.
    :param truths: masks (H, W) of class numbers, or IGNORED_LABEL.
    :return: (N, 5 * classes) float32.
    :raises MetricError: for masks of other sizes or with other class numbers; it gives the image's number.
    """
    rows = []
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        if prediction.shape != truth.shape or truth.ndim != 2:
            raise MetricError(
                f"image {number} has a predicted mask of shape {prediction.shape} and a true one of {truth.shape}; "
                "expected (H, W) for both"
            )
        if prediction.max() >= classes or truth[truth != IGNORED_LABEL].max(initial=0) >= classes:
            raise MetricError(
                f"a mask of image {number} has a class number above {classes - 1}, the last of the {classes} classes"
            )
        pair = torch.from_numpy(prediction), torch.from_numpy(truth)
        rows.append(torch.cat([count_row(*pair, classes), distance_row(*pair, classes)]))
    return torch.stack(rows).numpy()


def count_row(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of an image per class; those without a label count nowhere.

    :param prediction: (H, W) class numbers.
    :param truth: (H, W) class numbers, or IGNORED_LABEL.
    :return: (3 * classes,) float32: true positives of each class, false positives, false negatives.
    """
    pairs = torch.where(truth != IGNORED_LABEL, truth.long() * classes + prediction, classes**2)
    confusion = torch.bincount(pairs.flatten(), minlength=classes**2 + 1)[:-1].reshape(classes, classes)
    right = confusion.diagonal()
    return torch.cat([right, confusion.sum(dim=0) - right, confusion.sum(dim=1) - right]).float()


def distance_row(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """The 95 % Hausdorff distance of each foreground class's outlines, in pixels, and their surface Dice.

    Surface Dice is the share of both outlines within SURFACE_TOLERANCE of the other (Nikolov et al. 2018, arXiv
    1809.04430). Pixels without a label belong to no class on either side.

    :param prediction: (H, W) class numbers.
    :param truth: (H, W) class numbers, or IGNORED_LABEL.
    :return: (2 * classes,) float32: the distance of each class, and the surface Dice. NO_DISTANCE for the background
        and where not both masks have the class.
    :raises MetricError: when MONAI is not installed.
    """
    check_monai()
    from monai.metrics import get_mask_edges, get_surface_distance

    row = torch.full((2, classes), NO_DISTANCE)
    device, prediction, truth = truth.device, prediction.cpu(), truth.cpu()
    labelled = truth != IGNORED_LABEL
    for number in range(1, classes):
        predicted, true = ((mask == number) & labelled for mask in (prediction, truth))
        if predicted.any() and true.any():
            outlines = [torch.as_tensor(outline) for outline in get_mask_edges(predicted, true)]
            distances = [get_surface_distance(*pair) for pair in (outlines, outlines[::-1])]
            row[0, number] = max(own.quantile(0.95) for own in distances)
            row[1, number] = (torch.cat(distances) <= SURFACE_TOLERANCE).float().mean()
    return row.flatten().to(device)


def check_monai() -> None:
    """:raises MetricError: when MONAI, which measures distances of outlines, is not installed; with the way out."""
    try:
        import monai.metrics  # noqa: F401
    except ImportError as error:
        raise MetricError(
            "HD95 and surface Dice of masks are computed by MONAI, which cannot be imported "
            f"({error}): pip install 'rd-hf[masks]'"
        ) from error
