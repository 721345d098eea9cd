"""The frozen teacher's features of images that are only scored: computed once for all runs on the same split."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..data.pixel_store import PixelStore
from ..data.volumes.store import VolumeStore
from ..inference.rows import pixel_values
from ..models.features import StageFeature
from ..teacher_cache.features import FeatureCache
from .run_models import Models
from .teacher_features import open_cache_of_split
from .volume_inputs import seen_by_teacher

VIEW = 0  # images are scored as they are: there is one view
MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by a map's dimensions


class ScoredFeatures:
    """Features of the rows of a split, un-augmented: read from a cache if all of a batch are there, else computed.

    The cache keeps them in the teacher's own precision. Scores do not depend on what was cached before, except for the
    rounding of batches of another size.

    :param cache: None computes them each time.
    :param device: where features go.
    """

    def __init__(self, split: OpenSplit, models: Models, cache: FeatureCache | None, device: torch.device) -> None:
        self.split, self.backbone, self.cache, self.device = split, models.backbone, cache, device
        self.transform = models.transforms.teacher

    def __call__(self, rows: list[int]) -> list[StageFeature]:
        """One feature per tapped stage, for these rows."""
        views = [VIEW] * len(rows)
        if self.cache is not None and not any(self.cache.lacks(row, VIEW) for row in rows):
            features, missing = self.cache.read(rows, views)
            if not missing:
                return [_in_one_format(feature) for feature in features]
        features = self.backbone.extract(self._pixel_values(rows))
        if self.cache is not None:
            self.cache.write(rows, views, features)
        return [_in_one_format(feature) for feature in features]

    def _pixel_values(self, rows: list[int]) -> Tensor:
        """What the teacher reads of these rows."""
        store = self.split.store
        if isinstance(store, PixelStore):
            return pixel_values(store.teacher, rows, self.device)
        volumes = torch.stack([store.shown(row) for row in rows])
        return seen_by_teacher(store, self.transform, rows, volumes).to(self.device)


def features_of_split(
    arguments: DistillationArguments, models: Models, split: OpenSplit, accelerator: Accelerator
) -> ScoredFeatures:
    """The features of a split's rows; all runs on it share a cache, where the arguments ask for one."""
    cache = open_cache_of_split(arguments, split, models, accelerator)
    return ScoredFeatures(split, models, cache, accelerator.device)


def whole_pixel_values(store: PixelStore | VolumeStore, rows: list[int], device: torch.device) -> Tensor:
    """What the student reads of whole images or volumes, un-augmented."""
    if isinstance(store, PixelStore):
        return pixel_values(store.student, rows, device)
    return torch.stack([store.processor.normalized(store.shown(row)) for row in rows]).to(device)


def _in_one_format(feature: StageFeature) -> StageFeature:
    """A feature in channels_last, as most backbones compute it: a projector rounds differently in another format."""
    return feature._replace(map=feature.map.contiguous(memory_format=MEMORY_FORMATS[feature.map.ndim]))
