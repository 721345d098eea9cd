"""Stage schedules: which hybrid passes of DRD are on at an optimiser step, with their projectors, KL and CKA.

DRD runs the hybrid pass of every stage at every step. One stage at a time costs less. OPTIMA (arXiv 2310.04550) distils
one module at a time, chosen by a modified Thompson sampling whose reward is the decrement of the loss. The sampler here
is not the paper's, but ours; see `StageSampler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast

ScheduleName = Literal["all", "last", "round_robin", "random", "optima"]

STEPS_PER_PULL = 5  # optimiser steps for which one stage stays on
DISCOUNT = 0.95  # of what a sampler knows, per pull
PRIOR_PULLS = 1.0  # pulls of reward 0 that the prior of a stage counts for
STREAM = 0x57A6E5  # tells these draws apart from others of the same seed


@dataclass
class StageSampler:
    """Discounted Gaussian Thompson sampling over stages.

    With the stage a that was on, the reward r and the discount g, after each pull: N_k <- g N_k + [k = a] and
    S_k <- g S_k + r [k = a]. The next stage is the largest of theta_k ~ N(S_k / (N_k + n0), 1 / (N_k + n0)). The reward
    is the decrement over the root of its discounted mean square, so rewards have a root mean square of about 1. What is
    long ago counts less, because a stage that taught much at the start may teach nothing later.

    :param pulls: N of each stage.
    :param rewards: S of each stage.
    :param squares: discounted sum of squared decrements.
    :param observed: discounted number of decrements.
    """

    pulls: list[float]
    rewards: list[float]
    squares: float = 0.0
    observed: float = 0.0

    @classmethod
    def new(cls, stages: int) -> StageSampler:
        """A sampler that has observed nothing."""
        return cls([0.0] * stages, [0.0] * stages)

    def observe(self, stage: int, decrement: float) -> None:
        """Take in what a pull gave.

        :param stage: that was on.
        :param decrement: of the loss over the pull.
        """
        self.squares = DISCOUNT * self.squares + decrement**2
        self.observed = DISCOUNT * self.observed + 1.0
        scale = math.sqrt(self.squares / self.observed)
        self.pulls = [DISCOUNT * count for count in self.pulls]
        self.rewards = [DISCOUNT * total for total in self.rewards]
        self.pulls[stage] += 1.0
        self.rewards[stage] += decrement / scale if scale > 0 else 0.0

    def means(self) -> list[float]:
        """The expected reward of each stage."""
        return [total / (count + PRIOR_PULLS) for total, count in zip(self.rewards, self.pulls, strict=True)]

    def draw(self, generator: np.random.Generator) -> int:
        """The stage with the largest of rewards drawn from what is known of each."""
        deviations = [1.0 / math.sqrt(count + PRIOR_PULLS) for count in self.pulls]
        return int(np.argmax(generator.normal(self.means(), deviations)))


class StageSchedule:
    """Which stages are on at each step, by their numbers from 0. All are, unless another schedule is named.

    "last" has the last stage on, as RD has. The others have one stage on for `STEPS_PER_PULL` steps each: in turn,
    drawn uniformly, or drawn by a `StageSampler` ("optima"). Draws are functions of seed and step.

    :param name: of the schedule.
    :param stages: their number.
    :param seed: of the run.
    :param needs_hybrids: whether hybrid logits have a weight at a step; where they have none, no hybrid pass is run.
    :param loss: the loss whose decrement is the reward of "optima"; the same in all processes.
    :param device: on which processes exchange what the main one has drawn.
    """

    def __init__(
        self,
        name: ScheduleName = "all",
        stages: int = 1,
        seed: int = 0,
        needs_hybrids: Callable[[int], bool] = lambda step: True,
        loss: Callable[[], float] = lambda: 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start before the first step."""
        self.name, self.stages, self.seed = name, stages, seed
        self.needs_hybrids, self.loss, self.device = needs_hybrids, loss, device
        self.sampler = StageSampler.new(stages)
        self.chosen: int | None = None  # of the pull that is running
        self.loss_before = 0.0  # that pull
        self.steps = [0] * stages  # for which each was on since the last row of the log

    def begin(self, step: int) -> dict[str, Any]:
        """Begin a step.

        :param step: optimiser steps done so far; every step is begun once, in order.
        :return: arguments of the reprogrammed teacher's forward; none where everything is run.
        """
        options: dict[str, Any] = {} if self.needs_hybrids(step) else {"hybrids": False}
        if self.name == "all":
            return options
        if step % STEPS_PER_PULL == 0 or self.chosen is None:
            self.chosen = self._next(step // STEPS_PER_PULL)
        self.steps[self.chosen] += 1
        return options | {"stages": (self.chosen,)}

    def _next(self, pull: int) -> int:
        """The stage of a pull, the first of which is 0."""
        if self.name == "last":
            return self.stages - 1
        if self.name == "round_robin":
            return pull % self.stages
        generator = np.random.default_rng([self.seed, STREAM, pull])
        if self.name == "random":
            return int(generator.integers(self.stages))
        loss = self.loss()
        if self.chosen is not None:
            self.sampler.observe(self.chosen, self.loss_before - loss)
        self.loss_before = loss
        drawn = torch.tensor([self.sampler.draw(generator)], device=self.device)
        return int(broadcast(drawn)[0])

    def row(self) -> dict[str, float]:
        """For the log: the share of the steps since the last row for which each stage was on, from stage 1.

        For "optima" also what the sampler expects of each.
        """
        if self.name == "all":
            return {}
        total = max(sum(self.steps), 1)
        row = {f"stages/{number}": count / total for number, count in enumerate(self.steps, start=1)}
        self.steps = [0] * self.stages
        if self.name == "optima":
            row |= {f"rewards/{number}": value for number, value in enumerate(self.sampler.means(), start=1)}
        return row

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as plain JSON; nothing where all stages are on."""
        if self.name == "all":
            return {}
        own = {"chosen": self.chosen, "loss_before": self.loss_before, "steps": self.steps}
        return own | {"sampler": asdict(self.sampler)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        if self.name == "all":
            return
        self.chosen, self.loss_before, self.steps = state["chosen"], state["loss_before"], state["steps"]
        self.sampler = StageSampler(**state["sampler"])
