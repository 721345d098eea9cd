"""What scores of masks need of one image: pixels that agree and differ per class, and distances of outlines."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

IGNORED_LABEL = 255  # a pixel without a label, as in transformers' segmenters
SURFACE_TOLERANCE = 1.0  # pixels
NO_DISTANCE = -1.0
COUNTS = ("true_positives", "false_positives", "false_negatives")
DISTANCES = ("hd95", "surface_dice")


def count_row(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of an image per class; those without a label count nowhere.

    :param prediction: (H, W) class numbers.
    :param truth: (H, W) class numbers, or IGNORED_LABEL.
    :return: (3 * classes,) float32: true positives of each class, false positives, false negatives.
    """
    labelled = truth != IGNORED_LABEL
    pairs = truth[labelled].long() * classes + prediction[labelled].long()
    confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
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
    :raises ImportError: when MONAI is not installed.
    """
    check_monai()
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    row = torch.full((2, classes), NO_DISTANCE, device=truth.device)
    labelled = truth != IGNORED_LABEL
    for number in range(1, classes):
        predicted, true = ((mask == number) & labelled for mask in (prediction, truth))
        if predicted.any() and true.any():
            pair = predicted[None, None], true[None, None]
            with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes to itself
                warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
                row[0, number] = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
                row[1, number] = compute_surface_dice(*pair, [SURFACE_TOLERANCE], include_background=True)
    return row.flatten()


def check_monai() -> None:
    """:raises ImportError: when MONAI, which measures distances of outlines, is not installed; with the way out."""
    try:
        import monai.metrics  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "HD95 and surface Dice of masks are computed by MONAI, which cannot be imported "
            f"({error}): pip install rd-hf[volumes]"
        ) from error
