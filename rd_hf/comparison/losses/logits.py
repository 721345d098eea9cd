"""The losses of distillation methods that compare logits of a student and an adapted teacher, one label a sample.

Each returns a scalar, a mean over the batch, computed in float32, or in float64 if either side is, also under autocast.
Nothing is detached: whoever calls decides which side is constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...tasks.dist import logit_pair


def kd(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """KD: KL(teacher || student) at a temperature, times its square (Hinton et al. 2015, arXiv 1503.02531, section 2).

    The square keeps the gradient's size over temperatures. Hinton et al. print the cross-entropy, which differs by the
    teacher's entropy and has the same gradient for the student. Constant and saturated logits have a finite value and
    gradient.

    :param student: Logits (B, K).
    :param teacher: Logits (B, K).
    :param temperature: Divides the logits.
    :return: A scalar.
    :raises ValueError: If the shapes differ or are not (B, K) with K at least 2, if the batch is empty, or if the
        temperature is not above 0.
    """
    student, teacher = logit_pair(student, teacher, temperature, minimum=1)
    return _divergence(student, teacher) * temperature**2


def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """DKD: alpha * TCKD + beta * NCKD, each times the temperature's square (Zhao et al. 2022, arXiv 2203.08679, eq. 7).

    TCKD is KL(teacher || student) of the two events target class and any other class; NCKD is that of the other
    classes' probabilities given that it is one of them. With alpha = 1 and beta = 1 - p, p the teacher's probability of
    a sample's target at the temperature, it is `kd` (eq. 6). With two classes NCKD is 0, so beta plays no part.

    It is computed from log-probabilities: constant and saturated logits have a finite value and gradient. The authors'
    code lets the loss grow from 0 over the first epochs; that is the caller's.

    :param student: Logits (B, K).
    :param teacher: Logits (B, K).
    :param targets: Classes (B,), from 0 to K - 1.
    :param alpha: Weight of TCKD.
    :param beta: Weight of NCKD.
    :param temperature: Divides the logits.
    :return: A scalar.
    :raises ValueError: If the logits' shapes differ or are not (B, K) with K at least 2, if the targets are not (B,),
        if the batch is empty, or if the temperature is not above 0.
    """
    student, teacher = logit_pair(student, teacher, temperature, minimum=1)
    if targets.shape != student.shape[:1]:
        raise ValueError(f"targets have shape {tuple(targets.shape)}, but there are {len(student)} samples")
    targets = targets[:, None]
    others = torch.arange(student.shape[1] - 1, device=targets.device).expand(len(targets), -1)
    others = others + (others >= targets)
    target_class = _divergence(_binary(student, targets, others), _binary(teacher, targets, others))
    other_classes = _divergence(student.gather(1, others), teacher.gather(1, others))
    return (alpha * target_class + beta * other_classes) * temperature**2


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the columns, averaged over the rows."""
    student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _binary(logits: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Logits (B, 2) of the target class and of any other."""
    return torch.cat([logits.gather(1, targets), logits.gather(1, others).logsumexp(dim=1, keepdim=True)], dim=1)
