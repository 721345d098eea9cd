"""A plain image processor, which resizes, rescales and normalises, in place of one that cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..arguments.words import package_needed

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

logger = logging.getLogger(__name__)

# Classes of transformers that exist for torchvision only and do no more than resize, rescale and normalise.
PLAIN_CLASSES = (
    "DINOv3ViTImageProcessor",
    "DepthProImageProcessor",
    "Sam2ImageProcessor",
    "Sam3ImageProcessor",
    "Tipsv2ImageProcessor",
)
# What older versions of transformers say of every processor; newer ones say it of the classes above by their names.
WITHOUT_TORCHVISION = "AutoImageProcessor requires the Torchvision library"
RESIZE = "Give teacher_image_size (student_image_size for a student) to resize each image to a square of that side."


class PixelError(ValueError):
    """An image processor that cannot be found, or cannot be split into geometry and normalisation."""


def settings_of(processor: BaseImageProcessor) -> dict[str, Any]:
    """The settings of a processor as its preprocessor_config.json states them."""
    return processor.to_dict() | {"image_processor_type": type(processor).__name__}


def processor_without_class(
    name_or_path: str, revision: str | None, image_size: int | None, error: Exception
) -> BaseImageProcessor:
    """A plain processor where transformers cannot build the model's own one.

    :param error: that transformers raised.
    :raises PixelError: if nothing is said of the processor, or not enough, or transformers loads none at all.
    """
    import transformers
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    if isinstance(error, ImportError) and WITHOUT_TORCHVISION in str(error):
        raise PixelError(
            f"transformers {transformers.__version__} loads image processors only where torchvision is installed: "
            "`pip install torchvision`, or `pip install 'transformers>=5.23'`, which does without it"
        ) from error
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    try:
        settings = get_image_processor_config(name_or_path, revision=revision)
    except (OSError, ValueError):  # no such repository, or a file that is no JSON
        settings = {}
    if settings.get("image_processor_type") and (image_size is not None or isinstance(error, ImportError)):
        return resizing_processor(name_or_path, settings, image_size)
    if (missing := package_needed(error)) is not None:
        raise PixelError(f"no image processor could be loaded for {str(name_or_path)!r}: {missing}") from error
    raise PixelError(
        f"no image processor could be loaded for {str(name_or_path)!r} ({reason}). If "
        "the name is right, its preprocessor_config.json is missing. Copy the model to a local folder and save a "
        "processor there: the one that the model was trained with, or "
        "rd_hf.data.pixels.default_processor(image_size).save_pretrained(folder)."
    ) from error


def resizing_processor(name_or_path: str, settings: Mapping[str, Any], image_size: int | None) -> BaseImageProcessor:
    """The processor of PIL that squashes an image, with the interpolation and normalisation that settings state.

    :param settings: of any image processor, as in its preprocessor_config.json.
    :param image_size: side of a square output; by default the height and width that the settings state.
    :raises PixelError: if there is no size, or the settings are of a processor that does more.
    """
    kind = str(settings.get("image_processor_type"))
    is_plain = kind.removesuffix("Fast") in PLAIN_CLASSES
    size = dict(settings.get("size") or {}) if image_size is None else {"height": image_size, "width": image_size}
    if not (size.get("height") and size.get("width")) or not (is_plain or image_size):
        raise PixelError(
            f"its image processor ({kind}) exists for torchvision only, and does more than resize, rescale and "
            f"normalise. {RESIZE}"
        )
    if not is_plain:
        logger.info(
            "The image processor of %r (%s) does more than resize, crop, rescale and normalise, so its images are "
            "resized to %d x %d pixels and normalised with its mean and standard deviation; padding, tiles and the "
            "like are left out.",
            name_or_path, kind, image_size, image_size,
        )  # fmt: skip
    return _squashing(settings, size)


def _squashing(settings: Mapping[str, Any], size: Mapping[str, int]) -> BaseImageProcessor:
    from transformers import ViTImageProcessorPil

    mean, std, resample = (settings.get(name) for name in ("image_mean", "image_std", "resample"))
    return ViTImageProcessorPil(
        size={"height": size["height"], "width": size["width"]},
        resample=Image.Resampling.BILINEAR if resample is None else resample,
        do_resize=True,
        do_rescale=settings.get("do_rescale") is not False,
        rescale_factor=settings.get("rescale_factor") or 1 / 255,
        do_normalize=settings.get("do_normalize") is not False and mean is not None and std is not None,
        image_mean=mean,
        image_std=std,
    )
