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
    """

    student: Tensor
    hybrids: tuple[Tensor, ...] = ()
    features: tuple[StageFeature, ...] = ()
    reprogrammed: tuple[StageFeature, ...] = ()

    @classmethod
    def of(cls, output: RDTeacherOutput) -> Passes:
        """Those in the output of a student with its teacher."""
        return cls(
            output.student_logits, output.hybrid_logits or (), output.student_features, output.reprogrammed_features
        )
