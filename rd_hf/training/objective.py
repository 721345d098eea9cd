"""The loss of RD (Zhou et al. 2024, arXiv 2407.06504) and DRD (Du et al. 2026, arXiv 2605.04447) from its pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..models.grids import at_least_float32, mean
from ..tasks.task import Task
from .cka import MINIMUM_ROWS, Estimator, cka
from .passes import Passes, Targets
from .positions import at_positions
from .schedules import Linear

if TYPE_CHECKING:
    from ..models.features import StageFeature


CKAFeatures = Literal["pooled", "flattened", "positions"]
Divergence = Literal["kl", "dist"]
HYBRID_TEMPERATURE = 4.0  # at which hybrid logits learn from others


class Compared(NamedTuple):
    """The two sides of a term that is a statistic of the batch.

    Of CKA at a stage features of the student and reprogrammed ones: (B, width) with a row an image, or (B, P, C) with a
    row a position. Of DIST the student's logits and those that it learns from.
    """

    student: Tensor
    reprogrammed: Tensor


@dataclass(frozen=True)
class ObjectiveWeights:
    """The settings of the loss; the defaults are DRD's, and RD's with one stage (there without the KL term).

    How the settings that the papers leave open compare stands in docs/explanation/decisions.md.

    :param total_steps: Optimiser steps over which the hybrid and KL weights go to their ends, linearly.
    :param hybrid_weight: Weight of the hybrid logits' cross-entropy at step 0 (alpha in DRD).
    :param hybrid_weight_end: The same at `total_steps`.
    :param kl_weight: Weight of KL(hybrid || student) at step 0 (beta in DRD), or of the divergence in its place.
    :param kl_weight_end: The same at `total_steps`.
    :param cka_weight: Weight of 1 - CKA (gamma in DRD).
    :param temperature: Divides the logits in that term, which is multiplied by its square (Hinton et al. 2015).
    :param divergence: "kl", or "dist" (see `rd_hf.tasks.dist`).
    :param probe_weight: Weight of KL(probe || hybrid) at step 0, from which it falls to 0; see `Targets`.
    :param cka_estimator: "debiased" or "biased"; see `rd_hf.training.cka`.
    :param cka_features: What CKA compares, "pooled", "flattened" or "positions"; see `Objective.compared`.
    :param detach_hybrid_in_kl: Whether KL trains only the student, and not the hybrid logits too.
    :param detach_reprogrammed_in_cka: Whether CKA trains only the student, and not the projectors too.
    """

    total_steps: int
    hybrid_weight: float = 1.0
    hybrid_weight_end: float = 0.0
    kl_weight: float = 1.0
    kl_weight_end: float = 0.0
    cka_weight: float = 1.0
    temperature: float = 1.0
    divergence: Divergence = "kl"
    probe_weight: float = 0.0
    cka_estimator: Estimator = "debiased"
    cka_features: CKAFeatures = "pooled"
    detach_hybrid_in_kl: bool = True
    detach_reprogrammed_in_cka: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        :raises ValueError: If one is out of range; the message names it.
        """
        weights = ("hybrid_weight", "hybrid_weight_end", "kl_weight", "kl_weight_end", "probe_weight", "cka_weight")
        for name in weights:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be finite and at least 0")
        if self.total_steps < 1:
            raise ValueError(f"total_steps is {self.total_steps}; it must be at least 1")
        if not self.temperature > 0.0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        if self.divergence not in get_args(Divergence):
            raise ValueError(f"divergence is {self.divergence!r}; it must be one of {', '.join(get_args(Divergence))}")
        if self.cka_estimator not in MINIMUM_ROWS:
            raise ValueError(f"cka_estimator is {self.cka_estimator!r}; it must be one of {', '.join(MINIMUM_ROWS)}")
        if self.cka_features not in get_args(CKAFeatures):
            raise ValueError(
                f"cka_features is {self.cka_features!r}; it must be one of {', '.join(get_args(CKAFeatures))}"
            )


class Objective:
    """DRD's loss: L_sup(z_S) + alpha(t) sum_i L_sup(z_i) + beta(t) sum_i KL(z_i || z_S) + gamma sum_i (1 - CKA_i).

    z_S are the student's logits and z_i the hybrid ones of stage i. RD is the case of one stage, the last.

    With `Targets` the student learns from their logits t in place of the z_i, and the z_i learn too, as in RD+:
    delta(t) sum_i KL(a || z_i) + s sum_i KL(t || z_i), both at a temperature of 4. a are the logits of a linear probe,
    and the second sum is over the rows without a label. See docs/explanation/method.md.

    Terms are meant to be *added* over the micro-batches and processes of an optimiser step: each per-sample term is a
    sum over the samples at hand divided by the step's global count. All are computed in float32 or wider, also under
    autocast.

    CKA is a statistic of a batch. Given the features of the whole global batch as constants, each micro-batch puts its
    own rows among them, live: its value is then the CKA of the global batch, weighted by the micro-batch's share of the
    rows, and its gradient is that of the *unweighted* global CKA with respect to its own rows. Added up, values and
    gradients are those of one large batch. Without these constants CKA is that of the micro-batch, weighted by its
    share, which adds up to the mean over micro-batches. The same holds for DIST, with logits in place of features.

    :param config: Weights and settings.
    :param task: Its loss is L_sup, its divergence KL.
    """

    def __init__(self, config: ObjectiveWeights, task: Task) -> None:
        """Keep the settings."""
        self.config, self.task = config, task
        self.hybrid = Linear(config.hybrid_weight, config.hybrid_weight_end, config.total_steps)
        self.kl = Linear(config.kl_weight, config.kl_weight_end, config.total_steps)
        self.probe = Linear(config.probe_weight, 0.0, config.total_steps)

    def __call__(
        self,
        passes: Passes,
        labels: Tensor | None,
        step: int,
        labelled_count: float,
        total_count: float,
        whole: Sequence[Compared] | None = None,
        start: int = 0,
        draws: np.ndarray | None = None,
        targets: Targets | None = None,
    ) -> dict[str, Tensor]:
        """The terms of one micro-batch, labelled samples first.

        :param passes: Those of B samples. Empty hybrid logits or features (a student trained alone) leave out their
            terms.
        :param labels: Labels of the first n <= B samples, as the task takes them. None if no sample has one.
        :param step: Optimiser step, counted from 0.
        :param labelled_count: Labelled samples of the whole optimiser step, over processes and micro-batches. Where
            gradients are averaged over processes, as DDP does, that number divided by the number of processes.
        :param total_count: All samples of the whole optimiser step, likewise.
        :param whole: What `statistics` gives for the global batch, over processes and micro-batches, as constants.
        :param start: The first of this micro-batch's images in `whole`.
        :param draws: What `compared` takes.
        :param targets: What the logits learn from besides labels; None is the hybrid logits, for the student alone.
        :return: "supervised" and, where their weight is not 0 throughout, "hybrid", "kl" or "dist", "probe", "mutual"
            and "cka_loss", unweighted;
            detached "cka/1", "cka/2", ... from shallow to deep; "loss", their weighted sum. All but "cka/..." carry
            gradients and are to be added over micro-batches.
        :raises ValueError: If the batch is too small for CKA, or the counts do not fit the labels.
        """
        logits, labelled = passes.student, 0 if labels is None else len(labels)
        if labelled > len(logits) or (labelled and labelled_count <= 0) or total_count <= 0:
            raise ValueError(
                f"a micro-batch of {len(logits)} samples, {labelled} of them labelled, cannot be part of a step of "
                f"{total_count} samples, {labelled_count} of them labelled"
            )
        # A step without any labelled sample has the sum 0, whatever it is divided by.
        terms = {"supervised": self._supervised(logits, labels) / (labelled_count or 1.0)}
        loss = terms["supervised"]
        if passes.hybrids and not self.hybrid.is_off:
            sums = (self._supervised(hybrid, labels) for hybrid in passes.hybrids)
            terms["hybrid"] = sum(sums) / (labelled_count or 1.0)
            loss = loss + self.hybrid.weight(step) * terms["hybrid"]
        if passes.hybrids and not self.kl.is_off and self.config.divergence == "kl":
            sources = passes.hybrids if targets is None else (targets.student,)
            terms["kl"] = sum(self._divergence(source, logits) for source in sources) / total_count
            loss = loss + self.kl.weight(step) * terms["kl"]
        if targets is not None and targets.probe is not None and not self.probe.is_off:
            terms["probe"] = self._learnt_by_hybrids(passes, targets.probe) / total_count
            loss = loss + self.probe.weight(step) * terms["probe"]
        if targets is not None and targets.share and total_count > labelled_count:
            learnt = self._learnt_by_hybrids(passes, targets.student, labelled)
            terms["mutual"] = learnt / (total_count - labelled_count)
            loss = loss + targets.share * terms["mutual"]
        pairs = self.statistics(passes, draws, targets)
        if whole is not None:
            with_live_rows = partial(_with_live_rows, start)
            pairs = [Compared(*map(with_live_rows, *sides)) for sides in zip(pairs, whole, strict=True)]
        for name, weight, value in self._of_batch(pairs, self._stages(passes), step, len(logits) / total_count):
            terms[name] = value
            loss = loss if weight is None else loss + weight * value
        terms["loss"] = loss
        return terms

    def needs_hybrids(self, step: int) -> bool:
        """Whether the hybrid logits have a weight at an optimiser step."""
        return self.hybrid.weight(step) > 0 or self.kl.weight(step) > 0

    def _supervised(self, logits: Tensor, labels: Tensor | None) -> Tensor:
        """The task's loss, summed over the labelled samples; 0 with a graph where there are none."""
        if labels is None or len(labels) == 0:
            return at_least_float32(logits[:0]).sum()
        return self.task.loss(logits[: len(labels)], labels)

    def _divergence(self, hybrid: Tensor, student: Tensor) -> Tensor:
        """KL(hybrid || student), summed over the samples."""
        return self.task.divergence(self._source(hybrid), student, self.config.temperature)

    def _source(self, hybrid: Tensor) -> Tensor:
        """Logits that the student learns from, as a constant if so configured."""
        return hybrid.detach() if self.config.detach_hybrid_in_kl else hybrid

    def _learnt_by_hybrids(self, passes: Passes, target: Tensor, first: int = 0) -> Tensor:
        """KL(target || hybrid), summed over the hybrid passes and the samples.

        :param first: The first sample that counts.
        """
        target = target[first:]
        return sum(self.task.divergence(target, hybrid[first:], HYBRID_TEMPERATURE) for hybrid in passes.hybrids)

    def _of_batch(
        self, pairs: Sequence[Compared], stages: Sequence[int], step: int, share: float
    ) -> Iterator[tuple[str, float | None, Tensor]]:
        """The terms that are statistics of the batch: name, weight (None for one that is only shown) and value.

        :param stages: The stages of the first of `pairs`, which are of CKA; the others are of DIST.
        :param share: The micro-batch's, of the rows.
        """
        if stages:
            # (B, width) stays; (B, P, C) becomes (B * P, C).
            rows = ([side.flatten(0, -2) for side in pair] for pair in pairs[: len(stages)])
            values = [cka(*sides, self.config.cka_estimator) for sides in rows]
            yield from ((f"cka/{n + 1}", None, value.detach()) for n, value in zip(stages, values, strict=True))
            yield "cka_loss", self.config.cka_weight, sum(1.0 - value for value in values) * share
        if pairs[len(stages) :]:
            values = [self.task.dist(*pair, self.config.temperature) for pair in pairs[len(stages) :]]
            yield "dist", self.kl.weight(step), sum(values) * share

    def _stages(self, passes: Passes) -> Sequence[int]:
        """The numbers of the stages at which CKA compares, from 0."""
        if not self.config.cka_weight:
            return ()
        return range(len(passes.reprogrammed)) if passes.stages is None else passes.stages

    def statistics(
        self, passes: Passes, draws: np.ndarray | None = None, targets: Targets | None = None
    ) -> list[Compared]:
        """What the terms that are statistics of the batch compare: CKA's pairs of each stage, then DIST's of logits.

        :param draws: What `compared` takes.
        :param targets: As for the terms.
        """
        pairs = self.compared(passes.features, passes.reprogrammed, draws) if self._stages(passes) else []
        if passes.hybrids and not self.kl.is_off and self.config.divergence == "dist":
            sources = passes.hybrids if targets is None else (targets.student,)
            pairs += [Compared(*map(at_least_float32, (passes.student, self._source(own)))) for own in sources]
        return pairs

    def compared(
        self,
        features: Sequence[StageFeature],
        reprogrammed: Sequence[StageFeature],
        draws: np.ndarray | None = None,
    ) -> list[Compared]:
        """What CKA compares of the student's and the reprogrammed features, per stage.

        With "pooled" and "flattened" a row of CKA is an image; see `comparable`. With "positions" it is one of up to P
        positions of an image's map. CKA then compares what the models say of places, also in a batch of few images.
        Prefix tokens are left out, because they belong to no place.

        The estimators suppose that rows are independent, and rows of one image are not. Positions of one image
        resemble each other on both sides, so the debiased estimate is above 0 even where the features of student and
        teacher are independent of each other. It serves as a loss, not as an estimate of the CKA of all positions.

        The debiased estimator works on matrices of (B P)^2 numbers, of which the backward pass keeps two per stage. One
        has 9 MB in float32 for 96 images of 16 positions, and 16 times that for 64 positions.

        :param draws: With "positions", (B, P) from `rd_hf.training.positions.draw`; else not read.
        :raises ValueError: With "positions", if there are no draws, or the grids of a stage differ.
        """
        pairs = []
        for own, other in zip(features, reprogrammed, strict=True):
            student, target = self._sides(own, other, draws)
            pairs.append(Compared(student, target.detach() if self.config.detach_reprogrammed_in_cka else target))
        return pairs

    def _sides(
        self, own: StageFeature, other: StageFeature, draws: np.ndarray | None
    ) -> tuple[Tensor, Tensor] | list[Tensor]:
        """The two sides at one stage."""
        if self.config.cka_features != "positions":
            return [comparable(feature, self.config.cka_features) for feature in (own, other)]
        if draws is None:
            raise ValueError("cka_features is 'positions', which needs the draws of rd_hf.training.positions.draw")
        return at_positions((own.map, other.map), draws)


def comparable(feature: StageFeature, features: Literal["pooled", "flattened"]) -> Tensor:
    """What CKA compares of a stage's feature, in float32 or wider.

    "pooled" is what a classifier reads from the last stage: the map's mean over the grid, followed by the class token
    (the first prefix token) where there is one; ViT heads read that token, DINOv2's both, convolutional ones the mean.
    "flattened" is the whole map and all prefix tokens, so it also compares where things are.

    :param feature: Map (B, C, H, W) and prefix tokens (B, P, C) or None.
    :param features: "pooled" or "flattened".
    :return: (B, C), (B, 2C) or (B, (H * W + P) * C).
    """
    parts = [at_least_float32(feature.map)]
    if feature.prefix is not None:
        parts.append(at_least_float32(feature.prefix))
    if features == "flattened":
        return torch.cat([part.flatten(1) for part in parts], dim=1)
    return torch.cat([mean(parts[0]), *(part[:, 0] for part in parts[1:])], dim=1)


def find_non_finite(terms: Mapping[str, float]) -> str | None:
    """The name of the first term that is infinite or NaN.

    :param terms: those of `Objective` by name; "loss", the sum of the others, is named last.
    :return: The name, None if all are finite.
    """
    names = sorted(terms, key=lambda name: name == "loss")
    return next((name for name in names if not math.isfinite(terms[name])), None)


def _with_live_rows(start: int, own: Tensor, whole: Tensor) -> Tensor:
    """The global batch with our own rows live, whose gradient undoes the weighting of the term by their share."""
    constant = own.detach()
    live = constant + (own - constant) * (len(whole) / len(own))
    return torch.cat([whole[:start], live, whole[start + len(own) :]])
