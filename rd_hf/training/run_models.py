"""The models of a run, and the pixels each is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from transformers.image_processing_utils import BaseImageProcessor

from ..data.pixels import PixelTransform
from ..models.backbone import Backbone
from ..models.modeling_rd_student import RDStudentForImageClassification
from ..models.modeling_rd_teacher import RDTeacherForImageClassification


@dataclass
class Models:
    """The models of a run, and the pixels each is shown: `transforms` of student and teacher, in this order.

    `teacher` and `backbone` are None for method ce. `teacher` holds the projectors and the student, not the backbone.
    """

    student: RDStudentForImageClassification
    student_processor: BaseImageProcessor
    teacher: RDTeacherForImageClassification | None = None
    teacher_processor: BaseImageProcessor | None = None
    backbone: Backbone | None = None
    transforms: list[PixelTransform] = field(default_factory=list)


class LoadedStudent(NamedTuple):
    """The student before training, its image processor, and where it is from (`id` and `revision`)."""

    model: RDStudentForImageClassification
    processor: BaseImageProcessor
    source: dict[str, str | None]


class LoadedTeacher(NamedTuple):
    """The frozen teacher, and the image processor of its repo."""

    backbone: Backbone
    processor: BaseImageProcessor
