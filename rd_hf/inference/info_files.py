"""The files of a model or a run, and how `rd_hf.info` is shown in a terminal."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..arguments.values import listed
from ..cards.card import origin_in_words
from ..students.cost import threads

MODELS = ("student", "teacher")  # folders of a run whose files are listed one by one
SHOWN_NAMES = 10


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file; of a folder in it that is no model, of all its files together."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            sizes[path.name] = path.stat().st_size
        elif path.name in MODELS:
            sizes |= {f"{path.name}/{name}": size for name, size in file_sizes(path).items()}
        else:
            sizes[f"{path.name}/"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return sizes


def tensor_count(path: Path) -> int:
    """The numbers in a file of safetensors, by its header."""
    with safe_open(path, framework="pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def info_table(facts: dict[str, Any]) -> str:
    """What `rd_hf.info` gives, in lines."""
    lines = [
        ("model", f"{facts['model']} ({_form(facts)})"),
        ("task", f"{facts['task']}, {len(facts['labels'])} classes: {_first_of(facts['labels'])}"),
        ("reads", f"{facts['reads']} of {' x '.join(map(str, facts['image_size']))}, {_prepared(facts)}"),
    ]
    if facts["operating_point"] is not None:
        point = facts["operating_point"]
        thresholds = [f"{name} from {value:.3g}" for name, value in point["thresholds"].items()]
        lines.append(("operating point", f"{point['rule']}: {_first_of(thresholds)}"))
    if facts["calibration_temperature"] is not None:
        lines.append(("temperature", f"{facts['calibration_temperature']:.3f} (with `calibrated`)"))
    lines.append(("cost", _cost(facts["cost"])))
    if "foundation_model" in facts:
        lines.append(("foundation model", f"{facts['foundation_model']['id']}, not counted in the cost"))
    lines += _origin(facts["made_from"])
    if facts.get("training"):
        lines.append(("training", ", ".join(f"{name} {value}" for name, value in facts["training"].items())))
    for split, scores in facts["scores"].items():
        lines.append((f"scores, {split}", _scores(scores)))
    for split, scores in facts.get("float32_scores", {}).items():
        lines.append((f"float32, {split}", _scores(scores)))
    for split, scores in facts.get("teacher_scores", {}).items():
        lines.append((f"teacher, {split}", _scores(scores)))
    by_size = sorted(facts["files"].items(), key=lambda item: -item[1])
    lines.append(("files", _first_of([f"{name} {_size(size)}" for name, size in by_size])))
    return "\n".join(f"{name:19} {text}" for name, text in lines)


def _form(facts: dict[str, Any]) -> str:
    names = {"rd_hf": "a student of rd_hf", "transformers": "a plain transformers checkpoint", "onnx": "an ONNX export"}
    if facts["model_type"] == "rd_teacher":
        return "a reprogrammed teacher of rd_hf"
    return f"{names[facts['form']]}, {facts['model_type']}"


def _prepared(facts: dict[str, Any]) -> str:
    values = facts["preprocessing"]
    if facts["reads"] == "images":
        return f"mean {values.get('image_mean')}, standard deviation {values.get('image_std')}"
    grid = f"spacing {values['spacing']} mm" if "spacing" in values else "resized as a whole"
    window = f"{values['window']}" if values["intensity"] == "window" else f"percentiles {values['percentiles']}"
    return f"{values['channels']} channels, {grid}, intensities {window}"


def _cost(cost: dict[str, Any]) -> str:
    parts = [] if cost["parameters"] is None else [f"{cost['parameters']:,} parameters"]
    if cost["gflop"] is not None:
        parts.append(f"{cost['gflop']:.3g} GFLOP per {cost['per']}")
    if cost["milliseconds"] is not None:
        parts.append(f"{cost['milliseconds']:.1f} ms per {cost['per']} (CPU, {threads(cost['threads'])})")
    return ", ".join(parts)


def _origin(made_from: dict[str, Any]) -> list[tuple[str, str]]:
    if not made_from:
        return []
    teacher, data = made_from.get("teacher"), made_from.get("dataset") or {}
    base = (made_from.get("student_base") or {}).get("id")
    taught = f"from the teacher {origin_in_words(teacher['id'], 'local model')}" if teacher else "without a teacher"
    base = origin_in_words(str(base), "local model")
    lines = [("made from", f"{base}, {taught}, method {made_from.get('method')}")]
    if data:
        counts = ", ".join(f"{name} {count}" for name, count in data.get("splits", {}).items())
        names = (data.get("made_splits") or {}).get("names", ())
        made = f", of which {' and '.join(names)} {'were' if len(names) > 1 else 'was'} made" if names else ""
        lines.append(("data", f"{origin_in_words(data['id'], 'local data')} ({counts}{made})"))
    return lines


def _scores(scores: dict[str, Any]) -> str:
    parts = []
    for name, value in scores.items():
        if name == "intervals":
            continue
        interval = scores["intervals"].get(name)
        shown = "undefined" if value is None else f"{value:.3f}"
        parts.append(f"{name} {shown}" + (f" ({interval[0]:.2f}-{interval[1]:.2f})" if interval else ""))
    return ", ".join(parts)


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _first_of(names: list[str]) -> str:
    shown = listed(names[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"
