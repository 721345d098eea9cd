"""What a model's config says of its classes: their names, and whether an image has one of them or several."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedConfig

from ..arguments.words import some_of
from ..tasks.classification import MultiLabel, SingleLabel

logger = logging.getLogger(__name__)

NAMED = 5  # in a message


def class_names(config: PreTrainedConfig) -> list[str]:
    """The names of a model's classes, by their numbers; see `distinct`."""
    return distinct([config.id2label[number] for number in range(config.num_labels)])


def distinct(names: Sequence[str]) -> list[str]:
    """Names by which answers can be told apart: where classes share one, as in ImageNet, their numbers are added."""
    uses = Counter(names)
    repeated = [name for name, count in uses.items() if count > 1]
    if not repeated:
        return list(names)
    logger.info(
        "Several classes of the model have the same name (%s), so their numbers are added to it.",
        some_of(list(map(repr, repeated)), NAMED),
    )
    return distinct([f"{name} ({number})" if uses[name] > 1 else name for number, name in enumerate(names)])


def classifying(config: PreTrainedConfig) -> str:
    """The problem type of a classifier.

    A class without others has a probability of its own, as in transformers' pipeline: a softmax would always give 1.
    """
    if config.num_labels == 1 and config.problem_type in (None, SingleLabel.problem_type):
        return MultiLabel.problem_type
    return config.problem_type or SingleLabel.problem_type
