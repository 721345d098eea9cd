"""Runs a model over a split, on one process or many, and keeps one row of numbers per image or volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.open_split import OpenSplit
from ..data.pixel_store import ModelPixels
from ..data.volumes.store import VolumeStore
from ..tasks.task import Task
from .volumes import volume_logits

if TYPE_CHECKING:
    from ..models.image_processing_rd_volume import RDVolumeProcessor


def predict_rows(
    forward: Callable[[Any], Tensor],
    row: Callable[[Tensor, Any], Tensor],
    model: nn.Module,
    split: OpenSplit,
    batch_size: int,
    accelerator: Accelerator,
    read: Callable[[list[int]], Any] | None = None,
    processor: RDVolumeProcessor | None = None,
) -> np.ndarray:
    """Run a model over a split's readable images once, un-augmented; processes share the batches and all get the rows.

    They share whole batches, as an image's output may differ in the last digit with its company in a batch. Volumes
    come one by one, and `forward` gets of them what `rd_hf.inference.volumes.volume_logits` gives it, such as windows.

    :param forward: what `read` gives -> the model's output, such as logits (B, K).
    :param row: output in float32, and `split.targets` of its images -> what is kept of each, (B, S), as by
        `rd_hf.tasks.task.Task.row`.
    :param model: put into eval mode during the run.
    :param read: numbers of rows -> what `forward` takes; by default the pixel values (B, 3, h, w) of the student.
    :param processor: of volumes: that of the model; by default the student's.
    :return: float32 (N, S) in the order of `split.rows`.
    """
    of_volumes = isinstance(split.store, VolumeStore)
    if of_volumes:
        batch_size = 1
    if read is None and of_volumes:
        forward = _of_volumes(forward, split.store, processor, accelerator.device)

        def read(batch: list[int]) -> list[int]:
            return batch

    elif read is None:

        def read(batch: list[int]) -> Tensor:
            return pixel_values(split.store.student, batch, accelerator.device)

    batches = [split.rows[start : start + batch_size] for start in range(0, len(split.rows), batch_size)]
    own = batches[accelerator.process_index :: accelerator.num_processes]
    answers = []
    with evaluating(model), torch.no_grad():
        # A process without a batch of its own still runs one, to learn the length of a row.
        for batch in own or batches[:1]:
            answers.append(row(forward(read(batch)).float(), split.targets(batch)).to(accelerator.device))
    if accelerator.num_processes == 1:
        return torch.cat(answers).cpu().numpy()
    room = answers[0].new_zeros(-(-len(batches) // accelerator.num_processes), batch_size, answers[0].shape[1])
    for number, answer in enumerate(answers[: len(own)]):
        room[number, : len(answer)] = answer
    gathered = accelerator.gather(room[None]).transpose(0, 1)  # batches in their order, only the last one not full
    return gathered.reshape(-1, room.shape[-1])[: len(split.rows)].cpu().numpy()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which a model is in eval mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _of_volumes(
    forward: Callable[[Tensor], Tensor], store: VolumeStore, processor: RDVolumeProcessor | None, device: torch.device
) -> Callable[[list[int]], Tensor]:
    """A function of the row of a volume, in a list -> logits (1, K) or (1, K, *grid)."""
    processor = processor or store.processor
    return lambda rows: volume_logits(forward, processor, store.shown(rows[0]), device)[None]


def scores_of_split(task: Task, rows: np.ndarray, split: OpenSplit) -> dict[str, Any]:
    """The task's scores of a split's rows; intervals draw the images of a group, such as a patient, together.

    :param rows: of `split.rows`, in their order.
    """
    return task.scores(rows, groups=split.groups())


def pixel_values(pixels: ModelPixels, rows: list[int], device: torch.device) -> Tensor:
    """What a model takes of some rows: (B, 3, h, w), normalised, un-augmented."""
    return pixels.transform.normalize(pixels.batch(rows).to(device))


def only_output(output: Tensor, targets: Any) -> Tensor:
    """Keep the model's output itself as the row."""
    return output
