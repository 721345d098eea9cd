"""Scores of masks: equal to MONAI's, defined where they can be, and with intervals over images or groups."""

import json

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, MeanIoU, compute_hausdorff_distance, compute_surface_dice
from random_masks import one_hot, random_masks

from rd_hf.models import modeling_monai
from rd_hf.scoring import segmentation
from rd_hf.scoring.mask_metrics import segmentation_scores
from rd_hf.scoring.mask_rows import full_rows
from rd_hf.scoring.metric import MetricError
from rd_hf.scoring.segmentation import MaskRows, point_values
from rd_hf.scoring.units import resamples, units

NAMES = ["background", "a", "b", "rare"]
TRUTHS, PREDICTIONS = random_masks(24, len(NAMES))
ROWS = full_rows(PREDICTIONS, TRUTHS, len(NAMES))


def cut(mask: np.ndarray, truth: np.ndarray) -> torch.Tensor:
    """A mask as MONAI takes it, without the pixels that have no label."""
    return one_hot(np.where(truth == 255, 255, mask), len(NAMES))


def mean(values: list) -> np.ndarray:
    """Mean over images of (images, classes), without NaN; NaN where a class has no image."""
    values = np.array(values)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)


def test_dice_and_iou_are_those_of_monai():
    dice, iou = DiceMetric(include_background=False, ignore_empty=False), MeanIoU(False, ignore_empty=False)
    expected = {"dice": [], "iou": []}
    for truth, prediction in zip(TRUTHS, PREDICTIONS, strict=True):
        pair = cut(prediction, truth), cut(truth, truth)
        nowhere = ~(pair[0] + pair[1]).flatten(2).any(dim=2)[0, 1:]  # where MONAI gives 1
        for name, metric in (("dice", dice), ("iou", iou)):
            expected[name].append(torch.where(nowhere, torch.nan, metric(*pair)[0]).tolist())
    scores = segmentation_scores(MaskRows.of(ROWS, NAMES), 0)
    for name, values in expected.items():
        assert np.isnan(values).any() and (np.array(values) == 0).any()  # the cases that matter are there
        assert list(scores[f"{name}_per_class"].values()) == pytest.approx(mean(values), rel=1e-6)
        assert scores[name] == pytest.approx(np.mean(mean(values)), rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*all 0, this may result in", "ignore:.*always_return_as_numpy")
def test_distances_are_those_of_monai_over_the_images_where_both_masks_have_the_class():
    expected = {"hd95": [], "surface_dice": []}
    for truth, prediction in zip(TRUTHS, PREDICTIONS, strict=True):
        pair = cut(prediction, truth), cut(truth, truth)
        in_both = torch.stack([side.flatten(2).any(dim=2)[0, 1:] for side in pair]).all(dim=0)
        values = {
            "hd95": compute_hausdorff_distance(*pair, percentile=95)[0],
            "surface_dice": compute_surface_dice(*pair, [1.0] * 3)[0],
        }
        for name, value in values.items():
            expected[name].append(torch.where(in_both, value, torch.nan).tolist())
    scores = segmentation_scores(MaskRows.of(ROWS, NAMES), 0)
    for name, values in expected.items():
        assert list(scores[f"{name}_per_class"].values()) == pytest.approx(mean(values), rel=1e-6)
    in_both = (~np.isnan(expected["hd95"])).sum(axis=0)
    assert [scores["images"][name]["in_both"] for name in NAMES[1:]] == in_both.tolist()
    assert scores["surface_tolerance"] == 1.0


def test_images_are_counted_and_false_positives_found():
    truth = [np.zeros((4, 4), np.uint8) for _ in range(4)]
    prediction = [mask.copy() for mask in truth]
    prediction[0][0, 0] = 1  # invented
    truth[1][1, 1] = 1  # missed
    truth[2][2, 2] = prediction[2][2, 2] = 1
    truth[3][:] = 255  # nothing is known
    prediction[3][:] = 1
    scores = segmentation_scores(MaskRows.of(full_rows(prediction, truth, 2), ["x", "y"]), 50)
    counts = {"in_truth": 2, "in_prediction": 2, "scored": 3, "left_out": 1, "in_both": 1}
    assert scores["images"] == {"y": counts}
    assert scores["dice"] == pytest.approx(1 / 3) and scores["hd95"] == 0
    assert scores["pooled_dice"] == pytest.approx(2 / 4)
    assert scores["false_positive_images"] == 1.0
    assert scores["intervals"]["false_positive_images"] is None  # of four images
    more = segmentation_scores(
        MaskRows.of(full_rows(prediction + prediction[:1] * 4, truth + truth[:1] * 4, 2), ["x", "y"]), 50
    )
    assert more["intervals"]["false_positive_images"] == [1.0, 1.0]  # of the five without foreground
    assert more["intervals"]["dice"] is not None and more["intervals"]["hd95"] is None  # one image has both masks


def test_a_class_that_is_nowhere_is_left_out_and_named():
    names = [*NAMES, "absent"]
    rows = MaskRows.of(full_rows(PREDICTIONS, TRUTHS, 5), names)
    scores, without = segmentation_scores(rows, 100), segmentation_scores(MaskRows.of(ROWS, NAMES), 100)
    for name in ("dice", "iou", "hd95", "surface_dice", "pooled_dice"):
        assert scores[name] == pytest.approx(without[name])
        assert scores["intervals"][name] == pytest.approx(without["intervals"][name])
        assert scores[f"{name}_per_class"]["absent"] is None
        assert scores["intervals"][f"{name}_per_class"]["absent"] is None
        assert scores["undefined"][name].startswith("mean over the other classes: ")
        assert "'absent'" in scores["undefined"][f"{name}/absent"]
    assert scores["images"]["absent"]["left_out"] == len(TRUTHS)
    assert json.loads(json.dumps(scores)) == scores


def test_a_class_of_predictions_alone_does_not_change_what_the_mean_is_over():
    """One invented pixel of a class that the truth lacks is told, and is no third of the mean."""
    names, invented = [*NAMES, "absent"], [mask.copy() for mask in PREDICTIONS]
    place = np.argwhere(TRUTHS[0] == 0)[0]
    invented[0][tuple(place)] = 4
    scores = segmentation_scores(MaskRows.of(full_rows(invented, TRUTHS, 5), names), 100)
    without = segmentation_scores(MaskRows.of(ROWS, NAMES), 100)
    assert scores["dice"] == pytest.approx(without["dice"], abs=0.01)
    assert scores["dice_per_class"]["absent"] == 0.0 and scores["images"]["absent"]["scored"] == 1
    assert scores["undefined"]["dice"] == "mean over the other classes: no image of the split has 'absent' in its truth"
    assert scores["intervals"]["dice"] == pytest.approx(without["intervals"]["dice"], abs=0.02)
    alone = [np.zeros((4, 4), np.uint8)], [np.eye(4, dtype=np.uint8)]
    nothing = segmentation_scores(MaskRows.of(full_rows(alone[1], alone[0], 2), ["x", "y"]), 0)
    assert nothing["dice"] is None and nothing["undefined"]["dice"].startswith("undefined: no image")


def test_without_any_foreground_nothing_but_false_positives_is_defined():
    empty = [np.zeros((4, 4), np.uint8)] * 3
    scores = segmentation_scores(MaskRows.of(full_rows(empty, empty, 2), ["x", "y"]), 20)
    assert [scores[name] for name in ("dice", "iou", "hd95", "surface_dice", "pooled_dice")] == [None] * 5
    assert scores["false_positive_images"] == 0.0 and scores["undefined"]["dice"].startswith("undefined: no image")
    full = [np.ones((4, 4), np.uint8)] * 3
    scores = segmentation_scores(MaskRows.of(full_rows(full, full, 2), ["x", "y"]), 20)
    assert scores["false_positive_images"] is None and "every image" in scores["undefined"]["false_positive_images"]


def test_rows_without_distances_have_the_same_counts():
    short, full = MaskRows.of(ROWS[:, :12], NAMES), MaskRows.of(ROWS, NAMES)
    values = point_values(short)
    assert (values["dice"], values["iou"]) == (point_values(full)["dice"], point_values(full)["iou"])
    assert np.isnan(values["hd95"]) and np.isnan(values["surface_dice"])


def test_an_interval_is_that_of_scores_of_resampled_rows():
    rows, samples = MaskRows.of(ROWS, NAMES), 60
    scores = segmentation_scores(rows, samples, seed=3)
    drawn = [
        point_values(MaskRows.of(np.repeat(ROWS, weights.astype(int), axis=0), NAMES))
        for block in resamples(units(len(ROWS), None), samples, 3)
        for weights in block
    ]
    for name in ("dice", "hd95"):
        values = [one[name] for one in drawn]
        assert scores["intervals"][name] == pytest.approx(np.percentile(values, [2.5, 97.5]).tolist())
    assert segmentation_scores(rows, samples, seed=3) == scores
    assert segmentation_scores(rows, samples, seed=4)["intervals"] != scores["intervals"]


def test_images_of_a_group_are_drawn_together():
    groups = ["p1"] * 10 + ["p2"] * 10 + ["p3"] * 4
    weights = np.concatenate(list(resamples(units(24, groups), 50, 0)))
    for rows in (slice(0, 10), slice(10, 20), slice(20, 24)):
        assert (weights[:, rows] == weights[:, rows][:, :1]).all()
    assert weights[:, [0, 10, 20]].sum(axis=1).tolist() == [3] * 50
    rows = MaskRows.of(ROWS, NAMES)
    assert segmentation_scores(rows, 10, groups=groups)["groups"] == 3
    own = segmentation_scores(rows, 50, groups=list(range(24)))
    assert own["intervals"] == segmentation_scores(rows, 50)["intervals"]
    assert units(5, [None, "p", None, "p", 0]).tolist() == [0, 1, 2, 1, 3]  # an image without a group is its own
    with pytest.raises(MetricError, match="23 groups for 24 images"):
        segmentation_scores(rows, 10, groups=groups[:-1])


def test_bad_input_is_named():
    with pytest.raises(MetricError, match=r"expected \(images, 9\) or \(images, 15\) for 3 classes"):
        MaskRows.of(ROWS, NAMES[:3])
    broken = ROWS.copy()
    broken[5, 0] = np.nan
    with pytest.raises(MetricError, match="output for image 5 is not finite"):
        MaskRows.of(broken, NAMES)
    with pytest.raises(MetricError, match="image 1 has a predicted mask of shape"):
        full_rows(PREDICTIONS[:2], [TRUTHS[0], TRUTHS[2]], 4)
    with pytest.raises(MetricError, match="image 0 has a class number above 1"):
        full_rows([np.full((3, 3), 2)], [np.zeros((3, 3), int)], 2)
    with pytest.raises(MetricError, match="bootstrap_samples is -1"):
        segmentation_scores(MaskRows.of(ROWS, NAMES), -1)


def test_a_pixel_without_label_is_the_same_to_models_and_scores():
    assert segmentation.IGNORED_LABEL == modeling_monai.IGNORED_LABEL


def test_the_evaluate_metric_takes_batches_of_masks_of_any_size():
    from rd_hf.scoring.evaluate_metric import SegmentationMetrics

    metric = SegmentationMetrics()
    for rows in (slice(0, 3), slice(3, 8)):
        metric.add_batch(predictions=PREDICTIONS[rows], references=TRUTHS[rows])
    scores = metric.compute(label_names=NAMES, bootstrap_samples=20, seed=0)
    assert scores == segmentation_scores(MaskRows.of(ROWS[:8], NAMES), 20)
