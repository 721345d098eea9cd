"""A run's cache of teacher features: opened under the run's key, described in its log, compared with the teacher."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from ..arguments.distillation import DistillationArguments
from ..arguments.words import counted, some_of
from ..data.augmentation import AugmentationParameters
from ..data.decoding.changed_decoding import decoding_mark
from ..data.decoding.reading import Reading
from ..data.open_split import OpenSplit
from ..data.pixel_store import PixelStore
from ..data.sources import fingerprint
from ..data.volumes.store import VolumeStore
from ..data.volumes.views import FOREGROUND_SHARE, VOLUME_VIEWS_VERSION
from ..data.volumes.volume import VolumeReading
from ..teacher_cache.features import FeatureCache
from ..teacher_cache.int8 import saves_space
from ..teacher_cache.key import (
    KeyFolder,
    cache_root,
    key_id,
    list_folders,
    nearest_difference,
    open_folder,
    read_folder,
    rounding_bound,
    teacher_key,
)

if TYPE_CHECKING:
    from .inputs import Inputs
    from .run_data import RunData
    from .run_models import Models

logger = logging.getLogger(__name__)


# Relative to an entry's norm: room for the rounding of another device or number of threads.
ROUNDING = 1e-3
SHOWN_CHANGES = 5  # of a key


class CacheError(ValueError):
    """Cached features differ from what the teacher computes."""


def open_cache(
    arguments: DistillationArguments,
    run_data: RunData,
    models: Models,
    augmentation: AugmentationParameters | None,
    accelerator: Accelerator,
) -> FeatureCache:
    """The cache of a run's teacher features, created if there is none; the log says what it holds and its final size.

    :return: one that stores nothing, with a warning, where its folder cannot be made.
    """
    precision = models.backbone.dtype
    wanted = arguments.cache_dtype
    dtype = getattr(torch, wanted) if wanted else torch.float16 if precision == torch.float32 else precision
    if dtype == torch.int8:
        dtype = _smaller_than_int8([p.input_grid for p in models.teacher.projectors], accelerator.is_main_process)
    key = _key(models, run_data.train, augmentation, arguments.seed_of_views, dtype, run_data.reading, run_data.store)
    root = cache_root(arguments.cache_dir)
    new = read_folder(root / key_id(key)) is None
    cache = _open(root, key, models, accelerator, arguments)
    rows = run_data.kept_rows
    if cache.has_folder and accelerator.is_main_process:
        changes = nearest_difference(key, list_folders(root)) if new else []
        if changes:
            logger.info(
                "A new cache is created, because its key differs from the most similar cache: %s.",
                some_of(changes, SHOWN_CHANGES, "; ", "; and "),
            )
        logger.info("%s", describe(cache, rows, run_data.views(arguments), new))
    ways_out = ["lower `num_views`"] if run_data.views(arguments) > 1 else []
    ways_out += ["choose a smaller `cache_dtype`"] if dtype == torch.float32 else []
    _keep_to_limit(cache, rows, run_data.views(arguments), "at every step", ways_out, accelerator)
    accelerator.wait_for_everyone()  # all have counted the entries before one writes
    return cache


def open_cache_of_split(
    arguments: DistillationArguments, split: OpenSplit, models: Models, accelerator: Accelerator
) -> FeatureCache | None:
    """The cache of the teacher's features of a split that is only scored, un-augmented, in the teacher's own precision.

    :return: None where nothing is to be cached; one that stores nothing, with a warning, where its folder cannot be
        made.
    """
    if not arguments.cache or split.in_windows:
        return None
    key = _key(models, split.images, None, 0, models.backbone.dtype, Reading.of(arguments), split.store)
    cache = _open(cache_root(arguments.cache_dir), key, models, accelerator, arguments)
    _keep_to_limit(cache, split.rows, 1, "whenever they are scored", [], accelerator)
    accelerator.wait_for_everyone()  # all have counted the entries before one writes
    return cache


def _smaller_than_int8(grids: Sequence[Sequence[int]], tells: bool) -> torch.dtype:
    """int8, or float16 where that is smaller for all maps; the log says for how many of them it is.

    :param grids: of the maps.
    :param tells: whether this process logs.
    """
    small = sum(not saves_space(grid) for grid in grids)
    if small and tells:
        logger.info(
            "%s are stored in float16, because int8 and its scales take more for a vector or a map of up to 4 "
            "positions.",
            "The teacher's features" if small == len(grids) else f"{small} of the teacher's {len(grids)} maps",
        )
    return torch.float16 if small == len(grids) else torch.int8


def _key(
    models: Models,
    images: Dataset,
    augmentation: AugmentationParameters | None,
    seed: int,
    dtype: torch.dtype,
    reading: Reading,
    store: PixelStore | VolumeStore,
) -> dict[str, Any]:
    rows, volumes = len(images), None
    bare = images.remove_columns("mask") if "mask" in images.column_names else images
    if isinstance(store, VolumeStore):
        volumes = _views_of_volumes(images, store)
        data = fingerprint(bare, max_rows=rows, volumes=store.reading)
    else:
        data = fingerprint(bare, max_rows=rows) + decoding_mark(bare, reading)  # no feature depends on masks
    shown = (models.teacher_processor, augmentation, seed, data, rows)
    return teacher_key(models.teacher, models.backbone, *shown, dtype, volumes)


def _views_of_volumes(images: Dataset, store: VolumeStore) -> dict[str, Any]:
    """What the key says of volumes: crops are drawn to the foreground of masks, where there are any."""
    words: dict[str, Any] = {"version": VOLUME_VIEWS_VERSION, "reading": store.reading.to_dict()}
    if store.views.crop_size is None:
        return words
    words |= {"crop_size": list(store.views.crop_size), "foreground_share": FOREGROUND_SHARE}
    if store.masks is not None and "mask" in images.column_names:
        present = images.with_format("arrow").select_columns(["mask"])[:].column("mask").is_valid()
        rows = np.flatnonzero(present.to_numpy())
        masked = images.select(rows).select_columns(["mask"]).rename_column("mask", "image")
        masks = fingerprint(masked, max_rows=len(rows), volumes=VolumeReading())
        words |= {"masks": masks, "rows_with_masks": hashlib.sha256(rows.tobytes()).hexdigest()}
        words["classes"] = store.masks.to_dict()  # which values are foreground
    return words


def _open(
    root: Path, key: dict[str, Any], models: Models, accelerator: Accelerator, arguments: DistillationArguments
) -> FeatureCache:
    name = models.backbone.source["id"]
    limit = arguments.bytes_for_volumes() if "volumes" in key else arguments.bytes_to_cache()
    with accelerator.main_process_first():
        try:
            return FeatureCache(open_folder(root, key, name), accelerator.device, limit)
        except OSError as error:
            logger.warning(
                "Teacher features cannot be cached in %s (%s), so the teacher runs each time. Choose another "
                "`cache_dir`.",
                root,
                error.strerror,
            )
    # stores nothing; features are rounded as cached ones are, so that the run gives the same weights
    return FeatureCache(KeyFolder(root / key_id(key), key, name, time.time()), accelerator.device, limit=0)


def _keep_to_limit(
    cache: FeatureCache,
    rows: Sequence[int],
    num_views: int,
    when: str,
    ways_out: list[str],
    accelerator: Accelerator,
) -> None:
    """Where the features of these rows and views do not all fit, share the room among the processes, and say so.

    All processes of a run call this together.

    :param when: features that are not stored are computed.
    :param ways_out: what would make the cache smaller.
    """
    sharers, own = _sharers(cache, accelerator), accelerator.process_index
    lacking = _lacking(cache, rows, num_views) if cache.has_folder else 0
    if cache.has_room_for(lacking):
        return
    if own == sharers[0]:
        more = ["To cache more, raise `cache_limit`", *ways_out, "or put `cache_dir` on a larger disk."]
        logger.warning(
            "The complete cache in %s would take %s, but its limit is %s: the other features (%d of %d) are computed "
            "%s. %s",
            cache.folder.path,
            in_bytes((cache.count() + lacking) * cache.layout.entry_bytes),
            in_bytes(cache.limit),
            lacking - cache.room,
            len(rows) * num_views,
            when,
            ", ".join(more),
        )
    cache.share_room(len(sharers), sharers.index(own))


def _sharers(cache: FeatureCache, accelerator: Accelerator) -> list[int]:
    """The numbers of the processes that store into this process's folder: of all nodes, or of one with its own disk."""
    accelerator.wait_for_everyone()  # on a node with its own disk, processes may make the folder at the same time
    identities = gather_object([cache.folder.identity()])
    own = identities[accelerator.process_index]
    return [number for number, identity in enumerate(identities) if identity == own]


def _lacking(cache: FeatureCache, rows: Sequence[int], num_views: int) -> int:
    """The number of these rows' features, over all views, that are not stored."""
    return sum(len(np.setdiff1d(rows, cache.present(view))) for view in range(num_views))


def in_bytes(size: int) -> str:
    """A number of bytes in words, such as 12.30 GB."""
    unit, name = next(((10**n, name) for n, name in ((9, "GB"), (6, "MB")) if size >= 10**n), (1000, "KB"))
    return f"{size / unit:.2f} {name}"


def describe(cache: FeatureCache, rows: Sequence[int], num_views: int, new: bool) -> str:
    """Say where features are stored, how many there are, and how large they get, for the log at the start of a run."""
    images = len(rows)
    entries = images * num_views - _lacking(cache, rows, num_views)
    found = "new" if new else f"{entries} of {images * num_views} entries are cached"
    size = cache.layout.entry_bytes
    return (
        f"Teacher features: {cache.folder.path} ({found}). {size / 1000:.1f} KB per row and view, "
        f"{in_bytes(images * num_views * size)} for {images} rows in {counted(num_views, 'view')}."
    )


def compare_entries(cache: FeatureCache, inputs: Inputs, rows: Sequence[int], num_views: int, count: int) -> float:
    """Compute up to `count` present entries again, drawn by the run's seed, and compare.

    :param rows: those that may be drawn.
    :return: the largest difference, relative to the entry's norm.
    :raises CacheError: when it is more than the precision of cache and teacher explains.
    """
    present = [(int(row), view) for view in range(num_views) for row in np.intersect1d(cache.present(view), rows)]
    chosen = np.random.default_rng(inputs.seed).permutation(len(present))[:count]
    largest, of_teacher = 0.0, 4 * torch.finfo(inputs.backbone.dtype).eps
    allowed = max(ROUNDING, of_teacher, rounding_bound(cache.folder.key))
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
                f"The cached features of row {own_rows[worst]} in view {views[worst]} differ by {largest:.2g} of "
                f"their norm from what the teacher computes, but their precision allows only {allowed:.1g}. The cache "
                f"is unusable. Delete it with `rd-hf cache clear --key {cache.folder.path.name}`."
            )
    return largest
