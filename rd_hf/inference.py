"""Logits of a model over all rows of a split, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .data.pixel_store import PixelStore


def predict_logits(
    forward: Callable[[Tensor], Tensor],
    model: nn.Module,
    store: PixelStore,
    batch_size: int,
    accelerator: Accelerator,
    rows: Sequence[int] | None = None,
    transform: int = 0,
) -> np.ndarray:
    """Run `forward` over rows once, un-augmented; processes share the rows and all get the result.

    :param forward: pixel values (B, 3, h, w) -> logits (B, K).
    :param model: put into eval mode meanwhile.
    :param rows: the rows to read; all of the store by default.
    :param transform: which of the store's models' pixels are read.
    :return: float32 logits (N, K) in row order.
    """
    rows = list(range(len(store)) if rows is None else rows)
    own = rows[accelerator.process_index :: accelerator.num_processes]
    was_training = model.training
    model.eval()
    chunks = []
    with torch.no_grad():
        # A process without a row of its own runs one all the same, to know the number of classes.
        for start in range(0, max(len(own), 1), batch_size):
            pixels = torch.stack(
                [store.pixels(row, transform) for row in (own or rows[:1])[start : start + batch_size]]
            )
            pixel_values = store.transforms[transform].normalize(pixels.to(accelerator.device))
            chunks.append(forward(pixel_values).float())
    model.train(was_training)
    return _in_row_order(torch.cat(chunks)[: len(own)], len(rows), accelerator).cpu().numpy()


def _in_row_order(own: Tensor, total: int, accelerator: Accelerator) -> Tensor:
    """Gather rows that were dealt out in turn; shorter shares are padded for the transfer only."""
    processes = accelerator.num_processes
    if processes == 1:
        return own
    longest = -(-total // processes)
    padded = own.new_zeros(longest, own.shape[1])
    padded[: len(own)] = own
    gathered = accelerator.gather(padded).view(processes, longest, -1)
    return gathered.transpose(0, 1).reshape(processes * longest, -1)[:total]


def probabilities(logits: np.ndarray, problem_type: str) -> np.ndarray:
    """Softmax over classes, or a sigmoid for each label of a multi-label task; float64 (N, K)."""
    values = torch.from_numpy(logits).double()
    if problem_type == "multi_label_classification":
        return torch.sigmoid(values).numpy()
    return torch.softmax(values, dim=-1).numpy()
