"""Counts the arithmetic of a training step's forward passes, for the benchmarks beside this file.

A backward pass takes about twice the operations of its forward pass: of the student's own pass, of hybrid passes and of
projectors alike. So the ratio of forward operations is about that of a whole step. Time can be below it only where an
operation of a hybrid pass or a projector takes less time than one of the student's own pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from rd_hf.training.trainer import Trainer


class Operations(NamedTuple):
    """Floating-point operations of a forward pass.

    :param passes: of the student's own pass and of the hybrid passes.
    :param projectors: of the projectors.
    """

    passes: float
    projectors: float


def count_operations(trainer: Trainer) -> Operations:
    """Those of a step of a training; with one stage at a time the mean over the stages, except for "last"."""
    update = trainer.update
    batch = next(iter(trainer.loader()))
    schedule = update.stages
    if schedule.name == "all":
        choices: list[dict[str, Any]] = [{}]
    else:
        on = [schedule.stages - 1] if schedule.name == "last" else range(schedule.stages)
        choices = [{"stages": (number,)} for number in on]
    counted = [_count(update, update.prepare(0, options, batch)) for options in choices]
    return Operations(*(sum(values) / len(counted) for values in zip(*counted, strict=True)))


def _count(update: Any, part: Any) -> Operations:
    update.model.train()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        update.forward(update.model, part)
    by_module = counter.get_flop_counts()
    total = sum(by_module["Global"].values())
    ends = [f".projectors.{number}" for number in range(len(getattr(update.module, "projectors", ())))]
    of_projectors = [sum(counts.values()) for name, counts in by_module.items() if name.endswith(tuple(ends))]
    return Operations(total - sum(of_projectors), sum(of_projectors))


def print_operations(trainers: dict[str, Trainer], alone: str) -> None:
    """Print a table of what each row needs at least.

    :param trainers: by the names of rows.
    :param alone: the row of the student that is trained alone.
    """
    counted = {name: count_operations(trainer) for name, trainer in trainers.items()}
    base = counted[alone].passes
    print("\n| operations of | ratio to student alone | of these hybrid passes | projectors |")
    print("|---|---|---|---|")
    for name, (passes, projectors) in counted.items():
        shares = passes + projectors, passes - base, projectors
        print(f"| {name} | " + " | ".join(f"{share / base:.2f}" for share in shares) + " |")
