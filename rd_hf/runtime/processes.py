"""The processes of a run: how they join, and the error if one does not answer."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    DynamoBackend,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    KwargsHandler,
    LoggerType,
)

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from .allocator import keep_freed_memory
from .interrupts import Stopped
from .progress import hide_progress

GRACE_SECONDS = 3
OF_COMMUNICATION = ("gloo", "NCCL", "pair closure", "Connection closed by peer", "Connection reset by peer")
LOG_FOLDER = "logs"
OF_PARTS = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)  # of the model, in processes
Item = TypeVar("Item")
logger = logging.getLogger(__name__)
PROGRESS = logging.getLogger("rd_hf.progress_of_a_process")  # written to the log of each process only
PROGRESS.setLevel(logging.INFO)
PROGRESS.propagate = False


def start_accelerator(arguments: DistillationArguments) -> Accelerator:
    """Join the processes that a launcher started, or run as the only one.

    :raises ArgumentError: when a tracker is not installed, the processes would not train together, or `fp16` lacks a
        GPU.
    """
    if arguments.fp16 and not torch.accelerator.is_available():  # Accelerate would train in float32 without a word
        raise ArgumentError("`fp16` needs a GPU, and there is none here: leave it out, or give `bf16`.")
    _check_trackers(arguments.report_to)
    # Accelerate keeps one precision per process, but a second run in the process may use another.
    AcceleratorState._reset_state()
    GradientState._reset_state()  # which an interrupted training of another library may have left in an accumulation
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and torch.cuda.device_count():
        # The number of the process's GPU, which differs from its own where processes share one, or each sees its alone.
        os.environ["LOCAL_RANK"] = str(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    accelerator = Accelerator(
        # which the user's own configuration of Accelerate may also ask for, and which would divide the loss
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # Without this and without a GPU every process of a torchrun would train alone, and all write to one folder.
        cpu=not torch.accelerator.is_available(),
        # To read these, Accelerate empties the environment for a moment, which other threads may be reading.
        # A launcher's only process is wrapped as several are.
        kwargs_handlers=_of_launched_processes(arguments) if "WORLD_SIZE" in os.environ else None,
        mixed_precision="bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no",
        log_with=arguments.report_to,
        project_dir=None if arguments.output_dir is None else str(Path(arguments.output_dir) / "trackers"),
    )
    _check_configuration(accelerator, arguments)
    if accelerator.num_processes != launched:
        raise ArgumentError(
            f"{launched} processes were launched, but each would train on its own on {accelerator.device}: launch "
            "only one."
        )
    if arguments.report_to is not None and not accelerator.log_with:
        raise ArgumentError(f"`report_to` is {arguments.report_to}, which is not installed: install it with pip.")
    if not accelerator.is_main_process:
        logging.getLogger("rd_hf").setLevel(logging.WARNING)  # what all processes would log, one logs
        hide_progress()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def end_run(accelerator: Accelerator) -> None:
    """Finish the trackers. The processes stay joined until Python ends, for a further run.

    A model of DistributedDataParallel must not be the last holder of their group: it would destroy the group under
    Python's lock and wait for gloo's threads, which may wait for that lock to release a tensor
    (https://github.com/pytorch/pytorch/issues/56297). Then the process would never end.
    """
    for tracker in accelerator.trackers:
        tracker.finish()
    atexit.unregister(_leave_the_others)
    atexit.register(_leave_the_others)


def _leave_the_others() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _check_trackers(names: list | str | None) -> None:
    """:raises ArgumentError: for a tracker that Accelerate does not know."""
    known = [tracker.value for tracker in LoggerType]
    for name in [] if names is None else [names] if isinstance(names, str) else names:
        if name not in known:
            raise ArgumentError(f"`report_to` is {name!r}; each tracker must be one of {', '.join(known)}.")


def _check_configuration(accelerator: Accelerator, arguments: DistillationArguments) -> None:
    """Check what the user's own configuration of Accelerate asks for, which `accelerate launch` reads.

    :raises ArgumentError: for what rd_hf does not support.
    """
    way_out = "use one without it, as in examples/accelerate, with `--config_file`."
    if accelerator.distributed_type in OF_PARTS:
        kind = accelerator.distributed_type.value
        raise ArgumentError(f"The configuration of Accelerate asks for {kind}, which rd_hf does not support: {way_out}")
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise ArgumentError(
            "The configuration of Accelerate asks for torch.compile of the whole model, but rd_hf compiles block by "
            f"block, with `torch_compile`: {way_out}"
        )
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if wanted != accelerator.mixed_precision and not (arguments.bf16 or arguments.fp16):
        logger.warning("The configuration of Accelerate asks for %s, which rd_hf takes from --bf16 and --fp16.", wanted)


def _of_launched_processes(arguments: DistillationArguments) -> list[KwargsHandler]:
    # A student may hold weights that no pass uses (a mask token, the map behind a head that reads another token).
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    group = InitProcessGroupKwargs(timeout=timedelta(minutes=arguments.process_timeout))
    if 0 < torch.cuda.device_count() < processes_of_machine():
        group.backend = "gloo"  # NCCL refuses two processes on one GPU
    return [ddp, group]


def processes_of_machine() -> int:
    """How many processes of the run share this machine, as torchrun and accelerate launch say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share_of(items: Sequence[Item], accelerator: Accelerator) -> list[Item]:
    """The share that one process has of a list that is not empty.

    All have as many, so that what they make of them can be gathered. The shares follow one another, and the last ones
    are filled up with items that come again.
    """
    size = -(-len(items) // accelerator.num_processes)
    own = list(items[accelerator.process_index * size :][:size]) or [items[0]]
    return [own[position % len(own)] for position in range(size)]


class SilentProcessError(OSError):
    """Another process of the run does not answer; the message names it and its machine."""


@contextmanager
def report_lost_process(accelerator: Accelerator) -> Iterator[None]:
    """Where waiting for another process fails or takes longer than `process_timeout`, say which one it was.

    :raises SilentProcessError: naming the processes that were not waiting too.
    """
    several = accelerator.num_processes > 1
    if several:
        store = torch.distributed.distributed_c10d._get_default_store()
        store.set(f"rd_hf/host/{accelerator.process_index}", socket.gethostname())
    try:
        yield
    except RuntimeError as error:
        if several and _is_of_communication(error):
            raise SilentProcessError(_who_is_silent(accelerator, store, error)) from error
        raise


def _is_of_communication(error: RuntimeError) -> bool:
    """Whether an error came from exchanging tensors; gloo's have no type of their own, and not all name it."""
    if isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in OF_COMMUNICATION):
        return True
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return "torch/distributed/" in innermost.replace(os.sep, "/")


def _who_is_silent(accelerator: Accelerator, store: torch.distributed.Store, error: RuntimeError) -> str:
    own = accelerator.process_index
    try:
        store.set(f"rd_hf/waited/{own}", "")
        # The others that were waiting notice at about the same time; so does a launcher, which ends all.
        with suppress(Stopped):
            time.sleep(GRACE_SECONDS)
        silent = [rank for rank in range(accelerator.num_processes) if not store.check([f"rd_hf/waited/{rank}"])]
        names = ", ".join(f"{rank} on {store.get(f'rd_hf/host/{rank}').decode()}" for rank in silent)
    except RuntimeError:
        names = "0, which leads the run"
    reason = str(error).splitlines()[0]
    return (
        f"Process {own} got no answer from process {names or 'unknown'}, which has stopped or has been stuck for longer"
        f" than `process_timeout`. The last checkpoint, if any, is kept; continue with `resume`. ({reason})"
    )


@contextmanager
def own_log(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """With several processes, each writes its own log, `logs/process-N.log` in the run's folder."""
    if accelerator.num_processes == 1:
        yield
        return
    (folder / LOG_FOLDER).mkdir(exist_ok=True)
    handler = logging.FileHandler(folder / LOG_FOLDER / f"process-{accelerator.process_index}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger("rd_hf"), PROGRESS]
    for logger in loggers:
        logger.addHandler(handler)
    PROGRESS.info("process %d on %s, %s", accelerator.process_index, socket.gethostname(), accelerator.device)
    try:
        yield
    except BaseException as error:
        PROGRESS.info("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def memory_used(accelerator: Accelerator) -> float:
    """Memory in GiB of the process that uses most: the peak on its GPU so far, or else its resident memory."""
    if accelerator.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(accelerator.device)
    else:
        used = psutil.Process().memory_info().rss
    used = torch.tensor([used / 2**30], dtype=torch.float32, device=accelerator.device)
    return round(float(accelerator.gather(used).max()), 3)
