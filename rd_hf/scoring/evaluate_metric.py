"""The metrics as `evaluate.Metric`s. Importing this module imports evaluate, which takes seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as SequenceFeature

from .classification import Predictions
from .mask_metrics import segmentation_scores
from .mask_rows import full_rows
from .metric import MetricError
from .metrics import scores_of
from .segmentation import IMAGES, VOLUMES, MaskRows

_DESCRIPTION = """Accuracy, balanced accuracy, macro F1, AUROC, average precision, expected calibration error, and each
class's sensitivity and specificity, with 95 % bootstrap intervals, and the confusion matrix."""

_INPUTS = """
predictions: (images, classes) probabilities.
references: class numbers; for several labels per image (images, classes) of 0 and 1, and NaN where not known.
label_names: a name for each class.
bootstrap_samples: number of resamples behind the intervals, 1000 by default, 0 for none.
seed: of the resampling, 0 by default.
groups: of the images, which resamples draw together; None if each is its own.
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
        references = Value("int64") if self.exclusive else SequenceFeature(Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=Features({"predictions": SequenceFeature(Value("float64")), "references": references}),
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        label_names: Sequence[str],
        bootstrap_samples: int = 1000,
        seed: int = 0,
        groups: Sequence | None = None,
    ) -> dict:
        checked = Predictions.check(np.array(predictions), np.array(references), label_names, self.exclusive)
        return scores_of(checked, bootstrap_samples, seed, groups)


_MASK_DESCRIPTION = """Dice, IoU, 95 % Hausdorff distance and surface Dice of masks, means over images by class and over
the foreground classes, pooled Dice and false positives, with 95 % bootstrap intervals."""

_MASK_INPUTS = """
predictions: masks (H, W) of class numbers, each of its own size; class 0 is the background.
references: masks (H, W) of class numbers, and 255 for pixels without a label.
label_names: a name for each class.
bootstrap_samples: number of resamples behind the intervals, 1000 by default, 0 for none.
seed: of the resampling, 0 by default.
groups: of the images, which resamples draw together; None if each is its own.
spacings: of volumes, whose masks are (X, Y, Z): millimetres from voxel to voxel along each axis, in their order.
"""


class SegmentationMetrics(evaluate.Metric):
    """What `rd_hf.scoring.mask_metrics.segmentation_scores` gives, batch by batch where wanted (`add_batch`).

    Needs MONAI and no Hub, keeps its masks in memory and leaves no file behind.

    :param of_volumes: whether masks are (X, Y, Z), and distances in millimetres.
    """

    def __init__(self, of_volumes: bool = False) -> None:
        self.of_volumes = of_volumes  # before the base class, which asks `_info`
        # As above, the base class makes a folder in the user's cache.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(config_name="masks", keep_in_memory=True, cache_dir=folder)

    def _info(self) -> evaluate.MetricInfo:
        mask = SequenceFeature(SequenceFeature(Value("uint8")))
        mask = SequenceFeature(mask) if self.of_volumes else mask
        return evaluate.MetricInfo(
            description=_MASK_DESCRIPTION,
            citation="",
            inputs_description=_MASK_INPUTS,
            features=Features({"predictions": mask, "references": mask}),
        )

    def _compute(
        self,
        predictions: list,
        references: list,
        label_names: Sequence[str],
        bootstrap_samples: int = 1000,
        seed: int = 0,
        groups: Sequence | None = None,
        spacings: Sequence[Sequence[float]] | None = None,
    ) -> dict:
        if self.of_volumes and spacings is None:
            raise MetricError("masks of volumes need `spacings`, one of three numbers for each volume")
        masks = [[np.array(mask, dtype=np.uint8) for mask in side] for side in (predictions, references)]
        measured = VOLUMES if self.of_volumes else IMAGES
        rows = MaskRows.of(full_rows(*masks, len(label_names), spacings), label_names, measured)
        return segmentation_scores(rows, bootstrap_samples, seed, groups)
