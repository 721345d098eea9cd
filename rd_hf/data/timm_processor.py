"""Image processors of models of timm and open_clip: those of transformers that can be saved, made from their configs.

transformers' own class for models of timm cannot be taken apart into geometry and normalisation, nor saved.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..models.open_clip_tower import read_config
from ..models.timm_models import timm_config

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig

logger = logging.getLogger(__name__)


def timm_processor(name_or_path: str | os.PathLike[str], revision: str | None = None) -> BaseImageProcessor | None:
    """The processor of a checkpoint of timm; None for other checkpoints, and where a preprocessor_config.json says it.

    :param name_or_path: a Hub id or a local folder.
    :raises ImportError: when timm is not installed.
    """
    from transformers.utils import CONFIG_NAME, IMAGE_PROCESSOR_NAME, has_file

    folder = Path(name_or_path)
    if folder.is_dir() and ((folder / IMAGE_PROCESSOR_NAME).is_file() or not (folder / CONFIG_NAME).is_file()):
        return None
    config = timm_config(name_or_path, revision)
    if config is None or (not folder.is_dir() and has_file(name_or_path, IMAGE_PROCESSOR_NAME, revision=revision)):
        return None
    settings = vars(config).get("pretrained_cfg")
    if settings is None:
        settings = architecture_settings(config)
        logger.warning(
            "The config of %r has no pretrained_cfg, which says how images are prepared. They are prepared as by "
            "default for %s in timm, with the mean %s and the standard deviation %s. If it was trained otherwise, save "
            "its image processor beside its weights, or give `student_mean` and `student_std` of a student.",
            str(name_or_path), config.architecture, settings["mean"], settings["std"],
        )  # fmt: skip
    return processor_of(settings)


def savable(processor: BaseImageProcessor | None) -> BaseImageProcessor | None:
    """The same processor, or the one of transformers that prepares images as one of timm does."""
    from transformers import TimmWrapperImageProcessor

    return processor_of(processor.data_config) if isinstance(processor, TimmWrapperImageProcessor) else processor


def open_clip_processor(name_or_path: str, revision: str | None = None) -> BaseImageProcessor:
    """The processor of a checkpoint of open_clip.

    :param name_or_path: a Hub id or a local folder.
    """
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    config = read_config(name_or_path, revision)
    stated = config.get("preprocess_cfg", {})
    side = config["model_cfg"]["vision_cfg"].get("image_size", 224)
    return processor_of(
        {
            "input_size": [3, *(side if isinstance(side, list) else [side, side])],
            "interpolation": stated.get("interpolation", "bicubic"),
            "crop_pct": 1.0,
            "crop_mode": "center" if stated.get("resize_mode", "shortest") == "shortest" else "squash",
            "mean": stated.get("mean", OPENAI_CLIP_MEAN),
            "std": stated.get("std", OPENAI_CLIP_STD),
        }
    )


def architecture_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """What timm says of an architecture's default weights, in the form of `pretrained_cfg`.

    :raises RuntimeError: for an architecture that timm does not know.
    """
    import timm

    found = timm.get_pretrained_cfg(config.architecture, allow_unregistered=False)
    return found.to_dict()


def processor_of(settings: Mapping[str, Any]) -> BaseImageProcessor:
    """The processor that prepares images as timm does for evaluation.

    Where as many pixels cannot be cropped from both sides, the crop lies one pixel beside that of timm.

    :param settings: in the form of `pretrained_cfg`. Its crop_mode "border" pads with a colour, which no saved
        processor does after it resizes: the image is squashed instead.
    """
    from timm.data import resolve_data_config
    from transformers import BitImageProcessorPil

    data = resolve_data_config(pretrained_cfg=dict(settings))
    channels, height, width = data["input_size"]
    enlarged = [math.floor(side / data["crop_pct"]) for side in (height, width)]
    size = dict(zip(("height", "width"), enlarged, strict=True))
    if data["crop_mode"] == "center" and height == width:
        size = {"shortest_edge": enlarged[0]}
    names = Image.Resampling.__members__
    return BitImageProcessorPil(
        size=size,
        resample=names.get(data["interpolation"].upper(), Image.Resampling.BILINEAR),  # for "random"
        crop_size={"height": height, "width": width},
        image_mean=list(data["mean"])[:channels],
        image_std=list(data["std"])[:channels],
    )


def settings_of(processor: BaseImageProcessor, size: tuple[int, int]) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of a processor, so that timm and transformers prepare images as it does.

    :param processor: one that resizes, and maybe crops.
    :param size: rows and columns of what it makes.
    """
    resized = dict(processor.size)
    edge = resized.get("shortest_edge", resized.get("height"))
    return {
        "input_size": [3, *size],
        "interpolation": Image.Resampling(processor.resample).name.lower(),
        "crop_pct": size[0] / edge,
        "crop_mode": "center" if "shortest_edge" in resized else "squash",
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
    }
