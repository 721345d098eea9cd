"""The fields of a distillation that make up its loss; `options.Option` explains the facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .options import OTHERS, option

_method = partial(option, group="method and loss", compare="reprogramming")
USUAL_TEMPERATURE = {"kl": 4.0, "dist": 1.0}  # by divergence; DIST is multiplied by its square


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
        "all", "drd only: train all stages, the last one, or one for five steps: in turn (round_robin), at random "
        "(random), or by past gain (optima)",
    )
    hybrid_weight: float = _method(
        1.0, "weight of the cross-entropy of the hybrid logits at the first step (alpha in the DRD paper)", at_least=0,
    )
    hybrid_weight_end: float = _method(0.0, "hybrid_weight at the last step (linear in between)", at_least=0)
    kl_weight: float = _method(
        1.0, "weight of the divergence of the student from its targets at the first step (beta in the DRD paper)",
        at_least=0,
    )
    kl_weight_end: float | None = _method(
        None, "kl_weight at the last step (linear in between); by default that of the first step", at_least=0,
        by_method={OTHERS: 1.0},
    )
    divergence: Literal["kl", "dist"] | None = _method(
        None, "divergence of the student's logits from its targets: kl, or dist (DIST), which correlates their "
        "probabilities over classes and over images", by_method={OTHERS: "kl", "rd_plus": "dist"},
    )
    target_views: Literal["one", "mean"] | None = option(
        None, "teacher features that targets are made of: those of the view at hand, or their mean over all views",
        group="method and loss", compare="any", by_method={OTHERS: "one", "rd_plus": "mean"},
    )
    projector_start: Literal["scaled", "probe"] | None = _method(
        None, "start of the projectors: at the scale of the features, or such that the hybrid logits are those of a "
        "linear probe of the teacher", by_method={OTHERS: "scaled", "rd_plus": "probe"},
    )
    probe_weight: float | None = _method(
        None, "weight at the first step of KL from the linear probe to the hybrid logits (falls linearly to 0)",
        at_least=0, by_method={OTHERS: 0.0, "rd_plus": 1.0},
    )
    probe_share: float | None = _method(
        None, "share of the linear probe's logits in the student's targets, beside the hybrid logits",
        at_least=0, at_most=1, by_method={OTHERS: 0.0, "rd_plus": 0.5},
    )
    ensemble_share: float | None = _method(
        None, "largest weight of the student's earlier answers in its targets; it rises to this from a quarter to half "
        "of the steps, and also weighs how the hybrid logits of unlabelled rows learn from these targets",
        at_least=0, at_most=1,
        by_method={OTHERS: 0.0, "rd_plus": 0.5},
    )
    cka_weight: float = _method(
        1.0, "weight of 1 - CKA of reprogrammed and student features (gamma in the DRD paper)", at_least=0,
    )
    temperature: float | None = _method(
        None, "temperature of the student's divergence; by default 4, and 1 with dist", above=0, compare="any",
        by_method={OTHERS: USUAL_TEMPERATURE["kl"], "rd_plus": USUAL_TEMPERATURE["dist"]},
    )
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
