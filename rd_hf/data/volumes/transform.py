"""From a volume to what a model reads: the model's own processor, as `rd_hf.data.pixels` has it for images."""

from __future__ import annotations

from ...models.image_processing_rd_volume import RDVolumeProcessor


class VolumeTransform:
    """The processor of a model of volumes.

    :ivar processor: the model's own.
    """

    def __init__(self, processor: RDVolumeProcessor) -> None:
        self.processor = processor

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Voxels (X, Y, Z) that the model reads at a time: of a crop, or the whole volume; None where they vary."""
        size = self.processor.crop_size or self.processor.size
        return None if size is None else tuple(size)

    @property
    def channels(self) -> int:
        """Channels that the model reads."""
        return self.processor.channels
