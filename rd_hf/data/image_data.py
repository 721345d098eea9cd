"""Labelled images in splits, and what identifies their contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, List

from .columns import column_values
from .decoding.images import BadImageError, image_bytes
from .image_column import selected_rows
from .masks.reading import MaskReading
from .volumes.reading import volume_bytes
from .volumes.volume import VolumeReading

FINGERPRINT_ROWS = 20_000
MARK_CHARACTERS = 16
BATCH_ROWS, LABEL_ROWS = 64, 10_000
PLAIN = VolumeReading()  # of label volumes


@dataclass(frozen=True)
class ImageData:
    """Labelled images in splits.

    :param splits: with the columns ``image``, undecoded (``{"bytes", "path"}``, see
        `rd_hf.data.decoding.images.to_rgb`); ``label``, a class index or K entries of 0.0 and 1.0; ``group``, if asked
        for; and the columns of `rd_hf.data.subgroups`. For masks also with ``mask``, undecoded as well; ``label`` then
        has the pixels of each class in the mask, without those that are ignored.
    :param label_names: the K class names, in the order of the indices.
    :param problem_type: transformers' name of the problem that the labels pose, or ``segmentation``.
    :param source: plain JSON without paths: ``id`` (Hub id or "local"), ``config_name``, ``revision`` (commit),
        ``splits`` (rows of each, as loaded) and ``fingerprint`` (of each, as loaded; see `fingerprint`); for masks also
        ``masks``, the reading.
    :param unlabelled: the rows of train without a label, with the columns ``image`` and perhaps ``group``; None if
        every row has one.
    :param without_labels: splits that are left out because no row of them has a label.
    :param masks: how masks become class indices; None for classes.
    :param volumes: how files become volumes; None for images. Then ``image`` and ``mask`` are those of volumes, and
        ``source`` also has ``volumes``, the reading.
    :param folders: of each split that a table lists, where its relative paths start.
    """

    splits: DatasetDict
    label_names: list[str]
    problem_type: str
    source: dict[str, Any]
    unlabelled: Dataset | None = None
    without_labels: tuple[str, ...] = ()
    masks: MaskReading | None = None
    volumes: VolumeReading | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)

    def labels(self, split: str) -> np.ndarray:
        """Give a split's labels: (N,) int64 class indices, or (N, K) float32 of 0 and 1, NaN where not known.

        For masks they are the pixels of each class: (N, K) int64.
        """
        rows = column_values(self.splits[split], "label")
        if self.masks is not None:
            return np.asarray(rows, dtype=np.int64).reshape(-1, len(self.label_names))
        if isinstance(self.splits[split].features["label"], List):
            return np.asarray(rows, dtype=np.float32).reshape(-1, len(self.label_names))
        return np.asarray(rows, dtype=np.int64)


def fingerprint(split: Dataset, max_rows: int = FINGERPRINT_ROWS, volumes: VolumeReading | None = None) -> str:
    """Hash a split's images and masks (their file contents) and labels, in order, wherever the files lie.

    Of a split with more than `max_rows` rows, the images and masks of that many, evenly spaced, are hashed, and the
    result says so; labels are hashed of all rows. An image that cannot be read counts as empty.

    :param split: with the column ``image``, undecoded, and perhaps ``mask``, likewise, and ``label``.
    :param max_rows: rows that are read at most.
    :param volumes: how files become volumes; then all slices and channels of a row are hashed. None for images.
    :return: ``sha256:...``, or ``sha256 of n of N rows:...``.
    """
    count, columns = len(split), [name for name in ("image", "mask", "label") if name in split.column_names]
    digest = hashlib.sha256(str(count).encode())
    if isinstance(split.features.get("label"), ClassLabel):
        digest.update(json.dumps(split.features["label"].names).encode())
    rows, extent = split.select_columns(columns).with_format("arrow"), "sha256"
    if count > max_rows:
        if "label" in columns:  # by which splits are made
            for batch in split.select_columns(["label"]).with_format("arrow").iter(LABEL_ROWS):
                digest.update(json.dumps(batch.column("label").to_pylist()).encode())
        rows = rows.select(np.linspace(0, count - 1, max_rows).astype(np.int64))
        extent = f"sha256 of {len(rows)} of {count} rows{' and all labels' if 'label' in columns else ''}"
    for batch in rows.iter(BATCH_ROWS if volumes is None else 1):
        for row in batch.to_pylist():
            digest.update(_digest(row["image"], volumes))
            if "mask" in row:
                digest.update(_digest(row["mask"], None if volumes is None else PLAIN))
            digest.update(json.dumps(row.get("label")).encode())
    return f"{extent}:{digest.hexdigest()}"


def mark_of_rows(split: Dataset) -> str:
    """What tells apart two splits that were made of the same data: a hash of the numbers of their rows there."""
    rows = selected_rows(split)
    return hashlib.sha256(str(len(split)).encode() if rows is None else rows.tobytes()).hexdigest()[:MARK_CHARACTERS]


def _digest(image: dict[str, Any], volumes: VolumeReading | None) -> bytes:
    digest = hashlib.sha256()
    try:
        for part in [image_bytes(image)] if volumes is None else volume_bytes(image, "a volume", volumes):
            digest.update(part)
    except BadImageError:  # told apart when the row is decoded, which the user may have asked to skip
        return hashlib.sha256().digest()
    return digest.digest()
