"""Temperature scaling: one number that logits are divided by, so that probabilities are as high as they are right.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2: it minimises the negative log-likelihood of
validation. With several labels per image that is the binary one, over the labels that are known. The decisions stay.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .metric import MetricError

FEWEST_ROWS = 10
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked for; one at an end would be a limit and no minimum


def fit_temperature(logits: np.ndarray, labels: np.ndarray, exclusive: bool) -> float:
    """The temperature of the lowest negative log-likelihood.

    :param logits: (N, K) of validation.
    :param labels: (N,) class numbers, or (N, K) of 0 and 1, NaN where not known, for several labels per image.
    :param exclusive: whether each image has exactly one class.
    :raises MetricError: with the reason where these images define none.
    """
    from scipy.optimize import minimize_scalar

    if len(logits) < FEWEST_ROWS:
        raise MetricError(f"it has {len(logits)} rows, and {FEWEST_ROWS} are needed")
    scores, truth = torch.from_numpy(np.asarray(logits, dtype=np.float64)), torch.from_numpy(np.asarray(labels))
    known = None if exclusive else ~truth.isnan()
    present = truth if exclusive else truth[known]
    if len(present.unique()) < 2:
        raise MetricError(f"its rows have {'one class only' if exclusive else 'all labels alike'}")
    right = scores.argmax(1) == truth if exclusive else (scores > 0)[known] == (present > 0)
    if right.all():
        raise MetricError("every answer is right, so that the lowest temperature would be the best")

    def likelihood(log_temperature: float) -> float:
        divided = scores / float(np.exp(log_temperature))
        if exclusive:
            return float(F.cross_entropy(divided, truth))
        return float(F.binary_cross_entropy_with_logits(divided[known], truth[known].double()))

    # the likelihood is convex in 1 / T, so it has one minimum in log T too, or falls towards an end
    ends = float(np.log(COLDEST)), float(np.log(HOTTEST))
    found = float(minimize_scalar(likelihood, bounds=ends, method="bounded", options={"xatol": 1e-6}).x)
    if not ends[0] + 1e-3 < found < ends[1] - 1e-3:
        raise MetricError(f"the best one is {'below' if found < 0 else 'above'} the range of {COLDEST} to {HOTTEST}")
    return float(np.exp(found))
