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
    :param target: logits (B, K) of the last hybrid pass for the features of which targets are made, without a gradient.
    """

    student: Tensor
    hybrids: tuple[Tensor, ...] = ()
    features: tuple[StageFeature, ...] = ()
    reprogrammed: tuple[StageFeature, ...] = ()
    stages: tuple[int, ...] | None = None
    target: Tensor | None = None

    @classmethod
    def of(cls, output: RDTeacherOutput, stages: tuple[int, ...] | None = None) -> Passes:
        """Those in the output of a student with its teacher.

        :param stages: those that were run, where they are not all.
        """
        features = output.student_features, output.reprogrammed_features
        return cls(output.student_logits, output.hybrid_logits or (), *features, stages, output.target_logits)


class Targets(NamedTuple):
    """What the logits of a micro-batch are to be like, besides its labels; constants to autograd.

    :param student: logits (B, K) that the student learns from.
    :param teacher: the same without the share of the student's ensemble.
    :param probe: logits (B, K) of a linear probe, from which the hybrid logits learn; None without one.
    :param share: the ensemble's share in `student`, and the weight with which the hybrid logits learn from `student`.
    """

    student: Tensor
    teacher: Tensor
    probe: Tensor | None = None
    share: float = 0.0
