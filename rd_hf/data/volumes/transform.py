"""From a volume to what a model reads: the model's own processor, as `rd_hf.data.pixels` has it for images."""

from __future__ import annotations

from ...models.image_processing_rd_volume import RDVolumeProcessor
from ..pixels import PixelError, load_processor


class VolumeTransform:
    """The processor of a model of volumes.

    :ivar processor: the model's own.
    """

    def __init__(self, processor: RDVolumeProcessor) -> None:
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls, name_or_path: str, revision: str | None = None, trust_remote_code: bool = False
    ) -> VolumeTransform:
        """Load the processor of a Hub repository or local folder.

        :raises PixelError: if there is none, or it is not of volumes.
        """
        processor = load_processor(name_or_path, revision, trust_remote_code=trust_remote_code)
        if not isinstance(processor, RDVolumeProcessor):
            raise PixelError(
                f"{str(name_or_path)!r} has a {type(processor).__name__}, which reads images, but the data is volumes: "
                "choose a model of volumes, or save its RDVolumeProcessor beside the weights"
            )
        return cls(processor)

    @property
    def size(self) -> tuple[int, int, int] | None:
        """Voxels (X, Y, Z) that the model reads at a time: of a crop, or the whole volume; None where they vary."""
        size = self.processor.crop_size or self.processor.size
        return None if size is None else tuple(size)

    @property
    def channels(self) -> int:
        """Channels that the model reads."""
        return self.processor.channels
