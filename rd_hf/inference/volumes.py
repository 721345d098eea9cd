"""A model's logits of a whole volume: window by window for masks, in one pass for classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments.values import ArgumentError
from ..models.image_processing_rd_volume import padded

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..models.image_processing_rd_volume import RDVolumeProcessor

MOST_WINDOWS = 8  # in a batch
BYTES_PER_VOXEL = 4096  # of a window in a network: 32 float32 channels at full resolution, 32 times over
ROOM_ON_CPU = 2 * 2**30  # bytes


def volume_logits(
    forward: Callable[[Tensor], Tensor], processor: RDVolumeProcessor, shown: Tensor, device: torch.device
) -> Tensor:
    """The logits of one volume, un-augmented, without gradients.

    A segmenter reads windows of the processor's `crop_size` that overlap by its `overlap`; their logits are averaged
    with Gaussian weights (MONAI's `sliding_window_inference`, as in nnU-Net). A classifier reads the whole volume.

    The CPU's memory holds the volume and K + 1 maps of the grid (logits and weights), all float32; the device's memory
    holds one batch of windows.

    :param forward: pixel values (B, C, X, Y, Z) on `device` -> logits (B, K), or (B, K, x, y, z) of any size; the model
        is in eval mode.
    :param processor: of that model.
    :param shown: (C, *grid) in 0..1, as by `RDVolumeProcessor.shown`.
    :return: float32 (K, *grid) of a segmenter, on the CPU; (K,) of a classifier, on `device`.
    """
    volume = processor.normalized(shown.float())
    with torch.no_grad():
        if processor.crop_size is None:
            return forward(volume[None].to(device))[0].float()
        return _window_logits(forward, volume, tuple(processor.crop_size), processor.overlap, device)


def _window_logits(
    forward: Callable[[Tensor], Tensor], volume: Tensor, window: tuple[int, ...], overlap: float, device: torch.device
) -> Tensor:
    """:param volume: (C, *grid), normalised."""
    from monai.inferers import sliding_window_inference

    grid = volume.shape[1:]

    def predictor(windows: Tensor) -> Tensor:
        logits = forward(windows).float()
        if logits.shape[2:] == windows.shape[2:]:
            return logits
        return F.interpolate(logits, size=windows.shape[2:], mode="trilinear", align_corners=False)

    logits = sliding_window_inference(
        padded(volume, window)[None], window, windows_at_once(window, device), predictor,
        overlap=overlap, mode="gaussian", sw_device=device, device=torch.device("cpu"),
    )  # fmt: skip
    return logits[0, :, : grid[0], : grid[1], : grid[2]]


def windows_at_once(window: tuple[int, ...], device: torch.device) -> int:
    """How many windows a batch has room for: by the GPU's free memory, or `ROOM_ON_CPU`."""
    room = ROOM_ON_CPU
    if device.type == "cuda":  # what torch holds without using it is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        room = torch.cuda.mem_get_info(device)[0] + kept
    voxels = window[0] * window[1] * window[2]
    return max(1, min(MOST_WINDOWS, int(room // (voxels * BYTES_PER_VOXEL))))


def refuse_reading_of_images(page: int | None, dicom_window: str | None) -> None:
    """:raises ArgumentError: for what only says how images are read, where the model reads volumes."""
    for name, value in (("page", page), ("dicom_window", dicom_window)):
        if value is not None:
            raise ArgumentError(
                f"`{name}` is for images, but this model reads volumes, with the intensities that it was trained with: "
                "leave it out."
            )
