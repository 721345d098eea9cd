"""The processor of a model of volumes as a run holds it."""

import pytest
from transformers import ViTImageProcessorPil

from rd_hf.data.pixels import PixelError
from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor


def test_it_is_found_beside_the_weights(tmp_path):
    RDVolumeProcessor(spacing=1, crop_size=(32, 48, 16), channels=2).save_pretrained(tmp_path)
    transform = VolumeTransform.from_pretrained(str(tmp_path))
    assert transform.size == (32, 48, 16) and transform.channels == 2 and transform.processor.spacing == [1, 1, 1]
    assert VolumeTransform(RDVolumeProcessor(size=24)).size == (24, 24, 24)
    assert VolumeTransform(RDVolumeProcessor(spacing=1)).size is None


def test_a_model_of_images_is_refused(tmp_path):
    ViTImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(PixelError, match="ViTImageProcessorPil, which reads images"):
        VolumeTransform.from_pretrained(str(tmp_path))
    with pytest.raises(PixelError, match="no image processor"):
        VolumeTransform.from_pretrained(str(tmp_path / "nothing"))
