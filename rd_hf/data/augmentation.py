"""Views of medical images: drawn per (seed, sample, view) on the CPU, applied in batch on the images' own device.

A view is a function of the seed, the sample's index and the view's number alone: batch, process, order and image size
do not enter. So a teacher's features can be cached per (sample, view), an interrupted run resumes exactly, and teacher
and student see the same view at their own sizes.

Noise and blur are left out: drawn per pixel or sized in pixels, they would not be the same view at two sizes.

The geometry is one warp_affine of kornia: for 96 x 3 x 224 x 224 on two CPU cores 57 ms (torch's affine_grid with
grid_sample: 57 ms), the whole of `apply` about 0.1 s. kornia is imported at the first view, since its import is slow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..scoring.segmentation import IGNORED_LABEL

if TYPE_CHECKING:
    from ..arguments.distillation import DistillationArguments

EVALUATION_VIEW = -1
# Raised with every change of what a view shows, decoding and resizing included: cached teacher features depend on it.
AUGMENTATION_VERSION = 1
DRAWS_PER_VIEW = 9


class AugmentationError(ValueError):
    """Strengths, samples, views or images that augmentation cannot work with."""


@dataclass(frozen=True)
class AugmentationParameters:
    """How strongly views differ; every range is symmetric around "unchanged" and 0 or False turns it off.

    :param rotation_degrees: largest rotation either way, in degrees.
    :param scale: largest isotropic magnification is 1 + scale, the smallest 1 / (1 + scale).
    :param shift: largest shift along each axis, as a fraction of the frame.
    :param horizontal_flip: mirror left and right in half of the views. Turn it off where laterality carries meaning
        (situs in a chest x-ray, left or right eye).
    :param vertical_flip: mirror top and bottom in half of the views. Off by default: most modalities have an up
        (ultrasound has its probe there); turn it on for histology, dermatoscopy and the like.
    :param brightness: largest offset, as a fraction of the full range.
    :param contrast: largest contrast factor about mid-grey is 1 + contrast, the smallest its inverse.
    :param gamma: largest gamma is 1 + gamma, the smallest its inverse.
    :raises AugmentationError: if a strength is negative or not finite.
    """

    rotation_degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    horizontal_flip: bool = True
    vertical_flip: bool = False
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2

    def __post_init__(self) -> None:
        for name in ("rotation_degrees", "scale", "shift", "brightness", "contrast", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise AugmentationError(f"augmentation {name} is {value}; it must be at least 0 (0 turns it off)")

    @classmethod
    def from_arguments(cls, arguments: DistillationArguments) -> AugmentationParameters:
        """The strengths among a run's arguments, which carry the same names."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class ViewParameters:
    """What was drawn for B rows, as (B,) float tensors on the CPU; lengths are relative to the frame.

    :param rotation: radians, clockwise as seen.
    :param zoom: magnification.
    :param shift_x: fraction of the width, to the right.
    :param shift_y: fraction of the height, downwards.
    :param flip_x: -1 where left and right are mirrored, else 1.
    :param flip_y: -1 where top and bottom are mirrored, else 1.
    :param brightness: offset, as a fraction of the full range.
    :param contrast: factor about mid-grey.
    :param gamma: exponent.
    :param identity: (B,) bool, the rows that `apply` leaves exactly as they are.
    """

    rotation: Tensor
    zoom: Tensor
    shift_x: Tensor
    shift_y: Tensor
    flip_x: Tensor
    flip_y: Tensor
    brightness: Tensor
    contrast: Tensor
    gamma: Tensor
    identity: Tensor

    def __len__(self) -> int:
        return len(self.identity)


def draw(
    parameters: AugmentationParameters,
    seed: int,
    samples: Sequence[int],
    views: Sequence[int | None] | int | None,
) -> ViewParameters:
    """Draw the views of some samples.

    :param parameters: the strengths. Each has its own draw, so changing one leaves the others' alone.
    :param seed: the run's seed.
    :param samples: B indices, each the sample's number in the whole data set.
    :param views: B view numbers, or one for all rows; -1 or None is the evaluation view, which changes nothing.
    :return: parameters of B views.
    :raises AugmentationError: if the lengths differ, or a seed, sample or view is negative (other than view -1).
    """
    if views is None or isinstance(views, int):
        views = [views] * len(samples)
    if len(views) != len(samples):
        raise AugmentationError(
            f"got {len(views)} views for {len(samples)} samples; give one view per sample, or one for all"
        )
    numbers = [EVALUATION_VIEW if view is None else int(view) for view in views]
    counted = Counted(seed)
    rows = [
        uniform_draws(counted, int(sample), view, DRAWS_PER_VIEW) for sample, view in zip(samples, numbers, strict=True)
    ]
    uniform = torch.from_numpy(np.stack(rows) if rows else np.zeros((0, DRAWS_PER_VIEW)))
    identity = torch.tensor([view == EVALUATION_VIEW for view in numbers], dtype=torch.bool)
    symmetric = torch.where(identity[:, None], 0.0, 2 * uniform - 1)  # in [-1, 1), 0 being "unchanged"
    mirrored = (uniform < 0.5) & ~identity[:, None]
    return ViewParameters(
        rotation=(math.radians(parameters.rotation_degrees) * symmetric[:, 0]).float(),
        zoom=((1 + parameters.scale) ** symmetric[:, 1]).float(),
        shift_x=(parameters.shift * symmetric[:, 2]).float(),
        shift_y=(parameters.shift * symmetric[:, 3]).float(),
        flip_x=1.0 - 2.0 * (mirrored[:, 4] & parameters.horizontal_flip).float(),
        flip_y=1.0 - 2.0 * (mirrored[:, 5] & parameters.vertical_flip).float(),
        brightness=(parameters.brightness * symmetric[:, 6]).float(),
        contrast=((1 + parameters.contrast) ** symmetric[:, 7]).float(),
        gamma=((1 + parameters.gamma) ** symmetric[:, 8]).float(),
        identity=identity,
    )


def apply(view: ViewParameters, batch: Tensor) -> Tensor:
    """Show a batch under its views.

    What the warp brings in from outside the frame repeats the border pixel. On the dark surround of an ultrasound or CT
    image that is dark, as zeros would be; where tissue reaches the edge (x-ray, dermatoscopy, histology), zeros would
    draw black wedges that no image at evaluation has, and mirroring would draw anatomy twice.

    :param view: B views.
    :param batch: (B, 3, h, w) uint8, on any device. Rotation is true to shape in this frame's pixels.
    :return: (B, 3, h, w) float32 in 0..255 on the same device.
    :raises AugmentationError: if there are not as many views as images.
    """
    if len(view) != len(batch):
        raise AugmentationError(f"got {len(view)} views for {len(batch)} images; draw one view per image")
    images = batch.float()
    if bool(view.identity.all()):
        return images
    shown = _tone(view, _warped(view, images, mode="bilinear", padding_mode="border"))
    if bool(view.identity.any()):
        rows = view.identity.to(batch.device, non_blocking=True)
        shown[rows] = images[rows]
    return shown


def apply_to_masks(view: ViewParameters, masks: Tensor) -> Tensor:
    """Give masks the geometry of their images' views; each pixel takes the class of the nearest one.

    Outside the frame, where `apply` repeats the image's border, nobody has labelled anything: there pixels are ignored.

    :param view: B views.
    :param masks: (B, h, w) class indices from 0 to 255, of any integer type, at the size of the images.
    :return: (B, h, w) of the same type on the same device, `IGNORED_LABEL` outside.
    :raises AugmentationError: if there are not as many views as masks.
    """
    if len(view) != len(masks):
        raise AugmentationError(f"got {len(view)} views for {len(masks)} masks; draw one view per mask")
    if bool(view.identity.all()):
        return masks
    # Zeros come in from outside, so that classes count from 1 meanwhile; float32 holds them exactly.
    warped = _warped(view, masks[:, None].float() + 1, mode="nearest", padding_mode="zeros")[:, 0].round() - 1
    shown = torch.where(warped < 0, IGNORED_LABEL, warped).to(masks.dtype)
    rows = view.identity.to(masks.device, non_blocking=True)
    return torch.where(rows[:, None, None], masks, shown)


class Counted:
    """Uniform draws of the counter-based Philox generator, a function of a key and a counter.

    One generator is kept: to make one costs several times a draw, since numpy asks the system for entropy.

    :param seed: first word of the key, at least 0.
    :param stream: second word.
    """

    def __init__(self, seed: int, stream: int = 0) -> None:
        self.seed = seed
        self._philox = np.random.Philox(key=[max(seed, 0), stream])
        self._generator, self._state = np.random.Generator(self._philox), self._philox.state

    def draw(self, counter: Sequence[int], draws: int) -> np.ndarray:
        """(draws,) uniform in [0, 1).

        The generator counts up in the lowest word, so others in the higher ones never meet one another's draws.

        :param counter: four words.
        """
        self._state["state"]["counter"] = np.array(counter, dtype=np.uint64)
        self._philox.state = self._state  # read at its start, when no draw was buffered
        return self._generator.random(draws)


def uniform_draws(counted: Counted, sample: int, view: int, draws: int) -> np.ndarray:
    """(draws,) uniform in [0, 1), at this sample and view.

    :return: zeros for the evaluation view.
    :raises AugmentationError: if a number is negative (other than view -1).
    """
    if view == EVALUATION_VIEW:
        return np.zeros(draws)
    if min(counted.seed, sample, view) < 0:
        raise AugmentationError(
            f"seed {counted.seed}, sample {sample}, view {view}: each must be at least 0 (except view -1, the "
            "evaluation view)"
        )
    return counted.draw((0, 0, view, sample), draws)


def _warped(view: ViewParameters, images: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Images (B, C, h, w) under the geometry of their views."""
    from kornia.geometry.transform import warp_affine

    height, width = images.shape[-2:]
    matrix = _matrix(view, height, width).to(images.device, non_blocking=True)
    return warp_affine(images, matrix, (height, width), mode=mode, padding_mode=padding_mode, align_corners=True)


def _matrix(view: ViewParameters, height: int, width: int) -> Tensor:
    """(B, 2, 3): where each pixel goes, in pixels: mirrored, magnified and rotated about the centre, then moved."""
    from kornia.geometry.transform import get_affine_matrix2d

    return get_affine_matrix2d(
        translations=torch.stack([view.shift_x * width, view.shift_y * height], dim=1),
        center=torch.tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(view), 2),
        scale=view.zoom[:, None] * torch.stack([view.flip_x, view.flip_y], dim=1),
        angle=torch.rad2deg(view.rotation),
    )[:, :2]


def _tone(view: ViewParameters, images: Tensor) -> Tensor:
    """Brightness, contrast and gamma, as one curve of the grey value per row; works in place on (B, 3, h, w)."""
    moved = bool((view.brightness != 0).any() or (view.contrast != 1).any())
    curved = bool((view.gamma != 1).any())
    if not (moved or curved):
        return images
    brightness, contrast, gamma = (
        values.to(images.device, non_blocking=True).view(-1, 1, 1, 1)
        for values in (view.brightness, view.contrast, view.gamma)
    )
    # contrast * (v - 1/2) + 1/2 + brightness, with v = image / 255
    torch.addcmul(0.5 - 0.5 * contrast + brightness, images, contrast / 255, out=images)
    images.clamp_(0, 1)
    if curved:
        images.pow_(gamma)
    return images.mul_(255)
