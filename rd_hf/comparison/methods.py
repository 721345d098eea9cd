"""The methods of a comparison: where each is from, what it needs, and the weight that its paper or its code gives."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from ..arguments.effect_rules import Uses
from ..arguments.values import ArgumentError
from ..tasks.dist import dist
from ..training.cka import cka
from . import mask_transfers, transfers
from .losses.features import attention, probabilistic, relational, similarity
from .losses.logits import dkd, kd
from .losses.maps import channel_wise

Role = Literal["student alone", "teacher", "feature", "logit", "reprogramming"]
Target = Literal["classes", "masks"]
Transfer = Callable[[transfers.Setting], nn.Module]


@dataclass(frozen=True)
class Method:
    """One way to obtain a classifier or a segmenter.

    :ivar name: in YAML files.
    :ivar title: in tables.
    :ivar source: paper and equation.
    :ivar role: what it hands over; "teacher" deploys the teacher itself.
    :ivar loop: the training of rd-hf distill whose stages and batches it shares: "rd" and "rd_plus" read the teacher's
        last stage, "drd" all, "ce" none.
    :ivar transfer: makes the module of its loss; None for a method without one.
    :ivar weight: of that loss, beside a cross-entropy of weight 1.
    :ivar temperature: by which that loss divides logits, unless the comparison gives the method one; None for a loss
        without one.
    :ivar adaptation: how the teacher is adapted to the labels first.
    :ivar classifier: of reprogrammed features: that of the student, a separate one, or one that is trained before.
    :ivar targets: what it can learn.
    :ivar reads_maps: whether it compares maps of the teacher, and has no use for one vector of it.
    """

    name: str
    title: str
    source: str
    role: Role
    loop: Literal["ce", "rd", "rd_plus", "drd"]
    transfer: Transfer | None = None
    weight: float = 1.0
    temperature: float | None = None
    adaptation: Literal["linear_probe", "lora", "full"] | None = None
    classifier: Literal["shared", "separate", "first"] = "shared"
    targets: tuple[Target, ...] = ("classes",)
    reads_maps: bool = False

    @property
    def needs_teacher(self) -> bool:
        """Whether the method has a teacher."""
        return self.role != "student alone"

    @property
    def uses_unlabelled(self) -> bool:
        """Whether its loss has a term that needs no labels."""
        return self.role in ("feature", "logit", "reprogramming")

    def uses(self, own: Collection[str] = ()) -> Uses:
        """Of what arguments may be about.

        :param own: the names of those that the comparison gives to this method alone. A loss of logits has the
            temperature of its paper unless it is one of them.
        """
        return Uses(
            teacher=self.needs_teacher,
            reprogramming=self.role == "reprogramming",
            logits=self.role in ("logit", "reprogramming"),
            temperature=self.role == "reprogramming" or (self.temperature is not None and "temperature" in own),
            vectors=not self.reads_maps,
            unlabelled=self.uses_unlabelled,
            steps=self.role != "teacher" or self.adaptation != "linear_probe",
            cache=self.loop != "ce",
            processes=False,
        )

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

    def check_target(self, target: Target) -> None:
        """:raises ArgumentError: when the method cannot learn what the data has."""
        if target in self.targets:
            return
        others = ", ".join(method.name for method in _ALL if target in method.targets)
        raise ArgumentError(
            f"The method {self.name!r} learns {self.targets[0]}, but the data has {target}: leave it out, or take one "
            f"of {others}."
        )

    def check_volumes(self) -> None:
        """:raises ArgumentError: when the method cannot learn from volumes."""
        if self.adaptation in ("lora", "full"):
            raise ArgumentError(
                f"The method {self.name!r} trains the teacher itself, which `compare` does not do for volumes: leave "
                "it out, or take linear_probe, lp_kd or another method with a frozen teacher."
            )


BOTH: tuple[Target, ...] = ("classes", "masks")


def _on_pooled(loss) -> Transfer:
    return lambda setting: transfers.OnPooled(loss)


def _on_logits(loss, of_pixels=None) -> Transfer:
    """A loss of logits of images and, for masks, of those of their pixels.

    :param loss: of student logits (B, K), teacher logits, the labels of the first rows and the temperature.
    :param of_pixels: of student logits (N, K), teacher logits and the temperature; None for a method that does not
        learn masks.
    """

    def transfer(setting: transfers.Setting) -> nn.Module:
        if setting.has_masks:
            at_temperature = partial(of_pixels, temperature=setting.temperature)
            return mask_transfers.OnLogitMaps(mask_transfers.on_pixels(at_temperature), setting.head)
        return transfers.OnLogits(partial(loss, temperature=setting.temperature), setting.head)

    return transfer


def _cka(setting: transfers.Setting) -> nn.Module:
    return mask_transfers.OnPlaces(_debiased_cka) if setting.has_masks else transfers.OnPooled(_debiased_cka)


def _debiased_cka(student, teacher):
    return 1.0 - cka(student, teacher)


def _kd(student, teacher, labels, temperature):
    return kd(student, teacher, temperature)


def _dkd(student, teacher, labels, temperature):
    targets = teacher.argmax(dim=1)  # of unlabelled rows; the paper knows labelled ones only
    targets[: len(labels)] = labels
    return dkd(student, teacher, targets, temperature=temperature)


def _dist(student, teacher, labels, temperature):
    return dist(student, teacher, temperature=temperature)


def _channel_wise(setting: transfers.Setting) -> nn.Module:
    return mask_transfers.OnLogitMaps(partial(channel_wise, temperature=setting.temperature), setting.head)


# Weights are those of the papers' code, or of RepDistiller (Tian et al. 2020) where a paper gives none.
_ALL = (
    Method("ce", "student alone", "the task's loss on the labels", "student alone", "ce", targets=BOTH),
    Method(
        "linear_probe", "linear probe", "logistic regression on pooled features, of masks on those of each place",
        "teacher", "rd", adaptation="linear_probe", targets=BOTH,
    ),
    Method("lora", "LoRA", "Hu et al. 2022, arXiv 2106.09685", "teacher", "ce", adaptation="lora", targets=BOTH),
    Method(
        "full", "full fine-tuning", "of the teacher and a linear head", "teacher", "ce", adaptation="full",
        targets=BOTH,
    ),
    Method(
        "fitnet", "FitNet", "Romero et al. 2015, arXiv 1412.6550, eq. 3", "feature", "drd", transfers.Hint, 100.0,
        targets=BOTH, reads_maps=True,
    ),
    Method(
        "at", "AT", "Zagoruyko & Komodakis 2017, arXiv 1612.03928, eq. 2", "feature", "drd",
        lambda setting: transfers.OnMaps(attention), 1000.0, targets=BOTH, reads_maps=True,
    ),
    Method(
        "sp", "SP", "Tung & Mori 2019, arXiv 1907.09682, eq. 4", "feature", "rd",
        lambda setting: transfers.OnFlattened(similarity), 3000.0, reads_maps=True,
    ),
    Method("rkd", "RKD", "Park et al. 2019, arXiv 1904.05068, eq. 5-8", "feature", "rd", _on_pooled(relational)),
    Method("pkt", "PKT", "Passalis & Tefas 2018, arXiv 1803.10837", "feature", "rd", _on_pooled(probabilistic), 3e4),
    Method("crd", "CRD", "Tian et al. 2020, arXiv 1910.10699, eq. 18", "feature", "rd", transfers.Contrast, 0.8),
    Method(
        "cka", "CKA, not reprogrammed", "debiased CKA of pooled features, of masks of 4 x 4 places an image (3 x 3 x 3 "
        "a volume), Kornblith et al. 2019, arXiv 1905.00414", "feature", "rd", _cka, targets=BOTH,
    ),
    Method(
        "cwd", "CWD", "Shu et al. 2021, arXiv 2011.13256, eq. 3-5, on features", "feature", "rd",
        mask_transfers.ChannelWise, 50.0, targets=("masks",), reads_maps=True,
    ),
    Method(
        "cirkd", "CIRKD, pixel to pixel", "Yang et al. 2022, arXiv 2204.06986, in a mini-batch", "feature", "rd",
        mask_transfers.PixelRelations, targets=("masks",), reads_maps=True,
    ),
    *(
        Method(
            f"{short}_{name}", f"{title} then {name.upper()}", source, "logit", "rd", transfer, temperature=temperature,
            adaptation=adaptation, targets=targets,
        )
        for short, title, adaptation in (("lp", "linear probe", "linear_probe"), ("lora", "LoRA", "lora"))
        for name, source, transfer, temperature, targets in (
            ("kd", "Hinton et al. 2015, arXiv 1503.02531", _on_logits(_kd, kd), 4.0, BOTH),
            ("dkd", "Zhao et al. 2022, arXiv 2203.08679, eq. 7", _on_logits(_dkd), 4.0, ("classes",)),
            ("dist", "Huang et al. 2022, arXiv 2205.10536, eq. 10", _on_logits(_dist, dist), 1.0, BOTH),
        )
    ),
    Method(
        "lp_cwd", "linear probe then CWD", "Shu et al. 2021, arXiv 2011.13256, eq. 3-5, on logits", "logit", "rd",
        _channel_wise, 3.0, 4.0, "linear_probe", targets=("masks",),
    ),
    Method("rd", "RD", "Zhou et al. 2024, arXiv 2407.06504, with DRD's KL term", "reprogramming", "rd", targets=BOTH),
    Method(
        "rd_plus", "RD+", "RD that starts at a linear probe, with DIST and mutual learning", "reprogramming", "rd_plus",
        targets=BOTH,
    ),
    Method("drd", "DRD", "Du et al. 2026, arXiv 2605.04447", "reprogramming", "drd", targets=BOTH),
    Method("rd_separate", "RD, separate classifier", "ablation of RD", "reprogramming", "rd", classifier="separate"),
    Method("rd_first", "RD, teacher first", "ablation of RD", "reprogramming", "rd", classifier="first"),
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
