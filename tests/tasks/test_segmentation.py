"""The task of masks: a loss that adds up over images, rows at the masks' own sizes, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from transformers import SegformerImageProcessor

from rd_hf.scoring.metric import MetricError
from rd_hf.tasks.make import make_task
from rd_hf.tasks.mask_losses import SMOOTH, pixel_cross_entropy, soft_dice_loss
from rd_hf.tasks.segmentation import Segmentation, class_map

KINDS = pytest.mark.parametrize("classes", [2, 5])


def task_of(classes: int, **settings) -> Segmentation:
    return Segmentation(["background", *"abcdefgh"[: classes - 1]], **settings)


def sample(classes: int, size=(12, 14), of_logits=None):
    """Logits and labels of six images; one lacks the last class, one has pixels without label, one has no label."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(6, classes, *(of_logits or size), generator=generator) * 2
    labels = torch.randint(0, classes, (6, *size), generator=generator)
    labels[0][labels[0] == classes - 1] = 0
    labels[1, :5] = 255
    labels[2] = 255
    return logits, labels


@KINDS
def test_the_dice_loss_is_that_of_monai(classes):
    logits, labels = sample(classes)
    valid = (labels != 255)[:, None]
    truth = F.one_hot(labels.clamp(max=classes - 1), classes).movedim(-1, 1) * valid
    monai = DiceLoss(include_background=False, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    expected = monai(logits.softmax(dim=1) * valid, truth.float()).flatten(1).mean(dim=1)
    assert soft_dice_loss(logits, labels).item() == pytest.approx(expected.sum().item(), rel=1e-6)
    assert expected[2] == 0  # an image without labels


@KINDS
def test_the_loss_of_parts_adds_up(classes):
    logits, labels = sample(classes, of_logits=(6, 7))
    counts = F.one_hot(labels.clamp(max=classes - 1).flatten(1), classes).sum(dim=1)
    task = task_of(classes).for_training(counts, balanced=True, label_smoothing=0.1)
    logits.requires_grad_()
    whole = task.loss(logits, labels)
    (gradient,) = torch.autograd.grad(whole, logits)
    parts = sum(task.loss(logits[rows], labels[rows]) for rows in (slice(0, 1), slice(1, 4), slice(4, 6)))
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(parts, logits)[0], gradient, atol=1e-7)


@KINDS
def test_pixels_without_label_have_no_gradient(classes):
    logits, labels = sample(classes)
    logits.requires_grad_()
    task = task_of(classes, class_weights=torch.arange(1.0, classes + 1), label_smoothing=0.1)
    loss = task.loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    ignored = (labels == 255)[:, None].expand_as(gradient)
    assert (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).all()
    changed = torch.where(ignored, logits.detach() + 5, logits.detach())
    assert task.loss(changed, labels).item() == loss.item()


def test_cross_entropy_is_a_mean_over_the_labelled_pixels_of_each_image():
    logits, labels = sample(3)
    expected = sum(F.cross_entropy(logits[i][None], labels[i][None], ignore_index=255).item() for i in (0, 1, 3, 4, 5))
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_weights_give_each_class_the_same_share_of_the_pixels():
    counts = torch.tensor([[90, 10, 0], [70, 30, 0]])
    task = task_of(3).for_training(counts, balanced=True, label_smoothing=0.2)
    assert task.class_weights.tolist() == pytest.approx([200 / 320, 200 / 80, 0.0]) and task.label_smoothing == 0.2
    assert task_of(3).for_training(counts, balanced=False, label_smoothing=0.0).class_weights is None
    with pytest.raises(ValueError, match="label_smoothing is 1.5"):
        task_of(3).for_training(counts, balanced=False, label_smoothing=1.5)


def test_smaller_logits_are_resized_to_the_labels_and_half_precision_is_widened():
    logits, labels = sample(3, of_logits=(3, 5))
    task = task_of(3)
    larger = F.interpolate(logits, labels.shape[1:], mode="bilinear")
    assert task.loss(logits, labels).item() == task.loss(larger, labels).item()
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(half, labels).dtype == torch.float32
        assert task.divergence(half, half + 1, 2.0).dtype == torch.float32
        assert task.loss(half, labels).item() == task.loss(half.float(), labels).item()


def test_learning_an_image_without_the_class_unlearns_the_class():
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_dice_loss(logits, torch.zeros(1, 4, 4, dtype=torch.int64)), logits)
    assert (gradient[:, 1] > 0).all()


@KINDS
def test_the_divergence_is_a_mean_over_pixels_and_a_sum_over_images(classes):
    hybrid, _ = sample(classes)
    student = hybrid.flip(0)
    temperature = 2.0
    p, q = (side.div(temperature).softmax(dim=1) for side in (hybrid, student))
    expected = (p * (p / q).log()).sum(dim=1).mean(dim=(1, 2)).sum() * temperature**2
    task = task_of(classes)
    assert task.divergence(hybrid, student, temperature).item() == pytest.approx(expected.item(), rel=1e-5)
    parts = sum(task.divergence(hybrid[i : i + 2], student[i : i + 2], temperature) for i in (0, 2, 4))
    assert parts.item() == pytest.approx(expected.item(), rel=1e-5)
    assert task.divergence(hybrid, hybrid, temperature).item() == pytest.approx(0, abs=1e-6)


# --- rows and predicted masks


def masks(classes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    sizes = [(9, 14), (20, 11), (5, 5)]
    return [torch.randint(0, classes, size, generator=generator).to(torch.uint8) for size in sizes]


def test_predicted_masks_are_those_of_transformers():
    logits = torch.randn(3, 4, 6, 7, generator=torch.Generator().manual_seed(1))
    sizes = [(9, 14), (20, 11), (3, 4)]
    outputs = type("Outputs", (), {"logits": logits})
    expected = SegformerImageProcessor().post_process_semantic_segmentation(outputs, sizes)
    found = task_of(4).masks_of(logits, sizes)
    for own, other in zip(found, expected, strict=True):
        assert own.dtype == np.uint8 and np.array_equal(own, other.numpy())


def test_rows_count_the_pixels_of_each_mask_at_its_own_size():
    task, logits = task_of(3), torch.randn(3, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    truths = masks(3)
    truths[1][:4] = 255
    rows, full = task.row(logits, truths), task.full_row(logits, truths)
    assert rows.shape == (3, 9) and torch.equal(full[:, :9], rows) and rows.dtype == torch.float32
    for row, own, truth in zip(rows.reshape(3, 3, 3), logits, truths, strict=True):
        prediction, labelled = class_map(own, truth.shape), truth != 255
        for k in range(3):
            pair = (prediction == k) & labelled, (truth == k) & labelled
            expected = [(pair[0] & pair[1]).sum(), (pair[0] & ~pair[1]).sum(), (~pair[0] & pair[1]).sum()]
            assert row[:, k].tolist() == [int(value) for value in expected]
    (one,) = task.row(logits[1:2], truths[1:2])
    assert torch.equal(one, rows[1])
    assert task.validation_score(rows.numpy(), "iou") == task.scores(full.numpy(), 0)["iou"]
    assert task.point_scores(full.numpy())["hd95"] == task.scores(full.numpy(), 0)["hd95"]


def test_a_row_is_not_finite_where_the_logits_are_not():
    task, truths = task_of(3), masks(3)
    for value in ("nan", "inf", "-inf"):
        logits = torch.randn(3, 3, 6, 7)
        logits[1, 2, 0, 0] = float(value)
        for rows in (task.row(logits, truths), task.full_row(logits, truths)):
            assert rows.isfinite().all(dim=1).tolist() == [True, False, True]


def test_the_table_has_dice_and_pixels_of_each_foreground_class():
    task = task_of(3)
    truth = torch.tensor([[0, 1, 1, 255]], dtype=torch.uint8)
    logits = F.one_hot(torch.tensor([[0, 1, 0, 2]]), 3).movedim(-1, 0)[None].float()
    header, (cells,) = task.columns(), task.table(task.row(logits, [truth]).numpy())
    assert dict(zip(header, cells, strict=True)) == {
        "dice_a": "0.666667", "pixels_a": "2", "predicted_pixels_a": "1",
        "dice_b": "", "pixels_b": "0", "predicted_pixels_b": "0",
    }  # fmt: skip


# --- labels and metrics


def test_marks_and_words_of_pixel_counts():
    task, counts = task_of(3), np.array([[5, 0, 2], [0, 0, 0]])
    assert task.marks(counts).tolist() == [[1, 0, 1], [0, 0, 0]]
    assert [task.describe_label(own) for own in counts] == ["background and b", "none"]


def test_validation_without_foreground_is_refused_with_the_way_out():
    task, some, none = task_of(3), np.array([[5, 0, 2], [7, 0, 0]]), np.array([[7, 0, 0]])
    task.check_metric({"train": none, "validation": some, "test": none}, "dice")
    with pytest.raises(MetricError, match=r"'a' or 'b', but .*1 of 2 in train, 0 of 1 in validation.*Move such images"):
        task.check_metric({"train": some, "validation": none, "test": some}, "dice")
    rows = task.row(torch.tensor([9.0, 0, 0]).reshape(1, 3, 1, 1), [torch.zeros(4, 4, dtype=torch.uint8)])
    with pytest.raises(MetricError, match="dice of the validation split is undefined"):
        task.validation_score(rows.numpy(), "dice")


def test_without_monai_the_extra_is_named_before_any_training(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "monai.metrics", None)
    some = np.array([[5, 2]])
    with pytest.raises(MetricError, match=r"pip install 'rd-hf\[masks\]'"):
        task_of(2).check_metric({"train": some, "validation": some, "test": some}, "dice")


def test_each_task_has_its_default_metric_and_refuses_those_of_others():
    masks_, classes = make_task("segmentation", ["x", "y"]), make_task("single_label_classification", ["x", "y"])
    assert (masks_.selection_metric(None), classes.selection_metric(None)) == ("dice", "auroc")
    assert (masks_.selection_metric("iou"), classes.selection_metric("f1")) == ("iou", "f1")
    with pytest.raises(MetricError, match=r"is auroc, .* task segmentation: choose one of dice, iou"):
        masks_.selection_metric("auroc")
    with pytest.raises(MetricError, match=r"is dice, .* task single_label_classification: choose one of auroc, "):
        classes.selection_metric("dice")
