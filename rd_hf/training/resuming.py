"""What a resumed run may differ in."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator

from ..data.order import StepPlan
from ..models.backbone import Backbone
from ..runtime.checkpoint import Checkpoint, CheckpointError

logger = logging.getLogger(__name__)


def teacher_hash(backbone: Backbone | None) -> str | None:
    """What identifies the weights of a run's teacher; None without one."""
    return None if backbone is None else backbone.source["sha256"]


def check_same_origin(checkpoint: Checkpoint, data: dict[str, str], backbone: Backbone | None) -> None:
    """Check that a run goes on with the data and the teacher that it was begun with.

    :param data: the fingerprint of the data now.
    :param backbone: the teacher now; checkpoints of earlier versions do not say which one they had.
    :raises CheckpointError: naming what has changed.
    """
    if checkpoint.state["data"] != data:
        raise CheckpointError(
            "The images or labels have changed since the run started. Use the original data, or start again with "
            "`overwrite_output_dir`."
        )
    before, now = checkpoint.state.get("teacher"), teacher_hash(backbone)
    if before is not None and now is not None and before != now:
        raise CheckpointError(
            f"The weights of `teacher` are not those that the run was begun with: their hash was {before[:16]} and is "
            f"{now[:16]}. Give the teacher of then, or start again with `overwrite_output_dir`."
        )


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
