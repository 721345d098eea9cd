"""Random masks with a class that is rare, pixels without a label and images without foreground."""

import numpy as np
import torch
import torch.nn.functional as F


def random_masks(count: int, classes: int, seed: int = 0, ignored: bool = True) -> tuple[list, list]:
    """True and predicted masks of different sizes; smooth, so that they have outlines."""
    generator = torch.Generator().manual_seed(seed)
    truths, predictions = [], []
    for number in range(count):
        size = (24 + number % 3 * 4, 30 - number % 2 * 5)
        fields = torch.randn(2, classes, 5, 6, generator=generator)
        fields[:, 1:] -= 0.5
        fields[1] = fields[0] + 0.7 * fields[1]
        fields[:, -1] -= 1.5  # rare
        if number % 4 == 0:
            fields[0, 0] += 9.0  # no foreground in the truth
        truth, prediction = F.interpolate(fields, size, mode="bilinear").argmax(dim=1).to(torch.uint8).numpy()
        if ignored:
            truth[:3, number % 5 :] = 255
        truths.append(truth)
        predictions.append(prediction)
    return truths, predictions


def one_hot(mask: np.ndarray, classes: int) -> torch.Tensor:
    """(1, K, *size) as MONAI takes it; nowhere 1 where a pixel or voxel has no label."""
    return torch.from_numpy(mask == np.arange(classes).reshape(-1, *[1] * mask.ndim))[None].float()
