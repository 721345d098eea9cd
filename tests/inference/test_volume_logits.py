"""Logits of whole volumes: equal to MONAI's windows, padded at the end, and one pass for classes."""

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from rd_hf.inference.volumes import MOST_WINDOWS, volume_logits, windows_at_once
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor

CPU = torch.device("cpu")


def test_windows_are_those_of_monai():
    torch.manual_seed(0)
    network = nn.Conv3d(2, 3, 5, padding=2).eval()
    processor = RDVolumeProcessor(crop_size=(12, 8, 10), channels=2)
    shown = torch.rand(2, 20, 17, 11)
    expected = SlidingWindowInferer((12, 8, 10), 1, 0.5, mode="gaussian")(processor.normalized(shown)[None], network)
    found = volume_logits(network, processor, shown, CPU)
    assert found.shape == (3, 20, 17, 11)
    assert torch.allclose(found, expected[0], atol=1e-5) and not found.requires_grad


def test_a_volume_smaller_than_the_window_is_padded_at_its_end_with_its_lowest_value():
    seen = []

    def forward(pixels):
        seen.append(pixels)
        return torch.cat([pixels, pixels * 2], dim=1)

    shown = torch.rand(1, 5, 9, 6)
    processor = RDVolumeProcessor(crop_size=8, intensity="window", window=(0, 1))
    found = volume_logits(forward, processor, shown, CPU)
    volume = (shown - 0.5) / 0.5
    assert found.shape == (2, 5, 9, 6) and torch.allclose(found[1], 2 * volume[0], atol=1e-5)
    first = seen[0][0, 0]
    assert torch.equal(first[:5, :, :6], volume[0, :, :8, :])
    assert (first[5:] == volume.min()).all() and (first[:, :, 6:] == volume.min()).all()


def test_logits_that_are_smaller_than_their_window_are_brought_to_its_size():
    network = nn.AvgPool3d(2)
    processor = RDVolumeProcessor(crop_size=8, do_normalize=False)
    shown = torch.linspace(0, 1, 16).view(1, 16, 1, 1).expand(1, 16, 8, 8).contiguous()
    found = volume_logits(network, processor, shown, CPU)
    assert found.shape == (1, 16, 8, 8)
    assert torch.allclose(found[:, 2:-2], shown[:, 2:-2], atol=0.02)


def test_a_classifier_reads_the_whole_volume_once():
    calls = []

    def forward(pixels):
        calls.append(pixels.shape)
        return pixels.mean(dim=(2, 3, 4)).repeat(1, 3)

    processor = RDVolumeProcessor(size=(6, 7, 8), do_normalize=False)
    shown = processor.shown(np.random.default_rng(0).random((1, 9, 9, 9)), np.eye(4))
    found = volume_logits(forward, processor, shown, CPU)
    assert calls == [(1, 1, 6, 7, 8)] and torch.allclose(found, shown.mean().expand(3))


def test_windows_at_once_follow_the_room_of_memory():
    assert windows_at_once((16, 16, 16), CPU) == MOST_WINDOWS
    assert windows_at_once((96, 96, 96), CPU) == 1 == windows_at_once((512, 512, 512), CPU)
