"""Scores against scikit-learn, intervals against plain resampling, and what is undefined is said to be."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from rd_hf.scoring.bootstrap import intervals, resamples, weighted_class_values
from rd_hf.scoring.classification import (
    METRIC_NAMES,
    Predictions,
    accuracy,
    class_values,
    expected_calibration_error,
    validation_score,
)
from rd_hf.scoring.metric import MetricError
from rd_hf.scoring.metrics import compute_metrics

SINGLE, MULTI = True, False  # whether each image has exactly one class
KEYS = {*METRIC_NAMES, "sensitivity", "specificity", "confusion_matrix", "intervals", "undefined"}


def single(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Softmax outputs that are better than chance, rounded so that there are ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes))
    logits[np.arange(count), labels] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if classes == 2:  # keep the row sums exact, so that the two classes rank alike
        first = probabilities[:, :1].round(2)
        return np.hstack([first, 1 - first]), labels, ["normal", "pneumonia"]
    return probabilities.round(2), labels, [f"class {k}" for k in range(classes)]


def multi(count: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    truth = (generator.random((count, labels)) < 0.3).astype(int)
    probabilities = 1 / (1 + np.exp(-generator.normal(size=truth.shape) - 1.5 * truth + 0.7))
    return probabilities.round(2), truth, [f"label {k}" for k in range(labels)]


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_single_label_values_are_scikit_learns(classes):
    probabilities, labels, names = single(200, classes)
    scores = compute_metrics(probabilities, labels, names, SINGLE, bootstrap_samples=0)
    predicted, table = probabilities.argmax(1), np.eye(classes, dtype=int)[labels]
    assert set(scores) == KEYS
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert scores["f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert scores["auroc"] == pytest.approx(sk.roc_auc_score(table, probabilities, average="macro"))
    assert scores["average_precision"] == pytest.approx(sk.average_precision_score(table, probabilities))
    assert list(scores["sensitivity"].values()) == pytest.approx(sk.recall_score(labels, predicted, average=None))
    matrix = sk.confusion_matrix(labels, predicted)
    assert scores["confusion_matrix"] == matrix.tolist()
    rest = matrix.sum() - matrix.sum(axis=1)
    alarms = matrix.sum(axis=0) - matrix.diagonal()
    assert list(scores["specificity"].values()) == pytest.approx(1 - alarms / rest)
    assert list(scores["sensitivity"]) == names and scores["intervals"] == {} and scores["undefined"] == {}


def test_two_classes_give_the_usual_binary_auroc():
    probabilities, labels, _ = single(150, 2)
    expected = sk.roc_auc_score(labels, probabilities[:, 1])
    assert validation_score(probabilities, labels, SINGLE, "auroc") == pytest.approx(expected)


def test_multi_label_values_are_scikit_learns():
    probabilities, truth, names = multi(150, 4)
    scores = compute_metrics(probabilities, truth, names, MULTI, bootstrap_samples=0)
    decided = (probabilities >= 0.5).astype(int)
    assert scores["accuracy"] == pytest.approx((decided == truth).mean())
    each = [sk.balanced_accuracy_score(truth[:, k], decided[:, k]) for k in range(4)]
    assert scores["balanced_accuracy"] == pytest.approx(np.mean(each))
    assert scores["f1"] == pytest.approx(sk.f1_score(truth, decided, average="macro"))
    assert scores["auroc"] == pytest.approx(sk.roc_auc_score(truth, probabilities))
    assert scores["average_precision"] == pytest.approx(sk.average_precision_score(truth, probabilities))
    assert scores["confusion_matrix"] == sk.multilabel_confusion_matrix(truth, decided).tolist()
    alone = compute_metrics(probabilities[:, :1], truth[:, :1], names[:1], MULTI, bootstrap_samples=0)
    assert alone["confusion_matrix"] == scores["confusion_matrix"][:1]


def test_calibration_error_by_hand():
    """Ten images at confidence 0.9 of which six right, ten at 0.6 of which eight right: (0.3 + 0.2) / 2."""
    confidence = np.repeat([0.9, 0.6], 10)
    right = np.concatenate([np.arange(10) < 6, np.arange(10) < 8])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.where(right, 0, 1)
    assert validation_score(probabilities, labels, SINGLE, "expected_calibration_error") == pytest.approx(0.25)
    # Overconfidence in one label and underconfidence in another do not cancel.
    table = np.stack([np.full(10, 0.7), np.full(10, 0.3)], axis=1)
    truth = np.stack([np.arange(10) < 4, np.arange(10) < 6], axis=1).astype(int)
    assert validation_score(table, truth, MULTI, "expected_calibration_error") == pytest.approx(0.3)


@pytest.mark.parametrize(("data", "exclusive"), [(single(90, 3), SINGLE), (multi(90, 3), MULTI)])
def test_weighted_values_are_scikit_learns_on_the_resampled_rows(data, exclusive):
    predictions = Predictions.check(*data, exclusive)
    weights = np.concatenate(list(resamples(predictions, 20, seed=3)))
    assert weights.shape == (20, 90) and (weights.sum(axis=1) == 90).all()
    weighted = weighted_class_values(weights, predictions)
    for row, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(90), counts)
        again = Predictions.check(data[0][rows], data[1][rows], data[2], exclusive)
        for name, values in class_values(again).items():
            np.testing.assert_allclose(weighted[name][row], values, rtol=1e-10, err_msg=name)
        one = np.ones((1, 90))
        np.testing.assert_allclose(accuracy(weights, predictions)[row], accuracy(one, again))
        error = expected_calibration_error(weights, predictions)[row]
        np.testing.assert_allclose(error, expected_calibration_error(one, again)[0])


def test_resamples_keep_each_class_and_draw_evenly():
    probabilities, labels, names = single(60, 3)
    labels[:2], labels[2:] = 2, np.where(labels[2:] == 2, 0, labels[2:])  # class 2 is rare: two images
    predictions = Predictions.check(probabilities, labels, names, SINGLE)
    weights = np.concatenate(list(resamples(predictions, 3000, seed=0)))
    for label in range(3):
        assert (weights[:, labels == label].sum(axis=1) == (labels == label).sum()).all()
    assert abs(weights.mean(axis=0) - 1).max() < 0.12
    assert weights[:, 0].var() == pytest.approx(0.5, abs=0.05)  # binomial(2, 1/2)


def test_multi_label_resamples_are_not_stratified():
    predictions = Predictions.check(*multi(60, 3), MULTI)
    weights = np.concatenate(list(resamples(predictions, 200, seed=0)))
    assert len(set(weights @ predictions.truth[:, 0])) > 10


def test_intervals_hold_their_values_and_the_truth():
    """At 95 %, about 19 of 20 intervals of a sample's accuracy hold the accuracy of its source (0.8)."""
    held = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, 150)
        said = np.where(generator.random(150) < 0.8, labels, 1 - labels)
        probabilities = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
        predictions = Predictions.check(probabilities, labels, ["a", "b"], SINGLE)
        low, high = intervals(predictions, class_values(predictions), 200, seed)["accuracy"]
        assert low <= accuracy(np.ones((1, 150)), predictions)[0] <= high
        held += low <= 0.8 <= high
    assert 51 <= held <= 60


def test_shares_that_are_all_right_have_the_interval_of_wilson():
    labels = np.repeat([0, 1], [10, 30])
    said = np.where(labels == 0, 0, np.arange(40) % 3 > 0)
    probabilities = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
    found = compute_metrics(probabilities, labels, ["a", "b"], SINGLE, 50)
    assert found["sensitivity"]["a"] == 1.0
    assert found["intervals"]["sensitivity"]["a"] == pytest.approx([0.722, 1.0], abs=5e-4)
    right = int((said[10:] == 1).sum())
    of_b = binomtest(right, 30).proportion_ci(method="wilson")
    assert found["intervals"]["sensitivity"]["b"] == found["intervals"]["specificity"]["a"] == [of_b.low, of_b.high]
    groups = np.arange(40) // 2  # images that are drawn together have resamples
    drawn = compute_metrics(probabilities, labels, ["a", "b"], SINGLE, 50, groups=groups.tolist())["intervals"]
    assert drawn["sensitivity"]["a"] == [1.0, 1.0] and drawn["sensitivity"]["b"] != [of_b.low, of_b.high]


def test_a_value_of_few_images_has_no_interval():
    probabilities, truth, names = multi(200, 3)
    truth[:, 0] = np.arange(200) == 7  # one positive image
    found = compute_metrics(probabilities, truth, names, MULTI, 50)["intervals"]
    assert found["sensitivity"]["label 0"] is None and found["specificity"]["label 0"] is not None
    assert None not in (found["sensitivity"]["label 1"], found["auroc"])  # most labels have enough
    assert compute_metrics(probabilities[:, :2], truth[:, :2], names[:2], MULTI, 50)["intervals"]["auroc"] is None
    probabilities, labels, names = single(100, 2)
    labels[:] = np.arange(100) < 40
    groups = np.where(labels == 1, np.arange(100) // 10, np.arange(100))  # the class is that of four patients
    found = compute_metrics(probabilities, labels, names, SINGLE, 50, groups=groups.tolist())["intervals"]
    assert found["sensitivity"]["pneumonia"] is found["specificity"]["normal"] is found["auroc"] is None
    assert None not in (found["specificity"]["pneumonia"], found["accuracy"])


def test_report_is_plain_json_and_the_seed_decides_the_intervals():
    probabilities, labels, names = single(120, 3)
    first = compute_metrics(probabilities, labels, names, SINGLE, 200, seed=1)
    assert json.loads(json.dumps(first)) == first
    assert first == compute_metrics(probabilities, labels, names, SINGLE, 200, seed=1)
    other = compute_metrics(probabilities, labels, names, SINGLE, 200, seed=2)
    assert other["auroc"] == first["auroc"] and other["intervals"]["auroc"] != first["intervals"]["auroc"]
    for name in set(METRIC_NAMES) - {"expected_calibration_error"}:
        low, high = first["intervals"][name]
        assert 0 <= low < first[name] < high <= 1, name
    for name in ("sensitivity", "specificity"):
        for label, (low, high) in first["intervals"][name].items():
            assert low <= first[name][label] <= high


def test_a_missing_class_is_null_and_named():
    probabilities, labels, names = single(60, 3)
    labels[labels == 2] = 0
    scores = compute_metrics(probabilities, labels, names, SINGLE, 50)
    for name in ("balanced_accuracy", "f1", "auroc", "average_precision"):
        assert scores[name] is None and scores["intervals"][name] is None
        assert scores["undefined"][name] == "undefined: the split has no image of 'class 2'"
    alone = compute_metrics(probabilities, np.zeros_like(labels), names, SINGLE, 50)
    assert alone["undefined"]["auroc"] == "undefined: the split has only images of 'class 0'"
    assert scores["sensitivity"]["class 2"] is None and scores["intervals"]["sensitivity"]["class 2"] is None
    assert set(scores["undefined"]) == {"balanced_accuracy", "f1", "auroc", "average_precision", "sensitivity/class 2"}
    assert scores["accuracy"] is not None and scores["specificity"]["class 2"] is not None
    assert np.shape(scores["confusion_matrix"]) == (3, 3)
    json.dumps(scores, allow_nan=False)


def test_a_split_of_one_class_is_no_crash():
    scores = compute_metrics(np.full((5, 2), 0.5), np.zeros(5, int), ["a", "b"], SINGLE, 20)
    assert scores["accuracy"] == 1 and scores["sensitivity"] == {"a": 1.0, "b": None}
    assert scores["specificity"] == {"a": None, "b": 1.0} and scores["auroc"] is None


def test_a_label_of_one_value_is_left_out_of_the_mean_and_named():
    probabilities, truth, names = multi(80, 3)
    truth[:, 1] = 0
    scores = compute_metrics(probabilities, truth, names, MULTI, 50)
    rest = [sk.roc_auc_score(truth[:, k], probabilities[:, k]) for k in (0, 2)]
    assert scores["auroc"] == pytest.approx(np.mean(rest))
    low, high = scores["intervals"]["auroc"]
    assert low < scores["auroc"] < high
    assert "'label 1'" in scores["undefined"]["auroc"] and "'label 0'" not in scores["undefined"]["auroc"]
    truth[:, 1] = 1
    full = compute_metrics(probabilities, truth, names, MULTI, 0)
    rest = [sk.average_precision_score(truth[:, k], probabilities[:, k]) for k in (0, 2)]
    assert full["average_precision"] == pytest.approx(np.mean(rest)) and full["specificity"]["label 1"] is None
    truth[:] = 0
    assert compute_metrics(probabilities, truth, names, MULTI, 20)["auroc"] is None


def test_validation_score_agrees_with_the_report_and_refuses_what_is_undefined():
    for data, exclusive in ((single(90, 3), SINGLE), (multi(90, 3), MULTI)):
        report = compute_metrics(*data, exclusive, bootstrap_samples=0)
        for name in METRIC_NAMES:
            score = validation_score(*data[:2], exclusive, name)
            assert type(score) is float and score == report[name]
    probabilities, labels, _ = single(60, 3)
    labels[labels == 2] = 0
    with pytest.raises(MetricError, match=r"auroc.*'2'"):
        validation_score(probabilities, labels, SINGLE, "auroc")
    with pytest.raises(MetricError, match=r"'auc'.*auroc"):
        validation_score(probabilities, labels, SINGLE, "auc")


@pytest.mark.parametrize(
    ("probabilities", "labels", "names", "exclusive", "message"),
    [
        (np.full((4, 2), np.nan), [0, 1, 0, 1], ["a", "b"], SINGLE, "NaN"),
        (np.full((4, 2), 3.0), [0, 1, 0, 1], ["a", "b"], SINGLE, "logits"),
        (np.full((4, 2), 0.5), [0, 1, 0, -1], ["a", "b"], SINGLE, "class numbers from 0 to 1"),
        (np.full((4, 2), 0.5), [0, 1, 0], ["a", "b"], SINGLE, r"\(4,\)"),
        (np.full((4, 2), 0.5), [0, 1, 0, 1], ["a", "b", "c"], SINGLE, "3 label names"),
        (np.full((0, 2), 0.5), [], ["a", "b"], SINGLE, "at least one image"),
        (np.full((2, 2), 0.5), [[0, 1], [2, 0]], ["a", "b"], MULTI, "0 or 1"),
        (np.full((2, 2), 0.5), [0, 1], ["a", "a"], SINGLE, "repeat"),
    ],
)
def test_bad_input_is_named(probabilities, labels, names, exclusive, message):
    with pytest.raises(MetricError, match=message):
        compute_metrics(probabilities, labels, names, exclusive)


def test_the_evaluate_metric_takes_batches():
    import evaluate

    from rd_hf.scoring.evaluate_metric import ClassificationMetrics

    probabilities, labels, names = single(60, 3)
    metric = ClassificationMetrics()
    assert isinstance(metric, evaluate.Metric)
    for start in (0, 25):
        stop = 25 if start == 0 else 60
        metric.add_batch(predictions=probabilities[start:stop], references=labels[start:stop])
    scores = metric.compute(label_names=names, bootstrap_samples=30, seed=0)
    assert scores == compute_metrics(probabilities, labels, names, SINGLE, 30)


def test_offline_it_writes_nothing_and_importing_it_is_light(light_python, tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from rd_hf.scoring.classification import validation_score\n"
        "from rd_hf.scoring.metrics import compute_metrics\n"
        "assert not {'evaluate', 'matplotlib'} & set(sys.modules)\n"
        "p = np.full((4, 2), .5)\n"
        "validation_score(p, np.array([0, 1, 0, 1]), True, 'auroc')\n"
        "compute_metrics(p, np.array([0, 1, 0, 1]), ['a', 'b'], True, 10)\n"
        "assert 'evaluate' not in sys.modules\n"
    )
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(), temporary.mkdir()
    places = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(temporary), "HF_HUB_OFFLINE": "1"}
    places |= {name: str(home / name) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    done = light_python.run("-c", code, cwd=tmp_path, environment=places)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if path not in (home, temporary)] == []


# --- labels that are not known


def with_gaps(count: int = 120, labels: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    probabilities, truth, names = multi(count, labels)
    gaps = np.random.default_rng(5).random(truth.shape) < 0.3
    return probabilities, np.where(gaps, np.nan, truth), names


def test_unknown_labels_are_left_out_of_every_value():
    probabilities, truth, names = with_gaps()
    scores = compute_metrics(probabilities, truth, names, MULTI, bootstrap_samples=0)
    alone = []
    for k in range(len(names)):
        known = ~np.isnan(truth[:, k])
        own = compute_metrics(probabilities[known, k, None], truth[known, k, None], [names[k]], MULTI, 0)
        alone.append(own)
        matrix = sk.confusion_matrix(truth[known, k], probabilities[known, k] >= 0.5)
        assert scores["confusion_matrix"][k] == matrix.tolist()
        for name in ("sensitivity", "specificity"):
            assert scores[name][names[k]] == own[name][names[k]]
    for name in ("auroc", "average_precision", "f1", "balanced_accuracy", "expected_calibration_error"):
        assert scores[name] == pytest.approx(np.mean([own[name] for own in alone])), name
    known = ~np.isnan(truth)
    assert scores["accuracy"] == pytest.approx(((probabilities >= 0.5) == (truth == 1))[known].mean())


def test_intervals_with_unknown_labels_are_those_of_the_resampled_rows():
    probabilities, truth, names = with_gaps()
    predictions = Predictions.check(probabilities, truth, names, MULTI)
    weights = next(resamples(predictions, 5, seed=0))
    values = weighted_class_values(weights, predictions)
    for row, drawn in enumerate(weights.astype(int)):
        again = np.repeat(np.arange(len(truth)), drawn)
        expected = Predictions.check(probabilities[again], truth[again], names, MULTI)
        for name, own in class_values(expected).items():
            assert values[name][row] == pytest.approx(own), name
        once = np.ones((1, len(again)))
        for score in (accuracy, expected_calibration_error):
            assert score(weights[row : row + 1], predictions) == pytest.approx(score(once, expected))


def test_a_label_that_is_never_known_is_undefined_and_left_out_of_the_means():
    probabilities, truth, names = multi(60, 3)
    truth = truth.astype(float)
    whole = compute_metrics(probabilities[:, :2], truth[:, :2], names[:2], MULTI, 50)
    truth[:, 2] = np.nan
    scores = compute_metrics(probabilities, truth, names, MULTI, 50)
    for name in METRIC_NAMES:
        assert scores[name] == pytest.approx(whole[name]), name
        assert scores["intervals"][name] == pytest.approx(whole["intervals"][name]), name
    assert scores["sensitivity"][names[2]] is None and scores["confusion_matrix"][2] == [[0, 0], [0, 0]]
    reason = f"no image of the split has a known label for {names[2]!r}"
    for name in ("auroc", "f1", "balanced_accuracy", "average_precision"):
        assert scores["undefined"][name] == f"mean over the other labels: {reason}"
    for name in ("sensitivity", "specificity"):
        assert scores["undefined"][f"{name}/{names[2]}"] == f"undefined: {reason}"
    truth[:, 1] = 0
    both = compute_metrics(probabilities, truth, names, MULTI, 0)["undefined"]
    alike = f"the split has only positive or only negative images of {names[1]!r}"
    assert both["auroc"] == f"mean over the other labels: {alike} and {reason}"
    assert both[f"sensitivity/{names[1]}"] == f"undefined: the split has no image with {names[1]!r}"
    truth[:, 0] = 1
    nowhere = compute_metrics(probabilities, truth, names, MULTI, 0)["undefined"]
    assert nowhere["auroc"] == "undefined: no label has both positive and negative images in this split"
    never = compute_metrics(probabilities, np.full_like(truth, np.nan), names, MULTI, 0)["undefined"]
    assert never["auroc"] == "undefined: no image of the split has a known label"


def test_one_label_per_image_has_to_be_known():
    with pytest.raises(MetricError, match="class numbers"):
        compute_metrics(np.full((2, 2), 0.5), np.array([0.0, np.nan]), ["a", "b"], SINGLE, 0)


def test_images_of_a_group_are_drawn_together():
    """Copies of an image say no more than the image."""
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    positive = 1 / (1 + np.exp(-(2 * labels - 1) - 2 * generator.normal(size=40)))
    probabilities = np.stack([1 - positive, positive], axis=1)
    copies, patients = np.repeat(probabilities, 4, axis=0), np.repeat(np.arange(40), 4).tolist()
    alone = compute_metrics(probabilities, labels, ["no", "yes"], True)
    four = compute_metrics(copies, np.repeat(labels, 4), ["no", "yes"], True, groups=patients)
    apart = compute_metrics(copies, np.repeat(labels, 4), ["no", "yes"], True)
    width = {name: np.diff(s["intervals"]["auroc"])[0] for name, s in zip("afx", (alone, four, apart), strict=True)}
    assert four["auroc"] == pytest.approx(alone["auroc"]) and four["groups"] == 40 and "groups" not in alone
    assert width["f"] == pytest.approx(width["a"], rel=0.2) and width["x"] < 0.7 * width["a"]
    own = compute_metrics(probabilities, labels, ["no", "yes"], True, groups=list(range(40)))
    assert own == alone  # stratified, as of images without groups
    few = compute_metrics(copies[:16], np.repeat(labels, 4)[:16], ["no", "yes"], True, groups=patients[:16])
    assert few["intervals"]["auroc"] is None and few["groups"] == 4
