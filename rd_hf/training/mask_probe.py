"""A linear probe for masks: multinomial logistic regression at each place of the frozen teacher's last map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..data.order import Visit
from ..data.pixel_store import Visits, collate
from ..inference.rows import predict_rows
from ..inference.shared_slices import shared_slices
from ..models.features import StageFeature
from ..models.grids import CONVOLUTION, Grid, pool, resize
from ..models.volume_grid import to_source
from ..scoring.volume_target import VolumeTarget
from ..tasks.classification import balanced_class_weights
from ..tasks.mask_losses import pixel_cross_entropy
from ..tasks.task import Task
from .inputs import Inputs
from .linear_probe import INVERSE_PENALTIES, LIKELIHOOD
from .run_data import RunData
from .run_models import Models
from .scored_features import features_of_split

MOST_PLACES = 20_000  # that a probe is fitted on
ROUNDS = 200  # of L-BFGS per penalty


class Places(NamedTuple):
    """Places of the teacher's maps, with what the masks say of them.

    :ivar features: (M, C).
    :ivar shares: (M, K) of the place's pixels, each class's; those without a label are of no class.
    :ivar sides: of the maps, 2 or 3.
    """

    features: Tensor
    shares: Tensor
    sides: int = 2


@dataclass(frozen=True)
class ProbedSplit:
    """A split, of which a head reads the frozen teacher's last maps: of whole images, or of windows of volumes.

    Features of images are those of the cache, which all runs on the split share. Those of windows are computed.
    """

    arguments: DistillationArguments
    models: Models
    split: OpenSplit
    accelerator: Accelerator

    def rows(self, head: Callable[[Tensor], Tensor], row: Callable[[Tensor, Sequence], Tensor]) -> np.ndarray:
        """What `row` keeps of the head's logits and the split's targets, (N, S)."""
        backbone, accelerator = self.models.backbone, self.accelerator
        if self.split.in_windows:
            with shared_slices(backbone):
                return predict_rows(
                    lambda windows: head(_last_map(backbone.extract(windows))),
                    row, backbone.tower, self.split, 1, accelerator, processor=self.models.teacher_processor,
                )  # fmt: skip
        features = features_of_split(self.arguments, self.models, self.split, accelerator)
        size = self.arguments.per_device_eval_batch_size
        return predict_rows(
            lambda found: head(_last_map(found)), row, backbone.tower, self.split, size, accelerator, features
        )


def mask_probe(
    arguments: DistillationArguments,
    run_data: RunData,
    inputs: Inputs,
    validation: ProbedSplit,
    metric: str,
) -> tuple[nn.Module, float]:
    """Logistic regression on places of the frozen teacher's last map, of the labelled rows in all their views.

    At most MOST_PLACES places are drawn by the run's seed, as many of each view of an image. A place's target is the
    share of each class among its pixels; features are standardised.

    :param validation: chooses the penalty.
    :param metric: what it is chosen by: that which chooses models, or "likelihood" of the pixels for a head whose
        probabilities are learnt from. Dice does not see their scale.
    :return: a head that reads maps (B, C, *grid) as logits (B, K, *grid), and the penalty's inverse (scikit-learn's C).
    """
    places = _labelled_places(arguments, run_data, inputs)
    weights = None
    if arguments.class_weights == "balanced":
        weights = balanced_class_weights(run_data.labels[run_data.labelled_rows].sum(dim=0))
    heads = [head.to(inputs.device) for head in fit_heads(places, INVERSE_PENALTIES, weights)]
    rows = validation.rows(
        lambda features: torch.cat([head(features) for head in heads], dim=1),
        lambda logits, targets: _rows_of_heads(run_data.task, metric, logits.chunk(len(heads), dim=1), targets),
    )
    scores = [_score(run_data.task, metric, own) for own in np.split(rows, len(heads), axis=1)]
    best = int(np.argmax(scores))
    return heads[best], INVERSE_PENALTIES[best]


def fit_heads(places: Places, inverse_penalties: Sequence[float], class_weights: Tensor | None) -> list[nn.Module]:
    """Logistic regressions by L-BFGS, each from the one before: minus the log-likelihood times C, plus |W|^2 / 2.

    The likelihood is that of soft labels: its logarithm is weighted by the shares.

    :param inverse_penalties: C, from strong penalties to weak ones.
    :param class_weights: (K,) factors of the classes' terms.
    """
    features = places.features.double()
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0) + 1e-6
    features = (features - mean) / scale
    shares = places.shares.double() * (1.0 if class_weights is None else class_weights.double())
    classes = shares.shape[1]
    weight = torch.zeros(features.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    heads = []
    for inverse in inverse_penalties:
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=ROUNDS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
        )

        def loss(inverse: float = inverse, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            likelihood = (shares * (features @ weight + bias).log_softmax(dim=1)).sum()
            value = (weight.square().sum() / (2 * inverse) - likelihood) / len(features)
            value.backward()
            return value

        optimizer.step(loss)
        heads.append(_as_convolution(weight.detach(), bias.detach(), mean, scale, places.sides))
    return heads


def _as_convolution(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, sides: int) -> nn.Module:
    """Standardisation and regression as one layer, in float32."""
    weight = weight / scale[:, None]
    layer = CONVOLUTION[sides](*weight.shape, kernel_size=1)
    with torch.no_grad():
        layer.weight.copy_(weight.T.view_as(layer.weight))
        layer.bias.copy_(bias - mean @ weight)
    return layer


def _labelled_places(arguments: DistillationArguments, run_data: RunData, inputs: Inputs) -> Places:
    rows = Visits(inputs.store, run_data.labels, inputs.needs_teacher_pixels)
    visits = [
        Visit(int(row), view, True) for view in range(run_data.views(arguments) or 1) for row in run_data.labelled_rows
    ]
    generator, found = np.random.default_rng(arguments.seed), []
    if len(visits) > MOST_PLACES:
        visits = [visits[number] for number in np.sort(generator.permutation(len(visits))[:MOST_PLACES])]
    size = arguments.per_device_eval_batch_size if run_data.volumes is None else 1
    for start in range(0, len(visits), size):
        batch = collate([rows[visit] for visit in visits[start : start + size]])
        maps, masks = _last_map(inputs.teacher_features(batch)), inputs.labels(batch)
        grid = tuple(maps.shape[2:])
        for features, shares in zip(maps, class_shares(masks, len(run_data.task.names), grid), strict=True):
            labelled = shares.sum(dim=0).flatten().nonzero()[:, 0].cpu()
            drawn = labelled[generator.permutation(len(labelled))[: MOST_PLACES // len(visits)]]
            found.append([part.flatten(1).T.cpu()[drawn] for part in (features, shares)])
    return Places(*(torch.cat(part) for part in zip(*found, strict=True)), sides=len(grid))


def class_shares(masks: Tensor, classes: int, grid: Grid) -> Tensor:
    """The share of each class among the pixels of each cell of a grid, (n, K, *grid); ignored ones are of no class.

    :param masks: (n, h, w) int64, of volumes (n, x, y, z).
    """
    of_class = torch.stack([masks == number for number in range(classes)], dim=1)
    return pool(of_class.float(), grid)


def _last_map(features: list[StageFeature]) -> Tensor:
    """In the precision of heads."""
    return features[-1].map.float()


def _rows_of_heads(
    task: Task, metric: str, logits: Sequence[Tensor], targets: Sequence[Tensor] | Sequence[VolumeTarget]
) -> Tensor:
    """What `_score` needs of each image and head, (B, heads * S)."""
    row = _cross_entropies if metric == LIKELIHOOD else task.row
    return torch.cat([row(own, targets) for own in logits], dim=1)


def _cross_entropies(logits: Tensor, targets: Sequence[Tensor] | Sequence[VolumeTarget]) -> Tensor:
    """(B, 1): mean over each image's labelled pixels at the size of its mask, or each volume's on the source's grid."""
    values = []
    for own, target in zip(logits, targets, strict=True):
        if isinstance(target, VolumeTarget):
            mask, own = target.mask, to_source(own, target.mask.shape, target.affine)[None]
        else:
            mask, own = target, resize(own[None], tuple(target.shape))
        values.append(pixel_cross_entropy(own, mask.to(own.device).long()[None]))
    return torch.stack(values)[:, None]


def _score(task: Task, metric: str, rows: np.ndarray) -> float:
    return -rows.mean() if metric == LIKELIHOOD else task.validation_score(rows, metric)
