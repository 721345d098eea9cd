"""One optimiser step: the same from one large batch, several processes, or several accumulated batches.

A sample's own terms add up over micro-batches and processes by themselves; CKA and DIST, statistics of the batch, do
not. So every (process, micro-batch) computes those of the *global* batch, in which its own rows are live and all others
are constants, and adds the gradient of its own rows (`Objective` in objective.py). With several processes the features
are gathered for that, without a gradient. With accumulation a first pass over all micro-batches, without a graph, gives
the constants; each is then run again, with the same randomness, and back-propagated. So do cached-gradient methods (Gao
et al. 2021, arXiv 2101.06983), which cache the loss's gradient on the features where this computes the loss again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import get_scheduler

from ..arguments.distillation import DistillationArguments
from ..models.features import StageFeature
from ..models.grids import at_least_float32
from ..models.tape import without_running_statistics
from ..runtime.checkpoint import optimizer_tensors, restore_optimizer
from .inputs import Inputs
from .objective import Compared, Objective, find_non_finite
from .passes import Passes, Targets
from .positions import draw
from .stage_schedule import StageSchedule
from .targets import TargetMaker

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """A term of the loss became NaN or infinite; the message names it."""


@dataclass
class MicroBatch:
    """The models' inputs for a batch, labelled rows first.

    :ivar teacher_features: None if there is no teacher.
    :ivar draws: those of the positions that CKA compares; None if it compares whole images.
    :ivar options: of the reprogrammed teacher's forward, which say what is run; none where everything is.
    :ivar rows: their numbers in train.
    :ivar target_features: the teacher's features of which targets are made, where these are not `teacher_features`.
    """

    labels: Tensor
    student_pixels: Tensor
    teacher_features: list[StageFeature] | None
    draws: np.ndarray | None
    options: dict[str, Any]
    rows: list[int]
    target_features: list[StageFeature] | None


class Update:
    """Optimiser steps of a student, with the projectors if there is a teacher.

    :ivar optimizer: AdamW, whose state a checkpoint holds.
    :param module: RDTeacher without backbone, or the student alone.
    :param inputs: pixels and teacher features of a batch; without a backbone the student is trained alone.
    :param stages: says which stages are on; by default all.
    :param targets: see `Trainer`.
    """

    def __init__(
        self,
        arguments: DistillationArguments,
        accelerator: Accelerator,
        module: nn.Module,
        inputs: Inputs,
        objective: Objective,
        max_steps: int,
        stages: StageSchedule | None = None,
        targets: TargetMaker | None = None,
    ):
        self.arguments, self.accelerator, self.module = arguments, accelerator, module
        self.stages = stages or StageSchedule()
        self.inputs, self.objective, self.targets = inputs, objective, targets
        self.optimizer = torch.optim.AdamW(parameter_groups(module, arguments.weight_decay), lr=arguments.learning_rate)
        # the first step of a warm-up has a rate of 0, so a run of one step would train nothing
        warmup = min(math.ceil(arguments.warmup_ratio * max_steps), max_steps - 1)
        schedule = get_scheduler(arguments.lr_scheduler_type, self.optimizer, warmup, max_steps)
        self.learning_rate_factor = schedule.lr_lambdas[0]
        self.model, self.prepared_optimizer = accelerator.prepare(module, self.optimizer)
        # Autocast is entered in `forward`; the module itself, which is evaluated and saved, keeps its precision.
        accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.parts = arguments.gradient_accumulation_steps
        several = self.parts * accelerator.num_processes > 1
        has_cka = inputs.backbone is not None and arguments.cka_weight > 0
        has_kl = bool(arguments.kl_weight or arguments.kl_weight_end)
        self.has_dist = inputs.backbone is not None and has_kl and arguments.divergence == "dist"
        self.is_global = several and (has_cka or self.has_dist) and arguments.cka_batch == "global"
        self.has_two_passes = self.is_global and self.parts > 1
        self.said: list[tuple[Tensor, ...]] = []  # rows, student's logits and targets of this step, by micro-batch
        self.has_positions = has_cka and arguments.cka_features == "positions"

    def log_cka_cost(self, rows: int) -> None:
        """:param rows: of a micro-batch."""
        rows *= self.parts * self.accelerator.num_processes
        name = "CKA" if not self.has_dist else "CKA and DIST" if self.arguments.cka_weight else "DIST"
        verb = "use" if " " in name else "uses"
        if self.has_two_passes:
            logger.info(
                "%s %s all %d rows of a step. The student's forward pass, %s hybrid passes, therefore runs twice for "
                "each row, and the teacher features of a whole step are held in memory. `cka_batch` local avoids this.",
                name, verb, rows, "with its" if self.has_dist else "without",
            )  # fmt: skip
        elif self.is_global:
            logger.info("%s %s all %d rows of a step, so the processes exchange their features.", name, verb, rows)

    def __call__(self, step: int, batches: Iterable[dict]) -> dict[str, float]:
        """One update from `gradient_accumulation_steps` batches of this process.

        :param step: optimiser steps done so far.
        :return: the loss and its terms over the global batch, the gradient's norm, the learning rate, and the images.
        :raises NonFiniteLossError: in every process, when a term in any of them is NaN or infinite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * self.learning_rate_factor(step)
        self.model.train()
        parts = map(partial(self.prepare, step, self.stages.begin(step)), batches)
        whole = None
        if self.has_two_passes:
            parts = list(parts)
            whole = self.gather([self.compared(step, number, part) for number, part in enumerate(parts)])
        sums: dict[str, Tensor] = {}
        self.said.clear()
        images = 0
        for number, part in enumerate(parts):
            last = number == self.parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                terms = self.backward(step, number, part, whole)
            images += len(part.student_pixels) * self.accelerator.num_processes
            for name, value in terms.items():
                share = 1 / self.parts if name.startswith("cka/") else 1.0
                sums[name] = sums.get(name, 0.0) + share * value.detach()
        values = self.over_processes(sums)
        values["gradient_norm"] = self.clip()
        if self.accelerator.scaler is None and not math.isfinite(values["gradient_norm"]):
            raise NonFiniteLossError("gradient")
        self.prepared_optimizer.step()
        self.prepared_optimizer.zero_grad()
        if self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() < 1:
            raise NonFiniteLossError("gradient, at whatever scale fp16 gives the loss,")
        if self.said:
            self.targets.observe(*(self.accelerator.gather(torch.cat(own)) for own in zip(*self.said, strict=True)))
        return values | {"learning_rate": self.optimizer.param_groups[0]["lr"], "images": images}

    def prepare(self, step: int, options: dict[str, Any], batch: dict) -> MicroBatch:
        """One augmented view of each row for the student, and the teacher's features of the same views."""
        labels = self.inputs.labels(batch)
        student_pixels = self.inputs.student_pixels(batch)
        features = None if self.inputs.backbone is None else self.inputs.teacher_features(batch)
        rows, draws, target_features = batch["rows"], None, None
        if self.targets is not None and self.targets.means is not None:
            target_features = self.targets.means(rows)
        if self.has_positions:
            draws = draw(self.arguments.seed, step, rows, batch["views"], self.arguments.cka_positions)
        return MicroBatch(labels, student_pixels, features, draws, options, rows, target_features)

    def backward(self, step: int, number: int, part: MicroBatch, whole: list[Compared] | None) -> dict[str, Tensor]:
        """Add the gradient of a micro-batch, and return its terms."""
        self.reseed(step, number)
        passes = self.forward(self.model, part)
        targets = self.targets_of(part, passes, step)
        if self.is_global and whole is None:
            pairs = self.objective.statistics(passes, part.draws, targets)
            whole = self.gather([[Compared(*map(Tensor.detach, pair)) for pair in pairs]])
        if self.targets is not None and self.targets.ensemble is not None:
            where = torch.tensor(part.rows).to(passes.student.device, non_blocking=True)
            self.said.append((where, at_least_float32(passes.student.detach()), targets.teacher))
        # DDP averages gradients over processes, so a term's share is its count on one process.
        rows = len(part.student_pixels)
        counts = {"labelled_count": len(part.labels) * self.parts, "total_count": rows * self.parts}
        start = (self.accelerator.process_index * self.parts + number) * rows
        constants = {"whole": whole, "start": start, "draws": part.draws, "targets": targets}
        terms = self.objective(passes, part.labels, step, **counts, **constants)
        self.accelerator.backward(terms["loss"])
        return terms

    def forward(self, model: nn.Module, part: MicroBatch) -> Passes:
        """The student's pass, and the hybrid passes if there is a teacher.

        :param model: the module, or what Accelerate made of it.
        """
        with self.accelerator.autocast():
            if part.teacher_features is None:
                return Passes(model(pixel_values=part.student_pixels).logits)
            pixels, features, options = part.student_pixels, part.teacher_features, dict(part.options)
            if part.target_features is not None:
                options["target_features"] = part.target_features
            output = model(student_pixel_values=pixels, teacher_features=features, **options)
            return Passes.of(output, part.options.get("stages"))

    def targets_of(self, part: MicroBatch, passes: Passes, step: int) -> Targets | None:
        """What the logits of a micro-batch learn from besides labels; None: the student learns from the hybrid ones."""
        if self.targets is None:
            return None
        return self.targets(part.rows, part.target_features or part.teacher_features, passes, step)

    @torch.no_grad()
    def compared(self, step: int, number: int, part: MicroBatch) -> list[Compared]:
        """What CKA and DIST compare of a micro-batch, without a graph.

        Running statistics are left to the second pass.
        """
        self.reseed(step, number)
        with without_running_statistics(self.module):
            if self.has_dist:
                passes = self.forward(self.module, part)
                return self.objective.statistics(passes, part.draws, self.targets_of(part, passes, step))
            pixels, features, options = part.student_pixels, part.teacher_features, part.options | {"hybrids": False}
            with self.accelerator.autocast():
                output = self.module(student_pixel_values=pixels, teacher_features=features, **options)
        return self.objective.compared(output.student_features, output.reprogrammed_features, part.draws)

    def gather(self, parts: list[list[Compared]]) -> list[Compared]:
        """The features of the global batch, per stage: processes in their order, micro-batches of each in theirs."""
        own = [torch.cat(rows) for side in zip(*parts, strict=True) for rows in zip(*side, strict=True)]
        if not own:  # as while a KL term that rises is off
            return []
        if self.accelerator.num_processes > 1:
            flat = [features.flatten(1) for features in own]
            gathered = self.accelerator.gather(torch.cat(flat, dim=1)).split([f.shape[1] for f in flat], dim=1)
            own = [f.unflatten(1, shape.shape[1:]) for f, shape in zip(gathered, own, strict=True)]
        return [Compared(*pair) for pair in zip(own[::2], own[1::2], strict=True)]

    def over_processes(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Average terms over the processes, so that all of them log the same values and stop for the same reason."""
        values = torch.stack(list(sums.values()))
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, reduction="mean")
        terms = dict(zip(sums, values.tolist(), strict=True))
        name = find_non_finite(terms)
        if name is not None:
            raise NonFiniteLossError(f"{name} term of the loss")
        return terms

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds beside the module, by group."""
        groups = {"optimizer": optimizer_tensors(self.optimizer)}
        return groups if self.targets is None else groups | self.targets.groups()

    def load(self, groups: Mapping[str, dict[str, Tensor]]) -> None:
        """Take over what `groups` gave."""
        restore_optimizer(self.optimizer, groups["optimizer"])
        if self.targets is not None:
            self.targets.load(groups)

    def reseed(self, step: int, number: int) -> None:
        """Dropout follows from (seed, rank, step, micro-batch) alone: resuming needs no generator's state."""
        words = [self.arguments.seed, self.accelerator.process_index, step, number]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    def clip(self) -> float:
        """Clip the gradient to `max_grad_norm`, and return its norm before clipping."""
        if self.accelerator.scaler is not None:  # Accelerate's own clipping unscales every optimiser that it knows
            self.accelerator.unscale_gradients(self.prepared_optimizer)
        limit = self.arguments.max_grad_norm or math.inf
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's groups: matrices and kernels decay, norms, biases and other vectors do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
