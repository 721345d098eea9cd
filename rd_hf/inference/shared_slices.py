"""Slices that overlapping windows of a volume have in common, read once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from ..models.backbone import Backbone
from ..models.features import StageFeature, of_parts, picked
from ..models.slices import SliceReading

MOST_BYTES = 2**29  # of the features that are kept


@contextmanager
def shared_slices(backbone: Backbone) -> Iterator[None]:
    """Within the context a backbone that reads slices runs on each image once, as long as its features are kept.

    Windows that lie behind each other along the axis of the slices show the same images, all but their first and last,
    whose neighbours differ. Blank slices are the same anywhere. Nothing else changes: features are those of the image.
    """
    own = backbone.slices
    if own is not None:
        backbone.slices = _SharedSlices(*astuple(own))
    try:
        yield
    finally:
        backbone.slices = own


@dataclass(frozen=True)
class _SharedSlices(SliceReading):
    """A reading that keeps the features of the images that were read last, up to `MOST_BYTES`."""

    kept: OrderedDict[bytes, list[StageFeature]] = field(default_factory=OrderedDict, compare=False, repr=False)

    def read(self, volume: Tensor, at_once: int, run: Callable[[Tensor], list[StageFeature]]) -> list[StageFeature]:
        """As `SliceReading.read`."""
        keys = self._keys(volume)
        found = {key: self.kept.pop(key) for key in dict.fromkeys(keys) if key in self.kept}
        new = {key: number for number, key in reversed([*enumerate(keys)]) if key not in found}
        ordered = sorted(new, key=new.get)
        images = self.images(volume, at_once, sorted(new.values())) if new else ()
        parts = (feature for batch in images for feature in _one_by_one(run(batch)))
        found |= dict(zip(ordered, parts, strict=True))
        self._keep({key: found[key] for key in keys})
        of_images = zip(*(found[key] for key in keys), strict=True)
        return [of_parts(lambda *parts: torch.stack(parts), *features) for features in of_images]

    def _keys(self, volume: Tensor) -> list[bytes]:
        """What tells images apart: where two slices have the same key, their images are the same."""
        slices = self._slices(volume).cpu().contiguous().numpy()
        digests = [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in slices]
        return [b"".join(digests[number] for number in numbers) for numbers in self._neighbours(len(digests)).tolist()]

    def _keep(self, read: dict[bytes, list[StageFeature]]) -> None:
        """Keep features as the last ones, and drop the first ones beyond the limit."""
        self.kept.update(read)
        each = sum(part.nbytes for feature in next(iter(read.values())) for part in feature if part is not None)
        while len(self.kept) * each > MOST_BYTES:
            self.kept.popitem(last=False)


def _one_by_one(batch: list[StageFeature]) -> Iterator[list[StageFeature]]:
    """The features of each image of a batch, each in memory of its own."""
    for number in range(len(batch[0].map)):
        yield [of_parts(Tensor.clone, picked(feature, number)) for feature in batch]
