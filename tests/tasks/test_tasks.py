"""Tasks: what rows hold, what is made of them, and which metrics choose a model."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.scoring.classification import METRICS
from rd_hf.scoring.metric import MetricError
from rd_hf.scoring.metrics import compute_metrics
from rd_hf.tasks.classification import MultiLabel, SingleLabel
from rd_hf.tasks.segmentation import Segmentation

NAMES = ["a", "b", "c"]
LOGITS = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * 3
NUMBERS = torch.arange(30) % 3
VECTORS = (LOGITS.roll(1, 0) > 0).float()
CASES = pytest.mark.parametrize(
    ("task", "labels", "link"),
    [(SingleLabel(NAMES), NUMBERS, lambda z: z.softmax(dim=1)), (MultiLabel(NAMES), VECTORS, torch.sigmoid)],
    ids=["single", "multi"],
)


@CASES
def test_scores_of_rows_are_those_of_probabilities_and_labels(task, labels, link):
    parts = [task.row(LOGITS[rows], labels[rows]) for rows in (slice(0, 7), slice(7, 30))]
    rows = torch.cat(parts).numpy()
    predicted = link(LOGITS.double()).numpy()
    assert np.array_equal(task.predicted(rows), predicted) and np.array_equal(task.labels(rows), labels.numpy())
    exclusive = isinstance(task, SingleLabel)
    assert task.scores(rows, 20) == compute_metrics(predicted, labels.numpy(), NAMES, exclusive, 20)
    assert task.point_scores(rows)["auroc"] == task.validation_score(rows, "auroc") == task.scores(rows, 0)["auroc"]


@CASES
def test_a_row_is_not_finite_where_the_logits_are_not(task, labels, link):
    for value in ("nan", "inf", "-inf"):
        logits = LOGITS.clone()
        logits[4, 1] = float(value)
        assert torch.nonzero(~task.row(logits, labels).isfinite().all(dim=1)).flatten().tolist() == [4]


@CASES
def test_a_metric_that_the_labels_leave_undefined_is_refused_before_training(task, labels, link):
    same = np.zeros_like(labels.numpy())
    task.check_metric({"train": same, "validation": labels.numpy(), "test": same}, "auroc")
    splits = {"train": labels.numpy(), "validation": same, "test": same}
    with pytest.raises(MetricError, match="is auroc, .*`metric_for_best_model` accuracy, .*add images"):
        task.check_metric(splits, "auroc")
    task.check_metric(splits, "accuracy")


def test_the_classes_that_leave_a_metric_undefined_are_named_with_their_images():
    splits = {"train": np.array([0, 1, 1, 2]), "validation": np.array([0, 1]), "test": np.array([0, 0])}
    with pytest.raises(MetricError, match=r"none of 'cyst' \(1 in train, 0 in validation, 0 in test\). Choose another"):
        SingleLabel(["benign", "malignant", "cyst"]).check_metric(splits, "f1")
    many = SingleLabel([str(k) for k in range(20)])
    with pytest.raises(MetricError, match=r"'6' \(.*\); and 13 more. Choose"):
        many.check_metric(splits, "auroc")
    findings = {"train": np.eye(2), "validation": np.array([[1.0, 0.0]]), "test": np.eye(2)}
    with pytest.raises(MetricError, match="none of the labels 'effusion', 'nodule' has both positive and negative"):
        MultiLabel(["effusion", "nodule"]).check_metric(findings, "auroc")


def test_labels_in_words_marks_and_answers():
    single, multi = SingleLabel(NAMES), MultiLabel(NAMES)
    assert single.marks(np.array([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert multi.marks(np.array([[1.0, 0.0, 1.0]])).tolist() == [[1, 0, 1]]
    assert single.describe_label(np.int64(1)) == "b"
    assert [multi.describe_label(np.array(label)) for label in ([1, 0, 1], [0, 0, 0])] == ["a and c", "none"]
    logits = torch.tensor([[0.0, 3.0, -3.0]])
    assert single.answers(logits)[0]["label"] == "b"
    assert multi.answers(logits)[0]["labels"] == ["a", "b"]  # 0.5 counts
    rows = multi.row(logits, torch.tensor([[1, 0, 1]])).numpy()
    assert list(multi.table(rows)) == [["a|c", "a|b", "0.500000", "0.952574", "0.047426"]]


def test_the_metrics_that_may_choose_a_model_are_those_that_are_better_when_higher():
    choices, _ = get_args(get_type_hints(DistillationArguments)["metric_for_best_model"])
    for_classes = [metric.name for metric in METRICS if metric.higher_is_better]
    assert for_classes == list(SingleLabel.validation_metrics)
    assert list(get_args(choices)) == [*for_classes, *Segmentation.validation_metrics]


# --- labels that are not known


UNKNOWN = VECTORS.clone()
UNKNOWN[::4, 0] = UNKNOWN[1::5, 2] = float("nan")
UNKNOWN[7] = float("nan")


def test_the_loss_is_the_mean_over_the_known_classes_of_each_image():
    task = MultiLabel(NAMES).for_training(UNKNOWN, balanced=False, label_smoothing=0.0)
    logits = LOGITS.clone().requires_grad_()
    expected = 0
    for row, labels in zip(LOGITS, UNKNOWN, strict=True):
        known = ~labels.isnan()
        if known.any():
            expected += torch.nn.functional.binary_cross_entropy_with_logits(row[known], labels[known])
    loss = task.loss(logits, UNKNOWN)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient == 0, UNKNOWN.isnan())
    assert not MultiLabel(NAMES).for_training(VECTORS, balanced=False, label_smoothing=0.0).has_unknown


def test_balanced_weights_count_the_known_labels():
    labels = torch.tensor([[1.0, 1.0], [0.0, float("nan")], [0.0, float("nan")], [0.0, 0.0], [0.0, 0.0]])
    task = MultiLabel(["a", "b"]).for_training(labels, balanced=True, label_smoothing=0.0)
    assert task.pos_weight.tolist() == [4.0, 2.0]


def test_rows_keep_what_is_not_known():
    task = MultiLabel(NAMES)
    rows = task.row(LOGITS, UNKNOWN).numpy()
    assert np.isfinite(rows).all() and np.array_equal(task.labels(rows), UNKNOWN.numpy(), equal_nan=True)
    assert list(task.table(rows))[7][0] == "" and task.marks(UNKNOWN.numpy()).sum() == int((UNKNOWN == 1).sum())
    assert task.describe_label(np.array([1, np.nan, 0])) == "a"
    task.check_metric(dict.fromkeys(("train", "validation", "test"), UNKNOWN.numpy()), "auroc")
    assert 0 < task.validation_score(rows, "auroc") < 1
