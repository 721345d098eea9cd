"""Build the student that the user named: a Hub id, a folder, or an inline transformers config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from .arguments import nearest
from .backbone import cached_commit
from .data.pixels import default_processor, load_processor
from .modeling_rd_student import RDStudentForImageClassification

logger = logging.getLogger(__name__)

DEFAULT_IMAGE_SIZE = 224


class StudentError(ValueError):
    """The student cannot be built from what was given; the message says what to change."""


def load_student(
    student: str | dict[str, Any],
    label_names: list[str],
    problem_type: str,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
):
    """Build a student for the given labels.

    :param student: Hub id or folder (pre-trained weights, new head where the labels differ), or an inline config, which
        starts from random weights; seed torch before.
    :param image_size: side of the square input; by default that of the processor, or of the config, or 224.
    :return: (RDStudentForImageClassification, its image processor, its source {"id", "revision"}).
    :raises StudentError: for an inline config with unknown fields, or a model that is no image classifier.
    """
    labels = {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: number for number, name in enumerate(label_names)},
        "problem_type": problem_type,
    }
    if isinstance(student, dict):
        config = _inline_config(student, image_size, labels)
        model = AutoModelForImageClassification.from_config(config)
        processor = default_processor(_side(config, image_size))
        source = {"id": f"{config.model_type} from scratch", "revision": None}
    else:
        model, source = _pretrained(student, image_size, labels, revision, trust_remote_code)
        processor = load_processor(student, revision=revision, image_size=image_size)
    if isinstance(model, RDStudentForImageClassification):
        model = model.model
    return RDStudentForImageClassification.from_classifier(model), processor, source


def _pretrained(student: str, image_size: int | None, labels: dict, revision: str | None, trust_remote_code: bool):
    options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(student, **options)
    if image_size is not None and "image_size" in config.to_dict():
        config.image_size = image_size
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    config.problem_type = labels["problem_type"]
    model, loading = AutoModelForImageClassification.from_pretrained(
        student, config=config, ignore_mismatched_sizes=True, output_loading_info=True, **options
    )
    fresh = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if fresh:
        logger.info("New weights in the student, not those of the checkpoint: %s", ", ".join(fresh))
    is_folder = Path(student).is_dir()
    source = (
        {"id": "local", "revision": None}
        if is_folder
        else {"id": student, "revision": cached_commit(student, revision)}
    )
    return model.float(), source


def _inline_config(student: dict[str, Any], image_size: int | None, labels: dict) -> PreTrainedConfig:
    fields = dict(student)
    model_type = fields.pop("model_type", None)
    known = [name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name in CONFIG_MAPPING]
    if model_type not in known:
        hint = nearest(model_type or "", known)
        raise StudentError(f"The student's model_type {model_type!r} is no image classifier of transformers.{hint}")
    config_class = CONFIG_MAPPING[model_type]
    known = list(config_class().to_dict())
    for name in fields:
        if name not in known:
            raise StudentError(
                f"The student's config has no field `{name}` in model_type {model_type}.{nearest(name, known)}"
            )
    if image_size is not None and "image_size" in known:
        fields.setdefault("image_size", image_size)
    try:
        return config_class(**fields, **labels)
    except (TypeError, ValueError) as error:
        raise StudentError(f"The student's config of model_type {model_type} is refused: {error}") from error


def _side(config: PreTrainedConfig, image_size: int | None) -> int:
    """The input side of a student from scratch."""
    if image_size is not None:
        return image_size
    declared = config.to_dict().get("image_size", DEFAULT_IMAGE_SIZE)
    return declared if isinstance(declared, int) else declared[0]
