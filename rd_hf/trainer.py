"""The training loop: Accelerate, read from top to bottom."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from .arguments import DistillationArguments
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_latest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .data.order import PlanSampler, StepPlan
from .data.pixel_store import PixelStore, Visits, collate
from .inference import predict_logits, probabilities
from .inputs import Inputs
from .interrupts import Interrupts, leave_interrupts_to_the_main_process
from .metrics import validation_score
from .modeling_rd_teacher import RDTeacherOutput
from .objective import Objective, find_non_finite

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """A term of the loss became NaN or infinite; the message names it and the last good checkpoint."""


@dataclass
class TrainingData:
    """What the loop reads: pixels and labels of train, the order of its rows, and the labelled validation split."""

    store: PixelStore
    labels: Tensor
    plan: StepPlan
    validation: PixelStore
    validation_rows: list[int]
    validation_labels: np.ndarray
    problem_type: str
    fingerprint: dict[str, str]


class Trainer:
    """Trains a student, alone or with the projectors through which the frozen teacher's features reach it.

    :param model: RDTeacherForImageClassification without backbone (student and projectors), or the student alone.
    :param inputs: pixels and teacher features of a batch; without a backbone the student is trained alone (method ce).
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
    ):
        self.arguments, self.accelerator, self.objective, self.data = arguments, accelerator, objective, data
        self.inputs, self.max_steps = inputs, max_steps
        self.output_dir, self.checkpoints = output_dir, output_dir / "checkpoints"
        self.optimizer = torch.optim.AdamW(parameter_groups(model, arguments.weight_decay), lr=arguments.learning_rate)
        schedule = get_scheduler(
            arguments.lr_scheduler_type, self.optimizer, math.ceil(arguments.warmup_ratio * max_steps), max_steps
        )
        self.learning_rate_factor = schedule.lr_lambdas[0]
        self.module = model
        self.model, self.prepared_optimizer = accelerator.prepare(model, self.optimizer)
        # Autocast is entered in `forward`; the module itself, which is evaluated and saved, keeps its precision.
        accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.eval_steps = arguments.eval_steps or max(1, math.ceil(max_steps / 20))
        self.save_steps = arguments.save_steps or self.eval_steps
        self.step, self.best_step, self.best_score, self.best_tensors = 0, 0, -math.inf, None
        self.evaluations_without_gain = 0
        self.data_wait = 0.0  # seconds since the last row of metrics.jsonl

    def train(self) -> None:
        """Run to the last step, from the last checkpoint if `resume` is set, and leave the best weights in `model`.

        :raises NonFiniteLossError: when a term of the loss is NaN or infinite.
        :raises KeyboardInterrupt: after Ctrl-C, once a checkpoint is written; its message says how to go on.
        """
        if self.arguments.resume:
            self.restore()
        batches = iter(self.loader())
        progress = tqdm(
            total=self.max_steps, initial=self.step, desc="training", disable=not self.accelerator.is_main_process
        )
        started, images = time.perf_counter(), 0
        waited = trained = 0.0  # seconds in all
        with Interrupts(self.accelerator) as interrupts, progress:
            while self.step < self.max_steps and not self.out_of_patience():
                row = self.optimizer_step(batches)
                self.step += 1
                progress.update()
                images += row.pop("images")
                if self.step % self.arguments.logging_steps == 0 or self.step == self.max_steps:
                    elapsed = time.perf_counter() - started
                    self.log(row | {"images_per_second": images / elapsed, "data_wait": self.data_wait / elapsed})
                    progress.set_postfix(loss=f"{row['loss']:.3f}", **self.best_so_far())
                    waited, trained = waited + self.data_wait, trained + elapsed
                    started, images, self.data_wait = time.perf_counter(), 0, 0.0
                aside = time.perf_counter()
                if self.step % self.eval_steps == 0 or self.step == self.max_steps:
                    self.evaluate()
                    progress.set_postfix(loss=f"{row['loss']:.3f}", **self.best_so_far())
                interrupted = interrupts.in_any_process()
                if self.step % self.save_steps == 0 or self.step == self.max_steps or interrupted:
                    self.save()
                started += time.perf_counter() - aside
                if interrupted:
                    raise KeyboardInterrupt(
                        f"Step {self.step} of {self.max_steps} is saved; the same command with --resume goes on."
                    )
        if trained and self.accelerator.is_main_process:
            logger.info("Waiting for data took %.1f %% of the training.", 100 * waited / trained)
        self.restore_best()

    def loader(self) -> DataLoader:
        """The batches from the present step to the last."""
        return DataLoader(
            Visits(self.data.store, self.data.labels, self.inputs.needs_teacher_pixels),
            batch_sampler=PlanSampler(self.data.plan, self.step, self.max_steps),
            collate_fn=collate,
            num_workers=self.arguments.dataloader_num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=leave_interrupts_to_the_main_process,
        )

    def optimizer_step(self, batches) -> dict[str, float]:
        """One update from `gradient_accumulation_steps` batches; the terms of the loss, averaged over these."""
        self.reseed()
        parts, sums, images = self.arguments.gradient_accumulation_steps, {}, 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * self.learning_rate_factor(self.step)
        self.model.train()
        for part in range(parts):
            asked = time.perf_counter()
            batch = next(batches)
            self.data_wait += time.perf_counter() - asked
            last = part == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                output = self.forward(batch)
                # DDP averages gradients over processes, so a term's share is its count on one process.
                labelled, total = len(batch["labels"]) * parts, len(batch["rows"]) * parts
                labels = batch["labels"].to(self.accelerator.device)
                terms = self.objective(output, labels, self.step, labelled_count=labelled, total_count=total)
                self.stop_if_not_finite(terms)
                self.accelerator.backward(terms["loss"])
            images += len(batch["rows"]) * self.accelerator.num_processes
            for name, value in terms.items():
                share = 1 / parts if name.startswith("cka/") else 1.0
                sums[name] = sums.get(name, 0.0) + share * float(value.detach())
        norm = self.clip()
        if self.accelerator.scaler is None and not math.isfinite(norm):
            self.stop_at("gradient")
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        return sums | {"gradient_norm": norm, "learning_rate": learning_rate, "images": images}

    def forward(self, batch: dict) -> RDTeacherOutput:
        """The student's pass, and where there is a teacher the hybrid passes, on one augmented view of each row."""
        student_pixels = self.inputs.student_pixels(batch)
        features = None if self.inputs.backbone is None else self.inputs.teacher_features(batch)
        with self.accelerator.autocast():
            if features is None:
                return RDTeacherOutput(student_logits=self.model(pixel_values=student_pixels).logits)
            return self.model(student_pixel_values=student_pixels, teacher_features=features)

    def reseed(self) -> None:
        """Dropout and drop-path follow from (seed, rank, step) alone, so that resuming needs no generator's state."""
        words = [self.arguments.seed, self.accelerator.process_index, self.step]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def clip(self) -> float:
        """Clip the gradient to `max_grad_norm`; its norm before that."""
        limit = self.arguments.max_grad_norm or math.inf
        return float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))

    def stop_if_not_finite(self, terms: dict[str, Tensor]) -> None:
        name = find_non_finite(terms)
        if name is not None:
            self.stop_at(f"{name} term of the loss")

    def stop_at(self, what: str) -> None:
        """:raises NonFiniteLossError: naming what is not finite and the checkpoint that is kept."""
        kept = list_checkpoints(self.checkpoints)
        kept = f"checkpoint {kept[-1].name} is kept" if kept else "there was no checkpoint yet"
        raise NonFiniteLossError(
            f"The {what} is not finite at step {self.step + 1}; {kept}. A lower learning_rate or max_grad_norm helps "
            "where training diverges; with fp16, try bf16."
        )

    def evaluate(self) -> None:
        """Score the student on validation and keep its weights if it is the best so far."""
        if self.accelerator.num_processes > 1:
            for buffer in self.module.buffers():  # batch norms, of which the main process's are saved
                broadcast(buffer)
        student = self.module if self.inputs.backbone is None else self.module.student
        logits = predict_logits(
            lambda pixels: student(pixel_values=pixels).logits,
            student,
            self.data.validation,
            self.arguments.per_device_eval_batch_size,
            self.accelerator,
            self.data.validation_rows,
        )
        predicted = probabilities(logits, self.data.problem_type)
        metric = self.arguments.metric_for_best_model
        score = validation_score(predicted, self.data.validation_labels, self.data.problem_type, metric)
        self.evaluations_without_gain += 1
        if score > self.best_score or self.best_tensors is None:
            self.best_score, self.best_step, self.evaluations_without_gain = score, self.step, 0
            self.best_tensors = {name: value.detach().cpu().clone() for name, value in self.tensors().items()}
        self.log({f"validation/{metric}": score})

    def out_of_patience(self) -> bool:
        patience = self.arguments.early_stopping_patience
        stop = patience is not None and self.evaluations_without_gain >= patience
        if stop:
            logger.info("Stopped at step %d: no better since step %d.", self.step, self.best_step)
        return stop

    def best_so_far(self) -> dict[str, str]:
        return {self.arguments.metric_for_best_model: f"{self.best_score:.3f}"} if self.best_tensors else {}

    def log(self, values: dict[str, float]) -> None:
        """Append a row to metrics.jsonl and hand it to the trackers."""
        if self.accelerator.is_main_process:
            with (self.output_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **values}) + "\n")
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
        """Write a checkpoint; where that fails the run goes on with the ones before."""
        if not self.accelerator.is_main_process:
            return
        groups = {"model": self.tensors(), "optimizer": optimizer_tensors(self.optimizer)}
        if self.best_tensors is not None:
            groups["best"] = self.best_tensors
        state = {
            "best_step": self.best_step,
            "best_score": self.best_score if self.best_tensors is not None else None,
            "evaluations_without_gain": self.evaluations_without_gain,
            "processes": self.accelerator.num_processes,
            "data": self.data.fingerprint,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        try:
            save_checkpoint(self.checkpoints, Checkpoint(self.step, groups, state), self.arguments.save_total_limit)
        except OSError as error:
            logger.warning(
                "No checkpoint at step %d: %s. The ones before are intact; training goes on.", self.step, error
            )

    def restore(self) -> None:
        """Go back to the last checkpoint.

        :raises CheckpointError: when there is none, or the data has changed.
        """
        checkpoint = load_latest(self.checkpoints)
        if checkpoint.state["data"] != self.data.fingerprint:
            raise CheckpointError("The data is not that of the run to resume: its images or labels have changed.")
        if checkpoint.state["processes"] != self.accelerator.num_processes:
            logger.warning(
                "The run had %d processes; with another number it goes on, but along another course.",
                checkpoint.state["processes"],
            )
        self.module.load_state_dict(checkpoint.tensors["model"], strict=False)
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])
        self.step, state = checkpoint.step, checkpoint.state
        self.best_tensors, self.best_step = checkpoint.tensors.get("best"), state["best_step"]
        self.best_score = state["best_score"] if self.best_tensors is not None else -math.inf
        self.evaluations_without_gain = state["evaluations_without_gain"]
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            forget_rows_after(self.output_dir / "metrics.jsonl", self.step)
        logger.info("Resumed from step %d of %d.", self.step, self.max_steps)

    def restore_best(self) -> None:
        if self.best_tensors is not None:
            self.module.load_state_dict(self.best_tensors, strict=False)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's groups: matrices and kernels decay, norms, biases and other vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def forget_rows_after(path: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl that an interrupted run wrote after its last checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
