"""The methods of a comparison: where each is from, what it needs, and the weight that its paper or its code gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ..training.cka import cka
from . import transfers
from .losses.features import attention, probabilistic, relational, similarity
from .losses.logits import dist, dkd, kd

Role = Literal["student alone", "teacher", "feature", "logit", "reprogramming"]


@dataclass(frozen=True)
class Method:
    """One way to obtain a classifier.

    :ivar name: in YAML files.
    :ivar title: in tables.
    :ivar source: paper and equation.
    :ivar role: what it hands over; "teacher" deploys the teacher itself.
    :ivar loop: the training of rd-hf distill whose stages and batches it shares: "rd" reads the teacher's last stage,
        "drd" all, "ce" none.
    :ivar transfer: makes the module of its loss; None for a method without one.
    :ivar weight: of that loss, beside a cross-entropy of weight 1.
    :ivar adaptation: how the teacher is adapted to the labels first.
    :ivar classifier: of reprogrammed features: that of the student, a separate one, or one that is trained before.
    """

    name: str
    title: str
    source: str
    role: Role
    loop: Literal["ce", "rd", "drd"]
    transfer: Callable[[transfers.Setting], nn.Module] | None = None
    weight: float = 1.0
    adaptation: Literal["linear_probe", "lora", "full"] | None = None
    classifier: Literal["shared", "separate", "first"] = "shared"

    @property
    def needs_teacher(self) -> bool:
        """Whether the method has a teacher."""
        return self.role != "student alone"

    @property
    def uses_unlabelled(self) -> bool:
        """Whether its loss has a term that needs no labels."""
        return self.role in ("feature", "logit", "reprogramming")

    @property
    def adapts_by_training(self) -> bool:
        """Whether the teacher is trained first."""
        return self.role == "logit" and self.adaptation != "linear_probe"

    @property
    def weight_arguments(self) -> tuple[str, ...]:
        """The arguments of rd-hf distill that tuning the weight scales; none where it is the weight of `transfer`.

        What has no second term has its weight decay tuned in its place, so that each method gets as many tries.
        """
        if self.transfer is not None:
            return ()
        return ("kl_weight", "kl_weight_end", "cka_weight") if self.role == "reprogramming" else ("weight_decay",)


def _on_pooled(loss) -> Callable[[transfers.Setting], nn.Module]:
    return lambda setting: transfers.OnPooled(loss)


def _on_logits(loss) -> Callable[[transfers.Setting], nn.Module]:
    return lambda setting: transfers.OnLogits(loss, setting.head)


def _debiased_cka(student, teacher):
    return 1.0 - cka(student, teacher)


def _kd(student, teacher, labels):
    return kd(student, teacher)


def _dkd(student, teacher, labels):
    targets = teacher.argmax(dim=1)  # of unlabelled rows; the paper knows labelled ones only
    targets[: len(labels)] = labels
    return dkd(student, teacher, targets)


def _dist(student, teacher, labels):
    return dist(student, teacher)


# Weights are those of the papers' code, or of RepDistiller (Tian et al. 2020) where a paper gives none.
_ALL = (
    Method("ce", "student alone", "cross-entropy on the labels", "student alone", "ce"),
    Method(
        "linear_probe", "linear probe", "logistic regression on pooled features", "teacher", "rd",
        adaptation="linear_probe",
    ),
    Method("lora", "LoRA", "Hu et al. 2022, arXiv 2106.09685", "teacher", "ce", adaptation="lora"),
    Method("full", "full fine-tuning", "of the teacher and a linear head", "teacher", "ce", adaptation="full"),
    Method("fitnet", "FitNet", "Romero et al. 2015, arXiv 1412.6550, eq. 3", "feature", "drd", transfers.Hint, 100.0),
    Method(
        "at", "AT", "Zagoruyko & Komodakis 2017, arXiv 1612.03928, eq. 2", "feature", "drd",
        lambda setting: transfers.OnMaps(attention), 1000.0,
    ),
    Method(
        "sp", "SP", "Tung & Mori 2019, arXiv 1907.09682, eq. 4", "feature", "rd",
        lambda setting: transfers.OnFlattened(similarity), 3000.0,
    ),
    Method("rkd", "RKD", "Park et al. 2019, arXiv 1904.05068, eq. 5-8", "feature", "rd", _on_pooled(relational)),
    Method("pkt", "PKT", "Passalis & Tefas 2018, arXiv 1803.10837", "feature", "rd", _on_pooled(probabilistic), 3e4),
    Method("crd", "CRD", "Tian et al. 2020, arXiv 1910.10699, eq. 18", "feature", "rd", transfers.Contrast, 0.8),
    Method(
        "cka", "CKA, not reprogrammed", "debiased CKA of pooled features, Kornblith et al. 2019, arXiv 1905.00414",
        "feature", "rd", _on_pooled(_debiased_cka),
    ),
    *(
        Method(
            f"{short}_{name}", f"{title} then {name.upper()}", source, "logit", "rd", _on_logits(loss), weight,
            adaptation,
        )
        for short, title, adaptation in (("lp", "linear probe", "linear_probe"), ("lora", "LoRA", "lora"))
        for name, source, loss, weight in (
            ("kd", "Hinton et al. 2015, arXiv 1503.02531", _kd, 1.0),
            ("dkd", "Zhao et al. 2022, arXiv 2203.08679, eq. 7", _dkd, 1.0),
            ("dist", "Huang et al. 2022, arXiv 2205.10536, eq. 10", _dist, 1.0),
        )
    ),
    Method("rd", "RD", "Zhou et al. 2024, arXiv 2407.06504, with DRD's KL term", "reprogramming", "rd"),
    Method("drd", "DRD", "Du et al. 2026, arXiv 2605.04447", "reprogramming", "drd"),
    Method("rd_separate", "RD, separate classifier", "ablation of RD", "reprogramming", "rd", classifier="separate"),
    Method("rd_first", "RD, teacher first", "ablation of RD", "reprogramming", "rd", classifier="first"),
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
