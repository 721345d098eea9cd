"""What student and teacher get of a batch: pixels of the same views, and the frozen teacher's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backbone import CPU_BATCH_SIZE, Backbone
from .data.augmentation import AugmentationParameters, apply, draw
from .data.pixels import PixelTransform
from .features import StageFeature
from .teacher_cache import FeatureCache

STUDENT, TEACHER = 0, 1


class Inputs:
    """Turns the uint8 pixels of a batch (see `rd_hf.data.pixel_store.collate`) into what the models take.

    :param transforms: of the student and, if there is one, the teacher.
    :param augmentation: strengths; None shows every image as it is.
    :param seed: seed of the views.
    :param backbone: the frozen teacher, or None.
    :param cache: keeps the teacher's features where the views of a row are limited.
    :param device: where training runs.
    """

    def __init__(
        self,
        transforms: Sequence[PixelTransform],
        augmentation: AugmentationParameters | None,
        seed: int,
        backbone: Backbone | None,
        cache: FeatureCache | None,
        device: torch.device,
    ):
        self.transforms, self.augmentation, self.seed = transforms, augmentation, seed
        self.backbone, self.cache, self.device = backbone, cache, device

    def pixel_values(self, batch: dict, model: int, positions: Sequence[int] | None = None) -> Tensor:
        """What STUDENT or TEACHER sees of the batch, or of `positions` in it: (B, 3, h, w), normalised."""
        positions = range(len(batch["rows"])) if positions is None else positions
        pixels = batch["pixels"][model][list(positions)].to(self.device, non_blocking=True)
        if self.augmentation is not None:
            rows, views = ([batch[name][position] for position in positions] for name in ("rows", "views"))
            pixels = apply(draw(self.augmentation, self.seed, rows, views), pixels)
        return self.transforms[model].normalize(pixels)

    def teacher_features(self, batch: dict) -> list[StageFeature]:
        """The teacher's features of the batch; with a cache it runs only for rows and views that it has not seen."""
        if self.cache is None:
            return self.backbone.extract(self.pixel_values(batch, TEACHER))
        rows, views = batch["rows"], batch["views"]
        new = self.cache.missing(rows, views)
        if new:
            # Filled up to whole chunks: convolutions round differently in batches of another size.
            filled = new + new[:1] * (-len(new) % CPU_BATCH_SIZE)
            features = self.backbone.extract(self.pixel_values(batch, TEACHER, filled))
            features = [StageFeature(*(None if part is None else part[: len(new)] for part in f)) for f in features]
            self.cache.put([rows[position] for position in new], [views[position] for position in new], features)
        return self.cache.get(rows, views, self.device)
