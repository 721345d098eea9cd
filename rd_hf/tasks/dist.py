"""DIST (Huang et al. 2022, arXiv 2205.10536): correlations of probabilities, which are statistics of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def dist(student: Tensor, teacher: Tensor, beta: float = 2.0, gamma: float = 2.0, temperature: float = 1.0) -> Tensor:
    """DIST: 1 - Pearson correlation of probabilities, over classes and samples (Huang et al. 2022, eq. 10).

    The inter-class term correlates the K probabilities of a sample and is averaged over the samples; the intra-class
    term correlates the B probabilities of a class and is averaged over the classes. As in common code both are
    multiplied by the temperature's square.

    **With two classes the inter-class term teaches nothing**: the probabilities of a sample are p and 1 - p, whose
    correlation is 1 where both sides prefer the same class and -1 where they do not, whatever p. Its gradient is 0
    there, and only the intra-class term trains.

    Probabilities that do not vary by more than their rounding (uniform logits; a class that saturates in all samples)
    have correlation 0, so a term of 1, with gradient 0.

    :param student: Logits (B, K).
    :param teacher: Logits (B, K).
    :param beta: Weight of the inter-class term.
    :param gamma: Weight of the intra-class term.
    :param temperature: Divides the logits.
    :return: A scalar.
    :raises ValueError: If the shapes differ or are not (B, K) with K at least 2, if there are fewer than 2 samples, or
        if the temperature is not above 0.
    """
    student, teacher = logit_pair(student, teacher, temperature, minimum=2)
    student, teacher = student.softmax(dim=1), teacher.softmax(dim=1)
    inter_class = 1.0 - _row_correlations(student, teacher).mean()
    intra_class = 1.0 - _row_correlations(student.T, teacher.T).mean()
    return (beta * inter_class + gamma * intra_class) * temperature**2


def dist_of_labels(student: Tensor, teacher: Tensor, gamma: float = 2.0, temperature: float = 1.0) -> Tensor:
    """DIST of K independent labels: of each the two classes "has it" and "has it not", averaged over the labels.

    With two classes the inter-class term teaches nothing, so the intra-class term is all: 1 - Pearson correlation of
    the B probabilities of a label.

    :param student: Logits (B, K).
    :param teacher: Logits (B, K).
    :param gamma: Weight of the intra-class term.
    :param temperature: Divides the logits.
    :return: A scalar.
    :raises ValueError: If the batches differ, or there are fewer than 2 samples.
    """
    student, teacher = same_batch(student, teacher, minimum=2)
    student, teacher = (student / temperature).sigmoid(), (teacher / temperature).sigmoid()
    return gamma * (1.0 - _row_correlations(student.T, teacher.T).mean()) * temperature**2


def logit_pair(student: Tensor, teacher: Tensor, temperature: float, minimum: int) -> tuple[Tensor, Tensor]:
    """Logits (B, K) of the same batch and classes, divided by the temperature.

    :raises ValueError: If the shapes differ or are not (B, K) with K at least 2, if there are fewer than `minimum`
        samples, or if the temperature is not above 0.
    """
    student, teacher = same_batch(student, teacher, minimum)
    if student.shape != teacher.shape or student.dim() != 2 or student.shape[1] < 2:
        raise ValueError(
            "logits must be (B, K) with the same K of at least 2 on both sides, but the student's shape is "
            f"{tuple(student.shape)} and the teacher's is {tuple(teacher.shape)}"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return student / temperature, teacher / temperature


def _row_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each row of a with the same row of b; 0 where one does not vary."""
    return (_standardised(a) * _standardised(b)).sum(dim=1)


def _standardised(rows: Tensor) -> Tensor:
    """Rows of mean 0 and length 1, or 0 where a row varies by no more than its rounding."""
    rounding = 16 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    return unit(rows - rows.mean(dim=1, keepdim=True), floor=rounding)


def unit(vectors: Tensor, floor: Tensor | float = 0.0) -> Tensor:
    """Bring vectors to length 1.

    One that is not longer than the floor becomes 0, and so does its gradient; NaN stays NaN.

    :param vectors: Any shape (..., d).
    :param floor: Of any shape that broadcasts to (..., 1).
    :return: The same shape.
    """
    # The largest entry first: the squares of large and small ones leave the range. A constant to autograd, because the
    # result does not depend on it.
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)
    vectors = vectors / largest
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    short = lengths * largest <= floor
    return torch.where(short, 0.0, vectors / torch.where(short, 1.0, lengths))


def same_batch(student: Tensor, teacher: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    """Check that two tensors are of the same, large enough batch.

    :param student: Any shape (B, ...).
    :param teacher: Any shape (B, ...).
    :param minimum: The fewest samples for which the loss is defined.
    :return: Both in the wider of their precisions, at least float32.
    :raises ValueError: If batch sizes differ or there are too few samples.
    """
    if len(student) != len(teacher):
        raise ValueError(f"the student's batch has {len(student)} samples, but the teacher's has {len(teacher)}")
    if len(student) < minimum:
        raise ValueError(f"this loss needs at least {minimum} samples in a batch, but got {len(student)}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return student.to(dtype), teacher.to(dtype)
