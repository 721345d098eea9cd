"""Processors that squash the whole image: the same size and normalisation as before, and no crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    EfficientNetImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    MobileViTImageProcessorPil,
    SegformerImageProcessorPil,
    ViTImageProcessorPil,
)

from rd_hf.data.pixels import PixelError, PixelTransform, whole_image_processor

PROCESSORS = {
    "vit": ViTImageProcessorPil(
        size={"height": 48, "width": 64}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
    "mobilevit": MobileViTImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
    "mobilenet_v2": MobileNetV2ImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
    "efficientnet": EfficientNetImageProcessorPil(size={"height": 48, "width": 48}),
    "segformer": SegformerImageProcessorPil(size={"height": 48, "width": 48}, do_reduce_labels=True),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_size_and_normalisation_stay_and_the_whole_image_is_seen(name, tmp_path):
    before = PixelTransform(PROCESSORS[name])
    whole_image_processor(PROCESSORS[name]).save_pretrained(tmp_path)
    after = PixelTransform.from_pretrained(str(tmp_path))
    assert after.size == before.size
    torch.testing.assert_close(after.scale, before.scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(after.bias, before.bias, rtol=1e-6, atol=1e-6)
    # red at the left end and blue at the right one, which a crop to the middle would cut off
    picture = np.full((40, 120, 3), 128, np.uint8)
    picture[:, :10], picture[:, -10:] = (255, 0, 0), (0, 0, 255)
    shown = after.geometry(Image.fromarray(picture)).numpy()
    red, blue = (2, 0) if name == "mobilevit" else (0, 2)  # it reads blue, green and red
    assert shown[red, :, 1].min() > 200 and shown[blue, :, -2].min() > 200
    assert not after.processor.do_reduce_labels
    assert after.processor.resample == PROCESSORS[name].resample


def test_logits_are_brought_back_to_the_images_size():
    processor = whole_image_processor(PROCESSORS["vit"])
    logits = torch.zeros(1, 2, 12, 16)
    logits[:, 1, :, 8:] = 1
    output = type("Output", (), {"logits": logits})()
    mask = processor.post_process_semantic_segmentation(output, [(40, 120)])[0]
    assert mask.shape == (40, 120) and not mask[:, :50].any() and mask[:, 70:].all()


def test_a_teacher_of_grey_images_keeps_its_mean():
    grey = BitImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_mean=[0.3], image_std=[0.2]
    )
    before, after = PixelTransform(grey, 1), PixelTransform(whole_image_processor(grey, 1), 1)
    torch.testing.assert_close(after.scale, before.scale)
    torch.testing.assert_close(after.bias, before.bias)


def test_a_processor_without_a_size_of_its_own_is_refused():
    with pytest.raises(PixelError, match="keeps the image's shape"):
        whole_image_processor(CLIPImageProcessorPil(do_center_crop=False))
