"""A finished run of a comparison, as tables and plots use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..scoring.classification import METRIC_NAMES
from .cell import PREDICTIONS_FILE, read_result
from .plan import Cell


class Run:
    """A finished cell.

    :ivar row: its line of results.csv.
    """

    def __init__(self, cell: Cell, root: Path):
        self.cell, self.folder = cell, root / cell.path
        result = read_result(root, cell)
        self.settings, self.label_names = result["settings"], result["label_names"]
        model = self._teacher() if cell.entry.method.role == "teacher" else self._student()
        self.cost_key = f"{model}, {len(self.label_names)} labels"
        self.row: dict[str, Any] = {
            "data": cell.data,
            "teacher": cell.teacher or "",
            "method": cell.entry.name,
            "unlabelled": cell.unlabelled,
            "shots": cell.shots or "all",
            "seed": cell.seed,
            **{f"test_{name}": result["test"][name] for name in METRIC_NAMES},
            **{f"validation_{name}": result["validation"][name] for name in METRIC_NAMES},
            "learning_rate": self.settings["learning_rate"],
            "weight": self.settings["comparison_weight"],
            **{n: result.get(n, "") for n in ("steps", "best_step", "teacher_C", "seconds", "training_memory_mib")},
            "trained_parameters": result["trained_parameters"],
            "deployed_parameters": result["deployed_parameters"],
            "rd_hf_version": result["rd_hf_version"],
        }

    def _teacher(self) -> str:
        return " ".join(["teacher", *(str(self.settings[name]) for name in ("teacher", "teacher_revision"))])

    def _student(self) -> str:
        size = self.settings["student_image_size"]
        return f"student {json.dumps(self.settings['student'], sort_keys=True)}" + (f" at {size} px" if size else "")

    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, K) and class numbers (N,) of the test split."""
        tensors = load_file(self.folder / PREDICTIONS_FILE)
        return tensors["test/probabilities"], tensors["test/labels"]
