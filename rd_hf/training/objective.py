"""The loss of RD (Zhou et al. 2024, arXiv 2407.06504) and DRD (Du et al. 2026, arXiv 2605.04447) from its pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .cka import MINIMUM_ROWS, Estimator, cka

if TYPE_CHECKING:
    from ..models.modeling_rd_teacher import RDTeacherOutput
    from ..models.stages import StageFeature

ProblemType = Literal["single_label_classification", "multi_label_classification"]


class Compared(NamedTuple):
    """The two sides of CKA at a stage: features (rows, width) of the student and reprogrammed ones."""

    student: Tensor
    reprogrammed: Tensor


@dataclass(frozen=True)
class ObjectiveWeights:
    """The settings of the loss; the defaults are DRD's, and RD's with one stage (there without the KL term).

    What the papers leave open was compared on BUSI (RD, 20 labels a class and the rest of train unlabelled, a ResNet of
    0.56 M parameters at 64 px, 300 steps of 16 + 32 images, 4 views). AUROC on validation, mean of three seeds (sd):

    ===============================================  ============  =====================
    setting                                          student       reprogrammed teacher
    ===============================================  ============  =====================
    the defaults                                     .837 (.012)   .864 (.025)
    `detach_reprogrammed_in_cka=True`                .843 (.007)   .852 (.063)
    `detach_hybrid_in_kl=False`                      .830 (.024)   .858 (.019)
    `kl_weight_end=1`                                .833 (.017)   .857 (.022)
    `cka_estimator="biased"`                         .827 (.019)   .855 (.022)
    `cka_features="flattened"`                       .827 (.021)   .855 (.025)
    the student alone                                .784 (.047)
    ===============================================  ============  =====================

    All settings with CKA and KL are within the seeds' spread of one another: nothing here speaks against the defaults,
    and nothing proves them.

    :param total_steps: Optimiser steps over which the hybrid and KL weights go to their ends, linearly.
    :param hybrid_weight: Weight of the hybrid logits' cross-entropy at step 0 (alpha in DRD).
    :param hybrid_weight_end: The same at `total_steps`.
    :param kl_weight: Weight of KL(hybrid || student) at step 0 (beta in DRD).
    :param kl_weight_end: The same at `total_steps`.
    :param cka_weight: Weight of 1 - CKA (gamma in DRD).
    :param temperature: Divides the logits in the KL term, which is multiplied by its square (Hinton et al. 2015).
    :param cka_estimator: "debiased" or "biased"; see `rd_hf.training.cka`.
    :param cka_features: What CKA compares, "pooled" or "flattened"; see `comparable`.
    :param detach_hybrid_in_kl: Whether KL trains only the student, and not the hybrid logits too.
    :param detach_reprogrammed_in_cka: Whether CKA trains only the student, and not the projectors too.
    :param label_smoothing: Of the cross-entropies (single-label only).
    """

    total_steps: int
    hybrid_weight: float = 1.0
    hybrid_weight_end: float = 0.0
    kl_weight: float = 1.0
    kl_weight_end: float = 0.0
    cka_weight: float = 1.0
    temperature: float = 1.0
    cka_estimator: Estimator = "debiased"
    cka_features: Literal["pooled", "flattened"] = "pooled"
    detach_hybrid_in_kl: bool = True
    detach_reprogrammed_in_cka: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        :raises ValueError: If one is out of range; the message names it.
        """
        for name in ("hybrid_weight", "hybrid_weight_end", "kl_weight", "kl_weight_end", "cka_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be 0 or more, and finite")
        if self.total_steps < 1:
            raise ValueError(f"total_steps is {self.total_steps}; it has to be at least 1")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature is {self.temperature}; it has to be above 0")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it has to be in [0, 1)")
        if self.cka_estimator not in MINIMUM_ROWS:
            raise ValueError(f"cka_estimator is {self.cka_estimator!r}; it has to be one of {', '.join(MINIMUM_ROWS)}")
        if self.cka_features not in ("pooled", "flattened"):
            raise ValueError(f"cka_features is {self.cka_features!r}; it has to be 'pooled' or 'flattened'")

    def hybrid_weight_at(self, step: int) -> float:
        """Weight of the hybrid term at an optimiser step, counted from 0."""
        return _linear(self.hybrid_weight, self.hybrid_weight_end, step / self.total_steps)

    def kl_weight_at(self, step: int) -> float:
        """Weight of the KL term at an optimiser step, counted from 0."""
        return _linear(self.kl_weight, self.kl_weight_end, step / self.total_steps)


class Objective:
    """L = L_sup + alpha(t) sum_i CE(z_i, y) + beta(t) sum_i KL(z_i || z_S) + gamma sum_i (1 - CKA_i), DRD's total loss.

    z_S are the student's logits and z_i the hybrid ones of stage i. RD is the case of one stage, the last.

    Terms are meant to be *added* over the micro-batches and processes of an optimiser step: each per-sample term is a
    sum over the samples at hand divided by the step's global count. All are computed in float32 or wider, also under
    autocast.

    CKA is a statistic of a batch. Given the features of the whole global batch as constants, each micro-batch puts its
    own rows among them, live: its value is then the CKA of the global batch, weighted by the micro-batch's share of the
    rows, and its gradient is that of the *unweighted* global CKA with respect to its own rows. Added up, values and
    gradients are those of one large batch. Without these constants CKA is that of the micro-batch, weighted by its
    share, which adds up to the mean over micro-batches.

    :param config: Weights and settings.
    :param problem_type: "single_label_classification" (softmax) or "multi_label_classification" (a sigmoid per label,
        averaged over the labels).
    :param class_weights: Weights (num_labels,) of the single-label cross-entropies, as in torch. A sum is divided by
        the number of samples and not by their weights, which another process may hold; so weights should average 1
        over the training samples, as `balanced_class_weights` do.
    :param pos_weight: Weights (num_labels,) of the positives in the multi-label cross-entropies, as in torch.
    :raises ValueError: If the problem type is unknown or a setting belongs to the other one.
    """

    def __init__(
        self,
        config: ObjectiveWeights,
        problem_type: ProblemType,
        class_weights: Tensor | None = None,
        pos_weight: Tensor | None = None,
    ) -> None:
        """Keep the settings."""
        if problem_type not in ("single_label_classification", "multi_label_classification"):
            raise ValueError(
                f"problem_type is {problem_type!r}; it has to be 'single_label_classification' or "
                "'multi_label_classification'"
            )
        self.multi_label = problem_type == "multi_label_classification"
        if self.multi_label and (class_weights is not None or config.label_smoothing):
            raise ValueError("class_weights and label_smoothing are for single labels; with several use pos_weight")
        if not self.multi_label and pos_weight is not None:
            raise ValueError("pos_weight is for several labels per image; with a single one use class_weights")
        self.config = config
        self.class_weights = class_weights
        self.pos_weight = pos_weight

    def __call__(
        self,
        output: RDTeacherOutput,
        labels: Tensor | None,
        step: int,
        labelled_count: float,
        total_count: float,
        whole: Sequence[Compared] | None = None,
        start: int = 0,
    ) -> dict[str, Tensor]:
        """The terms of one micro-batch, labelled samples first.

        :param output: Student and hybrid logits (B, num_labels), student and reprogrammed features per stage. Empty
            hybrid logits or features (a student trained alone) leave out their terms.
        :param labels: Labels of the first n <= B samples: integers (n,), or 0/1 (n, num_labels) for several labels
            per image. None if no sample has one.
        :param step: Optimiser step, counted from 0.
        :param labelled_count: Labelled samples of the whole optimiser step, over processes and micro-batches. Where
            gradients are averaged over processes, as DDP does, that number divided by the number of processes.
        :param total_count: All samples of the whole optimiser step, likewise.
        :param whole: What `compared` gives for the global batch, over processes and micro-batches, as constants.
        :param start: The first of this micro-batch's rows in `whole`.
        :return: "supervised" and, where their weight is not 0 throughout, "hybrid", "kl" and "cka_loss", unweighted;
            detached "cka/1", "cka/2", ... from shallow to deep; "loss", their weighted sum. All but "cka/..." carry
            gradients and are to be added over micro-batches.
        :raises ValueError: If the batch is too small for CKA, or the counts do not fit the labels.
        """
        logits, config = output.student_logits, self.config
        labelled = 0 if labels is None else len(labels)
        if labelled > len(logits) or (labelled and labelled_count <= 0) or total_count <= 0:
            raise ValueError(
                f"{labelled} labels for a micro-batch of {len(logits)} samples cannot be part of a step of "
                f"{total_count} samples, {labelled_count} of them labelled"
            )
        # A step without any labelled sample has the sum 0, whatever it is divided by.
        labelled_count = labelled_count or 1.0
        terms = {"supervised": self._classification(logits, labels) / labelled_count}
        loss = terms["supervised"]
        if output.hybrid_logits and (config.hybrid_weight or config.hybrid_weight_end):
            hybrid = sum(self._classification(stage_logits, labels) for stage_logits in output.hybrid_logits)
            terms["hybrid"] = hybrid / labelled_count
            loss = loss + config.hybrid_weight_at(step) * terms["hybrid"]
        if output.hybrid_logits and (config.kl_weight or config.kl_weight_end):
            terms["kl"] = sum(self._divergence(hybrid, logits) for hybrid in output.hybrid_logits) / total_count
            loss = loss + config.kl_weight_at(step) * terms["kl"]
        if output.reprogrammed_features and config.cka_weight:
            pairs = self.compared(output)
            if whole is not None:
                pairs = [map(partial(_with_live_rows, start), *sides) for sides in zip(pairs, whole, strict=True)]
            values = [cka(student, reprogrammed, config.cka_estimator) for student, reprogrammed in pairs]
            terms |= {f"cka/{stage}": value.detach() for stage, value in enumerate(values, start=1)}
            terms["cka_loss"] = sum(1.0 - value for value in values) * (len(logits) / total_count)
            loss = loss + config.cka_weight * terms["cka_loss"]
        terms["loss"] = loss
        return terms

    def _classification(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """Cross-entropy, summed over the labelled samples; 0 with a graph where there are none."""
        if labels is None or len(labels) == 0:
            return _at_least_float32(logits[:0]).sum()
        logits = _at_least_float32(logits[: len(labels)])
        if self.multi_label:
            pos_weight = None if self.pos_weight is None else self.pos_weight.to(logits)
            losses = F.binary_cross_entropy_with_logits(
                logits, labels.to(logits), pos_weight=pos_weight, reduction="none"
            )
            return losses.mean(dim=1).sum()
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(
            logits, labels, weight=weight, label_smoothing=self.config.label_smoothing, reduction="sum"
        )

    def _divergence(self, hybrid: Tensor, student: Tensor) -> Tensor:
        """KL(hybrid || student) at the temperature, summed over the samples; per label and averaged for several."""
        temperature = self.config.temperature
        hybrid = _at_least_float32(hybrid.detach() if self.config.detach_hybrid_in_kl else hybrid) / temperature
        student = _at_least_float32(student) / temperature
        if self.multi_label:
            positive = F.kl_div(F.logsigmoid(student), F.logsigmoid(hybrid), reduction="none", log_target=True)
            negative = F.kl_div(F.logsigmoid(-student), F.logsigmoid(-hybrid), reduction="none", log_target=True)
            return (positive + negative).mean(dim=1).sum() * temperature**2
        divergence = F.kl_div(
            F.log_softmax(student, dim=1), F.log_softmax(hybrid, dim=1), reduction="sum", log_target=True
        )
        return divergence * temperature**2

    def compared(self, output: RDTeacherOutput) -> list[Compared]:
        """What CKA compares, per stage."""
        pairs = []
        for student, reprogrammed in zip(output.student_features, output.reprogrammed_features, strict=True):
            target = comparable(reprogrammed, self.config.cka_features)
            if self.config.detach_reprogrammed_in_cka:
                target = target.detach()
            pairs.append(Compared(comparable(student, self.config.cka_features), target))
        return pairs


def comparable(feature: StageFeature, features: Literal["pooled", "flattened"]) -> Tensor:
    """What CKA compares of a stage's feature, in float32 or wider.

    "pooled" is what a classifier reads from the last stage: the map's mean over the grid, followed by the class token
    (the first prefix token) where there is one; ViT heads read that token, DINOv2's both, convolutional ones the mean.
    "flattened" is the whole map and all prefix tokens, so it also compares where things are.

    :param feature: Map (B, C, H, W) and prefix tokens (B, P, C) or None.
    :param features: "pooled" or "flattened".
    :return: (B, C), (B, 2C) or (B, (H * W + P) * C).
    """
    parts = [_at_least_float32(feature.map)]
    if feature.prefix is not None:
        parts.append(_at_least_float32(feature.prefix))
    if features == "flattened":
        return torch.cat([part.flatten(1) for part in parts], dim=1)
    return torch.cat([parts[0].mean(dim=tuple(range(2, parts[0].ndim))), *(part[:, 0] for part in parts[1:])], dim=1)


def find_non_finite(terms: Mapping[str, Tensor]) -> str | None:
    """The name of the first term that is infinite or NaN, with one transfer from the device.

    :param terms: Scalars by name, as `Objective` returns them; "loss", the sum of the others, is named last.
    :return: The name, None if all are finite.
    """
    names = sorted(terms, key=lambda name: name == "loss")
    finite = torch.stack([terms[name].detach().isfinite() for name in names]).tolist()
    return next((name for name, is_finite in zip(names, finite, strict=True) if not is_finite), None)


def _with_live_rows(start: int, own: Tensor, whole: Tensor) -> Tensor:
    """The global batch with our own rows live, whose gradient undoes the weighting of the term by their share."""
    constant = own.detach()
    live = constant + (own - constant) * (len(whole) / len(own))
    return torch.cat([whole[:start], live, whole[start + len(own) :]])


def _linear(start: float, end: float, progress: float) -> float:
    """From start to end, staying at the end."""
    return start + (end - start) * min(progress, 1.0)


def _at_least_float32(values: Tensor) -> Tensor:
    """Half precision in float32, anything wider as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
