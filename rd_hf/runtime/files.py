"""Files written whole or not at all, and readable by whom other new files are readable."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write plain values as JSON, whole or not at all."""
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)


def write_predictions(
    path: Path,
    rows: list[int],
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: list[str],
    multi_label: bool,
) -> None:
    """One line a row: its number in the split, the label's name, the predicted one, the probability of every class.

    A multi-label task has its positive labels' names separated by `|`, predicted at a probability of 0.5.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", *(f"probability_{name}" for name in label_names)])
        for row, label, values in zip(rows, labels, probabilities, strict=True):
            if multi_label:
                names = [
                    "|".join(n for n, on in zip(label_names, v, strict=True) if on)
                    for v in (label > 0.5, values >= 0.5)
                ]
            else:
                names = [label_names[int(label)], label_names[int(values.argmax())]]
            writer.writerow([row, *names, *(f"{value:.6f}" for value in values)])


def share_weights(folder: Path) -> None:
    """Give weights the permissions of other new files; safetensors makes them for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o666 & ~mask)
