"""Temporal ensembling (Laine and Aila 2017, arXiv 1610.02242): what the student has said of each row so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

DECAY = 0.8  # of what was said before, at each further visit


class Ensemble:
    """A moving average of the student's logits for each row of train, corrected for its start from 0.

    All processes hold the same table, because each adds the rows of all. A step adds at its end and reads what the
    steps before it have left, so that nothing depends on how its rows are divided.

    :param rows: Rows of train, N.
    :param classes: Classes, K.
    :param like: A tensor of the device and precision of the logits.
    """

    def __init__(self, rows: int, classes: int, like: Tensor) -> None:
        """Start with empty averages."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.sums = torch.zeros(rows, classes, dtype=dtype, device=like.device)
        self.visits = torch.zeros(rows, 1, dtype=dtype, device=like.device)
        self.scale = torch.ones(1, dtype=dtype, device=like.device)

    @property
    def bytes(self) -> int:
        """The memory of the table."""
        return sum(part.numel() * part.element_size() for part in self.tensors().values())

    def mix(self, rows: Sequence[int], logits: Tensor, share: float) -> Tensor:
        """Logits of these rows with a share of the averages, which are brought to the scale of the step before.

        :param logits: (B, K); those of rows that no step has seen stay as they are.
        """
        where = torch.tensor(rows).to(self.sums.device, non_blocking=True)
        visits = self.visits[where]
        averages = self.sums[where] / (1.0 - DECAY ** visits.clamp(min=1.0))
        return torch.where(visits > 0, (1.0 - share) * logits + share * self.scale * averages, logits)

    def update(self, rows: Tensor, logits: Tensor, others: Tensor) -> None:
        """Add what the student said in a step, once for each row: the mean, where it saw several views.

        :param rows: (n,) int64, of all processes.
        :param logits: The student's (n, K).
        :param others: Logits (n, K) to whose scale, their root mean square over the rows, `mix` brings the averages.
        """
        seen, places = rows.unique(return_inverse=True)
        counts = torch.zeros_like(self.visits[seen]).index_add_(0, places, torch.ones_like(self.visits[rows]))
        means = torch.zeros_like(self.sums[seen]).index_add_(0, places, logits.to(self.sums.dtype)) / counts
        self.sums[seen] = DECAY * self.sums[seen] + (1.0 - DECAY) * means
        self.visits[seen] += 1.0
        averages = self.sums[rows] / (1.0 - DECAY ** self.visits[rows])
        tiny = torch.finfo(self.sums.dtype).tiny
        self.scale[0] = (others.square().mean() / averages.square().mean().clamp(min=tiny)).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """The state, as a checkpoint holds it."""
        return {"sums": self.sums, "visits": self.visits, "scale": self.scale}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state."""
        for name, own in self.tensors().items():
            own.copy_(tensors[name])
