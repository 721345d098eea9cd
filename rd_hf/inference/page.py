"""Collects what a report page says of a model's answers on a split, and writes the page of `rd_hf.evaluate`."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from .._version import __version__
from ..arguments.values import ArgumentError
from ..cards.card import is_hub_id, origin_in_words
from ..cards.image_notes import image_remarks
from ..cards.provenance import read_provenance
from ..data.volumes.store import VolumeStore
from ..models.modeling_rd_teacher import RDTeacher
from ..pages.facts import ReportFacts, ScoredModel
from ..pages.report import render_report
from ..runtime.files import check_is_new, write_text
from ..scoring.classification import Predictions
from ..scoring.segmentation import MaskRows
from ..tasks.segmentation import Segmentation
from .page_pictures import add_pictures

if TYPE_CHECKING:
    from ..data.open_split import OpenSplit
    from ..tasks.task import Task
    from .loading import LoadedModel

DIGITS = 12  # of a fingerprint
LIBRARIES = ("torch", "transformers", "datasets")


def facts_of_split(
    task: Task,
    split: OpenSplit,
    rows: np.ndarray,
    models: list[ScoredModel],
    title: str,
    with_images: bool,
    temperature: float | None = None,
) -> ReportFacts:
    """What a page says of the answers of a model, without pictures.

    :param rows: what the task keeps of the model's answers.
    :param models: the model, and those to compare it with.
    :param with_images: whether the page is to show images; without them it names no file either.
    :param temperature: the model's, where it has one.
    """
    unit = "volume" if isinstance(split.store, VolumeStore) else "image"
    kind = "Segments" if isinstance(task, Segmentation) else "Classifies"
    facts = ReportFacts(
        title=title,
        summary=f"{kind} {unit}s into {len(task.names)} classes. Scored on {len(split.rows)} {unit}s.",
        names=list(task.names),
        unit=unit,
        split=split.name,
        rows=list(split.rows),
        files=split.files() if with_images else None,
        metrics=task.metrics,
        models=models,
        with_images=with_images,
        versions={"rd_hf": __version__, "Python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
    )
    if isinstance(task, Segmentation):
        facts.masks = MaskRows.of(rows, task.names, task.measured)
        return facts
    facts.predictions = Predictions.check(task.uncalibrated(rows), task.labels(rows), task.names, task.exclusive)
    facts.operating_point = task.operating_point
    if temperature is not None:
        facts.calibrated = replace(task, temperature=temperature).predicted(rows)
    return facts


def add_decisions(facts: ReportFacts, scores: dict[str, Any]) -> None:
    """Fill in what was found about operating point, calibration and subgroups.

    :param scores: of a run's metrics.json or an evaluation, in which these stand under their names if there are any.
    """
    found = scores.get("operating_point")
    if found is not None:
        facts.point_values = found if isinstance(found, list) else [found]
    facts.calibration, facts.subgroups = scores.get("calibration"), scores.get("subgroups")


def check_page(report: str | None) -> None:
    """Check where a page is to be written, before any work is done for it.

    :raises ArgumentError: for a file of another kind, one that exists, or one in a folder that does not exist.
    """
    if report is None:
        return
    path = Path(report)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ArgumentError(f"`report` is {report}; the page is an HTML file, so its name must end with .html.")
    check_is_new(report, "report")


def write_evaluation(
    path: Path,
    loaded: LoadedModel,
    source: dict[str, Any],
    split: OpenSplit,
    rows: np.ndarray,
    scores: dict[str, Any],
    with_images: bool,
) -> None:
    """Write the page of an evaluation.

    :param source: what is recorded of the data.
    :param rows: what the task keeps of the model's answers.
    """
    network, task, name = loaded.model, loaded.task, loaded.name
    provenance = read_provenance(network.config) if isinstance(network, PreTrainedModel) else {}
    title = title_of(provenance) or (name if is_hub_id(name) and not Path(name).exists() else "A local model")
    if isinstance(network, RDTeacher):
        title = f"{origin_in_words(provenance['teacher']['id'])}, reprogrammed"
    facts = facts_of_split(task, split, rows, [ScoredModel("model", scores)], title, with_images, loaded.temperature)
    add_decisions(facts, scores)
    facts.origins = origins_of(provenance or {"dataset": loaded.trained_on}) + data_of(source)
    facts.remarks = image_remarks(source)
    if split.skipped:
        facts.remarks.append(f"{len(split.skipped)} unreadable {facts.unit}s were left out.")
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if parameters:
        facts.costs = [{"name": "model", "parameters": parameters, "gflop": None, "milliseconds": None}]
    if with_images:
        has_gradients = isinstance(network, PreTrainedModel) and not isinstance(network, RDTeacher)
        add_pictures(
            facts, task, lambda pixels: network(pixel_values=pixels).logits, network.device, split, has_gradients
        )
    write_text(render_report(facts), path)


def title_of(provenance: dict[str, Any]) -> str | None:
    """A student's name by what it was made from; None for other models."""
    if "student_base" not in provenance:
        return None
    base = origin_in_words(provenance["student_base"]["id"])
    teacher = provenance.get("teacher")
    return f"{base}, distilled from {origin_in_words(teacher['id'])}" if teacher else f"{base}, trained alone"


def origins_of(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """What a student was made from, by label; empty for other models."""
    found = []
    for name, label in (("teacher", "foundation model"), ("student_base", "student’s base")):
        origin = provenance.get(name)
        if origin:
            revision = f", revision {origin['revision']}" if origin.get("revision") else ""
            found.append((label, origin_in_words(origin["id"]) + revision))
    if "method" in provenance:
        found.append(("method", str(provenance["method"])))
    if provenance.get("dataset"):
        found.append(("trained on", _data_named(provenance["dataset"])))
    return found


def data_of(source: dict[str, Any]) -> list[tuple[str, str]]:
    """The data that is scored, by label, with the fingerprints of its splits."""
    prints = [(f"fingerprint of {name}", _shortened(value)) for name, value in source["fingerprint"].items()]
    return [("data", _data_named(source)), *prints]


def _shortened(fingerprint: str) -> str:
    kind, value = fingerprint.rsplit(":", 1)
    return f"{kind}:{value[:DIGITS]}…"


def _data_named(source: dict[str, Any]) -> str:
    parts = [origin_in_words(source["id"], "local data"), source.get("config_name"), source.get("revision")]
    return ", ".join(part for part in parts if part)
