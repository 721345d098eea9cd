"""An image processor as steps that the page can do: resize, crop, pad, and an affine map per channel.

The steps are found in the processor's settings, then done here with Pillow and compared with the processor itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor

from ...arguments.values import ArgumentError
from ...data.pixels import PixelTransform, noise

# (height, width): wide, tall, smaller than most inputs, larger, odd, and of a side that divides others
PROBE_SHAPES = ((64, 96), (96, 64), (17, 31), (301, 157), (157, 301), (480, 640), (224, 224))
FILTERS = frozenset(Image.Resampling(number) for number in range(6))  # that page/resize.js has
SMALLEST_UNCROPPED = 384  # pixels of ConvNeXT's images, which are cropped below this size


def preprocessing(transform: PixelTransform) -> dict[str, Any]:
    """What page/prepare.js does to an image.

    :return: plain JSON: `size` [rows, columns], `steps`, `reversed` (whether blue comes first), `scale` and `bias` per
        channel of a byte, and `channels` that the model reads.
    :raises ArgumentError: for a processor that does anything else.
    """
    processor = transform.processor
    steps = _steps(processor)
    is_reversed = bool(getattr(processor, "do_flip_channel_order", False))
    if steps is None or not _are_right(transform, steps, is_reversed):
        raise ArgumentError(
            f"The page cannot prepare images as {type(processor).__name__} does, because it knows resizing, cropping, "
            "padding and normalising in that order only: export to onnx, or train the student with an ordinary "
            "image processor."
        )
    return {
        "size": list(transform.size),
        "steps": steps,
        "reversed": is_reversed,
        "scale": transform.scale.tolist(),
        "bias": transform.bias.tolist(),
        "channels": transform.channels,
    }


def _steps(processor: BaseImageProcessor) -> list[dict[str, Any]] | None:
    """The geometry in the processor's settings; None where these have what no step does."""
    steps: list[dict[str, Any]] = []
    if getattr(processor, "do_resize", False):
        size, crop_pct = dict(processor.size), getattr(processor, "crop_pct", None)
        resample = Image.Resampling.BILINEAR if processor.resample is None else Image.Resampling(processor.resample)
        if resample not in FILTERS:
            return None
        filtered = {"resample": int(resample), "may_turn": rows_may_come_first()}
        if crop_pct is not None and set(size) == {"shortest_edge"}:
            steps += _of_convnext(size["shortest_edge"], crop_pct, filtered)
        elif set(size) in ({"height", "width"}, {"shortest_edge"}):
            steps.append({"kind": "resize", **size, **filtered})
        else:
            return None
    for kind, attribute in (("center_crop", "crop_size"), ("pad", "pad_size")):
        if getattr(processor, f"do_{kind}", False):
            size = dict(getattr(processor, attribute, None) or {})
            if set(size) != {"height", "width"}:
                return None
            steps.append({"kind": kind, **size})
    return steps


def _of_convnext(edge: int, crop_pct: float, filtered: dict[str, Any]) -> list[dict[str, Any]]:
    square = {"height": edge, "width": edge}
    if edge >= SMALLEST_UNCROPPED:
        return [{"kind": "resize", **square, **filtered}]
    resized = {"kind": "resize", "shortest_edge": int(edge / crop_pct), **filtered}
    return [resized, {"kind": "center_crop", **square}]


def rows_may_come_first() -> bool:
    """Whether the Pillow at hand resizes the rows first where the height shrinks by far more than the width.

    Pillow 13 does, older ones do not; the order decides what is rounded in between.
    """
    image = noise((96, 64))
    columns_first = image.resize((97, 96), Image.Resampling.BICUBIC).resize((97, 55), Image.Resampling.BICUBIC)
    return image.resize((97, 55), Image.Resampling.BICUBIC).tobytes() != columns_first.tobytes()


def _are_right(transform: PixelTransform, steps: list[dict[str, Any]], is_reversed: bool) -> bool:
    """Whether the steps give the processor's bytes on images of several shapes."""
    for shape in PROBE_SHAPES:
        made = prepared(noise(shape), steps)
        if is_reversed:
            made = made[..., ::-1]
        expected = transform.geometry(noise(shape)).permute(1, 2, 0).numpy()
        if made.shape != expected.shape or not np.array_equal(made, expected):
            return False
    return True


def prepared(rgb: Image.Image, steps: list[dict[str, Any]]) -> np.ndarray:
    """What the steps make of an image, as the page does it.

    :return: (h, w, 3) uint8.
    """
    for step in steps:
        height, width = step.get("height"), step.get("width")
        if step["kind"] == "resize":
            if "shortest_edge" in step:
                long = int(step["shortest_edge"] * max(rgb.size) / min(rgb.size))
                is_wide = rgb.width > rgb.height
                height, width = (step["shortest_edge"], long) if is_wide else (long, step["shortest_edge"])
            rgb = rgb.resize((width, height), step["resample"])
        else:
            left, top = (0, 0) if step["kind"] == "pad" else ((rgb.width - width) // 2, (rgb.height - height) // 2)
            rgb = rgb.crop((left, top, left + width, top + height))
    return np.asarray(rgb)
