"""The models of a run, and the pixels each is shown."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

from transformers.image_processing_utils import BaseImageProcessor

from ..data.pixels import Transforms
from ..models.backbone import Backbone
from ..models.modeling_rd_student import RDStudent
from ..models.modeling_rd_teacher import RDTeacher


@dataclass
class Models:
    """The models of a run, and the pixels that student and backbone are shown.

    `teacher` and `backbone` are None for method ce. `teacher` holds the projectors and the student, not the backbone.
    """

    student: RDStudent
    student_processor: BaseImageProcessor
    transforms: Transforms
    teacher: RDTeacher | None = None
    teacher_processor: BaseImageProcessor | None = None
    backbone: Backbone | None = None


class LoadedTeacher(NamedTuple):
    """The frozen teacher, and the image processor of its repo; None for one of volumes that has none."""

    backbone: Backbone
    processor: BaseImageProcessor | None


def recompute_activations(student: RDStudent, recompute: bool) -> None:
    """Turn gradient checkpointing on or off, under the names that every supported transformers has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer ones prefer activation_checkpointing_*, and keep these
        if recompute:
            student.gradient_checkpointing_enable()
        else:
            student.gradient_checkpointing_disable()
