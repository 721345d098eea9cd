"""The training loop: Accelerate, read from top to bottom."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..arguments.distillation import DistillationArguments
from ..data.open_split import OpenSplit
from ..data.order import PlanSampler, StepPlan
from ..data.pixel_store import PixelStore, Visits, collate
from ..data.stream_order import StreamOrder
from ..data.volumes.store import VolumeStore
from ..inference.rows import predict_rows
from ..runtime.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_latest,
    put_into,
    save_checkpoint,
)
from ..runtime.files import CHECKPOINTS, RUN_HISTORY, finite
from ..runtime.interrupts import Interrupts, leave_interrupts_to_the_main_process
from ..runtime.processes import PROGRESS, memory_used
from ..runtime.progress import Progress
from ..tasks.task import Task
from .inputs import Inputs
from .objective import Objective
from .resuming import check_same_origin, check_same_steps, check_that_all_resume_at, teacher_hash
from .run_folder import forget_rows_after
from .stage_schedule import StageSchedule
from .step import NonFiniteLossError, Update
from .targets import TargetMaker

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """What the loop reads: pixels and labels of train, the order of its rows, and the labelled validation split.

    :ivar stream: the unlabelled rows of `plan` where they are a stream.
    """

    task: Task
    store: PixelStore | VolumeStore
    labels: Tensor
    plan: StepPlan
    validation: OpenSplit
    fingerprint: dict[str, str]
    stream: StreamOrder | None = None


def usual_eval_steps(max_steps: int) -> int:
    """Steps between evaluations of a run that is not told them: it has 20."""
    return max(1, math.ceil(max_steps / 20))


class Trainer:
    """Trains a student, alone or with the projectors through which the frozen teacher's features reach it.

    :param model: RDTeacher without backbone (student and projectors), or the student alone.
    :param inputs: pixels and teacher features of a batch; without a backbone the student is trained alone (method ce).
    :param stages: says which stages are on; by default all.
    :param targets: what student and hybrid logits learn from besides labels; None is the hybrid logits.
    """

    def __init__(
        self,
        arguments: DistillationArguments,
        accelerator: Accelerator,
        model: nn.Module,
        inputs: Inputs,
        objective: Objective,
        data: TrainingData,
        max_steps: int,
        output_dir: Path,
        stages: StageSchedule | None = None,
        targets: TargetMaker | None = None,
    ):
        self.arguments, self.accelerator, self.data = arguments, accelerator, data
        self.inputs, self.max_steps = inputs, max_steps
        self.output_dir, self.checkpoints = output_dir, output_dir / CHECKPOINTS
        self.update = Update(arguments, accelerator, model, inputs, objective, max_steps, stages, targets)
        self.module = model
        self.eval_steps = arguments.eval_steps or usual_eval_steps(max_steps)
        self.save_steps = arguments.save_steps or self.eval_steps
        self.step, self.best_step, self.best_score, self.best_tensors = 0, 0, -math.inf, None
        self.evaluations_without_gain = 0
        self.rows_a_step = data.plan.rows_a_step  # of the run; a report may be made with other processes
        self.data_wait = 0.0  # seconds since the last row of metrics.jsonl

    def train(self, deadline: float | None = None) -> None:
        """Run to the last step, from the last checkpoint if `resume` is set, and leave the best weights in `model`.

        :param deadline: when to save and stop, by `time.monotonic`.
        :raises NonFiniteLossError: when a term of the loss is NaN or infinite.
        :raises Stopped: after a signal or at the deadline, when a checkpoint is written; it says how to continue.
        """
        if self.arguments.resume:
            self.restore()
        if self.update.targets is not None:
            self.update.targets.read_means()
        if self.arguments.max_steps <= 0 and self.arguments.num_train_epochs is None:
            passes = self.max_steps * self.rows_a_step["labelled"] / len(self.data.plan.labelled.rows)
            logger.info(
                "Training takes %d optimiser steps, which are %.0f passes over the labelled rows. Change it by "
                "`max_steps` or `num_train_epochs`.", self.max_steps, passes,
            )  # fmt: skip
        batches = self.timed(iter(self.loader()))
        self.update.log_cka_cost(len(self.data.plan.batch(self.step, 0)))
        progress = Progress("training", self.max_steps, "step", self.step, self.accelerator.is_main_process)
        started, images = time.perf_counter(), 0
        waited = trained = 0.0  # seconds in all
        reading = nullcontext() if self.data.stream is None else closing(self.data.stream)
        with Interrupts(self.accelerator, deadline) as interrupts, progress, reading:
            while self.step < self.max_steps and not self.out_of_patience():
                row = self.optimizer_step(batches)
                self.step += 1
                progress.advance()
                images += row.pop("images")
                if self.step % self.arguments.logging_steps == 0 or self.step == self.max_steps:
                    elapsed = time.perf_counter() - started
                    used = {"images_per_second": images / elapsed, "data_wait": self.data_wait / elapsed}
                    self.log(row | self.update.stages.row() | used | {"memory_gib": memory_used(self.accelerator)})
                    progress.note(loss=f"{row['loss']:.3f}", **self.best_so_far())
                    waited, trained = waited + self.data_wait, trained + elapsed
                    started, images, self.data_wait = time.perf_counter(), 0, 0.0
                aside = time.perf_counter()
                if self.step % self.eval_steps == 0 or self.step == self.max_steps:
                    self.evaluate()
                    progress.note(loss=f"{row['loss']:.3f}", **self.best_so_far())
                exit_code = interrupts.in_any_process()
                if self.step % self.save_steps == 0 or self.step == self.max_steps or exit_code:
                    self.save()
                started += time.perf_counter() - aside
                interrupts.stop(exit_code, self.checkpoints, self.step, self.max_steps)
            if self.step < self.max_steps:  # stopped early, maybe between two checkpoints
                self.save()
            late = interrupts.in_any_process()  # the last save takes a while too
            interrupts.stop(late, self.checkpoints, self.step, self.max_steps)
        if trained and self.accelerator.is_main_process:
            logger.info("Waiting for data took %.1f %% of the training time.", 100 * waited / trained)
        self.restore_best()

    def loader(self) -> DataLoader:
        """The batches from the present step to the last."""
        workers = self.arguments.dataloader_num_workers
        return DataLoader(
            Visits(self.data.store, self.data.labels, self.inputs.needs_teacher_pixels),
            batch_sampler=PlanSampler(self.data.plan, self.step, self.max_steps),
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=leave_interrupts_to_the_main_process,
            # they share decoded images and open files; Python 3.14 would start them anew
            multiprocessing_context="fork" if workers and "fork" in get_all_start_methods() else None,
        )

    def timed(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches; the time spent waiting for each is added to `data_wait`."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.data_wait += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def optimizer_step(self, batches) -> dict[str, float]:
        """Make one update from the next `gradient_accumulation_steps` batches, and return the values to log.

        :raises NonFiniteLossError: naming what is not finite and the checkpoint that is kept.
        """
        try:
            return self.update(self.step, islice(batches, self.update.parts))
        except NonFiniteLossError as error:
            raise self.diverged(f"{error} is", self.step + 1) from error

    def diverged(self, what: str, step: int) -> NonFiniteLossError:
        """The error that says which value is not finite, what is kept, and what helps."""
        kept = list_checkpoints(self.checkpoints)
        kept = f"checkpoint {kept[-1].name} is kept" if kept else "there was no checkpoint yet"
        return NonFiniteLossError(
            f"The {what} not finite at step {step}; {kept}. If training diverges, lower learning_rate or "
            "max_grad_norm. With fp16, try bf16."
        )

    def evaluate(self) -> None:
        """Score the student on validation and keep its weights if it is the best so far.

        :raises NonFiniteLossError: when its logits are not finite.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.module.buffers():  # batch norms, of which the main process's are saved
                broadcast(buffer)
        student = self.module if self.inputs.backbone is None else self.module.student
        rows = predict_rows(
            lambda pixels: student(pixel_values=pixels).logits,
            self.data.task.row,
            student,
            self.data.validation,
            self.arguments.per_device_eval_batch_size,
            self.accelerator,
        )
        if not np.isfinite(rows).all():
            raise self.diverged("student's logits on validation are", self.step)
        metric = self.arguments.metric_for_best_model
        score = self.data.task.validation_score(rows, metric)
        self.evaluations_without_gain += 1
        if score > self.best_score or self.best_tensors is None:
            self.best_score, self.best_step, self.evaluations_without_gain = score, self.step, 0
            self.best_tensors = {name: value.detach().cpu().clone() for name, value in self.tensors().items()}
        self.log({f"validation/{metric}": score})

    def out_of_patience(self) -> bool:
        """Whether `early_stopping_patience` evaluations have passed without a gain, which is logged."""
        patience = self.arguments.early_stopping_patience
        stop = patience is not None and self.evaluations_without_gain >= patience
        if stop:
            logger.info("Stopped early at step %d: no improvement since step %d.", self.step, self.best_step)
        return stop

    def best_so_far(self) -> dict[str, str]:
        """The best validation score as text, by the metric's name; empty before the first evaluation."""
        return {self.arguments.metric_for_best_model: f"{self.best_score:.3f}"} if self.best_tensors else {}

    def log(self, values: dict[str, float]) -> None:
        """Append a row to metrics.jsonl and hand it to the trackers."""
        PROGRESS.info("step %d: %s", self.step, json.dumps(values))
        if self.accelerator.is_main_process:
            with (self.output_dir / RUN_HISTORY).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **finite(values)}) + "\n")
        self.accelerator.log(values, step=self.step)

    def tensors(self) -> dict[str, Tensor]:
        """The trained module's tensors; one that is shared under two names appears once."""
        seen, tensors = set(), {}
        for name, value in self.module.state_dict().items():
            if value.data_ptr() not in seen or value.numel() == 0:
                seen.add(value.data_ptr())
                tensors[name] = value
        return tensors

    def save(self) -> None:
        """Write a checkpoint. If that fails, the run continues with the earlier ones."""
        epochs = None
        if self.data.stream is not None:  # a process may not have met the end of an epoch that another has
            of_all = gather_object([self.data.stream.epochs(self.step)])
            epochs = [max(of_lane) for of_lane in zip(*of_all, strict=True)]
        if self.accelerator.is_main_process:
            self.write_checkpoint(epochs)
        # None may leave, and so end the job, while the main process is writing.
        self.accelerator.wait_for_everyone()

    def write_checkpoint(self, stream_epochs: list[list[int]] | None) -> None:
        """Write everything that a resumed run needs. A failure is logged, because earlier checkpoints are intact.

        :param stream_epochs: see `StreamOrder.epochs`; None without a stream.
        """
        groups = {"model": self.tensors()} | self.update.groups()
        if self.best_tensors is not None:
            groups["best"] = self.best_tensors
        state = {
            "best_step": self.best_step,
            "best_score": self.best_score if self.best_tensors is not None else None,
            "evaluations_without_gain": self.evaluations_without_gain,
            "processes": self.accelerator.num_processes,
            "rows_a_step": self.data.plan.rows_a_step,
            "data": self.data.fingerprint,
            "teacher": teacher_hash(self.inputs.backbone),
            "stages": self.update.stages.state(),
        }
        if stream_epochs is not None:
            state["stream_epochs"] = stream_epochs
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        try:
            save_checkpoint(self.checkpoints, Checkpoint(self.step, groups, state), self.arguments.save_total_limit)
        except OSError as error:
            logger.warning(
                "No checkpoint could be written at step %d: %s. Earlier checkpoints are intact, and training "
                "continues.",
                self.step,
                error,
            )

    def restore(self) -> None:
        """Return to the last checkpoint, or to the start if there is none yet.

        :raises CheckpointError: when none can be read or is of this run (see `restore_from`), or processes disagree.
        """
        if list_checkpoints(self.checkpoints):
            self.restore_from(load_latest(self.checkpoints))
        else:
            logger.warning("The run has no checkpoint yet, so it starts from the beginning.")
        check_that_all_resume_at(self.step, self.accelerator)
        if self.accelerator.is_main_process:
            forget_rows_after(self.output_dir, self.step)
        logger.info("Resumed from step %d of %d.", self.step, self.max_steps)

    def restore_from(self, checkpoint: Checkpoint) -> None:
        """Take over weights, optimiser and scores.

        :raises CheckpointError: when data, teacher or the rows of a step are not those of the checkpoint's run.
        """
        self.restore_weights(checkpoint)
        check_same_steps(checkpoint, self.data.plan)
        self.update.load(checkpoint.tensors)
        self.evaluations_without_gain = checkpoint.state["evaluations_without_gain"]
        self.update.stages.load_state(checkpoint.state.get("stages", {}))
        if self.data.stream is not None:
            self.data.stream.take_over(checkpoint.state["stream_epochs"], self.step)
        if self.accelerator.scaler is not None and "scaler" in checkpoint.state:
            self.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])

    def restore_weights(self, checkpoint: Checkpoint) -> None:
        """Take over step, weights and the best weights so far: all that a report needs.

        :raises CheckpointError: when data or teacher are not those of the checkpoint's run.
        """
        check_same_origin(checkpoint, self.data.fingerprint, self.inputs.backbone)
        put_into(self.module, checkpoint.tensors["model"])
        self.step, self.best_step = checkpoint.step, checkpoint.state["best_step"]
        self.rows_a_step = checkpoint.state["rows_a_step"]
        self.best_tensors = checkpoint.tensors.get("best")
        self.best_score = checkpoint.state["best_score"] if self.best_tensors is not None else -math.inf

    def restore_best(self) -> None:
        """Put the weights with the best validation score into the module."""
        if self.best_tensors is not None:
            put_into(self.module, self.best_tensors)
