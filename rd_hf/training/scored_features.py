"""The frozen teacher's features of images that are only scored: computed once for all runs on the same split."""

from __future__ import annotations

import torch

from ..data.open_split import OpenSplit
from ..inference.rows import pixel_values
from ..models.backbone import Backbone
from ..models.features import StageFeature
from ..teacher_cache.features import FeatureCache

VIEW = 0  # images are scored as they are: there is one view
MEMORY_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by a map's dimensions


class ScoredFeatures:
    """Features of the rows of a split, un-augmented: read from a cache if all of a batch are there, else computed.

    The cache keeps them in the teacher's own precision. Scores do not depend on what was cached before, except for the
    rounding of batches of another size.

    :param cache: None computes them each time.
    :param device: where features go.
    """

    def __init__(self, split: OpenSplit, backbone: Backbone, cache: FeatureCache | None, device: torch.device) -> None:
        self.split, self.backbone, self.cache, self.device = split, backbone, cache, device

    def __call__(self, rows: list[int]) -> list[StageFeature]:
        """One feature per tapped stage, for these rows."""
        views = [VIEW] * len(rows)
        if self.cache is not None and not any(self.cache.lacks(row, VIEW) for row in rows):
            features, missing = self.cache.read(rows, views)
            if not missing:
                return [_in_one_format(feature) for feature in features]
        features = self.backbone.extract(pixel_values(self.split.store.teacher, rows, self.device))
        if self.cache is not None:
            self.cache.write(rows, views, features)
        return [_in_one_format(feature) for feature in features]


def _in_one_format(feature: StageFeature) -> StageFeature:
    """A feature in channels_last, as most backbones compute it: a projector rounds differently in another format."""
    return feature._replace(map=feature.map.contiguous(memory_format=MEMORY_FORMATS[feature.map.ndim]))
