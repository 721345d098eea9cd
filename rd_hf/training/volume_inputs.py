"""The inputs of student and teacher for a batch of volumes, whose views are applied where they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.order import Visit
from ..data.volumes.store import VolumeStore
from ..data.volumes.transform import VolumeTransform
from ..models.features import StageFeature
from .inputs import Inputs, joined

if TYPE_CHECKING:
    from ..models.backbone import Backbone
    from ..teacher_cache.features import FeatureCache


VOLUMES_AT_ONCE = 4


class VolumeInputs(Inputs):
    """`Inputs` of volumes.

    :param store: train, with the views of the run.
    :param teacher: what the teacher reads of a volume; None without one.
    """

    store: VolumeStore

    def __init__(
        self,
        store: VolumeStore,
        teacher: VolumeTransform | None,
        backbone: Backbone | None,
        cache: FeatureCache | None,
        device: torch.device,
    ):
        super().__init__(store, store.views.parameters, store.views.seed, backbone, cache, device)
        self.teacher = teacher

    def student_pixels(self, batch: dict) -> Tensor:
        """What the student sees of the batch: (B, C, *size), normalised."""
        return batch["student_pixels"].to(self.device, non_blocking=True)

    def labels(self, batch: dict) -> Tensor:
        """The labels of the batch's labelled rows; masks (n, *size) int64 of their volumes' views."""
        labels = batch["labels"].to(self.device, non_blocking=True)
        return labels if self.store.masks is None else labels.long()

    def teacher_pixels(self, row: int, view: int) -> Tensor:
        """A row in a view: (C, *size) in 0..1."""
        return self.store.fetch(Visit(row, view, False), True)[1]

    def run_teacher(self, rows: Sequence[int], views: Sequence[int], pixels: Tensor | None) -> list[StageFeature]:
        """The teacher's features of these rows in these views, computed.

        On a CPU one volume comes after the other: a row and view then gives the same bits whatever comes with it. On a
        GPU some are read at once.

        :param pixels: of these rows and views, in 0..1; None fetches them.
        """
        if pixels is None:
            pixels = torch.stack([self.teacher_pixels(row, view) for row, view in zip(rows, views, strict=True)])
        shown = seen_by_teacher(self.store, self.teacher, rows, pixels)
        own = self.backbone.batch_size if self.backbone.slices is None else None  # else it counts slices
        chunks = shown.split(1 if self.device.type == "cpu" else own or VOLUMES_AT_ONCE)
        return joined([self.backbone.extract(chunk.to(self.device, non_blocking=True)) for chunk in chunks])


def seen_by_teacher(store: VolumeStore, teacher: VolumeTransform, rows: Sequence[int], pixels: Tensor) -> Tensor:
    """What a teacher reads of views in 0..1: these, or normalised as its own processor says.

    :param pixels: (B, C, *size) of the rows.
    """
    processor = teacher.processor
    if not processor.do_normalize:
        return pixels
    return torch.stack(
        [processor.normalized(crop, store.statistics(row)) for crop, row in zip(pixels, rows, strict=True)]
    )
