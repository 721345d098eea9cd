"""The training loop: Accelerate, read from top to bottom."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from .arguments import DistillationArguments
from .backbone import Backbone
from .checkpoint import Checkpoint, load_latest, optimizer_tensors, restore_optimizer, save_checkpoint
from .data.augmentation import AugmentationParameters, apply, draw
from .data.order import PlanSampler, StepPlan
from .data.pixel_store import PixelStore, Visits, collate
from .features import StageFeature
from .inference import predict_logits, probabilities
from .metrics import validation_score
from .modeling_rd_teacher import RDTeacherOutput
from .objective import Objective, find_non_finite
from .teacher_cache import FeatureCache

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


class Trainer:
    """Trains a student, alone or with the projectors through which the frozen teacher's features reach it.

    :param model: RDTeacherForImageClassification without backbone (student and projectors), or the student alone.
    :param backbone: the frozen teacher; None trains the student alone (method ce).
    :param cache: keeps the teacher's features where the views of a row are limited.
    """

    def __init__(
        self,
        arguments: DistillationArguments,
        accelerator: Accelerator,
        model: nn.Module,
        backbone: Backbone | None,
        objective: Objective,
        data: TrainingData,
        max_steps: int,
        output_dir: Path,
        cache: FeatureCache | None = None,
    ):
        self.arguments, self.accelerator, self.objective, self.data = arguments, accelerator, objective, data
        self.backbone, self.cache, self.max_steps = backbone, cache, max_steps
        self.output_dir, self.checkpoints = output_dir, output_dir / "checkpoints"
        self.optimizer = torch.optim.AdamW(parameter_groups(model, arguments.weight_decay), lr=arguments.learning_rate)
        schedule = get_scheduler(
            arguments.lr_scheduler_type, self.optimizer, math.ceil(arguments.warmup_ratio * max_steps), max_steps
        )
        self.learning_rate_factor = schedule.lr_lambdas[0]
        self.module = model
        self.model, self.prepared_optimizer = accelerator.prepare(model, self.optimizer)
        self.augmentation = AugmentationParameters.from_arguments(arguments) if arguments.augment else None
        self.eval_steps = arguments.eval_steps or max(1, math.ceil(max_steps / 20))
        self.save_steps = arguments.save_steps or self.eval_steps
        self.step, self.best_step, self.best_score, self.best_tensors = 0, 0, -math.inf, None
        self.evaluations_without_gain = 0
        self.interrupted = False

    def train(self) -> None:
        """Run to the last step, from the last checkpoint if `resume` is set, and leave the best weights in `model`.

        :raises NonFiniteLossError: when a term of the loss is NaN or infinite.
        :raises KeyboardInterrupt: after Ctrl-C, once a checkpoint is written; its message says how to go on.
        """
        if self.arguments.resume:
            self.restore()
        loader = DataLoader(
            Visits(self.data.store, self.data.labels),
            batch_sampler=PlanSampler(self.data.plan, self.step, self.max_steps),
            collate_fn=collate,
            num_workers=self.arguments.dataloader_num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=leave_interrupts_to_the_main_process,
        )
        batches = iter(loader)
        progress = tqdm(
            total=self.max_steps, initial=self.step, desc="training", disable=not self.accelerator.is_main_process
        )
        started, images = time.perf_counter(), 0
        with self.interrupts_wait(), progress:
            while self.step < self.max_steps and not self.out_of_patience():
                row = self.optimizer_step(batches)
                self.step += 1
                progress.update()
                images += row.pop("images")
                if self.step % self.arguments.logging_steps == 0 or self.step == self.max_steps:
                    elapsed = time.perf_counter() - started
                    self.log(row | {"images_per_second": images / elapsed})
                    progress.set_postfix(loss=f"{row['loss']:.3f}", **self.best_so_far())
                    started, images = time.perf_counter(), 0
                if self.step % self.eval_steps == 0 or self.step == self.max_steps:
                    self.evaluate()
                    progress.set_postfix(loss=f"{row['loss']:.3f}", **self.best_so_far())
                if self.step % self.save_steps == 0 or self.step == self.max_steps or self.interrupted:
                    self.save()
                if self.interrupted:
                    raise KeyboardInterrupt(
                        f"Step {self.step} of {self.max_steps} is saved; the same command with --resume goes on."
                    )
        self.restore_best()

    def optimizer_step(self, batches) -> dict[str, float]:
        """One update from `gradient_accumulation_steps` batches; the terms of the loss, averaged over these."""
        self.reseed()
        parts, sums, images = self.arguments.gradient_accumulation_steps, {}, 0
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * self.learning_rate_factor(self.step)
        self.model.train()
        for part in range(parts):
            batch = next(batches)
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
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        learning_rate = self.optimizer.param_groups[0]["lr"]
        return sums | {"gradient_norm": norm, "learning_rate": learning_rate, "images": images}

    def forward(self, batch: dict) -> RDTeacherOutput:
        """The student's pass, and where there is a teacher the hybrid passes, on one augmented view of each row."""
        everything = range(len(batch["rows"]))
        student_pixels = self.pixel_values(batch, 0, everything)
        if self.backbone is None:
            return RDTeacherOutput(student_logits=self.model(pixel_values=student_pixels).logits)
        if self.cache is None:
            features = self.backbone.extract(self.pixel_values(batch, 1, everything))
        else:
            features = self.cached_features(batch)
        return self.model(student_pixel_values=student_pixels, teacher_features=features)

    def pixel_values(self, batch: dict, model: int, positions: Sequence[int]) -> Tensor:
        """What the student (0) or the teacher (1) sees of the batch at `positions`: (B, 3, h, w), normalised."""
        pixels = batch["pixels"][model][list(positions)].to(self.accelerator.device, non_blocking=True)
        if self.augmentation is not None:
            rows, views = ([batch[name][position] for position in positions] for name in ("rows", "views"))
            pixels = apply(draw(self.augmentation, self.arguments.seed, rows, views), pixels)
        return self.data.store.transforms[model].normalize(pixels)

    def cached_features(self, batch: dict) -> list[StageFeature]:
        """The teacher's features of the batch; it runs only for rows and views that it has not seen."""
        rows, views = batch["rows"], batch["views"]
        new = self.cache.missing(rows, views)
        if new:
            features = self.backbone.extract(self.pixel_values(batch, 1, new))
            self.cache.put([rows[position] for position in new], [views[position] for position in new], features)
        return self.cache.get(rows, views, self.accelerator.device)

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
            kept = "the checkpoints before it are kept" if self.step else "nothing was trained"
            raise NonFiniteLossError(
                f"The {name} term of the loss is not finite at step {self.step + 1}; {kept}. A lower learning_rate or "
                "max_grad_norm helps where training diverges; with fp16, try bf16."
            )

    def evaluate(self) -> None:
        """Score the student on validation and keep its weights if it is the best so far."""
        student = self.module if self.backbone is None else self.module.student
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
            "arguments": self.arguments.to_dict(),
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

        :raises CheckpointError: when there is none.
        """
        checkpoint = load_latest(self.checkpoints)
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

    @contextmanager
    def interrupts_wait(self):
        """The first Ctrl-C lets the step end and a checkpoint be written; the second stops at once."""

        def remember(signum, frame):
            if self.interrupted:
                raise KeyboardInterrupt("Stopped at once; the last checkpoint is kept.")
            self.interrupted = True
            logger.info("Ctrl-C: saving after this step. Once more stops at once.")

        if threading.current_thread() is not threading.main_thread():
            yield  # Python lets the main thread alone handle signals
            return
        before = signal.signal(signal.SIGINT, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's groups: matrices and kernels decay, norms, biases and other vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal, but the step that is under way still needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def forget_rows_after(path: Path, step: int) -> None:
    """Drop the rows of metrics.jsonl that an interrupted run wrote after its last checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
