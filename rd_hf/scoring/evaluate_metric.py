"""The classification metrics as an `evaluate.Metric`. Importing this module imports evaluate, which takes seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as SequenceFeature

from .classification import Predictions
from .metrics import scores_of

_DESCRIPTION = """Accuracy, balanced accuracy, macro F1, AUROC, average precision, expected calibration error, and each
class's sensitivity and specificity, with 95 % bootstrap intervals, and the confusion matrix."""

_INPUTS = """
predictions: (images, classes) probabilities.
references: class numbers; for several labels per image (images, classes) of 0 and 1.
label_names: a name for each class.
bootstrap_samples: number of resamples behind the intervals, 0 for none.
seed: of the resampling.
"""


class ClassificationMetrics(evaluate.Metric):
    """What `rd_hf.scoring.metrics.compute_metrics` gives, batch by batch where wanted (`add_batch`).

    Needs no Hub, keeps its rows in memory and leaves no file behind.

    :param exclusive: whether each image has exactly one class.
    """

    def __init__(self, exclusive: bool = True) -> None:
        self.exclusive = exclusive  # before the base class, which asks `_info`
        # The base class makes a folder in the user's cache even when it keeps everything in memory.
        with tempfile.TemporaryDirectory() as folder:
            kind = "one label" if exclusive else "several labels"
            super().__init__(config_name=kind, keep_in_memory=True, cache_dir=folder)

    def _info(self) -> evaluate.MetricInfo:
        number = Value("int64")
        references = number if self.exclusive else SequenceFeature(number)
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": SequenceFeature(Value("float64")), "references": references}),
        )

    def _compute(
        self, predictions: list, references: list, label_names: Sequence[str], bootstrap_samples: int, seed: int
    ) -> dict:
        checked = Predictions.check(np.array(predictions), np.array(references), label_names, self.exclusive)
        return scores_of(checked, bootstrap_samples, seed)
