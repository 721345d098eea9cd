"""The fields of a distillation that make up its loss; `options.Option` explains the facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .options import option

_method = partial(option, group="method and loss", compare="reprogramming")


@dataclass
class ObjectiveFields:
    """The loss. Weights have the papers' values (RD: arXiv 2407.06504, DRD: arXiv 2605.04447) where these give one."""

    # fmt: off
    skips: Literal["own", "reprogrammed"] = _method(
        "reprogrammed", "masks only: whether a hybrid pass reads the student's own features of shallower stages, "
        "or reprogrammed ones of the teacher",
    )
    hybrid_norms: Literal["student", "own"] = _method(
        "own", "masks only: running statistics of the student's batch norms in hybrid passes: the student's, or ones "
        "of their own",
    )
    stage_schedule: Literal["all", "last", "round_robin", "random", "optima"] = _method(
        "all", "drd only: the stages that are on at a step: all, the last, or one at a time, which stays on for five "
        "steps, in turn, drawn uniformly, or drawn by what each has brought (optima)",
    )
    hybrid_weight: float = _method(1.0, "alpha at the first step: cross-entropy of the hybrid logits", at_least=0)
    hybrid_weight_end: float = _method(0.0, "alpha at the last step (linear in between)", at_least=0)
    kl_weight: float = _method(1.0, "beta at the first step: KL from the hybrid logits to the student's", at_least=0)
    kl_weight_end: float = _method(0.0, "beta at the last step (linear in between)", at_least=0)
    cka_weight: float = _method(1.0, "gamma: 1 - CKA of reprogrammed and student features", at_least=0)
    temperature: float = _method(1.0, "temperature of the KL term", above=0)
    cka_estimator: Literal["debiased", "biased"] = _method(
        "debiased", "estimator of CKA; the biased one gives almost no signal in small batches",
    )
    cka_features: Literal["pooled", "flattened", "positions"] | None = _method(
        None, "CKA of what the head reads, of whole feature maps, or of positions of these, each a row; by default "
        "positions for masks of volumes, and pooled otherwise",
    )
    cka_positions: int = _method(
        16, "positions per image and stage, drawn at every step; only with cka_features positions", above=0,
    )
    detach_hybrid_in_kl: bool = _method(True, "the KL term trains the student only, not the projectors")
    detach_reprogrammed_in_cka: bool = _method(False, "the CKA term trains the student only, not the projectors")
    class_weights: Literal["none", "balanced"] = _method(
        "none", "balanced weights classes by inverse frequency (multi-label: positives)", compare="any",
    )
    label_smoothing: float = _method(0.0, "label smoothing of the cross-entropies", at_least=0, below=1, compare="any")
    # fmt: on
