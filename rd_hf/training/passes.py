"""The outputs of a training step's forward passes that a loss reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from ..models.features import StageFeature
    from ..models.modeling_rd_teacher import RDTeacherOutput


class Passes(NamedTuple):
    """The passes of a micro-batch; a student trained alone has its logits only.

    :param student: the student's own logits (B, K).
    :param hybrids: hybrid logits (B, K) of each stage, shallow to deep.
    :param features: the student's own feature after each stage.
    :param reprogrammed: the teacher's feature for each stage, as it is compared with the student's.
    :param stages: the numbers of these stages from 0; None where all of them are there.
    """

    student: Tensor
    hybrids: tuple[Tensor, ...] = ()
    features: tuple[StageFeature, ...] = ()
    reprogrammed: tuple[StageFeature, ...] = ()
    stages: tuple[int, ...] | None = None

    @classmethod
    def of(cls, output: RDTeacherOutput, stages: tuple[int, ...] | None = None) -> Passes:
        """Those in the output of a student with its teacher.

        :param stages: those that were run, where they are not all.
        """
        features = output.student_features, output.reprogrammed_features
        return cls(output.student_logits, output.hybrid_logits or (), *features, stages)
