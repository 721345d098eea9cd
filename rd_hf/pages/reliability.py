"""The reliability plot of a page: predicted probabilities beside the share that came true, in the bins of the error.

Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 1, with the bins of
`rd_hf.scoring.classification.expected_calibration_error`.
"""

from __future__ import annotations

import numpy as np

from ..scoring.classification import CALIBRATION_BINS, Predictions, calibration_bins
from .charts import histogram, line_chart
from .facts import Curve, ReportFacts


def reliability(facts: ReportFacts) -> dict:
    """The chart of the probabilities, and of those after temperature scaling where there are any.

    With one label per image it is of the likeliest class, with several of all labels together.
    """
    predictions = facts.predictions
    confidence, right = confidences(predictions, predictions.probabilities)
    curves = [bins(confidence, right, "as they come")]
    if facts.calibrated is not None:
        curves.append(bins(*confidences(predictions, facts.calibrated), "after temperature scaling"))
    what = "probability of the likeliest class" if facts.kind == "single" else "probability of a label"
    share = "share that is right" if facts.kind == "single" else "share that has the label"
    label = f"Reliability: {share} by {what}, in {CALIBRATION_BINS} bins"
    return {
        "chart": line_chart(curves, label, what, share, (0, 1), (0, 1), diagonal=True),
        "spread": histogram(
            confidence, f"Number of answers by {what}", what, "answers", CALIBRATION_BINS
        ),
    }  # fmt: skip


def confidences(predictions: Predictions, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M,), and whether each came true.

    :param probabilities: (N, K), which need not be those of the predictions.
    """
    if predictions.exclusive:
        likeliest = probabilities.argmax(axis=1)
        rows = np.arange(len(likeliest))
        return probabilities[rows, likeliest], predictions.truth[rows, likeliest]
    return probabilities[predictions.known], predictions.truth[predictions.known]


def bins(confidence: np.ndarray, right: np.ndarray, title: str) -> Curve:
    """The mean probability of each bin that is not empty, and the share in it that came true."""
    number = calibration_bins(confidence)
    sizes = np.bincount(number, minlength=CALIBRATION_BINS)
    filled = sizes > 0
    means = np.bincount(number, confidence, CALIBRATION_BINS)[filled] / sizes[filled]
    shares = np.bincount(number, right.astype(float), CALIBRATION_BINS)[filled] / sizes[filled]
    return Curve(title, means.tolist(), shares.tolist())
