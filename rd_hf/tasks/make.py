"""A task from its name."""

from __future__ import annotations

from collections.abc import Sequence

from .classification import MultiLabel, SingleLabel
from .segmentation import Segmentation, VolumeSegmentation
from .task import Task

TASKS = {task.problem_type: task for task in (SingleLabel, MultiLabel, Segmentation)}


def make_task(problem_type: str, names: Sequence[str], of_volumes: bool = False) -> Task:
    """The task that a config or a data set calls by its problem type.

    :param names: of the classes.
    :param of_volumes: whether the data are volumes, not images.
    :raises ValueError: if there is no such task.
    """
    if problem_type not in TASKS:
        raise ValueError(f"problem_type is {problem_type!r}; it must be one of {', '.join(TASKS)}")
    if of_volumes and problem_type == Segmentation.problem_type:
        return VolumeSegmentation(list(names))
    return TASKS[problem_type](list(names))
