"""The targets of RD+: what student and reprogrammed teacher learn from besides labels.

a is a linear probe of the frozen teacher, h the hybrid logits, S the ensemble of what the student has said (Laine and
Aila 2017, arXiv 1610.02242). The student learns from t = (1 - s) m + s S with m = (1 - w) h + w a; the equations and
what each part costs stand in docs/explanation/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..arguments.target_checks import has_targets
from ..models.features import StageFeature
from ..models.grids import Grid, at_least_float32, resize
from ..tasks.task import Task
from .ensemble import Ensemble
from .objective import comparable
from .passes import Passes, Targets
from .schedules import Rise


def probe_logits(probe: nn.Module, feature: StageFeature, task: Task, grid: Grid) -> Tensor:
    """What a probe says, without what probabilities do not depend on.

    :param probe: A linear layer, which reads what is pooled of the feature, or for masks a convolution of its map.
    :param grid: Of the logits of masks, to which the probe's are resized.
    :return: (B, K), or (B, K, *grid).
    """
    if isinstance(probe, nn.Linear):
        return task.centred(probe(comparable(feature, "pooled").to(probe.weight.dtype)))
    return task.centred(resize(probe(feature.map.to(probe.weight.dtype)), tuple(grid)))


@dataclass
class TargetMaker:
    """Makes the targets of each micro-batch, and keeps what they depend on over the steps.

    :param task: Its logits.
    :param rise: s, the ensemble's share.
    :param probe: Reads the teacher's last features as logits; None without one.
    :param probe_share: w, the probe's share beside the hybrid logits.
    :param means: Row numbers -> the teacher's features, averaged over the views; None where those of the view at hand
        are read.
    :param read_means: Makes what `means` reads, which takes time; to be called before the first step of this process.
    :param ensemble: S; None without one.
    """

    task: Task
    rise: Rise
    probe: nn.Module | None = None
    probe_share: float = 0.0
    means: Callable[[Sequence[int]], list[StageFeature]] | None = None
    read_means: Callable[[], None] = lambda: None
    ensemble: Ensemble | None = None

    @torch.no_grad()
    def __call__(self, rows: Sequence[int], features: Sequence[StageFeature], passes: Passes, step: int) -> Targets:
        """The targets of a micro-batch.

        :param rows: Its row numbers.
        :param features: The teacher's, of which targets are made.
        :param passes: Its passes; `target` holds the hybrid logits of these features, unless they are the view's own.
        :param step: Optimiser step, counted from 0.
        """
        hybrid = passes.hybrids[-1] if passes.target is None else passes.target
        teacher, probed = self.task.centred(at_least_float32(hybrid)), None
        if self.probe is not None:
            probed = probe_logits(self.probe, features[-1], self.task, hybrid.shape[2:])
            teacher = (1.0 - self.probe_share) * teacher + self.probe_share * probed
        share = self.rise.share(step)
        student = teacher if self.ensemble is None else self.ensemble.mix(rows, teacher, share)
        return Targets(student, teacher, probed, share)

    def observe(self, rows: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add the student's logits of a whole step, over processes and micro-batches, to the ensemble.

        :param rows: (n,) int64.
        :param logits: (n, K).
        :param targets: `Targets.teacher` (n, K).
        """
        self.ensemble.update(rows, self.task.centred(logits), targets)

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of them, by group."""
        groups = {} if self.probe is None else {"probe": dict(self.probe.state_dict())}
        return groups if self.ensemble is None else groups | {"ensemble": self.ensemble.tensors()}

    def load(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over what `groups` gave."""
        if self.probe is not None:
            self.probe.load_state_dict(groups["probe"])
        if self.ensemble is not None:
            self.ensemble.load(groups["ensemble"])


def targets_in_words(arguments: DistillationArguments) -> str:
    """What the student learns from besides labels, for the log, the report and the card.

    :param arguments: of a method with a teacher.
    """
    if not (arguments.kl_weight or arguments.kl_weight_end):
        return "no logits, because the weight of their divergence is 0"
    views = "the view at hand"
    if arguments.target_views == "mean" and arguments.augment and arguments.num_views > 1:
        views = f"the mean over {arguments.num_views} views"
    source = "hybrid logits"
    if arguments.method == "drd" and not has_targets(arguments):
        source = "the hybrid logits of each stage"
    if arguments.probe_share:
        source = f"{1 - arguments.probe_share:g} hybrid logits + {arguments.probe_share:g} linear probe"
    words = f"{source}, of {views}"
    if arguments.ensemble_share:
        words += f", with a share of the student's ensemble that rises to {arguments.ensemble_share:g}"
    first, last = arguments.kl_weight, arguments.kl_weight_end
    weight = f"{first:g}" if first == last else f"{first:g} to {last:g}"
    name = {"kl": "KL", "dist": "DIST"}[arguments.divergence]
    return f"{words}; {name} with weight {weight} and temperature {arguments.temperature:g}"
