"""A linear probe of the frozen teacher: logistic regression on the pooled features of the labelled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..data.order import Visit
from ..data.pixel_store import Visits, collate
from ..inference.rows import only_output, predict_rows
from ..models.features import Stage
from ..models.grids import CONVOLUTION
from ..runtime.processes import share_of
from ..tasks.classification import Classification
from .inputs import Inputs
from .objective import comparable
from .run_data import RunData
from .run_models import Models
from .scored_features import features_of_split

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn, for standardised features
LIKELIHOOD = "likelihood"
MOST_FEATURES = 50_000  # that a probe is fitted to
ROWS_AT_ONCE = 64


def linear_head(stage: Stage, classes: int, has_masks: bool, **kind: Any) -> nn.Module:
    """A new linear head on a stage: on its pooled feature, see `comparable`, or for masks on each place of its map.

    :param kind: `device` and `dtype` of its weights.
    """
    if has_masks:
        return CONVOLUTION[len(stage.grid)](stage.channels, classes, kernel_size=1, **kind)
    return nn.Linear(stage.pooled_width, classes, **kind)


def linear_probe(
    arguments: DistillationArguments,
    run_data: RunData,
    labelled: tuple[np.ndarray, np.ndarray],
    of_validation: np.ndarray,
    metric: str,
) -> tuple[nn.Linear, float]:
    """Logistic regression on the frozen teacher's pooled features of the labelled rows, in all their views.

    :param labelled: those features with their labels, see `labelled_features`.
    :param of_validation: pooled features (N, C) of the validation rows, see `scored_features`.
    :param metric: see `fit_probe`.
    :return: see `fit_probe`.
    """
    validation = run_data.validation
    of_labels = validation.labels[validation.rows]
    balanced = arguments.class_weights == "balanced"
    return fit_probe(run_data.task, *labelled, of_validation, of_labels, metric, balanced)


def fit_probe(
    task: Classification,
    features: np.ndarray,
    labels: np.ndarray,
    of_validation: np.ndarray,
    labels_of_validation: np.ndarray,
    metric: str,
    balanced: bool,
) -> tuple[nn.Linear, float]:
    """Logistic regression on standardised features; of several labels an image, one for each.

    :param features: pooled features (n, C) of labelled images.
    :param labels: of these, as the task has them.
    :param of_validation: those (N, C) of the validation rows, which choose the penalty.
    :param labels_of_validation: of these.
    :param metric: what the penalty is chosen by: that which chooses models, or "likelihood" for a head whose
        probabilities are learnt from. AUROC does not see their scale, and so may choose a penalty under which all are
        nearly equal.
    :param balanced: whether classes weigh by their inverse frequency.
    :return: a head that reads pooled features, and the penalty's inverse (C of scikit-learn).
    """
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    standard, truth = (features - mean) / scale, torch.from_numpy(labels_of_validation)
    scored = task.for_training(truth, False, 0.0)
    best, best_score = None, -np.inf
    for penalty in INVERSE_PENALTIES:
        head = _as_linear(*_regression(task, standard, labels, penalty, balanced), mean, scale)
        with torch.no_grad():
            logits = head(torch.from_numpy(of_validation))
            if metric == LIKELIHOOD:
                score = -float(scored.loss(logits.double(), truth))
            else:
                score = task.validation_score(task.row(logits, truth).numpy(), metric)
        if score > best_score:
            best, best_score = (head, penalty), score
    return best


def labelled_features(
    arguments: DistillationArguments, run_data: RunData, inputs: Inputs, accelerator: Accelerator
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features (n, C) of labelled rows, and their labels, in as many views as MOST_FEATURES allows.

    Of more rows than that as many are drawn, by the run's seed. The processes of a run share the work, and all get the
    whole.
    """
    chosen = run_data.labelled_rows
    if len(chosen) > MOST_FEATURES:
        drawn = np.random.default_rng(arguments.seed).permutation(chosen)
        marks = run_data.task.marks(run_data.labels[drawn].numpy())
        first = np.unique(marks.argmax(axis=0))  # a row of each class
        chosen = np.sort(np.concatenate([drawn[first], np.delete(drawn, first)])[:MOST_FEATURES])
    views = range(max(1, min(run_data.views(arguments) or 1, MOST_FEATURES // len(chosen))))
    pooled = []
    rows = Visits(inputs.store, run_data.labels, inputs.needs_teacher_pixels)
    visits = [Visit(int(row), view, True) for view in views for row in chosen]
    own = share_of(visits, accelerator)
    for start in range(0, len(own), ROWS_AT_ONCE):
        batch = collate([rows[visit] for visit in own[start : start + ROWS_AT_ONCE]])
        pooled.append(comparable(inputs.teacher_features(batch)[-1], "pooled"))
    features = accelerator.gather(torch.cat(pooled))[: len(visits)]
    return features.cpu().numpy(), run_data.labels[[visit.row for visit in visits]].numpy()


def scored_features(
    arguments: DistillationArguments, models: Models, split: OpenSplit, accelerator: Accelerator
) -> np.ndarray:
    """Pooled features (N, C) of a split's rows, un-augmented."""
    return predict_rows(
        lambda own: comparable(own[-1], "pooled"), only_output, models.backbone.tower, split,
        arguments.per_device_eval_batch_size, accelerator, features_of_split(arguments, models, split, accelerator),
    )  # fmt: skip


def _regression(
    task: Classification, features: np.ndarray, labels: np.ndarray, penalty: float, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, C) and biases (K,), whose softmax, or sigmoids, are the fitted probabilities."""
    settings = {"C": penalty, "max_iter": 1000, "class_weight": "balanced" if balanced else None}
    if task.exclusive:
        fitted = LogisticRegression(**settings).fit(features, labels)
        weight, bias = fitted.coef_, fitted.intercept_
        if len(weight) == 1:  # two classes: scikit-learn keeps the logit of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return weight, bias
    parts = [_of_one_label(features, own, settings) for own in labels.T]
    return np.stack([weight for weight, _ in parts]), np.array([bias for _, bias in parts])


def _of_one_label(features: np.ndarray, labels: np.ndarray, settings: dict) -> tuple[np.ndarray, float]:
    """Weights (C,) and bias of one of several labels; where all known labels are alike, their smoothed log-odds."""
    known = ~np.isnan(labels)
    features, labels = features[known], labels[known] > 0.5
    if labels.all() or not labels.any():
        return np.zeros(features.shape[1]), float(np.log((labels.sum() + 0.5) / ((~labels).sum() + 0.5)))
    fitted = LogisticRegression(**settings).fit(features, labels)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _as_linear(weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> nn.Linear:
    """Standardisation and regression as one layer."""
    weight = weight / scale
    layer = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias - weight @ mean))
    return layer
