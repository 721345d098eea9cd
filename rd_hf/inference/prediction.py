"""`rd_hf.predict`: a model on image files."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..arguments.values import ArgumentError, nearest_name
from ..data.folders import IMAGE_SUFFIXES
from ..data.images import BadImageError, to_rgb
from .loading import LoadedModel, load_model


def predict(
    model: str,
    images: Iterable[str],
    *,
    revision: str | None = None,
    backbone: str | None = None,
    batch_size: int = 64,
    on_bad_image: str = "error",
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Classify images.

    :param images: files, folders (searched for image files, deep) and globs.
    :return: one dict per image: `image` (its path), `label` (multi-label: `labels`, those at 0.5 or above) and
        `probabilities` by class name; for a skipped one `image` and `error`.
    :raises ArgumentError: when a name matches nothing.
    :raises BadImageError: for an unreadable image, unless `on_bad_image` is "skip".
    """
    paths = find_images(images)
    loaded = load_model(model, revision, backbone, trust_remote_code)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), batch_size):
        rows += _predict_batch(loaded, paths[start : start + batch_size], on_bad_image)
    return rows


def find_images(names: Iterable[str]) -> list[Path]:
    """Image files from files, folders and globs, in order and without repeats.

    :raises ArgumentError: for a name that matches no file, or a folder without images.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())
        if not matches:
            hint = "" if path.is_dir() else f" ({nearest_name(path.absolute())})"
            raise ArgumentError(f"There is no image at {name}{hint}.")
        found.update(dict.fromkeys(matches))
    return list(found)


def prediction_table(rows: list[dict[str, Any]], top_k: int) -> str:
    """Predictions as aligned text: the image, then its `top_k` likeliest classes."""
    width = max(len(row["image"]) for row in rows)
    lines = []
    for row in rows:
        if "error" in row:
            lines.append(f"{row['image']:{width}}  could not be read: {row['error']}")
            continue
        ranked = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:top_k]
        lines.append(f"{row['image']:{width}}  " + "  ".join(f"{name} {value:.3f}" for name, value in ranked))
    return "\n".join(lines)


def _predict_batch(loaded: LoadedModel, paths: list[Path], on_bad_image: str) -> list[dict[str, Any]]:
    pixels, rows = [], []
    for path in paths:
        try:
            pixels.append(loaded.transform.geometry(to_rgb(str(path), name=str(path))))
            rows.append({"image": str(path)})
        except BadImageError as error:
            if on_bad_image != "skip":
                raise
            rows.append({"image": str(path), "error": str(error)})
    if not pixels:
        return rows
    with torch.no_grad():
        batch = loaded.transform.normalize(torch.stack(pixels).to(loaded.model.device))
        answers = iter(loaded.task.answers(loaded.model(pixel_values=batch).logits.float().cpu()))
    return [row if "error" in row else row | next(answers) for row in rows]
