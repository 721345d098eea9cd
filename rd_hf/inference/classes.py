"""What a model's config says of its classes: their names, and whether an image has one of them or several."""

from __future__ import annotations

from transformers import PreTrainedConfig

from ..tasks.classification import MultiLabel, SingleLabel


def classifying(config: PreTrainedConfig) -> str:
    """The problem type of a classifier.

    A class without others has a probability of its own, as in transformers' pipeline: a softmax would always give 1.
    """
    if config.num_labels == 1 and config.problem_type in (None, SingleLabel.problem_type):
        return MultiLabel.problem_type
    return config.problem_type or SingleLabel.problem_type
