"""Transfer losses of students that give masks, as modules that hold the loss and the layers trained for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..models.grids import CONVOLUTION, at_least_float32, channels_last, pool, resize
from ..training.passes import Passes
from .losses.features import on_common_grid
from .losses.maps import channel_wise, pixel_relations
from .transfers import Setting

# By the sides of a map, two or three.
PLACES_A_SIDE = {2: 4, 3: 3}  # of which CKA takes each as a row; RD's `cka_positions` has 16 of an image by default
RELATED_A_SIDE = {2: 8, 3: 4}  # positions whose relations CIRKD compares, to bound its matrices of all pairs of a batch


class OnLogitMaps(nn.Module):
    """A loss of the student's map of logits and that of the adapted teacher, whose head is frozen.

    The teacher's logits are interpolated to the student's grid.

    :param loss: of student logits (B, K, *grid) and teacher logits.
    :param head: reads the teacher's last map (B, C, *its grid) as logits (B, K, *its grid).
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
    """A loss of maps of logits (B, K, *grid) from one of logits (N, K), to which each pixel or voxel is a sample."""
    return lambda *maps: loss(*(channels_last(logits).flatten(0, -2) for logits in maps))


class OnPlaces(nn.Module):
    """A loss of both models' last maps, to which each place of an image or volume is a row.

    Both are averaged to one grid, no side of it longer than PLACES_A_SIDE.

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
        convolution = CONVOLUTION[len(setting.student_stages[-1].grid)]
        self.regressor = nn.Identity() if student == teacher else convolution(student, teacher, kernel_size=1)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        return channel_wise(self.regressor(at_least_float32(passes.features[-1].map)), passes.reprogrammed[-1].map)


class PixelRelations(nn.Module):
    """CIRKD's mini-batch pixel-to-pixel distillation on the last maps, no side of them longer than RELATED_A_SIDE.

    The authors' code can average its maps by two per side for the same reason.
    """

    def __init__(self, setting: Setting):
        super().__init__()

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        sides = (passes.features[-1].map, passes.reprogrammed[-1].map)
        return pixel_relations(*(_at_most(side, RELATED_A_SIDE) for side in sides))


def _at_most(features: Tensor, sides: Mapping[int, int]) -> Tensor:
    """A map averaged until no side is longer than that of a map with so many sides."""
    grid = features.shape[2:]
    return pool(features, tuple(min(length, sides[len(grid)]) for length in grid))
