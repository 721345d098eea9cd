"""The student's loss on a fixed batch: the labelled rows of a run's first step, in the views of that step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.pixel_store import Visits, collate
from ..models.tape import without_running_statistics
from ..tasks.task import Task
from .inputs import Inputs

if TYPE_CHECKING:
    from .trainer import TrainingData


class TaskLoss:
    """The mean supervised loss of a student, the same in all processes and however they share the rows.

    Norms use the statistics of the batch, because the running ones lag behind the weights, and leave those as they are.
    Dropout draws the same masks each time.

    :param student: in training.
    :param task: as it is trained for, with its class weights.
    :param inputs: of the run.
    :param data: of the run.
    :param seed: of dropout.
    """

    def __init__(
        self, student: nn.Module, task: Task, inputs: Inputs, data: TrainingData, accelerator: Accelerator, seed: int
    ) -> None:
        self.student, self.task, self.inputs, self.data = student, task, inputs, data
        self.accelerator, self.seed = accelerator, seed
        self.batches: list[tuple[Tensor, Tensor]] = []  # pixels and labels, read at the first call

    @torch.no_grad()
    def __call__(self) -> float:
        """The loss with the present weights; the global random state is another afterwards."""
        self.batches = self.batches or [self._read(part) for part in range(self.data.plan.accumulation)]
        sums = []
        self.student.train()
        with self.accelerator.autocast(), without_running_statistics(self.student):
            for pixels, labels in self.batches:
                torch.manual_seed(self.seed)
                loss = self.task.loss(self.student(pixel_values=pixels).logits, labels)
                sums.append(torch.stack([loss, loss.new_tensor(len(labels))]))
        total, rows = self.accelerator.reduce(sum(sums)).tolist()
        return total / rows

    def _read(self, part: int) -> tuple[Tensor, Tensor]:
        """Pixels and labels of the labelled rows of this process in one batch of the first step."""
        visits = Visits(self.data.store, self.data.labels, lambda visit: False)
        batch = collate([visits[visit] for visit in self.data.plan.batch(0, part) if visit.labelled])
        return self.inputs.student_pixels(batch), self.inputs.labels(batch)
