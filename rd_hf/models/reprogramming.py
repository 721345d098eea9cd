"""The projectors: small trained modules that map a frozen teacher's features into the student's feature space.

They are R of RD (arXiv 2407.06504) and phi_i of DRD (arXiv 2605.04447), one per stage pair.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .features import Stage, StageError, StageFeature
from .grids import CONVOLUTION, Grid, channels_last, mean, pool, resize, written


def common_grid(teacher_grid: Grid, student_grid: Grid) -> Grid:
    """The grid at which a projector works: the smaller of the two, per side.

    :param teacher_grid: Of the teacher's stage.
    :param student_grid: Of the student's stage.
    :raises StageError: If one is of an image and the other of a volume.
    """
    if len(teacher_grid) != len(student_grid):
        raise StageError(
            f"the teacher's stage has the grid {written(teacher_grid)} and the student's {written(student_grid)}: "
            "features of images cannot be projected to a model of volumes. Arrange the features of the slices into "
            "the grid of a volume first."
        )
    return tuple(map(min, teacher_grid, student_grid))


def resample(feature: StageFeature, grid: Grid) -> StageFeature:
    """Average a teacher's map down to a grid; the prefix tokens stay as they are. The result is what a cache stores.

    :param feature: Map (B, C, *any grid).
    :param grid: No side longer than the map's.
    :return: Map (B, C, *grid) and the same prefix tokens.
    """
    resampled = pool(feature.map, grid)
    return feature if resampled is feature.map else StageFeature(resampled, feature.prefix)


class Projector(nn.Module):
    """Three-layer convolutional projector from a teacher's stage to a student's (phi_i of DRD, arXiv 2605.04447).

    A bottleneck (1x1, 3x3, 1x1; in a volume cubes) at the common grid, then linear interpolation to the student's grid.
    A student with prefix tokens (the class and register tokens of a ViT) gets those too, from the teacher's class token
    or else from its pooled map: heads that read only the class token would give the projector no gradient otherwise.

    :param teacher: The teacher's stage, at its own grid.
    :param student: The student's stage.
    :param hidden_channels: Width of the bottleneck; never more than twice the student's channels.
    :param layers: Convolutions: 3 is the paper's; 1 is a single 1x1 one, any further one a 3x3.
    """

    def __init__(self, teacher: Stage, student: Stage, hidden_channels: int = 256, layers: int = 3) -> None:
        """Build and initialise the layers."""
        super().__init__()
        self.teacher_stage, self.student_stage = teacher, student
        # On the large grids of a small student's first stages a full bottleneck costs several times the student itself.
        hidden_channels = min(hidden_channels, 2 * student.channels)
        self.input_grid = common_grid(teacher.grid, student.grid)
        # One group: every sample is normalised by itself. Batch statistics would make the result depend on how a batch
        # is split over processes and accumulation steps, and would enter CKA, itself a statistic of the batch.
        convolution = CONVOLUTION[len(student.grid)]
        widths = [teacher.channels, *[hidden_channels] * (layers - 1)]
        convolutions: list[nn.Module] = []
        for index, (width, following) in enumerate(pairwise(widths)):
            kernel = 1 if index == 0 or teacher.pooled else 3
            convolutions += [convolution(width, following, kernel, padding=kernel // 2)]
            convolutions += [nn.GroupNorm(1, following), nn.GELU()]
        self.bottleneck = nn.Sequential(*convolutions, convolution(widths[-1], student.channels, kernel_size=1))
        self.prefix = None
        if student.prefix_tokens:
            hidden = [nn.Linear(teacher.channels, hidden_channels), nn.LayerNorm(hidden_channels), nn.GELU()]
            last = nn.Linear(widths[-1], student.prefix_tokens * student.channels)
            self.prefix = nn.Sequential(*(hidden if layers > 1 else []), last)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise so that the output is near unit variance; `calibrate` then moves it to the features at hand."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, feature: StageFeature) -> StageFeature:
        """Reprogram a teacher's feature.

        :param feature: The teacher's map (B, C_teacher, *common grid), already resampled, and its prefix tokens.
        :return: Map (B, C_student, *student grid) and prefix tokens (B, P_student, C_student), None where the student
            has none.
        :raises ValueError: If the feature is not of the teacher's stage at the common grid.
        """
        self._check(feature)
        teacher_map = feature.map.to(self.bottleneck[0].weight.dtype)
        student_map = resize(self.bottleneck(teacher_map), self.student_stage.grid)
        if self.prefix is None:
            return StageFeature(student_map, None)
        tokens = self.prefix(self._context(feature))
        tokens = tokens.view(len(tokens), self.student_stage.prefix_tokens, self.student_stage.channels)
        return StageFeature(student_map, tokens)

    @torch.no_grad()
    def calibrate(self, teacher_feature: StageFeature, student_feature: StageFeature) -> None:
        """Data-dependent initialisation from one batch, to be called once before training (on one process).

        The first layers are scaled so that every teacher channel enters with comparable variance: vision transformers
        have channels far above the rest, which would drown the others and slow the start several times. The last
        layers are scaled so that the output has the student's mean per channel and its overall variance.

        :param teacher_feature: A batch of the teacher's features at the common grid.
        :param student_feature: The student's own features at this stage for the same samples.
        """
        self._check(teacher_feature)
        dtype = self.bottleneck[0].weight.dtype
        _standardise_input(self.bottleneck[0], channels_last(teacher_feature.map.to(dtype)).flatten(0, -2))
        if self.prefix is not None:
            _standardise_input(self.prefix[0], self._context(teacher_feature))
        output = self(teacher_feature)
        _match_output(self.bottleneck[-1], channels_last(output.map), channels_last(student_feature.map.to(dtype)))
        if self.prefix is not None:
            _match_output(self.prefix[-1], output.prefix.flatten(1), student_feature.prefix.to(dtype).flatten(1))

    def _context(self, feature: StageFeature) -> Tensor:
        """What the prefix tokens are made from (B, C_teacher): the class token, else the pooled map."""
        context = feature.prefix[:, 0] if self.teacher_stage.prefix_tokens else mean(feature.map)
        return context.to(self.prefix[0].weight.dtype)

    def _check(self, feature: StageFeature) -> None:
        """Refuse a feature that is not of the teacher's stage at the common grid."""
        name, shape = self.teacher_stage.name, tuple(feature.map.shape[1:])
        expected = (self.teacher_stage.channels, *self.input_grid)
        if shape != expected:
            raise ValueError(
                f"the feature of teacher stage {name!r} has shape {shape}, but its projector reads {expected} "
                f"(channels, *grid); resample the feature to {self.input_grid} first"
            )
        if self.prefix is not None and self.teacher_stage.prefix_tokens and feature.prefix is None:
            raise ValueError(
                f"the feature of teacher stage {name!r} has no prefix tokens, but the student's are made from the "
                "teacher's class token; extract or cache the prefix tokens too"
            )


def _standardise_input(layer: nn.Module, samples: Tensor) -> None:
    """Rescale a layer in place as if its input were standardised per channel.

    :param layer: A pointwise layer over C inputs.
    :param samples: Its inputs (M, C).
    """
    mean, deviation = samples.mean(dim=0), samples.std(dim=0, correction=0)
    # A channel that hardly varied in this batch is not amplified: its deviation is no estimate.
    floor = 0.1 * _root_mean_square(deviation)
    if floor > 0:
        weight = layer.weight.view(len(layer.weight), -1)
        weight /= deviation.clamp(min=floor)
        layer.bias -= weight @ mean


def _match_output(layer: nn.Module, output: Tensor, target: Tensor) -> None:
    """Rescale a last layer in place so that its output has the target's mean per channel and its overall variance.

    One factor for all channels, because a student's channel that is silent in this batch should not stay so; and never
    to a variance that is lost beside the mean, as that of a class token at the start of training.

    :param layer: The layer that gives C outputs.
    :param output: What comes of it (..., C).
    :param target: What should (..., C).
    """
    output, target = output.flatten(0, -2), target.flatten(0, -2)
    output_mean, target_mean = output.mean(dim=0), target.mean(dim=0)
    spread = _root_mean_square(output - output_mean)
    target_spread = torch.maximum(_root_mean_square(target - target_mean), 0.1 * _root_mean_square(target))
    if spread > 0 and target_spread > 0:
        factor = target_spread / spread
        layer.weight *= factor
        layer.bias.copy_(target_mean + factor * (layer.bias - output_mean))


def _root_mean_square(values: Tensor) -> Tensor:
    """Root mean square of all entries."""
    return values.square().mean().sqrt()
