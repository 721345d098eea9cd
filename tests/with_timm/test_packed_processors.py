"""Packings of towers whose processors need torchvision."""

import pytest
import torch
from transformers.models.kimi_k25.image_processing_kimi_k25 import Kimi_K25ImageProcessor
from transformers.models.minimax_m3_vl.image_processing_minimax_m3_vl import MiniMaxM3VLImageProcessor

from rd_hf.models.packed_tower import PACKINGS


class Config:
    patch_size = 8
    merge_kernel_size = (2, 2)
    spatial_merge_size = 2
    temporal_patch_size = 1


@pytest.mark.parametrize(
    ("model_type", "processor", "frames"),
    [("kimi_k25_vision", Kimi_K25ImageProcessor, 1), ("minimax_m3_vl_vision", MiniMaxM3VLImageProcessor, 2)],
)
def test_images_are_packed_as_the_processor_packs_them(model_type, processor, frames):
    config = Config()
    config.temporal_patch_size = frames
    options = {} if frames == 1 else {"temporal_patch_size": frames}
    image = torch.randint(0, 256, (3, 48, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = processor(patch_size=8, do_resize=False, do_normalize=False, **options)
    expected = plain(image, return_tensors="pt")
    packed = PACKINGS[model_type](image[None] / 255, config)
    torch.testing.assert_close(packed["pixel_values"], expected["pixel_values"])
    assert packed["grid_thw"].tolist() == expected["image_grid_thw"].tolist()
