"""The inputs of student and teacher for a batch: pixels of the same views, and the frozen teacher's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.augmentation import AugmentationParameters, apply, apply_to_masks, draw
from ..data.order import Visit
from ..data.pixel_store import PixelStore
from ..data.pixels import PixelTransform
from ..models.backbone import Backbone
from ..models.features import StageFeature, concatenated, of_parts, picked
from ..teacher_cache.features import FeatureCache


class Inputs:
    """Turns the uint8 pixels of a batch (see `rd_hf.data.pixel_store.collate`) into what the models take.

    :param store: train, with the transforms of the student and, if there is one, the teacher.
    :param augmentation: strengths; None shows every image as it is.
    :param seed: seed of the views.
    :param backbone: the frozen teacher, or None.
    :param cache: keeps the teacher's features; None runs the teacher at every step.
    :param device: where training runs.
    :ivar shows_means: whether a batch's features are such means, and not those of its views.
    :ivar means: the teacher's vectors of rows averaged over the views, where a run reads them; see view_means.py.
    """

    def __init__(
        self,
        store: PixelStore,
        augmentation: AugmentationParameters | None,
        seed: int,
        backbone: Backbone | None,
        cache: FeatureCache | None,
        device: torch.device,
    ):
        self.store, self.augmentation, self.seed = store, augmentation, seed
        self.backbone, self.cache, self.device = backbone, cache, device
        self.shows_means = False
        self.means: Callable[[Sequence[int], torch.device], list[StageFeature]] | None = None

    def needs_teacher_pixels(self, visit: Visit) -> bool:
        """Whether the teacher is needed for a visit; the processes that fetch batches ask this in advance."""
        if self.backbone is None or self.shows_means:
            return False
        return self.cache is None or self.cache.lacks(visit.row, visit.view)

    def student_pixels(self, batch: dict) -> Tensor:
        """What the student sees of the batch: (B, 3, h, w), normalised, in channels_last.

        Convolutions keep that format for all maps, and are faster in it on CPUs too; see
        docs/explanation/decisions.md.
        """
        pixels = self._shown(batch["student_pixels"], self.store.student.transform, batch["rows"], batch["views"])
        return pixels.contiguous(memory_format=torch.channels_last)

    def labels(self, batch: dict) -> Tensor:
        """The labels of the batch's labelled rows; masks (n, h, w) int64 have the geometry of their images' views."""
        labels = batch["labels"].to(self.device, non_blocking=True)
        if self.store.masks is None:
            return labels
        if self.augmentation is not None:
            rows, views = (batch[name][: len(labels)] for name in ("rows", "views"))
            labels = apply_to_masks(draw(self.augmentation, self.seed, rows, views), labels)
        return labels.long()

    def teacher_features(self, batch: dict) -> list[StageFeature]:
        """The teacher's features of the batch; with a cache it runs only for rows and views that are not there."""
        if self.shows_means:
            return self.mean_features(batch["rows"])
        return self.features_of(batch["rows"], batch["views"], batch["teacher_pixels"], batch["teacher_positions"])

    def features_of(
        self,
        rows: Sequence[int],
        views: Sequence[int],
        pixels: Tensor | None = None,
        positions: Sequence[int] | None = None,
    ) -> list[StageFeature]:
        """The teacher's features of these rows in these views.

        :param pixels: what was fetched for the teacher at some positions; None fetches what is needed.
        :param positions: those positions.
        """
        if self.cache is None:
            return self.run_teacher(rows, views, pixels)
        features, missing = self.cache.read(rows, views)
        if not missing:
            return features
        new_rows, new_views = ([values[position] for position in missing] for values in (rows, views))
        # not all that is missing was fetched, or more was, where another process or a damage came in between
        place = {position: number for number, position in enumerate(positions or ())}
        came = pixels is not None and all(position in place for position in missing)
        new = self.run_teacher(new_rows, new_views, pixels[[place[position] for position in missing]] if came else None)
        return _filled(features, missing, self.cache.write(new_rows, new_views, new))

    def mean_features(self, rows: Sequence[int]) -> list[StageFeature]:
        """The vector of the teacher for each of these rows of train, averaged over the run's views.

        :return: one feature, for the last tapped stage, in float32.
        :raises ValueError: where the run has no such means.
        """
        if self.means is None:
            raise ValueError("This run has no features averaged over its views; see rd_hf.training.view_means.")
        return self.means(rows, self.device)

    def run_teacher(self, rows: Sequence[int], views: Sequence[int], pixels: Tensor | None) -> list[StageFeature]:
        """The teacher's features of these rows in these views, computed.

        On a CPU images are augmented and run in chunks of one size, the last one filled up: kernels round differently
        in batches of another size, and so a row and view gives the same bits whatever comes with it.

        :param pixels: of these rows, uint8; None fetches them.
        """
        if pixels is None:
            pixels = torch.stack([self.teacher_pixels(row, view) for row, view in zip(rows, views, strict=True)])
        size = self.backbone.chunk_size or len(rows)
        chunks = []
        for start in range(0, len(rows), size):
            own = list(range(start, min(start + size, len(rows))))
            filled = own + own[:1] * (size - len(own))
            shown = pixels if filled == list(range(len(rows))) else pixels[filled]
            transform = self.store.teacher.transform
            shown = self._shown(shown, transform, [rows[i] for i in filled], [views[i] for i in filled])
            chunks.append([picked(feature, slice(len(own))) for feature in self.backbone.extract(shown)])
        return joined(chunks)

    def teacher_pixels(self, row: int, view: int) -> Tensor:
        """A row's pixels for the teacher: uint8 (3, h, w), the same in all views."""
        return self.store.teacher[row]

    def _shown(self, pixels: Tensor, transform: PixelTransform, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Bytes of some rows under their views, normalised for a model, on the device."""
        pixels = pixels.to(self.device, non_blocking=True)
        if self.augmentation is not None:
            pixels = apply(draw(self.augmentation, self.seed, rows, views), pixels)
        return transform.normalize(pixels)


def joined(chunks: Sequence[list[StageFeature]]) -> list[StageFeature]:
    """The features of several chunks of a batch as those of one.

    In one memory format, as what is read from a cache has: convolutions round differently in another.
    """
    return [of_parts(Tensor.contiguous, feature) for feature in concatenated(chunks)]


def _filled(features: list[StageFeature], positions: list[int], new: list[StageFeature]) -> list[StageFeature]:
    """Features with others put in at some positions, in the precision of those."""

    def fill(part: Tensor, other: Tensor) -> Tensor:
        part = part.to(other.dtype)
        part[positions] = other
        return part

    return [of_parts(fill, feature, other) for feature, other in zip(features, new, strict=True)]
