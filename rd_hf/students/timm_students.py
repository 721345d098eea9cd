"""Students that are models of timm: their inline configs, their first weights, and what their config says of images."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils import is_timm_available

from ..data.timm_processor import architecture_settings, settings_of
from ..models.timm_models import TIMM, check_loads_nothing, without_labels_of_timm
from .kinds import StudentError


def is_of_timm(config: PreTrainedConfig) -> bool:
    """Whether this is the config of a model of timm."""
    return config.model_type == TIMM


def check_inline(fields: dict[str, Any]) -> None:
    """:raises StudentError: for an inline config of an architecture that this machine's timm does not have.

    :raises ValueError: for one that names a file to load.
    """
    check_loads_nothing(fields)
    if not is_timm_available():
        raise StudentError("A student of timm needs that package: pip install 'rd-hf[timm]'.")
    import timm

    architecture = str(fields.get("architecture"))
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.0)
        raise StudentError(
            f"The student's `architecture` is {architecture!r}, which timm {timm.__version__} does not have. "
            f"Near names: {', '.join(near)}."
        )


def set_side(config: PreTrainedConfig, image_size: int | None) -> None:
    """Build the model for square images of this side, where its architecture is bound to one.

    :param image_size: None leaves the architecture's own side.
    """
    arguments = dict(config.model_args or {})
    if image_size is not None and architecture_settings(config).get("fixed_input_size"):
        config.model_args = arguments | {"img_size": image_size}


def side_of(config: PreTrainedConfig) -> int:
    """The side of square images that an architecture is made for."""
    own = (config.model_args or {}).get("img_size") or architecture_settings(config)["input_size"][1:]
    return own if isinstance(own, int) else own[0]


def take_initial_weights(model: PreTrainedModel) -> None:
    """Give a new model timm's own random weights: transformers draws all layers with one standard deviation."""
    import timm

    config = model.config
    arguments = config.model_args or {}
    fresh = timm.create_model(config.architecture, num_classes=config.num_labels, **arguments)
    model.timm_model.load_state_dict(fresh.state_dict())


def weights_of_timm(model: PreTrainedModel) -> dict[str, Tensor] | None:
    """The weights of a model of timm under timm's own names, by which transformers loads them too; else None."""
    if not is_of_timm(model.config):
        return None
    return {name.removeprefix(f"{model.base_model_prefix}."): value for name, value in model.state_dict().items()}


def note_images(config: PreTrainedConfig, processor: BaseImageProcessor, size: tuple[int, int]) -> None:
    """Say in a config of timm how the student's images are prepared, so that timm prepares them in the same way.

    :param size: rows and columns of the prepared images.
    """
    without_labels_of_timm(config)
    config.model_args = config.model_args or {}  # None, which transformers writes, is nothing that timm reads
    config.pretrained_cfg = settings_of(processor, size)
