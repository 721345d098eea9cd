"""The reprogrammed teacher's answers for volumes that are read in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor

from ..data.open_split import OpenSplit
from ..inference.rows import predict_rows
from ..inference.shared_slices import shared_slices
from ..inference.volumes import volume_logits
from ..runtime.progress import Progress
from ..tasks.task import Task
from .run_models import Models


def window_rows(models: Models, split: OpenSplit, task: Task, accelerator: Accelerator) -> np.ndarray:
    """What the task keeps of the reprogrammed teacher's outputs on a split, volume by volume.

    A teacher of slices reads those of every window, which may take longer than the training. Windows share slices.

    :return: full rows, in the order of `split.rows`.
    """
    teacher, backbone = models.teacher, models.backbone
    with counted_rows(task, split, accelerator) as row, shared_slices(backbone):
        if not teacher.needs_student_pixels:
            return predict_rows(
                lambda windows: teacher(teacher_features=backbone.extract(windows)).logits,
                row, teacher, split, 1, accelerator, processor=models.teacher_processor,
            )  # fmt: skip
        return predict_rows(
            lambda rows: _with_students_windows(models, split, rows[0], accelerator)[None],
            row, teacher, split, 1, accelerator, lambda rows: rows,
        )  # fmt: skip


@contextmanager
def counted_rows(task: Task, split: OpenSplit, accelerator: Accelerator) -> Iterator[Callable[[Tensor, Any], Tensor]]:
    """The task's full rows of a batch, while the log shows how many volumes of the split this process has scored."""
    own = -(-len(split.rows) // accelerator.num_processes)
    title, shown = f"scoring the reprogrammed teacher on {split.name}", accelerator.is_main_process
    with Progress(title, own, "volume", shown=shown) as progress:

        def row(logits: Tensor, targets: Any) -> Tensor:
            progress.advance(len(logits))
            return task.full_row(logits, targets)

        yield row


def _with_students_windows(models: Models, split: OpenSplit, row: int, accelerator: Accelerator) -> Tensor:
    """The logits of one volume whose windows both models see, each normalised for it; see `volume_logits`."""
    store, of_teacher = split.store, models.teacher_processor
    mean, deviation = (value.view(-1, 1, 1, 1).to(accelerator.device) for value in store.statistics(row))

    def forward(windows: Tensor) -> Tensor:
        shown = windows if of_teacher.do_normalize else windows * deviation + mean
        features = models.backbone.extract(shown)
        return models.teacher(teacher_features=features, student_pixel_values=windows).logits

    return volume_logits(forward, store.processor, store.shown(row), accelerator.device)
