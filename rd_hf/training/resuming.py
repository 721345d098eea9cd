"""What a resumed run may differ in."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator

from ..data.order import StepPlan
from ..runtime.checkpoint import Checkpoint, CheckpointError

logger = logging.getLogger(__name__)


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
