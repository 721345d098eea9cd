"""Windows of a volume that share slices: the same logits from fewer of them."""

import pytest
import torch
from test_slices import MEAN, STD, backbone, random, tapped

from rd_hf.inference import shared_slices as module
from rd_hf.inference.shared_slices import shared_slices
from rd_hf.inference.volumes import volume_logits
from rd_hf.models.backbone import Backbone
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.models.slices import PLANES, SliceReading

WINDOW = (12, 12, 12)
PROCESSOR = RDVolumeProcessor(spacing=1, crop_size=WINDOW, do_normalize=False)


def by_windows(read: Backbone, volume: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Logits of the last map and of the class tokens, and the slices that the model was run on."""
    seen = []
    hook = read.tower.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)

    def forward(windows: torch.Tensor) -> torch.Tensor:
        feature = read.extract(windows)[-1]
        return feature.map + feature.prefix.mean(dim=1)[:, :, None, None, None]

    logits = volume_logits(forward, PROCESSOR, volume, torch.device("cpu"))
    hook.remove()
    return logits, sum(len(kwargs["pixel_values"]) for kwargs in seen)


@pytest.mark.parametrize("axis", PLANES)
def test_windows_behind_each_other_share_slices_and_give_the_same_logits(axis, monkeypatch):
    read = tapped(backbone("dinov2", SliceReading(axis, (16, 16), MEAN, STD)), WINDOW)
    shape = [12, 12, 12]
    shape[PLANES[axis][0]] = 24  # three windows, each of which has a first and a last slice of its own
    volume = random(1, *shape)
    expected, count = by_windows(read, volume)
    assert count == 36
    with shared_slices(read):
        found, count = by_windows(read, volume)
    torch.testing.assert_close(found, expected)
    assert count == 28
    monkeypatch.setattr(module, "MOST_BYTES", 0)
    with shared_slices(read):
        found, count = by_windows(read, volume)
    torch.testing.assert_close(found, expected)
    assert count == 36
    assert by_windows(read, volume)[1] == 36, "nothing is kept behind the context"


def test_blank_slices_are_read_once():
    read = tapped(backbone("dinov2", SliceReading("axial", (16, 16), MEAN, STD)), WINDOW)
    with shared_slices(read):
        assert by_windows(read, torch.zeros(1, 20, 20, 20))[1] == 1


def test_a_teacher_of_volumes_is_left_as_it_is():
    read = backbone("mobilenet_v2")
    with shared_slices(read):
        assert read.slices is None
