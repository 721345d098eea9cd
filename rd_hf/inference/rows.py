"""Logits of a model over all rows of a split, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.pixel_store import PixelStore


def predict_logits(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    store: PixelStore,
    batch_size: int,
    accelerator: Accelerator,
    rows: Sequence[int] | None = None,
    transform: int = 0,
) -> np.ndarray:
    """Run `forward` over rows once, un-augmented; processes share the batches and all get the result.

    They share whole batches, as an image's logits may differ in the last digit with its company in a batch.

    :param forward: pixel values (B, 3, h, w) -> logits (B, K).
    :param model: put into eval mode meanwhile.
    :param rows: the rows to read; all of the store by default.
    :param transform: which of the store's models' pixels are read.
    :return: float32 logits (N, K) in row order.
    """
    rows = list(range(len(store)) if rows is None else rows)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    own = batches[accelerator.process_index :: accelerator.num_processes]
    was_training = model.training
    model.eval()
    answers = []
    with torch.no_grad():
        # A process without a batch of its own runs one all the same, to know the number of classes.
        for batch in own or batches[:1]:
            pixels = torch.stack([store.pixels(row, transform) for row in batch])
            pixel_values = store.transforms[transform].normalize(pixels.to(accelerator.device))
            answers.append(forward(pixel_values).float())
    model.train(was_training)
    if accelerator.num_processes == 1:
        return torch.cat(answers).cpu().numpy()
    room = answers[0].new_zeros(-(-len(batches) // accelerator.num_processes), batch_size, answers[0].shape[1])
    for number, answer in enumerate(answers[: len(own)]):
        room[number, : len(answer)] = answer
    gathered = accelerator.gather(room[None]).transpose(0, 1)  # batches in their order, only the last one not full
    return gathered.reshape(-1, room.shape[-1])[: len(rows)].cpu().numpy()


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each label of a multi-label task; float64 (N, K)."""
    values = torch.from_numpy(logits).double()
    if problem_type == "multi_label_classification":
        return torch.sigmoid(values).numpy()
    return torch.softmax(values, dim=-1).numpy()
