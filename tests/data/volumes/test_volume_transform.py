"""The processor of a model of volumes as a run holds it."""

from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor


def test_it_says_what_the_model_reads_at_a_time():
    transform = VolumeTransform(RDVolumeProcessor(spacing=1, crop_size=(32, 48, 16), channels=2))
    assert transform.size == (32, 48, 16) and transform.channels == 2
    assert VolumeTransform(RDVolumeProcessor(size=24)).size == (24, 24, 24)
    assert VolumeTransform(RDVolumeProcessor(spacing=1)).size is None
