"""Transfer losses of students that give masks, as modules that hold the loss and the layers trained for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.grids import channels_last, resize
from ..tasks.task import at_least_float32
from ..training.passes import Passes
from .losses.features import on_common_grid
from .losses.maps import channel_wise, pixel_relations
from .transfers import Setting

PLACES_A_SIDE = 4  # of which CKA takes each as a row: 16 of an image, as many as RD's `cka_positions` has by default
RELATED_A_SIDE = 8  # positions whose relations CIRKD compares, to bound its matrices of all pairs of a batch


class OnLogitMaps(nn.Module):
    """A loss of the student's map of logits and that of the adapted teacher, whose head is frozen.

    The teacher's logits are interpolated to the student's grid.

    :param loss: of student logits (B, K, h, w) and teacher logits.
    :param head: reads the teacher's last map (B, C, H, W) as logits (B, K, H, W).
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], head: nn.Module):
        super().__init__()
        self.loss, self.head = loss, head.requires_grad_(False)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        with torch.no_grad():
            teacher = self.head(at_least_float32(passes.reprogrammed[-1].map))
        return self.loss(passes.student, resize(teacher, tuple(passes.student.shape[2:])))


def on_pixels(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of maps of logits (B, K, h, w) from one of logits (N, K), to which each pixel is a sample."""
    return lambda *maps: loss(*(channels_last(logits).flatten(0, -2) for logits in maps))


class OnPlaces(nn.Module):
    """A loss of both models' last maps, to which each place of an image is a row.

    Both are averaged to one grid, of at most PLACES_A_SIDE rows and columns.

    :param loss: of student features (N, C) and teacher features (N, D).
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.loss = on_pixels(loss)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        sides = on_common_grid(passes.features[-1].map, passes.reprogrammed[-1].map)
        return self.loss(*(_at_most(side, PLACES_A_SIDE) for side in sides))


class ChannelWise(nn.Module):
    """CWD on the last maps; where their widths differ, a 1x1 convolution regresses the student's to the teacher's."""

    def __init__(self, setting: Setting):
        super().__init__()
        student, teacher = setting.student_stages[-1].channels, setting.teacher_stages[-1].channels
        self.regressor = nn.Identity() if student == teacher else nn.Conv2d(student, teacher, kernel_size=1)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        return channel_wise(self.regressor(at_least_float32(passes.features[-1].map)), passes.reprogrammed[-1].map)


class PixelRelations(nn.Module):
    """CIRKD's mini-batch pixel-to-pixel distillation on the last maps, of at most RELATED_A_SIDE rows and columns.

    The authors' code can average its maps by two per side for the same reason.
    """

    def __init__(self, setting: Setting):
        super().__init__()

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        sides = (passes.features[-1].map, passes.reprogrammed[-1].map)
        return pixel_relations(*(_at_most(side, RELATED_A_SIDE) for side in sides))


def _at_most(features: Tensor, side: int) -> Tensor:
    """A map averaged to no more than so many rows and columns."""
    return F.adaptive_avg_pool2d(features, [min(length, side) for length in features.shape[2:]])
