"""Image processors of PIL, which rd_hf asks for, against those of torchvision: the same pixels up to 4 grey levels."""

import numpy as np
import pytest
import transformers
from PIL import Image

LEVELS = 4  # of 255
SHAPES = [(90, 130), (231, 187), (300, 300), (40, 57)]
# what of it: size, and the interpolation where it is not the class's own
PROCESSORS = {
    "ViT": {"size": {"height": 64, "width": 64}},
    "DeiT": {"size": {"height": 64, "width": 64}, "crop_size": {"height": 56, "width": 56}},
    "Siglip": {"size": {"height": 64, "width": 64}},
    "CLIP": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    "Bit": {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}},
    "ConvNext": {"size": {"shortest_edge": 64}, "crop_pct": 0.9},
    "MobileNetV2": {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}},
    "Segformer": {"size": {"height": 64, "width": 64}},
}


def picture(shape):
    """Smooth shades with sharp edges and noise."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    noise = np.random.default_rng(0).normal(0, 12, (*shape, 3))
    shades = np.stack([rows * 255 / shape[0], columns * 255 / shape[1], 255 * ((rows // 9 + columns // 7) % 2)], axis=2)
    return Image.fromarray(np.clip(shades + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("family", PROCESSORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_backends_make_the_same_pixels(family, shape):
    pixels = []
    for suffix in ("Pil", ""):
        processor = getattr(transformers, f"{family}ImageProcessor{suffix}")(**PROCESSORS[family], do_normalize=False)
        values = processor(picture(shape), return_tensors="pt")["pixel_values"].float()
        pixels.append(values * (255 if processor.do_rescale else 1))
    assert pixels[0].shape == pixels[1].shape
    assert (pixels[0] - pixels[1]).abs().max() <= LEVELS + 1e-3
