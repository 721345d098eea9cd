"""Maps of what a classifier's answer depends on in an image: integrated gradients, by Captum.

Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". They need nothing but a model with gradients, so
they work for convolutions and transformers alike.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

STEPS = 8  # between the grey image and the image
BLUR = 1 / 40  # of the longer side: single pixels are noise
BRIGHTEST = 99.5  # percentile that has the full colour
COLOR = (255, 140, 0)
GREY_SHARE, OPACITY = 0.75, 0.85
WHAT = (
    "The first ones have a map, which shows to which pixels the answer reacts: integrated gradients of the answered "
    f"class, from a picture of the mean colour to this one in {STEPS} steps, smoothed. Orange pixels raise the "
    "answer’s score. A map does not outline a finding, and it does not show that the model looks for the right reason."
)
NOT_INSTALLED = (
    "Maps over the images need Captum, which is not installed. To get them, run pip install 'rd-hf[report]' and write "
    "the page again."
)
WITHOUT_GRADIENTS = "There are no maps over the images, because this form of the model has no gradients."


def can_map() -> bool:
    """Whether Captum is installed."""
    return find_spec("captum") is not None


def saliency_map(forward: Callable[[Tensor], Tensor], pixels: Tensor, label: int) -> np.ndarray:
    """How much each pixel raises the score of a class, (h, w) in 0..1.

    :param forward: pixel values (B, C, h, w) -> logits (B, K); the model is in eval mode.
    :param pixels: (1, C, h, w), normalised, so that 0 is the mean colour.
    """
    from captum.attr import IntegratedGradients

    with torch.enable_grad():
        found = IntegratedGradients(forward).attribute(pixels, baselines=0.0, target=label, n_steps=STEPS)
    raised = found.detach().sum(dim=1)[0].clamp(min=0).float().cpu().numpy()
    highest = np.percentile(raised, BRIGHTEST)
    scaled = np.rint(255 * np.clip(raised / highest, 0, 1) if highest > 0 else 0 * raised).astype(np.uint8)
    radius = max(scaled.shape) * BLUR
    smooth = np.asarray(Image.fromarray(scaled).filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    return smooth / max(1.0, smooth.max())


def under_map(picture: np.ndarray, found: np.ndarray) -> np.ndarray:
    """A picture in grey under its map.

    :param picture: (h, w, 3) uint8.
    :param found: (h, w) in 0..1.
    """
    grey = np.repeat(picture.mean(axis=2, keepdims=True) * GREY_SHARE, 3, axis=2)
    opacity = OPACITY * found[..., None]
    return np.rint(grey * (1 - opacity) + np.array(COLOR) * opacity).astype(np.uint8)
