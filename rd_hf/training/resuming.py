"""What a resumed run may differ in, and what a stopped one says of how to go on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from ..data.order import StepPlan
from ..runtime.checkpoint import Checkpoint, CheckpointError, checkpoint_step, list_checkpoints

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def how_to_go_on(trainer: Trainer) -> str:
    """Say which step is saved, and how to resume."""
    kept = list_checkpoints(trainer.checkpoints)
    if not kept:
        return f"Step {trainer.step} of {trainer.max_steps} could not be saved, and no checkpoint is kept."
    step = checkpoint_step(kept[-1])
    lost = "" if step == trainer.step else f" (step {trainer.step} could not be saved)"
    return f"Step {step} of {trainer.max_steps} is saved{lost}. Continue with the same command and --resume."


def check_same_steps(checkpoint: Checkpoint, plan: StepPlan) -> None:
    """Check that a step has as many rows as before; another number of processes is a warning.

    :raises CheckpointError: when it has not.
    """
    before, now = checkpoint.state["rows_a_step"], plan.rows_a_step
    if before != now:
        raise CheckpointError(
            f"Before, a step had {before['labelled']} labelled and {before['unlabelled']} unlabelled rows. Now it "
            f"has {now['labelled']} and {now['unlabelled']}. Change per_device_train_batch_size, "
            "per_device_unlabeled_batch_size or gradient_accumulation_steps so that the totals over all processes "
            "are the same."
        )
    if checkpoint.state["processes"] != plan.processes and plan.rank == 0:
        logger.warning(
            "The run had %s and now has %s. Results match up to rounding if the student has neither "
            "dropout nor batch norm; otherwise they are similar.",
            *(f"{n} process" if n == 1 else f"{n} processes" for n in (checkpoint.state["processes"], plan.processes)),
        )


def check_that_all_resume_at(step: int, accelerator: Accelerator) -> None:
    """:raises CheckpointError: when another process found another checkpoint than that of this step."""
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"The processes found different checkpoints, of steps {', '.join(map(str, steps))}: `output_dir` must "
            "be a folder that all nodes share."
        )
