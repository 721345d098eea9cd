"""What scores of masks need of one image or volume: pixels that agree and differ per class, and surface distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .metric import MetricError
from .segmentation import IGNORED_LABEL, NO_DISTANCE, SURFACE_TOLERANCE

MOST_OF_QUANTILE = 2**24  # values that torch.quantile takes
PIXELS_AT_ONCE = 2**23  # that are counted, so that a volume needs no more memory than an image

Spacing = Sequence[float]


def full_rows(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    classes: int,
    spacings: Sequence[Spacing] | None = None,
) -> np.ndarray:
    """The rows of masks in hand: `count_row` and `distance_row` of each image or volume.

    :param predictions: masks (H, W) of images, or (X, Y, Z) of volumes, of class numbers.
    :param truths: masks of class numbers, or IGNORED_LABEL, of the same shapes.
    :param spacings: of volumes, millimetres from voxel to voxel along each axis; distances are in pixels without.
    :return: (N, 5 * classes) float32.
    :raises MetricError: for masks of other sizes, with other class numbers or without a spacing; it gives the number of
        the image.
    """
    if spacings is not None and len(spacings) != len(truths):
        raise MetricError(f"there are {len(spacings)} spacings for {len(truths)} volumes; each volume needs its own")
    rows = []
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        spacing = None if spacings is None else spacings[number]
        _check_pair(number, prediction, truth, classes, spacing)
        pair = torch.from_numpy(prediction), torch.from_numpy(truth)
        rows.append(torch.cat([count_row(*pair, classes), distance_row(*pair, classes, spacing)]))
    return torch.stack(rows).numpy()


def _check_pair(number: int, prediction: np.ndarray, truth: np.ndarray, classes: int, spacing: Spacing | None) -> None:
    """:raises MetricError: for two masks that cannot be compared."""
    kind, axes = ("image", "(H, W)") if spacing is None else ("volume", "(X, Y, Z)")
    if prediction.shape != truth.shape or truth.ndim != (2 if spacing is None else 3):
        raise MetricError(
            f"{kind} {number} has a predicted mask of shape {prediction.shape} and a true one of {truth.shape}; "
            f"expected {axes} for both" + (", and spacings for volumes" if truth.ndim == 3 and spacing is None else "")
        )
    if spacing is not None and (len(spacing) != 3 or not min(spacing) > 0):
        raise MetricError(f"volume {number} has the spacing {tuple(spacing)}; expected three positive numbers")
    if prediction.max() >= classes or truth[truth != IGNORED_LABEL].max(initial=0) >= classes:
        raise MetricError(
            f"a mask of {kind} {number} has a class number above {classes - 1}, the last of the {classes} classes"
        )


def count_row(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of an image, or voxels of a volume, per class; those without a label count nowhere.

    :param prediction: class numbers, (H, W) or (X, Y, Z).
    :param truth: class numbers, or IGNORED_LABEL, of the same shape.
    :return: (3 * classes,) float32: true positives of each class, false positives, false negatives.
    """
    slab = max(1, PIXELS_AT_ONCE // max(1, truth[0].numel()))
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=truth.device)
    for predicted, true in zip(prediction.split(slab), truth.split(slab), strict=True):
        pairs = torch.where(true != IGNORED_LABEL, true.long() * classes + predicted, classes**2)
        confusion += torch.bincount(pairs.flatten(), minlength=classes**2 + 1)[:-1].reshape(classes, classes)
    right = confusion.diagonal()
    return torch.cat([right, confusion.sum(dim=0) - right, confusion.sum(dim=1) - right]).float()


def distance_row(prediction: Tensor, truth: Tensor, classes: int, spacing: Spacing | None = None) -> Tensor:
    """The 95 % Hausdorff distance of each foreground class's outlines or surfaces, and their surface Dice.

    Surface Dice is the share of both outlines within SURFACE_TOLERANCE of the other (Nikolov et al. 2018, arXiv
    1809.04430), each pixel or voxel of an outline counting once, as by default in MONAI. Pixels without a label belong
    to no class on either side. In memory is one class at a time, cut to the box that holds both masks of it.

    :param prediction: class numbers, (H, W) or (X, Y, Z).
    :param truth: class numbers, or IGNORED_LABEL, of the same shape.
    :param spacing: millimetres from voxel to voxel along each axis; by default distances are in pixels.
    :return: (2 * classes,) float32: the distance of each class, and the surface Dice. NO_DISTANCE for the background
        and where not both masks have the class.
    :raises MetricError: when MONAI is not installed.
    """
    check_monai()
    from monai.metrics import get_mask_edges, get_surface_distance

    row = torch.full((2, classes), NO_DISTANCE)
    device, prediction, truth = truth.device, prediction.cpu(), truth.cpu()
    for number in range(1, classes):
        predicted, true = (mask == number for mask in (prediction, truth))
        predicted &= truth != IGNORED_LABEL
        if predicted.any() and true.any():
            box = _box(predicted | true)
            outlines = [torch.as_tensor(outline) for outline in get_mask_edges(predicted[box], true[box])]
            distances = [get_surface_distance(*pair, spacing=spacing) for pair in (outlines, outlines[::-1])]
            row[0, number] = max(map(_percentile_95, distances))
            row[1, number] = (torch.cat(distances) <= SURFACE_TOLERANCE).float().mean()
    return row.flatten().to(device)


def _percentile_95(distances: Tensor) -> Tensor:
    if distances.numel() <= MOST_OF_QUANTILE:
        return distances.quantile(0.95)
    return torch.as_tensor(np.percentile(distances.numpy(), 95), dtype=distances.dtype)


def _box(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = mask.any(dim=others).nonzero()
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)


def check_monai() -> None:
    """:raises MetricError: when MONAI, which measures distances of outlines, is not installed; with the way out."""
    try:
        import monai.metrics  # noqa: F401
    except ImportError as error:
        raise MetricError(
            "HD95 and surface Dice of masks are computed by MONAI, which cannot be imported "
            f"({error}): pip install 'rd-hf[masks]'"
        ) from error
