"""A model's logits of a whole volume: window by window for masks, in one pass for classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..models.image_processing_rd_volume import RDVolumeProcessor

MOST_WINDOWS = 8  # in a batch
BYTES_PER_VOXEL = 4096  # of a window in a network: 32 float32 channels at full resolution, 32 times over
ROOM_ON_CPU = 2 * 2**30  # bytes


def volume_logits(
    model: nn.Module,
    processor: RDVolumeProcessor,
    shown: Tensor,
    statistics: tuple[Tensor, Tensor],
    device: torch.device,
) -> Tensor:
    """The logits of one volume, un-augmented, without gradients.

    A segmenter reads windows of the processor's `crop_size` that overlap by its `overlap`; their logits are averaged
    with Gaussian weights (MONAI's `sliding_window_inference`, as in nnU-Net). A classifier reads the whole volume.

    The CPU's memory holds the volume, K + 1 maps of the grid (logits and weights) and one more during the division, all
    float32; the device's memory holds one batch of windows.

    :param model: in eval mode; takes `pixel_values` (B, C, X, Y, Z), gives `logits` (B, K) or (B, K, x, y, z).
    :param shown: (C, *grid) in 0..1, as by `RDVolumeProcessor.shown`.
    :param statistics: mean and deviation (C,) of the whole volume, as by `RDVolumeProcessor.statistics`.
    :param device: of the model.
    :return: float32 (K, *grid) of a segmenter, on the CPU; (K,) of a classifier, on `device`.
    """
    mean, deviation = (value.to(shown.device).float().view(-1, 1, 1, 1) for value in statistics)
    volume = ((shown.float() - mean) / deviation)[None]
    with torch.no_grad():
        if processor.crop_size is None:
            return model(pixel_values=volume.to(device)).logits[0].float()
        return _window_logits(model, volume, tuple(processor.crop_size), processor.overlap, device)


def _window_logits(
    model: nn.Module, volume: Tensor, window: tuple[int, ...], overlap: float, device: torch.device
) -> Tensor:
    """:param volume: (1, C, *grid), normalised."""
    from monai.inferers import sliding_window_inference

    grid = volume.shape[2:]

    def predictor(windows: Tensor) -> Tensor:
        logits = model(pixel_values=windows).logits.float()
        if logits.shape[2:] == windows.shape[2:]:
            return logits
        return F.interpolate(logits, size=windows.shape[2:], mode="trilinear", align_corners=False)

    logits = sliding_window_inference(
        padded(volume, window), window, windows_at_once(window, device), predictor,
        overlap=overlap, mode="gaussian", sw_device=device, device=torch.device("cpu"),
    )  # fmt: skip
    return logits[0, :, : grid[0], : grid[1], : grid[2]]


def padded(volume: Tensor, window: tuple[int, ...]) -> Tensor:
    """A volume (1, C, *grid) that is no smaller than a window: each channel's lowest value is put behind its end."""
    missing = [max(side - have, 0) for side, have in zip(window, volume.shape[2:], strict=True)]
    if not any(missing):
        return volume
    size = [have + more for have, more in zip(volume.shape[2:], missing, strict=True)]
    larger = volume.amin(dim=(2, 3, 4), keepdim=True).repeat(1, 1, *size)
    larger[:, :, : volume.shape[2], : volume.shape[3], : volume.shape[4]] = volume
    return larger


def windows_at_once(window: tuple[int, ...], device: torch.device) -> int:
    """How many windows a batch has room for: by the GPU's free memory, or `ROOM_ON_CPU`."""
    room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else ROOM_ON_CPU
    voxels = window[0] * window[1] * window[2]
    return max(1, min(MOST_WINDOWS, int(room // (voxels * BYTES_PER_VOXEL))))
