"""A linear probe for masks: multinomial logistic regression at each place of the frozen teacher's last map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..data.order import Visit
from ..data.pixel_store import Visits, collate
from ..inference.rows import predict_rows
from ..models.features import StageFeature
from ..tasks.classification import balanced_class_weights
from ..tasks.mask_losses import pixel_cross_entropy
from ..tasks.segmentation import resized
from ..tasks.task import Task, at_least_float32
from ..training.inputs import Inputs
from ..training.run_data import RunData
from ..training.run_models import Models
from ..training.scored_features import ScoredFeatures
from ..training.teacher_features import open_cache_of_split
from .adaptation import INVERSE_PENALTIES, LIKELIHOOD

MOST_PLACES = 20_000  # that a probe is fitted on
ROUNDS = 200  # of L-BFGS per penalty


class Places(NamedTuple):
    """Places of the teacher's maps, with what the masks say of them.

    :ivar features: (M, C).
    :ivar shares: (M, K) of the place's pixels, each class's; those without a label are of no class.
    """

    features: Tensor
    shares: Tensor


def mask_probe(
    arguments: DistillationArguments,
    run_data: RunData,
    inputs: Inputs,
    of_validation: ScoredFeatures,
    accelerator: Accelerator,
    metric: str,
) -> tuple[nn.Conv2d, float]:
    """Logistic regression on places of the frozen teacher's last map, of the labelled rows in all their views.

    At most MOST_PLACES places are drawn by the run's seed, as many of each view of an image. A place's target is the
    share of each class among its pixels; features are standardised.

    :param of_validation: the teacher's features of validation, which chooses the penalty.
    :param metric: what it is chosen by: that which chooses models, or "likelihood" of the pixels for a head whose
        probabilities are learnt from. Dice does not see their scale.
    :return: a head that reads maps (B, C, H, W) as logits (B, K, H, W), and the penalty's inverse (C of scikit-learn).
    """
    places = _labelled_places(arguments, run_data, inputs)
    weights = None
    if arguments.class_weights == "balanced":
        weights = balanced_class_weights(run_data.labels[run_data.labelled_rows].sum(dim=0))
    heads = [head.to(accelerator.device) for head in fit_heads(places, INVERSE_PENALTIES, weights)]
    rows = predict_rows(
        lambda features: torch.cat([head(_last_map(features)) for head in heads], dim=1),
        lambda logits, targets: _rows_of_heads(run_data.task, metric, logits.chunk(len(heads), dim=1), targets),
        of_validation.backbone.tower,
        of_validation.split,
        arguments.per_device_eval_batch_size,
        accelerator,
        of_validation,
    )
    scores = [_score(run_data.task, metric, own) for own in np.split(rows, len(heads), axis=1)]
    best = int(np.argmax(scores))
    return heads[best], INVERSE_PENALTIES[best]


def scored_features(
    arguments: DistillationArguments, models: Models, split: OpenSplit, accelerator: Accelerator
) -> ScoredFeatures:
    """The teacher's features of a split, un-augmented, which all runs on it share through the cache."""
    cache = open_cache_of_split(arguments, split, models, accelerator)
    return ScoredFeatures(split, models, cache, accelerator.device)


def probe_rows(
    head: nn.Conv2d,
    row: Callable[[Tensor, Sequence[Tensor]], Tensor],
    features: ScoredFeatures,
    batch_size: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """What `row` keeps of the probe's logits on a split, (N, S)."""
    tower, split = features.backbone.tower, features.split
    return predict_rows(lambda found: head(_last_map(found)), row, tower, split, batch_size, accelerator, features)


def fit_heads(places: Places, inverse_penalties: Sequence[float], class_weights: Tensor | None) -> list[nn.Conv2d]:
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
        heads.append(_as_convolution(weight.detach(), bias.detach(), mean, scale))
    return heads


def _as_convolution(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> nn.Conv2d:
    """Standardisation and regression as one layer, in float32."""
    weight = weight / scale[:, None]
    layer = nn.Conv2d(*weight.shape, kernel_size=1)
    with torch.no_grad():
        layer.weight.copy_(weight.T[:, :, None, None])
        layer.bias.copy_(bias - mean @ weight)
    return layer


def _labelled_places(arguments: DistillationArguments, run_data: RunData, inputs: Inputs) -> Places:
    rows = Visits(inputs.store, run_data.labels, inputs.needs_teacher_pixels)
    visits = [Visit(int(row), view, True) for view in range(arguments.views or 1) for row in run_data.labelled_rows]
    visits = visits[:MOST_PLACES]
    generator, size = np.random.default_rng(arguments.seed), arguments.per_device_eval_batch_size
    found = []
    for start in range(0, len(visits), size):
        batch = collate([rows[visit] for visit in visits[start : start + size]])
        maps, masks = _last_map(inputs.teacher_features(batch)), inputs.labels(batch)
        for features, shares in zip(maps, class_shares(masks, len(run_data.task.names), maps.shape[2:]), strict=True):
            labelled = shares.sum(dim=0).flatten().nonzero()[:, 0].cpu()
            drawn = labelled[generator.permutation(len(labelled))[: MOST_PLACES // len(visits)]]
            found.append(Places(*(side.flatten(1).T.cpu()[drawn] for side in (features, shares))))
    return Places(*(torch.cat(side) for side in zip(*found, strict=True)))


def class_shares(masks: Tensor, classes: int, grid: Sequence[int]) -> Tensor:
    """The share of each class among the pixels of each cell of a grid, (n, K, *grid); ignored ones are of no class.

    :param masks: (n, h, w) int64.
    """
    of_class = torch.stack([masks == number for number in range(classes)], dim=1)
    return F.adaptive_avg_pool2d(of_class.float(), tuple(grid))


def _last_map(features: list[StageFeature]) -> Tensor:
    return at_least_float32(features[-1].map)


def _rows_of_heads(task: Task, metric: str, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """What `_score` needs of each image and head, (B, heads * S)."""
    row = _cross_entropies if metric == LIKELIHOOD else task.row
    return torch.cat([row(own, targets) for own in logits], dim=1)


def _cross_entropies(logits: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """(B, 1): mean over each image's labelled pixels, at the size of its mask."""
    values = []
    for own, mask in zip(logits, targets, strict=True):
        truth = mask.to(own.device).long()[None]
        values.append(pixel_cross_entropy(resized(own[None], truth.shape[1:]), truth))
    return torch.stack(values)[:, None]


def _score(task: Task, metric: str, rows: np.ndarray) -> float:
    return -rows.mean() if metric == LIKELIHOOD else task.validation_score(rows, metric)
