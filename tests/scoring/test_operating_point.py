"""Thresholds of an operating point and their values, and temperatures: against scikit-learn, statistics and by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score, roc_curve

from rd_hf.scoring.metric import MetricError
from rd_hf.scoring.operating_point import MEASURES, choose_threshold, values_at, wilson
from rd_hf.scoring.temperature import fit_temperature

RULES = ["sensitivity=0.95", "sensitivity=1", "specificity=0.9", "specificity=0.5", "youden"]


def drawn(seed: int, count: int = 60, digits: int | None = None):
    """Probabilities that tell a third of the images apart from the others, by and large; perhaps with ties."""
    generator = np.random.default_rng(seed)
    truth = generator.random(count) < 0.35
    probabilities = 1 / (1 + np.exp(-generator.normal(1.5 * truth - 0.7)))
    return (probabilities if digits is None else probabilities.round(digits)), truth


def rates(probabilities, truth, threshold):
    answered = probabilities >= threshold
    return recall_score(truth, answered), recall_score(~truth, ~answered)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("rule", RULES)
def test_of_all_thresholds_the_one_that_meets_the_rule_at_the_least_cost(rule, digits):
    name, _, least = rule.partition("=")
    for seed in range(3):
        probabilities, truth = drawn(seed, digits=digits)
        threshold = choose_threshold(probabilities, truth, rule)
        own = rates(probabilities, truth, threshold)
        others = [rates(probabilities, truth, value) for value in roc_curve(truth, probabilities)[2][1:]]
        if name == "youden":
            assert sum(own) == pytest.approx(max(map(sum, others)))
        else:
            reached, paid = (0, 1) if name == "sensitivity" else (1, 0)
            assert own[reached] >= float(least)
            assert own[paid] == max(pair[paid] for pair in others if pair[reached] >= float(least))


@pytest.mark.parametrize("rule", RULES)
def test_a_difference_in_the_last_digits_changes_no_decision(rule):
    probabilities, truth = drawn(7)
    threshold = choose_threshold(probabilities, truth, rule)
    assert np.abs(probabilities - threshold).min() > 1e-6
    shifted = probabilities + np.random.default_rng(0).uniform(-1e-7, 1e-7, len(truth))
    assert ((shifted >= threshold) == (probabilities >= threshold)).all()


def test_by_hand():
    truth = np.array([1, 0, 1, 1, 0, 0, 0, 0], dtype=bool)
    probabilities = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert choose_threshold(probabilities, truth, "sensitivity=1") == pytest.approx(0.45)
    assert choose_threshold(probabilities, truth, "sensitivity=0.6") == pytest.approx(0.45)  # as specific as 0.6
    assert choose_threshold(probabilities, truth, "specificity=1") == pytest.approx(0.85)
    assert choose_threshold(probabilities, truth, "specificity=0.8") == pytest.approx(0.45)
    assert choose_threshold(probabilities, truth, "youden") == pytest.approx(0.45)
    adjacent = np.array([0.5, np.nextafter(0.5, 0)])  # no number lies between them
    assert choose_threshold(adjacent, np.array([True, False]), "youden") == 0.5


@pytest.mark.parametrize(
    ("probabilities", "truth", "rule", "reason"),
    [
        ([0.2, 0.7], [0, 0], "youden", "no image with it"),
        ([0.2, 0.7], [1, 1], "sensitivity=0.9", "no image without it"),
        ([0.5, 0.5, 0.5], [1, 0, 0], "sensitivity=0.9", "no threshold meets it"),
        ([0.9, 0.5, 0.1], [0, 1, 0], "specificity=1", "no threshold meets it"),
        ([0.9, 0.5, 0.1], [0, 0, 1], "sensitivity=0.9", "no threshold meets it"),
        ([0.9, 0.8, 0.1], [0, 0, 1], "youden", "better than chance"),
    ],
)
def test_what_gives_no_threshold(probabilities, truth, rule, reason):
    with pytest.raises(MetricError, match=reason):
        choose_threshold(np.array(probabilities), np.array(truth, dtype=bool), rule)


@pytest.mark.parametrize(("part", "whole"), [(0, 7), (7, 7), (19, 20), (3, 1000)])
def test_wilson_is_the_published_formula(part, whole):
    """Wilson 1927: the shares p for which |part/whole - p| <= z sqrt(p (1 - p) / whole)."""
    z, share = norm.ppf(0.975), part / whole
    middle = (share + z**2 / (2 * whole)) / (1 + z**2 / whole)
    half = z / (1 + z**2 / whole) * np.sqrt(share * (1 - share) / whole + z**2 / (4 * whole**2))
    assert wilson(part, whole) == pytest.approx([middle - half, middle + half], abs=1e-9)


def test_values_are_scikit_learns():
    probabilities, truth = drawn(3)
    answered = probabilities >= 0.4
    values = values_at(answered, truth)
    expected = (
        recall_score(truth, answered), recall_score(~truth, ~answered),
        precision_score(truth, answered), precision_score(~truth, ~answered),
    )  # fmt: skip
    assert [values[name]["value"] for name in MEASURES] == pytest.approx(expected)
    for value in values.values():
        assert value["value"] == value["count"][0] / value["count"][1]
        assert value["interval"][0] < value["value"] < value["interval"][1]
    assert sum(values[name]["count"][1] for name in ("ppv", "npv")) == len(truth)
    none = values_at(np.zeros(4, dtype=bool), np.array([1, 0, 0, 0], dtype=bool))
    assert none["ppv"] == {"value": None, "interval": None, "count": [0, 0]} and none["npv"]["count"] == [3, 4]


def test_the_temperature_of_two_labels_is_logistic_regression_without_an_intercept():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 1)) * 4
    truth = (generator.random((300, 1)) < 1 / (1 + np.exp(-logits / 2.5))).astype(np.float32)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(logits, truth.ravel())
    assert fit_temperature(logits, truth, exclusive=False) == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-3)
    unknown = np.concatenate([truth, np.full((300, 1), np.nan, dtype=np.float32)], axis=1)
    twice = np.concatenate([logits, logits[::-1]], axis=1)
    assert fit_temperature(twice, unknown, exclusive=False) == pytest.approx(1 / fitted.coef_[0, 0], rel=1e-3)


def test_the_temperature_of_classes_is_that_of_another_minimiser_and_brings_a_scale_back():
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(400, 3)) * 2
    labels = np.array([generator.choice(3, p=np.exp(row - logsumexp(row))) for row in logits])

    def likelihood(values):
        return -log_softmax(logits * np.exp(-values[0]), axis=1)[np.arange(400), labels].mean()

    expected = np.exp(minimize(likelihood, [0.0], method="BFGS", options={"gtol": 1e-9}).x[0])
    found = fit_temperature(logits, labels, exclusive=True)
    assert found == pytest.approx(expected, rel=1e-4)
    assert fit_temperature(logits * 3, labels, exclusive=True) == pytest.approx(3 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "labels", "exclusive", "reason"),
    [
        (np.eye(3)[[0, 1, 2]], np.array([0, 1, 2]), True, "3 rows, and 10 are needed"),
        (np.random.default_rng(0).normal(size=(20, 2)), np.zeros(20, dtype=int), True, "one class only"),
        (np.random.default_rng(0).normal(size=(20, 2)), np.ones((20, 2), np.float32), False, "all labels alike"),
        (np.eye(2)[np.arange(20) % 2], np.arange(20) % 2, True, "every answer is right"),
        (np.eye(2)[np.arange(20) % 2] - 0.5, np.eye(2, dtype=np.float32)[np.arange(20) % 2], False, "is right"),
        (np.eye(2)[np.arange(20) % 2], (np.arange(20) + 1) % 2, True, "the best one is above the range"),
    ],
)
def test_what_defines_no_temperature(logits, labels, exclusive, reason):
    with pytest.raises(MetricError, match=reason):
        fit_temperature(logits, labels, exclusive)
