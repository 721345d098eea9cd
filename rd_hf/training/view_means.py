"""The teacher's vectors of the rows of train, averaged over a run's views: targets that do not depend on the view."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ..arguments.distillation import DistillationArguments
from ..arguments.target_checks import NO_VIEW_MEANS
from ..arguments.values import ArgumentError
from ..models.features import StageFeature
from ..runtime.processes import share_of
from ..runtime.progress import Progress
from .inputs import Inputs
from .run_data import RunData
from .teacher_features import in_bytes
from .volume_inputs import VOLUMES_AT_ONCE, VolumeInputs

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 64


class ViewMeans:
    """A table of vectors in memory.

    :param rows: ascending.
    :param table: (N, C, *grid), float32; the grid has one position.
    """

    def __init__(self, rows: np.ndarray, table: Tensor):
        self.rows, self.table = rows, table

    def __call__(self, rows: Sequence[int], device: torch.device) -> list[StageFeature]:
        """The vectors of some rows, as the feature of the last tapped stage.

        :raises KeyError: for a row that is not in the table.
        """
        positions = np.searchsorted(self.rows, rows)
        found = self.rows[np.minimum(positions, len(self.rows) - 1)]
        if not np.array_equal(found, rows):
            raise KeyError(f"There are no view means of the rows {sorted(set(rows) - set(self.rows))[:8]}.")
        return [StageFeature(self.table[torch.from_numpy(positions)].to(device, non_blocking=True))]


def check_view_means(arguments: DistillationArguments, run_data: RunData) -> None:
    """:raises ArgumentError: when targets are to be of the mean over the views, but nothing can be averaged."""
    lacking = run_data.views(arguments) is None or arguments.teacher_features == "stage"
    if arguments.target_views == "mean" and lacking:
        raise ArgumentError(NO_VIEW_MEANS)
    passing = run_data.shards is not None or run_data.stream is not None
    if arguments.target_views == "mean" and passing:
        images, way_out = "images in tar files are too many", "unpack the tar files"
        if run_data.stream is not None:
            images, way_out = "the images of a stream are too many", "leave `unlabeled_streaming` out"
        raise ArgumentError(
            f"`target_views` mean shows the teacher every image in all its views beforehand, for which {images}: set "
            f"`target_views` to one, or {way_out}."
        )


def read_view_means(
    arguments: DistillationArguments, run_data: RunData, inputs: Inputs, accelerator: Accelerator
) -> None:
    """Have `inputs.mean_features` answer for every row of a run."""
    rows = np.concatenate([run_data.labelled_rows, run_data.unlabelled_rows])
    inputs.means = view_means(inputs, rows, run_data.views(arguments), accelerator)


def view_means(inputs: Inputs, rows: Sequence[int], num_views: int, accelerator: Accelerator) -> ViewMeans:
    """Average the last tapped feature of each row, which is a vector, over the views 0, 1, ...; fills the cache.

    Processes share the rows and exchange the means.

    :param num_views: of the run.
    """
    rows = np.unique(np.asarray(rows))
    own, sums = share_of(rows.tolist(), accelerator), []
    at_once = VOLUMES_AT_ONCE if isinstance(inputs, VolumeInputs) else ROWS_AT_ONCE
    with Progress("view means", len(own) * num_views, "view", 0, accelerator.is_main_process) as progress:
        for start in range(0, len(own), at_once):
            chunk = own[start : start + at_once]
            total = 0.0
            for view in range(num_views):
                total = total + inputs.features_of(chunk, [view] * len(chunk))[-1].map.float()
                progress.advance(len(chunk))
            sums.append(total)
    table = accelerator.gather(torch.cat(sums) / num_views)[: len(rows)].cpu()
    logger.info(
        "The teacher's features of %d rows, averaged over %d view%s, take %s of memory.",
        *(len(rows), num_views, "" if num_views == 1 else "s", in_bytes(table.numel() * table.element_size())),
    )
    return ViewMeans(rows, table)
