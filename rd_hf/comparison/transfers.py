"""Transfer losses from a frozen teacher, as modules that hold the loss and the layers trained for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.features import Stage, StageFeature
from ..models.grids import CONVOLUTION
from ..models.modeling_rd_teacher import RDTeacherForImageClassification, RDTeacherOutput
from ..training.objective import Objective, comparable
from ..training.passes import Passes
from .losses.features import contrastive, hint

EMBEDDING = 128  # dimensions in which CRD compares; the paper's


@dataclass(frozen=True)
class Setting:
    """What a transfer may need to know about the run.

    :ivar teacher_stages: those that the student's are paired with, shallow to deep.
    :ivar rows: images of the training.
    :ivar has_masks: whether the student gives masks.
    :ivar head: reads pooled teacher features (B, C) as logits (B, K), of masks the last map (B, C, *grid) as logits
        (B, K, *grid), where the teacher was adapted first.
    :ivar temperature: by which a loss of logits divides them.
    """

    teacher_stages: Sequence[Stage]
    student_stages: Sequence[Stage]
    rows: int
    has_masks: bool = False
    head: nn.Module | None = None
    temperature: float | None = None


class GuidedStudent(nn.Module):
    """A student, and the layers that are trained with it for its transfer loss.

    :param teacher: holds the student with its stages; its projectors are not used.
    """

    def __init__(self, teacher: RDTeacherForImageClassification, transfer: nn.Module):
        super().__init__()
        self.student, self.transfer = teacher.student, transfer
        self.staged = teacher.staged_student

    def forward(self, student_pixel_values: Tensor, teacher_features: Sequence[StageFeature]) -> RDTeacherOutput:
        """Run the student once and tap its features; the teacher's features are passed on unchanged."""
        output, tape = self.staged.forward(student_pixel_values)
        return RDTeacherOutput(
            student_logits=output.logits,
            student_features=tuple(tape.features),
            reprogrammed_features=tuple(teacher_features),
        )


class GuidedObjective:
    """L = L_sup + weight * transfer.

    :param supervised: gives L_sup, from a student's logits alone.
    :param transfer: of the passes, in which the teacher's features stand for reprogrammed ones, and the labels.
    """

    def __init__(self, supervised: Objective, transfer: nn.Module, weight: float):
        self.supervised, self.transfer, self.weight = supervised, transfer, weight

    def __call__(
        self, passes: Passes, labels: Tensor, step: int, labelled_count: float, total_count: float, **_
    ) -> dict[str, Tensor]:
        """The terms of a batch, labelled rows first; see `rd_hf.training.objective.Objective`."""
        terms = self.supervised(Passes(passes.student), labels, step, labelled_count, total_count)
        terms["transfer"] = self.transfer(passes, labels)
        return terms | {"loss": terms["supervised"] + self.weight * terms["transfer"]}


def pooled(feature: StageFeature) -> Tensor:
    """(B, C) or, with the class token, (B, 2C); what the heads read and RD's CKA compares."""
    return comparable(feature, "pooled")


class OnPooled(nn.Module):
    """A loss of both models' pooled last features."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.loss = loss

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        return self.loss(pooled(passes.features[-1]), pooled(passes.reprogrammed[-1]))


class OnFlattened(OnPooled):
    """A loss of both models' last maps, flattened."""

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        sides = (passes.features[-1], passes.reprogrammed[-1])
        return self.loss(*(comparable(feature, "flattened") for feature in sides))


class OnMaps(OnPooled):
    """A loss of the maps after each pair of stages, added up."""

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        pairs = zip(passes.features, passes.reprogrammed, strict=True)
        return sum(self.loss(student.map, teacher.map) for student, teacher in pairs)


class Hint(nn.Module):
    """FitNet: a 1x1 convolution regresses the teacher's map from the student's, after the middle pair of stages.

    The paper's regressor covers the hint's grid with its kernel; here both maps are averaged to the smaller grid.
    """

    def __init__(self, setting: Setting):
        super().__init__()
        self.index = (len(setting.student_stages) - 1) // 2
        student, teacher = setting.student_stages[self.index], setting.teacher_stages[self.index]
        convolution = CONVOLUTION[len(student.grid)]
        self.regressor = convolution(student.channels, teacher.channels, kernel_size=1)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        regressed = self.regressor(passes.features[self.index].map.to(self.regressor.weight.dtype))
        return hint(regressed, passes.reprogrammed[self.index].map)


class Contrast(nn.Module):
    """CRD: both pooled features are embedded linearly, and told apart from those of the batch's other images."""

    def __init__(self, setting: Setting):
        super().__init__()
        self.rows = setting.rows
        stages = (setting.student_stages[-1], setting.teacher_stages[-1])
        self.of_student, self.of_teacher = (nn.Linear(stage.pooled_width, EMBEDDING) for stage in stages)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        student = self.of_student(pooled(passes.features[-1]))
        teacher = self.of_teacher(pooled(passes.reprogrammed[-1]))
        return contrastive(F.normalize(student, dim=1), F.normalize(teacher, dim=1), self.rows)


class OnLogits(nn.Module):
    """A loss of the student's logits and those of the adapted teacher, whose head is frozen.

    :param loss: of student logits, teacher logits and the labels of the first rows.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], head: nn.Module):
        super().__init__()
        self.loss, self.head = loss, head.requires_grad_(False)

    def forward(self, passes: Passes, labels: Tensor) -> Tensor:
        """The loss, a scalar."""
        with torch.no_grad():
            teacher = self.head(pooled(passes.reprogrammed[-1]))
        return self.loss(passes.student, teacher, labels)
