"""A finished run of a comparison, as tables and plots use it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..models.grids import written
from ..students.volumes import VolumeStudent
from ..tasks.segmentation import Segmentation
from .cell import PREDICTIONS_FILE, read_result, task_of
from .plan import Cell
from .statistics import mask_score_resamples, score_resamples


class Run:
    """A finished cell.

    :ivar row: its line of results.csv.
    :ivar metric: by which methods are compared, the first of the task's.
    :ivar volumes: what a model is shown of volumes at once; None for images.
    :ivar case: what has one label or mask, "image" or "volume".
    :ivar shown: what a model is shown at once, "image", "crop" or "volume".
    :ivar shots_title: what `shots` counts.
    :ivar passed_over: number of train rows without a label that no run with every label uses.
    """

    def __init__(self, cell: Cell, root: Path):
        self.cell, self.folder = cell, root / cell.path
        result = read_result(root, cell)
        self.settings, self.task = result["settings"], task_of(result)
        self.metric = self.task.metrics[0]
        self.has_masks = isinstance(self.task, Segmentation)
        self.volumes = VolumeStudent(**result["volumes"]) if "volumes" in result else None
        self.case = "image" if self.volumes is None else "volume"
        self.shown = "crop" if self.volumes is not None and self.has_masks else self.case
        self.shots_title = f"labelled {self.case}s" if self.has_masks else "labels per class"
        self.passed_over: int = result.get("passed_over", 0)
        model = self._teacher() if cell.entry.method.role == "teacher" else self._student()
        self.cost_key = f"{model}, {len(self.task.names)} labels" + (", masks" if self.has_masks else "")
        if self.volumes is not None:
            self.cost_key += f", volumes {written(tuple(self.volumes.size))}"
        self.row: dict[str, Any] = {
            "data": cell.data,
            "teacher": cell.teacher or "",
            "method": cell.entry.name,
            "unlabelled": cell.unlabelled,
            "shots": cell.shots or "all",
            "seed": cell.seed,
            **{
                f"{split}_{m.name}": result[split][m.name]
                for split in ("test", "validation")
                for m in self.task.metrics
            },
            **{
                f"teacher_test_{m.name}": result["teacher"]["test"][m.name]
                for m in self.task.metrics
                if "teacher" in result
            },
            "learning_rate": self.settings["learning_rate"],
            "weight": self.settings["comparison_weight"],
            **{n: result.get(n, "") for n in ("steps", "best_step", "teacher_C", "seconds", "training_memory_mib")},
            "trained_parameters": result["trained_parameters"],
            "deployed_parameters": result["deployed_parameters"],
            "rd_hf_version": result["rd_hf_version"],
        }

    def _teacher(self) -> str:
        names = ["teacher", "teacher_revision", *(["slice_axis"] if self.volumes is not None else [])]
        names += ["teacher_features"] if self.settings.get("teacher_features", "stage") != "stage" else []
        names += ["teacher_image_size"] if self.settings.get("teacher_image_size") else []
        return " ".join(["teacher", *(str(self.settings[name]) for name in names)])

    def _student(self) -> str:
        size = self.settings["student_image_size"]
        return f"student {json.dumps(self.settings['student'], sort_keys=True)}" + (f" at {size} px" if size else "")

    @cached_property
    def resampled_scores(self) -> np.ndarray:
        """The score on the test split and under resamples of its images, (1 + SAMPLES, 1)."""
        kept = load_file(self.folder / PREDICTIONS_FILE)
        if self.has_masks:
            return mask_score_resamples(kept["test/rows"], kept["test/units"], self.task.names, self.metric.name)
        answers = kept["test/probabilities"], kept["test/labels"]
        return score_resamples([answers], self.metric.name, kept.get("test/units"))
