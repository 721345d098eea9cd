"""Which rows, in which view, make up each optimiser step: a function of the seed and the step, with no state.

A run that resumes needs the step number only, and any number of processes follows one order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Sampler


class StreamedImages(NamedTuple):
    """Images that a batch has of a stream, undecoded.

    :ivar first: row number of the first; the others follow it.
    :ivar images: see `rd_hf.data.decoding.images.read_image`.
    :ivar skip_bad: whether the next readable one is shown in place of one that cannot be decoded.
    """

    first: int
    images: list[Any]
    skip_bad: bool


class Visit(NamedTuple):
    """One visit of one row.

    :ivar view: number of its augmented view.
    :ivar images: those that its batch has of a stream, its own among them; None for other rows.
    """

    row: int
    view: int
    labelled: bool
    images: StreamedImages | None = None


class Order(Protocol):
    """An endless order of visits: `RowOrder`, or `rd_hf.data.stream_order.StreamOrder`."""

    def visits(self, start: int, stop: int, labelled: bool) -> list[Visit]:
        """The visits at positions start to stop."""

    def with_images(self, visits: Sequence[Visit]) -> list[Visit]:
        """The visits with what can only be read in order."""


class RowOrder:
    """An endless order over rows: one permutation per epoch, each a function of (seed, epoch).

    :param rows: row numbers of the split.
    :param seed: seed of the run.
    :param stream: tells apart orders of one run (labelled, unlabelled).
    :param num_views: views per row, after which they repeat. None means a new view in every epoch.
    """

    def __init__(self, rows: np.ndarray, seed: int, stream: int, num_views: int | None = None):
        self.num_views = num_views
        self.rows = np.asarray(rows, dtype=np.int64)
        if len(self.rows) == 0:
            raise ValueError("There are no rows to order.")
        self._permutation = lru_cache(maxsize=4)(
            lambda epoch: np.random.Generator(np.random.Philox(key=[seed, (stream << 32) + epoch])).permutation(
                self.rows
            )
        )

    def visits(self, start: int, stop: int, labelled: bool) -> list[Visit]:
        """The visits at positions start to stop of the endless order; the epoch makes the view."""
        visits = []
        for position in range(start, stop):
            epoch, offset = divmod(position, len(self.rows))
            view = epoch % self.num_views if self.num_views else epoch
            visits.append(Visit(int(self._permutation(epoch)[offset]), view, labelled))
        return visits

    def with_images(self, visits: Sequence[Visit]) -> list[Visit]:
        """The visits as they are: rows are read where they are decoded."""
        return list(visits)


@dataclass(frozen=True)
class StepPlan:
    """The batches of every optimiser step, for one process.

    An optimiser step takes `accumulation * processes` batches of `labelled_size` labelled and `unlabelled_size`
    unlabelled rows. Batches are always full: an epoch's end runs over into the next.
    """

    labelled: RowOrder
    unlabelled: Order | None
    labelled_size: int
    unlabelled_size: int
    accumulation: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def rows_a_step(self) -> dict[str, int]:
        """Rows of an optimiser step, over processes and accumulated batches."""
        batches = self.processes * self.accumulation
        unlabelled = 0 if self.unlabelled is None else self.unlabelled_size
        return {"labelled": self.labelled_size * batches, "unlabelled": unlabelled * batches}

    def batch(self, step: int, part: int) -> list[Visit]:
        """The visits of batch `part` (0 to accumulation - 1) of optimiser step `step`, labelled rows first."""
        number = (step * self.accumulation + part) * self.processes + self.rank
        visits = self.labelled.visits(number * self.labelled_size, (number + 1) * self.labelled_size, True)
        if self.unlabelled is not None:
            start = number * self.unlabelled_size
            visits += self.unlabelled.visits(start, start + self.unlabelled_size, False)
        return visits

    def with_images(self, visits: Sequence[Visit]) -> list[Visit]:
        """Visits with what is to be read in order, in the process that asks for batches."""
        return list(visits) if self.unlabelled is None else self.unlabelled.with_images(visits)


class PlanSampler(Sampler[list[Visit]]):
    """Batch sampler for a DataLoader: the plan's batches from one step up to another."""

    def __init__(self, plan: StepPlan, start_step: int, stop_step: int):
        self.plan, self.start_step, self.stop_step = plan, start_step, stop_step

    def __len__(self) -> int:
        return (self.stop_step - self.start_step) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[Visit]]:
        for step in range(self.start_step, self.stop_step):
            for part in range(self.plan.accumulation):
                yield self.plan.with_images(self.plan.batch(step, part))
