"""Facts of report pages with drawn answers, for tests that render a page without any model."""

from __future__ import annotations

import numpy as np

from rd_hf.pages.cells import wanted_positions
from rd_hf.pages.choice import confident_errors, least_certain
from rd_hf.pages.facts import Curve, Example, Gallery, Picture, ReportFacts, ScoredModel
from rd_hf.scoring.classification import METRICS, Predictions
from rd_hf.scoring.mask_metrics import segmentation_scores
from rd_hf.scoring.mask_rows import full_rows
from rd_hf.scoring.metrics import scores_of
from rd_hf.scoring.operating_point import decisions
from rd_hf.scoring.segmentation import METRICS as MASK_METRICS
from rd_hf.scoring.segmentation import MaskRows

POINT = {"rule": "sensitivity=0.95", "thresholds": {"malignant": 0.2}}


def noise(side: int, seed: int = 0) -> np.ndarray:
    """A picture that JPEG can hardly compress."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def single_predictions(count: int, names: list[str], seed: int = 0) -> Predictions:
    """Answers of a middling classifier of exclusive classes, every class being there."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % len(names)
    logits = generator.normal(size=(count, len(names)))
    logits[np.arange(count), labels] += 1.5
    odds = np.exp(logits)
    return Predictions.check(odds / odds.sum(axis=1, keepdims=True), labels, names, True)


def multi_predictions(count: int, names: list[str]) -> Predictions:
    """Answers of several labels per image, one of them not known."""
    generator = np.random.default_rng(1)
    labels = (generator.random((count, len(names))) < 0.3).astype(float)
    labels[0, 1] = np.nan
    logits = generator.normal(size=labels.shape) + 2 * np.nan_to_num(labels) - 1
    return Predictions.check(1 / (1 + np.exp(-logits)), labels, names, False)


def facts_of(predictions: Predictions, files: list[str] | None = None, point: dict | None = None, samples: int = 50):
    """A page of a classifier with everything but subgroups and calibration."""
    count, names = len(predictions.truth), list(predictions.label_names)
    decided = decisions(predictions.probabilities, names, predictions.exclusive, point)
    facts = ReportFacts(
        title="me/student, distilled from me/teacher", summary="Drawn answers.", names=names, unit="image",
        split="test", rows=list(range(count)), files=files, metrics=METRICS,
        models=[ScoredModel("student", scores_of(predictions, samples, 0))], predictions=predictions,
        operating_point=point, origins=[("method", "rd")], leaks=[],
        course={"Loss and its terms": [Curve("total", [1, 2, 3], [1.0, float("nan"), 0.5])]},
        costs=[{"name": "student", "parameters": 1234567, "gflop": 0.1, "milliseconds": 2.5}],
        splits=[{"name": "test", "images": count, "counts": predictions.truth.sum(axis=0).tolist()}],
    )  # fmt: skip
    kinds = {
        "Most confident errors": confident_errors(predictions, decided, point, 12),
        "Least certain": least_certain(predictions, decided, point, 12),
    }
    facts.galleries = [
        Gallery(
            title, "Chosen.", [Example(case.position, [Picture(noise(300, case.position), "seen")]) for case in cases]
        )
        for title, cases in kinds.items()
    ]
    facts.thumbnails = {position: noise(150, position) for position in wanted_positions(facts, decided, 240)}
    return facts


def mask_facts(count: int = 8, unit: str = "image") -> ReportFacts:
    """A page of a segmenter of three classes, whose second image has no foreground at all."""
    generator = np.random.default_rng(2)
    truths = [generator.integers(0, 3, (12, 12)).astype(np.uint8) for _ in range(count)]
    predictions = [np.where(generator.random((12, 12)) < 0.7, truth, 0).astype(np.uint8) for truth in truths]
    truths[1][:], predictions[1][:] = 0, 0
    names = ["background", "lesion", "cyst"]
    rows = MaskRows.of(full_rows(predictions, truths, 3), names)
    pictures = [Picture(noise(64), caption) for caption in ("image", "truth", "prediction")]
    return ReportFacts(
        title="a segmenter", summary="Drawn masks.", names=names, unit=unit, split="test", rows=list(range(count)),
        files=None, metrics=MASK_METRICS, models=[ScoredModel("student", segmentation_scores(rows, 50))], masks=rows,
        leaks=["Two splits share one."],
        galleries=[Gallery("Worst images", "The worst first.", [Example(0, pictures)])],
    )  # fmt: skip
