"""Collects the facts for a run's cards as plain values, without any path, file name or column of the data."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._version import __version__
from ..arguments.distillation import DistillationArguments
from ..arguments.options import defaults_under, names
from ..cards.card import origin_in_words
from ..inference.page import title_of
from ..models.timm_models import TIMM
from ..students.cost import Cost, measure_cost, threads
from .assembly import planned_steps
from .mask_examples import EXAMPLES_FILE
from .trainer import Trainer, usual_eval_steps

if TYPE_CHECKING:
    from .run_data import RunData
    from .run_models import Models

LIBRARIES = ("torch", "transformers", "datasets", "accelerate")
CURVES = {"curves.png": "Training curves"}
EXAMPLES = {EXAMPLES_FILE: "Best, median and worst test images: image, truth and prediction"}
EXAMPLES_OF_VOLUMES = {
    EXAMPLES_FILE: "Slices of the best, the median and the worst test volume, with truth and prediction"
}
CKA_CURVES = {"cka.png": "CKA over time", "stages.png": "Stages that were on over time"}


def card_facts(
    folder: Path, run_data: RunData, models: Models, trainer: Trainer, scores: dict[str, Any]
) -> dict[str, Any]:
    """Facts of the cards of student and teacher, by these names; the teacher's is there if there is one.

    :param folder: the run's, with the saved student, which is loaded to be timed.
    :param scores: what metrics.json holds.
    """
    arguments: DistillationArguments = trainer.arguments
    task = run_data.task
    of_data = run_data.defaults(arguments.method) | {"metric_for_best_model": task.default_metric}
    unset = arguments.with_values(temperature=None, kl_weight_end=None)  # which may follow from others that are given
    unset = run_data.with_defaults(unset)
    of_data |= {"temperature": unset.temperature, "kl_weight_end": unset.kl_weight_end}
    of_steps = {"max_steps": planned_steps(arguments.with_values(max_steps=-1), run_data, trainer.data.plan)}
    of_steps |= {"eval_steps": usual_eval_steps(trainer.max_steps), "save_steps": trainer.eval_steps}
    changed, defaults = _arguments(arguments, of_data, of_steps)
    provenance = models.student.config.provenance
    common = {
        "method": arguments.method,
        "teacher": provenance["teacher"],
        "student_base": provenance["student_base"],
        "dataset": provenance["dataset"],
        "label_names": task.names,
        "metrics": task.metrics,
        "results": task.card_template,
        "pipeline_tag": task.pipeline_tag,
        "problem_type": task.problem_type,
        "needs_student_pixels": models.teacher is not None and models.teacher.needs_student_pixels,
        "needs_timm": models.student.model.config.model_type == TIMM,
        "splits": _splits(run_data),
        "unlabelled_images": len(run_data.unlabelled_rows),
        "skipped_images": sum(len(skipped) for skipped in run_data.skipped.values()),
        "arguments": changed,
        "defaults": defaults,
        "training": scores["training"],
        "costs": _costs(folder, models),
        "cpu": f"{platform.machine()}, {threads(torch.get_num_threads())}",
        "hardware": _hardware(trainer),
        "versions": {"rd_hf": __version__, "Python": platform.python_version()} | {n: version(n) for n in LIBRARIES},
        "license": arguments.license,
    }
    of_teacher = scores["teacher"]["test"] if "teacher" in scores else None
    of_volumes = run_data.volumes is not None
    examples = (EXAMPLES_OF_VOLUMES if of_volumes else EXAMPLES) if arguments.card_images else {}
    facts = {
        "student": {
            "kind": "student", "title": title_of(provenance),
            "scores": scores["test"], "other_scores": of_teacher,
            "images": task.figures_of_scores | task.figures_of_rows | examples | CURVES,
            "preprocessing": models.student_processor.to_dict() if of_volumes else None,
            **{name: scores[name] for name in ("operating_point", "calibration") if name in scores},
        }
    }  # fmt: skip
    if of_teacher is not None:
        facts["teacher"] = {
            "kind": "teacher", "title": f"{origin_in_words(provenance['teacher']['id'])}, reprogrammed",
            "needs_timm": common["needs_timm"] or models.backbone.config.model_type == TIMM, "scores": of_teacher,
            "other_scores": scores["test"], "images": task.figures_of_scores | CKA_CURVES | CURVES,
            "preprocessing": models.teacher_processor.to_dict() if of_volumes else None,
        }  # fmt: skip
    return {name: common | own for name, own in facts.items()}


def _arguments(
    arguments: DistillationArguments, of_data: dict[str, Any], of_steps: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that differ from their default, and the others.

    The card shows the origin of teacher, student and data from their provenance, which has no paths.

    :param of_data: the defaults that depend on the data.
    :param of_steps: what stands for None where a number follows from the run's steps; a resumed run has the number.
    """
    defaults = defaults_under(type(arguments), arguments.method) | of_data | of_steps
    values, shown = arguments.to_dict(), names(type(arguments), lambda fact: fact.in_card)
    values = {name: values[name] for name in shown}
    values |= {name: number for name, number in of_steps.items() if values[name] in (None, -1)}
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    return changed, {name: value for name, value in values.items() if name not in changed}


def _splits(run_data: RunData) -> list[dict[str, Any]]:
    """The number of images per split and class; for train, those whose label was used."""
    labels = {"train (labelled)": run_data.labels[torch.from_numpy(run_data.labelled_rows)].numpy()}
    labels |= {split.name: split.labels[split.rows] for split in (run_data.validation, run_data.test)}
    return [
        {"name": name, "images": len(values), "counts": run_data.task.marks(values).sum(axis=0).tolist()}
        for name, values in labels.items()
    ]


def _costs(folder: Path, models: Models) -> dict[str, Cost]:
    """Costs of the saved student on the CPU, and of the teacher up to its last tapped stage on its device."""
    student = type(models.student).from_pretrained(folder / "student", dtype=torch.float32).eval()
    transforms = models.transforms
    costs = {"student": measure_cost(lambda pixels: student(pixel_values=pixels), student, transforms.student.size)}
    if models.backbone is not None:
        size = transforms.teacher.size
        costs["foundation model"] = measure_cost(models.backbone.extract, models.backbone.tower, size)
    return costs


def _hardware(trainer: Trainer) -> str:
    device = trainer.accelerator.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type.upper()}"
    )
    return f"{trainer.accelerator.num_processes} x {name}"
