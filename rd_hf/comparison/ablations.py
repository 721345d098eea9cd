"""Ablations of RD: reprogrammed features with a separate classifier, or a teacher that is reprogrammed first."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from torch import Tensor, nn

from ..models.features import StageFeature
from ..models.modeling_rd_teacher import RDTeacherForImageClassification, RDTeacherOutput
from ..models.stages import find_stages
from ..models.tape import without_running_statistics
from ..training.objective import Objective
from ..training.passes import Passes
from ..training.step import Update
from ..training.trainer import Trainer


class SeparateClassifier(nn.Module):
    """Reprogrammed features classified by a copy of the student's later layers and head, not by the student's own.

    What is left of RD is CKA and KL between two models that share no weight.

    :param teacher: projectors and student; the copy starts from the student as it is.
    """

    def __init__(self, teacher: RDTeacherForImageClassification):
        super().__init__()
        self.student, self.projectors = teacher.student, teacher.projectors
        self.classifier = copy.deepcopy(teacher.student.model)
        self.staged = teacher.staged_student
        names = [stage.name for stage in teacher.student_stages]
        self.trains_student = True
        self.staged_classifier = find_stages(self.classifier, tuple(teacher.config.student_config.image_size), names)

    def forward(
        self,
        student_pixel_values: Tensor,
        teacher_features: Sequence[StageFeature],
        target_features: Sequence[StageFeature] | None = None,
    ) -> RDTeacherOutput:
        """The student's own pass, and the copy's from each reprogrammed feature on; see `RDTeacher.forward`."""
        with nullcontext() if self.trains_student else _untouched(self.student.model):
            student, tape = self.staged.forward(student_pixel_values)
        with torch.no_grad():  # only shows the way from a stage on
            _, way = self.staged_classifier.forward(student_pixel_values)
        torch.clear_autocast_cache()  # older versions of torch would reuse these casts, which have no gradient
        features = [project(feature) for project, feature in zip(self.projectors, teacher_features, strict=True)]
        hybrid = [self.staged_classifier.resume(way, index, feature).logits for index, feature in enumerate(features)]
        target = None
        if target_features is not None:
            with torch.no_grad():
                mean = self.projectors[-1](target_features[-1])
                target = self.staged_classifier.resume(way, len(hybrid) - 1, mean).logits
        return RDTeacherOutput(
            logits=hybrid[-1],
            hybrid_logits=tuple(hybrid),
            student_logits=student.logits,
            student_features=tuple(tape.features),
            reprogrammed_features=tuple(features),
            target_logits=target,
        )


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """The passes of a model change nothing of it, its running statistics included."""
    with torch.no_grad(), without_running_statistics(model):
        yield


class OnlyHybrid:
    """The loss of the first of two trainings: the reprogrammed teacher learns the labels, the student nothing."""

    def __init__(self, objective: Objective):
        self.objective = objective

    def __call__(self, passes: Passes, *arguments, **options) -> dict[str, Tensor]:
        """The supervised loss of the hybrid logits; see `rd_hf.training.objective.Objective`."""
        terms = self.objective(Passes(passes.hybrids[0]), *arguments, **options)
        for logits in passes.hybrids[1:]:
            more = self.objective(Passes(logits), *arguments, **options)
            terms = {name: value + more[name] for name, value in terms.items()}
        return {"hybrid": terms["supervised"], "loss": terms["supervised"]}


def reprogram_first(trainer: Trainer) -> None:
    """Train projectors and their classifier on the labels for all steps, then freeze them; the student stays as it is.

    :param trainer: of a `SeparateClassifier`; afterwards it trains the student, with the frozen part as its teacher.
    """
    first = Update(
        trainer.arguments,
        trainer.accelerator,
        trainer.module,
        trainer.inputs,
        OnlyHybrid(trainer.update.objective),
        trainer.max_steps,
    )
    batches = iter(trainer.loader())
    trainer.module.trains_student = False
    for step in range(trainer.max_steps):
        first(step, islice(batches, 1))
    trainer.module.trains_student = True
    for part in (trainer.module.projectors, trainer.module.classifier):
        part.requires_grad_(False)
