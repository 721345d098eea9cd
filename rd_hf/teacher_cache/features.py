"""The teacher's features on disk, as a training sees them: computed once for an image and view, then read."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ..arguments.distillation import DistillationArguments
from ..data.augmentation import AugmentationParameters
from ..data.sources import fingerprint
from ..models.features import StageFeature
from .file import FeatureFile, as_bytes, open_file
from .key import (
    FORMAT,
    KeyFolder,
    cache_root,
    key_id,
    layout_of,
    list_folders,
    nearest_difference,
    open_folder,
    read_folder,
    teacher_key,
)

if TYPE_CHECKING:
    from ..training.assembly import Models
    from ..training.inputs import Inputs
    from ..training.run_data import Task

logger = logging.getLogger(__name__)

# Relative to an entry's norm: room for the rounding of another device or number of threads.
ROUNDING = 1e-3


class CacheError(ValueError):
    """What a cache holds is not what the teacher computes."""


class FeatureCache:
    """What the frozen teacher gave for each (row, view) under one key, kept in that key's folder.

    Features that are written come back as they will be read later, so that a run does not depend on what was there.
    What cannot be read or written is computed again: nothing here stops a training.

    :param folder: of the key; see `rd_hf.teacher_cache.key.open_folder`.
    :param device: where features go.
    """

    def __init__(self, folder: KeyFolder, device: torch.device):
        self.folder, self.device, self.layout = folder, device, layout_of(folder.key)
        self._files: dict[int, FeatureFile] = {}
        self._warned: set[str] = set()

    @property
    def damaged(self) -> int:
        """Entries dropped so far because their bytes did not have their checksum."""
        return sum(file.damaged for file in self._files.values())

    @property
    def full(self) -> bool:
        """Whether writing has failed, so that nothing more is kept."""
        return "write" in self._warned

    def lacks(self, row: int, view: int) -> bool:
        """Whether the teacher is needed, so far as can be told without reading features or making a file."""
        file = self._file(view, make=False)
        return file is None or not file.has(row)

    def present(self, view: int) -> np.ndarray:
        """The rows whose features are there in this view."""
        file = self._file(view, make=False)
        return np.empty(0, dtype=np.int64) if file is None else file.present()

    def read(self, rows: Sequence[int], views: Sequence[int]) -> tuple[list[StageFeature], list[int]]:
        """The features of these (row, view)s, and the positions of those that are not there, whose values are any."""
        pinned = self.device.type == "cuda"
        shapes = self.layout.parts.values()
        parts = [torch.empty(len(rows), *shape, dtype=self.layout.dtype, pin_memory=pinned) for shape in shapes]
        content = [as_bytes(part) for part in parts]
        missing = []
        for position, (row, view) in enumerate(zip(rows, views, strict=True)):
            file = self._file(view, make=True)
            if file is None or not self._read_entry(file, row, [part[position] for part in content]):
                missing.append(position)
        return self._as_features([part.to(self.device, non_blocking=True) for part in parts]), missing

    def write(self, rows: Sequence[int], views: Sequence[int], features: Sequence[StageFeature]) -> list[StageFeature]:
        """Keep features of these (row, view)s, one `StageFeature` a stage.

        :return: the features as they are read from now on: in the precision of the cache, or, where that has no room
            for one of their values, as they came.
        """
        exact = [part for feature in features for part in feature if part is not None]
        stored = [part.to(self.layout.dtype) for part in exact]
        fits = torch.stack([part.isfinite().flatten(1).all(dim=1) for part in stored]).all(dim=0)
        content = [as_bytes(part.cpu().contiguous()) for part in stored]
        for position, (row, view, fit) in enumerate(zip(rows, views, fits.tolist(), strict=True)):
            if fit:
                self._write_entry(row, view, [part[position] for part in content])
        if not fits.all():
            self._warn_of_range(int((~fits).sum()), max(float(part.abs().max()) for part in exact))
            shown = [fits.view(-1, *[1] * (part.ndim - 1)) for part in exact]
            stored = [torch.where(f, s.to(e.dtype), e) for f, s, e in zip(shown, stored, exact, strict=True)]
        return self._as_features(stored)

    def _read_entry(self, file: FeatureFile, row: int, into: list[np.ndarray]) -> bool:
        damaged = file.damaged
        try:
            sound = file.read(row, into)
        except OSError as error:
            self._warn_once("read", "Cached features cannot be read (%s); the teacher computes them.", error)
            return False
        if file.damaged > damaged:
            self._warn_once("damaged", "Damaged features in %s are dropped and computed again.", file.path)
        return sound

    def _write_entry(self, row: int, view: int, parts: list[np.ndarray]) -> None:
        file = self._file(view, make=True)
        if file is None or self.full:
            return
        try:
            file.write(row, parts)
        except OSError as error:
            self._warn_of_writing(error)

    def _file(self, view: int, make: bool) -> FeatureFile | None:
        if view not in self._files:
            path = self.folder.path / f"view_{view:04d}.safetensors"
            metadata = {"format": FORMAT, "key": self.folder.path.name, "view": str(view)}
            try:
                file = open_file(path, self.layout, metadata, make and not self.full)
            except OSError as error:
                self._warn_of_writing(error)
                return None
            if file is None:
                return None
            self._files[view] = file
        return self._files[view]

    def _warn_of_writing(self, error: OSError) -> None:
        try:
            free = f", {shutil.disk_usage(self.folder.path).free / 2**30:.1f} GiB free"
        except OSError:
            free = ""
        message = (
            "No more teacher features are cached in %s (%s%s). Training goes on, with the teacher at every step. Make "
            "room (rd-hf cache info, rd-hf cache clear), name another --cache_dir, or turn it off with --no_cache."
        )
        self._warn_once("write", message, self.folder.path, error.strerror or error, free)

    def _warn_of_range(self, count: int, largest: float) -> None:
        kind = str(self.layout.dtype).removeprefix("torch.")
        way_out = " --cache_dtype bfloat16 has room for them." if kind == "float16" and math.isfinite(largest) else ""
        self._warn_once(
            "range",
            "Features of %d images (largest value %.3g) are not finite in %s and not cached: the teacher runs for such "
            "images at every visit.%s",
            count, largest, kind, way_out,
        )  # fmt: skip

    def _warn_once(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message, *values)

    def _as_features(self, parts: list[Tensor]) -> list[StageFeature]:
        named = dict(zip(self.layout.parts, parts, strict=True))
        stages = sum(name.startswith("map") for name in named)
        return [StageFeature(named[f"map_{i}"], named.get(f"prefix_{i}")) for i in range(stages)]


def open_cache(
    arguments: DistillationArguments,
    task: Task,
    models: Models,
    augmentation: AugmentationParameters | None,
    accelerator: Accelerator,
) -> FeatureCache | None:
    """The cache of a run's teacher features, made where there is none; the log says what is there and what it takes.

    :return: None, with a warning, where its folder cannot be written.
    """
    precision = models.backbone.dtype
    wanted = arguments.cache_dtype
    dtype = getattr(torch, wanted) if wanted else torch.float16 if precision == torch.float32 else precision
    rows = len(task.train)
    data = fingerprint(task.train, max_rows=rows)
    shown = (models.teacher_processor, augmentation, arguments.seed_of_views, data, rows)
    key = teacher_key(models.teacher, models.backbone, *shown, dtype)
    root = cache_root(arguments.cache_dir)
    with accelerator.main_process_first():
        new = read_folder(root / key_id(key)) is None
        try:
            folder = open_folder(root, key, models.backbone.source["id"])
        except OSError as error:
            logger.warning(
                "Teacher features cannot be cached in %s (%s): the teacher runs at every step. Name another "
                "--cache_dir.",
                root,
                error.strerror,
            )
            return None
    cache = FeatureCache(folder, accelerator.device)
    if accelerator.is_main_process:
        changes = nearest_difference(key, list_folders(root)) if new else []
        if changes:
            logger.info("A new cache: %s.", "; ".join(changes))
        logger.info("%s", describe(cache, len(task.labelled_rows) + len(task.unlabelled_rows), arguments.views, new))
    return cache


def describe(cache: FeatureCache, images: int, num_views: int, new: bool) -> str:
    """Where features are, how many, and how large they get, for the log of a run's start."""
    entries = sum(len(cache.present(view)) for view in range(num_views))
    found = "new" if new else f"{entries} of {images * num_views} entries are there"
    size = cache.layout.entry_bytes
    return (
        f"Teacher features: {cache.folder.path} ({found}). {size / 1000:.1f} KB an image and view, "
        f"{images * num_views * size / 1e9:.2f} GB for {images} images in {num_views} views."
    )


def compare_entries(cache: FeatureCache, inputs: Inputs, rows: Sequence[int], num_views: int, count: int) -> float:
    """Compute up to `count` present entries again, drawn by the run's seed, and compare.

    :param rows: those that may be drawn.
    :return: the largest difference, relative to the entry's norm.
    :raises CacheError: when it is more than the precision of cache and teacher explains.
    """
    present = [(int(row), view) for view in range(num_views) for row in np.intersect1d(cache.present(view), rows)]
    chosen = np.random.default_rng(inputs.seed).permutation(len(present))[:count]
    largest, precisions = 0.0, (cache.layout.dtype, inputs.backbone.dtype)
    allowed = max(ROUNDING, *(4 * torch.finfo(dtype).eps for dtype in precisions))
    for start in range(0, len(chosen), 64):
        part = [present[number] for number in chosen[start : start + 64]]
        own_rows, views = [row for row, _ in part], [view for _, view in part]
        kept, missing = cache.read(own_rows, views)
        pairs = zip(kept, inputs.run_teacher(own_rows, views, None), strict=True)
        parts = [
            (k.double().flatten(1), n.double().flatten(1))
            for pair in pairs
            for k, n in zip(*pair, strict=True)
            if k is not None
        ]
        kept, new = (torch.cat(side, dim=1) for side in zip(*parts, strict=True))
        differences = (kept - new).norm(dim=1) / new.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        differences[missing] = 0  # damaged, and so dropped
        worst = int(differences.argmax())
        largest = max(largest, float(differences[worst]))
        if not largest <= allowed:
            raise CacheError(
                f"The cached features of row {own_rows[worst]} in view {views[worst]} differ by {largest:.2g} of their "
                f"norm from what the teacher computes; their precision allows {allowed:.1g}. They are of no use: "
                f"rd-hf cache clear --key {cache.folder.path.name} deletes them."
            )
    return largest
