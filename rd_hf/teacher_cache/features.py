"""The teacher's features on disk, as training uses them: computed once per image and view, then read."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.features import StageFeature, of_parts
from . import int8
from .file import FeatureFile, as_bytes, open_file
from .key import FORMAT, VIEW_FILES, KeyFolder, entry_layout

logger = logging.getLogger(__name__)


class FeatureCache:
    """What the frozen teacher gave for each (row, view) under one key, kept in that key's folder.

    Features that are written come back as they will be read later, so that a run does not depend on what was there.
    What cannot be read or written is computed again: nothing here stops a training. Rows from the layout's number on,
    those of shards, have no place: they are always missing, and never stored.

    :param folder: of the key; see `rd_hf.teacher_cache.key.open_folder`.
    :param device: where features go.
    :param limit: bytes of the entries up to which new ones are stored; None is half of the disk's free space, to which
        the entries that are there count. So a run that is resumed has the same limit.
    :ivar room: entries that this process may still add; see `share_room`.
    :raises OSError: when the folder cannot be read.
    """

    def __init__(self, folder: KeyFolder, device: torch.device, limit: int | None = None):
        self.folder, self.device, self.layout = folder, device, entry_layout(folder.key)
        self._files: dict[int, FeatureFile] = {}
        self._warned: set[str] = set()
        entries = self.count()
        if limit is None:
            limit = (shutil.disk_usage(folder.path).free + entries * self.layout.entry_bytes) // 2
        self.limit = limit
        self._set_room(self._most - entries)

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the files itself."""
        return vars(self) | {"_files": {}}

    @property
    def has_folder(self) -> bool:
        """Whether there is a folder to read from and to write into."""
        return self.folder.path.is_dir()

    @property
    def damaged(self) -> int:
        """Entries dropped so far because their bytes did not have their checksum."""
        return sum(file.damaged for file in self._files.values())

    @property
    def full(self) -> bool:
        """Whether writing has failed, so that nothing more is stored."""
        return "write" in self._warned

    def lacks(self, row: int, view: int) -> bool:
        """Whether the teacher is needed, as far as this is known without reading features or creating a file."""
        file = self._file(view, make=False)
        return file is None or row >= self.layout.rows or not file.has(row)

    def present(self, view: int) -> np.ndarray:
        """The rows whose features are stored for this view."""
        file = self._file(view, make=False)
        return np.empty(0, dtype=np.int64) if file is None else file.present()

    def count(self) -> int:
        """The entries of all views, also of those that other runs stored."""
        names = [path.stem.removeprefix("view_") for path in self.folder.path.glob(VIEW_FILES)]
        return sum(len(self.present(view)) for view in {int(name) for name in names if name.isdecimal()})

    def has_room_for(self, entries: int) -> bool:
        """Whether so many more entries fit within the limit, whichever process writes them; none always do."""
        return entries <= max(self._most - self.count(), 0)

    def share_room(self, processes: int, index: int) -> None:
        """Keep a process's share of the room, so that the processes of a run together stay within the limit.

        :param processes: of the run that store into this folder, each of which calls this before it writes.
        :param index: this process's number among them, from 0.
        """
        self._set_room(self.room // processes + (index < self.room % processes))

    def read(self, rows: Sequence[int], views: Sequence[int]) -> tuple[list[StageFeature], list[int]]:
        """The features of these (row, view)s, and the positions of missing ones, whose values are arbitrary."""
        pinned = self.device.type == "cuda"
        parts = [
            torch.empty(len(rows), *shape, dtype=self.layout.dtype_of(name), pin_memory=pinned)
            for name, shape in self.layout.parts.items()
        ]
        content = [as_bytes(part) for part in parts]
        missing = []
        for position, (row, view) in enumerate(zip(rows, views, strict=True)):
            file = self._file(view, make=True)
            if (
                file is None
                or row >= self.layout.rows
                or not self._read_entry(file, row, [part[position] for part in content])
            ):
                missing.append(position)
        return self._as_features([part.to(self.device, non_blocking=True) for part in parts]), missing

    def write(self, rows: Sequence[int], views: Sequence[int], features: Sequence[StageFeature]) -> list[StageFeature]:
        """Store features of these (row, view)s, one `StageFeature` per stage.

        :return: the features as they are read from now on: in the precision of the cache, or, where that has no room
            for one of their values, as they came.
        """
        stored = [part for number, feature in enumerate(features) for part in self._stored(number, feature)]
        fits = torch.stack([part.isfinite().flatten(1).all(dim=1) for part in stored]).all(dim=0)
        placed = [fit and self._has_place(*at) for *at, fit in zip(rows, views, fits.tolist(), strict=True)]
        if any(placed):
            content = [as_bytes(part.cpu().contiguous()) for part in stored]
            for position in np.flatnonzero(placed):
                self._write_entry(rows[position], views[position], [part[position] for part in content])
        kept = self._as_features(stored)
        if fits.all():
            return kept
        exact = [part for feature in features for part in feature if part is not None]
        self._warn_of_range(int((~fits).sum()), max(float(part.abs().max()) for part in exact))
        return [of_parts(partial(_where, fits), *pair) for pair in zip(kept, features, strict=True)]

    def _stored(self, number: int, feature: StageFeature) -> list[Tensor]:
        """The parts of a stage's features in the precision of the cache, in the order of the layout."""
        has_scale = f"scale_{number}" in self.layout.parts
        maps = [*int8.to_int8(feature.map)] if has_scale else [feature.map.to(self.layout.dtype_of(f"map_{number}"))]
        if feature.prefix is None:
            return maps
        return [*maps, feature.prefix.to(self.layout.dtype_of(f"prefix_{number}"))]

    def _read_entry(self, file: FeatureFile, row: int, into: list[np.ndarray]) -> bool:
        if row >= self.layout.rows:
            return False
        damaged = file.damaged
        try:
            sound = file.read(row, into)
        except OSError as error:
            self._warn_once("read", "Cached features cannot be read (%s), so the teacher computes them.", error)
            return False
        if file.damaged > damaged:
            self._warn_once(
                "damaged", "Damaged features in %s were dropped; the teacher computes them again.", file.path
            )
        return sound

    def _has_place(self, row: int, view: int) -> bool:
        """Whether an entry may be written: a new one only where there is room."""
        if self.full or row >= self.layout.rows:
            return False
        if self.room:
            return True
        file = self._file(view, make=False)
        try:
            return file is not None and file.has(row)
        except OSError as error:
            self._warn_of_writing(error)
            return False

    def _write_entry(self, row: int, view: int, parts: list[np.ndarray]) -> None:
        file = self._file(view, make=True)
        if file is None or self.full:
            return
        try:
            new = not file.has(row)
            if new and not self.room:
                return
            file.write(row, parts)
            if new:
                self._use_room()
        except OSError as error:
            self._warn_of_writing(error)

    @property
    def _most(self) -> int:
        """The entries that the limit allows."""
        return self.limit // self.layout.entry_bytes

    def _set_room(self, entries: int) -> None:
        """Set the room, and when entries are counted again: after an eighth of it, as other runs may fill it too."""
        self.room = max(entries, 0)
        self._count_at = self.room - max(self.room // 8, 1)

    def _use_room(self) -> None:
        self.room -= 1
        if self.room <= self._count_at:
            self._set_room(min(self.room, self._most - self.count()))

    def _file(self, view: int, make: bool) -> FeatureFile | None:
        if view not in self._files:
            path = self.folder.path / f"view_{view:04d}.safetensors"
            metadata = {"format": FORMAT, "key": self.folder.path.name, "view": str(view)}
            try:
                file = open_file(path, self.layout, metadata, make and not self.full and self.room > 0)
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
            "No more teacher features are cached in %s (%s%s). Training continues and runs the teacher at every step. "
            "Free some space (rd-hf cache info, rd-hf cache clear), choose another `cache_dir`, or turn the cache off "
            "with `cache` false."
        )
        self._warn_once("write", message, self.folder.path, error.strerror or error, free)

    def _warn_of_range(self, count: int, largest: float) -> None:
        kind = str(self.layout.dtype).removeprefix("torch.")
        may_fit = kind in ("float16", "int8") and math.isfinite(largest)
        way_out = " `cache_dtype` bfloat16 can hold them." if may_fit else ""
        self._warn_once(
            "range",
            "Features of %d images (largest value %.3g) are not finite in %s, so they are not cached: the teacher "
            "runs for these images every time.%s",
            count, largest, kind, way_out,
        )  # fmt: skip

    def _warn_once(self, kind: str, message: str, *values: object) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message, *values)

    def _as_features(self, parts: list[Tensor]) -> list[StageFeature]:
        named = dict(zip(self.layout.parts, parts, strict=True))
        maps = {name.removeprefix("map_"): part for name, part in named.items() if name.startswith("map")}
        if self.layout.dtype != torch.int8:
            return [StageFeature(part, named.get(f"prefix_{number}")) for number, part in maps.items()]
        prefixes = {number: named.get(f"prefix_{number}") for number in maps}
        scales = {number: named.get(f"scale_{number}") for number in maps}
        return [
            StageFeature(
                part.float() if scales[number] is None else int8.from_int8(part, scales[number]),
                None if prefixes[number] is None else prefixes[number].float(),
            )
            for number, part in maps.items()
        ]


def _where(fits: Tensor, kept: Tensor, exact: Tensor) -> Tensor:
    """Of images that fit what is kept, of the others what is exact."""
    return torch.where(fits.view(-1, *[1] * (exact.ndim - 1)), kept.to(exact.dtype), exact)
