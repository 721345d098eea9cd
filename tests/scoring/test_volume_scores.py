"""Scores of masks of volumes: equal to MONAI's with the volume's spacing, and in words of volumes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_surface_dice
from random_masks import one_hot

from rd_hf.scoring import mask_rows
from rd_hf.scoring.mask_metrics import segmentation_scores
from rd_hf.scoring.mask_rows import count_row, distance_row, full_rows
from rd_hf.scoring.metric import MetricError
from rd_hf.scoring.segmentation import VOLUMES, MaskRows
from rd_hf.scoring.volume_target import VolumeTarget
from rd_hf.tasks.make import make_task
from rd_hf.tasks.segmentation import VolumeSegmentation

NAMES = ["background", "a", "b"]
SPACINGS = [(0.7, 0.7, 3.0), (1.0, 2.5, 0.4), (1.25, 1.25, 1.25), (0.5, 4.0, 1.0)]


def random_volumes(count: int) -> tuple[list, list]:
    """Smooth masks of different shapes, some voxels of which have no label."""
    generator = torch.Generator().manual_seed(1)
    truths, predictions = [], []
    for number in range(count):
        shape = (14 + number, 17 - number, 9)
        fields = torch.randn(2, len(NAMES), 4, 5, 3, generator=generator)
        fields[:, 0] += 0.3
        fields[1] = fields[0] + 0.6 * fields[1]
        truth, prediction = F.interpolate(fields, shape, mode="trilinear").argmax(dim=1).to(torch.uint8).numpy()
        truth[0, number:] = 255
        truths.append(truth)
        predictions.append(prediction)
    return truths, predictions


TRUTHS, PREDICTIONS = random_volumes(len(SPACINGS))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy")
def test_values_are_those_of_monai_with_the_spacing_of_each_volume():
    rows = full_rows(PREDICTIONS, TRUTHS, len(NAMES), SPACINGS)
    read = MaskRows.of(rows, NAMES, VOLUMES)
    for number, spacing in enumerate(SPACINGS):
        truth, prediction = TRUTHS[number], PREDICTIONS[number]
        sides = [one_hot(np.where(truth == 255, 255, mask), len(NAMES)) for mask in (prediction, truth)]
        expected = {
            "dice": DiceMetric(include_background=False)(*sides)[0],
            "hd95": compute_hausdorff_distance(*sides, percentile=95, spacing=spacing)[0],
            "surface_dice": compute_surface_dice(*sides, [1.0] * 2, spacing=spacing)[0],
        }
        for name, values in expected.items():
            assert read.per_image[name][number].tolist() == pytest.approx(values.tolist(), rel=1e-6)
    in_voxels = MaskRows.of(full_rows(PREDICTIONS, TRUTHS, 3, [(1, 1, 1)] * 4), NAMES)
    assert not np.allclose(in_voxels.hd95[:, 1:], read.hd95[:, 1:])  # the spacing is what makes the difference


def test_a_volume_counts_the_same_in_slabs(monkeypatch):
    pair = torch.from_numpy(PREDICTIONS[0]), torch.from_numpy(TRUTHS[0])
    at_once = count_row(*pair, 3)
    monkeypatch.setattr(mask_rows, "PIXELS_AT_ONCE", 400)
    assert torch.equal(count_row(*pair, 3), at_once) and at_once.sum() > 800


def test_surfaces_of_more_voxels_than_torchs_quantile_takes(monkeypatch):
    pair = torch.from_numpy(PREDICTIONS[0]), torch.from_numpy(TRUTHS[0])
    few = distance_row(*pair, 3, SPACINGS[0])
    monkeypatch.setattr(mask_rows, "MOST_OF_QUANTILE", 3)
    monkeypatch.setattr(torch.Tensor, "quantile", None)
    torch.testing.assert_close(distance_row(*pair, 3, SPACINGS[0]), few)


def test_the_task_scores_logits_of_another_grid_on_the_voxels_of_the_source():
    """The grid is RAS; the sources' axes run to the head, left and back."""
    task = make_task("segmentation", NAMES, of_volumes=True)
    assert type(task) is VolumeSegmentation
    logits = torch.stack([torch.randn(3, 5, 6, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    targets, expected = [], []
    for own, mask, (x, y, z) in zip(logits, TRUTHS, SPACINGS, strict=False):
        affine = np.array([[0, -y, 0, 7.0], [0, 0, -z, -3.0], [x, 0, 0, 1.0], [0, 0, 0, 1.0]])
        targets.append(VolumeTarget(torch.from_numpy(mask), affine, (x, y, z)))
        turned = own.permute(0, 3, 1, 2).flip(2, 3)[None]
        expected.append(F.interpolate(turned, mask.shape, mode="trilinear")[0].argmax(dim=0).to(torch.uint8).numpy())
    rows = task.full_row(logits, targets)
    assert np.array_equal(rows.numpy(), full_rows(expected, TRUTHS[:2], 3, SPACINGS[:2]))
    assert torch.equal(task.row(logits, targets), rows[:, :9])
    found = task.masks_of(logits, [(target.mask.shape, target.affine) for target in targets])
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    logits[1, 0, 0, 0, 0] = torch.nan
    assert task.row(logits, targets)[1].isnan().all()
    assert {metric.title for metric in task.metrics} >= {"HD95, mm"}
    assert task.columns()[:3] == ["dice_a", "voxels_a", "predicted_voxels_a"]


def test_the_loss_of_a_volume_of_one_slice_is_that_of_the_image():
    logits, labels = torch.randn(2, 3, 8, 9), torch.randint(0, 3, (2, 8, 9))
    labels[0, :2] = 255
    task = make_task("segmentation", NAMES).for_training(torch.tensor([[5, 3, 2]]), True, 0.1)
    assert task.loss(logits[..., None], labels[..., None]).item() == pytest.approx(
        task.loss(logits, labels).item(), rel=1e-6
    )
    divergence = task.divergence(logits, logits.flip(0), 2.0).item()
    assert task.divergence(logits[..., None], logits.flip(0)[..., None], 2.0).item() == pytest.approx(
        divergence, rel=1e-6
    )


def test_scores_speak_of_volumes_and_millimetres():
    rows = MaskRows.of(full_rows(PREDICTIONS, TRUTHS, 3, SPACINGS), [*NAMES], VOLUMES)
    scores = segmentation_scores(rows, 10)
    assert (scores["surface_tolerance"], scores["unit"]) == (1.0, "mm")
    assert scores["undefined"]["false_positive_images"].startswith("undefined: every volume of the split")
    with pytest.raises(MetricError, match="volume 0 has the spacing"):
        full_rows(PREDICTIONS[:1], TRUTHS[:1], 3, [(1.0, 0.0, 1.0)])
    with pytest.raises(MetricError, match="3 spacings for 4 volumes"):
        full_rows(PREDICTIONS, TRUTHS, 3, SPACINGS[:3])
    with pytest.raises(MetricError, match="and spacings for volumes"):
        full_rows(PREDICTIONS, TRUTHS, 3)


def test_the_evaluate_metric_takes_volumes_with_their_spacings():
    from rd_hf.scoring.evaluate_metric import SegmentationMetrics

    metric = SegmentationMetrics(of_volumes=True)
    metric.add_batch(predictions=PREDICTIONS[:2], references=TRUTHS[:2])
    found = metric.compute(label_names=NAMES, bootstrap_samples=5, seed=0, spacings=SPACINGS[:2])
    rows = MaskRows.of(full_rows(PREDICTIONS[:2], TRUTHS[:2], 3, SPACINGS[:2]), NAMES, VOLUMES)
    assert found == segmentation_scores(rows, 5)
    metric.add_batch(predictions=PREDICTIONS[:1], references=TRUTHS[:1])
    with pytest.raises(MetricError, match="need `spacings`"):
        metric.compute(label_names=NAMES, bootstrap_samples=5, seed=0)
