"""One run of a comparison: a model trained by one method, scored, and what is kept of it."""

from __future__ import annotations

import functools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from accelerate.utils.modeling import get_grad_scaler
from safetensors.numpy import save_file

from .._version import __version__
from ..arguments.distillation import DistillationArguments
from ..arguments.effects import without_effect
from ..arguments.options import names
from ..data.open_split import OpenSplit
from ..runtime.checkpoint import file_digest
from ..runtime.files import CHECKPOINTS, write_json
from ..scoring.units import units
from ..tasks.classification import Classification, SingleLabel
from ..tasks.make import make_task
from ..tasks.task import Task
from .bench import Bench
from .plan import Cell, Plan
from .trainings import train

logger = logging.getLogger(__name__)

RESULT_FILE, PREDICTIONS_FILE = "result.json", "predictions.safetensors"


def run_cell(plan: Plan, cell: Cell, bench: Bench, root: Path) -> None:
    """Train and score one cell, and leave result.json and the predictions in its folder.

    A tuning cell is scored on validation alone.

    :raises ArgumentError: when the method does not learn what the data has.
    """
    try:
        _run_cell(plan, cell, bench, root)
    finally:
        accelerator = bench.accelerator
        accelerator.free_memory()  # it keeps each model and optimiser that it has prepared
        if accelerator.scaler is not None:  # the scale of fp16 that this run has come to is no other's
            accelerator.scaler = get_grad_scaler(accelerator.distributed_type)


def _run_cell(plan: Plan, cell: Cell, bench: Bench, root: Path) -> None:
    cell.entry.method.check_target("masks" if bench.has_masks else "classes")
    if bench.run_data.volumes is not None:
        cell.entry.method.check_volumes()
    folder = root / cell.path
    shutil.rmtree(folder, ignore_errors=True)  # of a run that did not get to its result
    folder.mkdir(parents=True)
    arguments = plan.cell_arguments(cell, folder, bench.run_data.task, bench.run_data.volumes is not None)
    for name, sentence, _ in without_effect(arguments, bench.run_data.known(), cell.entry.uses, cell.entry.name):
        if name in cell.entry.arguments:  # on this data; what no data makes read is refused before the first run
            logger.warning("%s", sentence)
    set_seed(cell.seed)
    trained = train(plan, cell, bench, arguments)
    task = trained.run_data.task
    splits = [trained.run_data.validation] + ([] if cell.tuning else [trained.run_data.test])
    scores, kept = {}, {}
    for split in splits:
        rows = trained.rows(split)
        scores[split.name] = {name: round(value, 6) for name, value in task.point_scores(rows).items()}
        kept |= {f"{split.name}/{name}": values for name, values in _kept(task, rows, split).items()}
    if trained.teacher_rows is not None and not (cell.tuning or trained.run_data.test.in_windows):
        rows = trained.teacher_rows(trained.run_data.test)
        scores["teacher"] = {"test": {name: round(value, 6) for name, value in task.point_scores(rows).items()}}
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    save_file(kept, folder / PREDICTIONS_FILE)
    result = {
        "settings": cell_settings(plan, cell, arguments),
        "data": bench.run_data.source["fingerprint"],
        **scores,
        "problem_type": task.problem_type,
        "label_names": task.names,
        **_shown_volumes(bench),
        "trained_parameters": trained.trained_parameters,
        "deployed_parameters": trained.deployed_parameters,
        **trained.details,
        **({"passed_over": bench.run_data.passed_over} if bench.run_data.passed_over and cell.shots is None else {}),
        "rd_hf_version": __version__,
    }
    write_json(result, folder / RESULT_FILE)


def _shown_volumes(bench: Bench) -> dict[str, Any]:
    """Of volumes, the voxels and channels that a model is shown at once."""
    shown = bench.run_data.volume_student
    return {} if shown is None else {"volumes": {"size": list(shown.size), "channels": shown.channels}}


def _kept(task: Task, rows: np.ndarray, split: OpenSplit) -> dict[str, np.ndarray]:
    """What paired tests need of a split: probabilities and labels or, of masks, the task's rows; and their units."""
    unit_of = {"units": units(len(rows), split.groups())}
    if isinstance(task, Classification):
        return {"probabilities": task.predicted(rows).astype(np.float64), "labels": task.labels(rows), **unit_of}
    return {"rows": rows, **unit_of}


def is_done(root: Path, cell: Cell) -> bool:
    """Whether a run has left its result."""
    return (root / cell.path / RESULT_FILE).exists()


def read_result(root: Path, cell: Cell) -> dict[str, Any]:
    """What a finished run left in result.json."""
    return json.loads((root / cell.path / RESULT_FILE).read_text(encoding="utf-8"))


def arguments_now(plan: Plan, cell: Cell, folder: Path, result: dict[str, Any]) -> DistillationArguments:
    """The arguments that a finished run would have now."""
    return plan.cell_arguments(cell, folder, task_of(result), "volumes" in result)


def task_of(result: dict[str, Any]) -> Task:
    """The task of a finished run."""
    problem_type = result.get("problem_type", SingleLabel.problem_type)
    return make_task(problem_type, result["label_names"], of_volumes="volumes" in result)


def cell_settings(plan: Plan, cell: Cell, arguments: DistillationArguments) -> dict[str, Any]:
    """Everything that a run's result depends on, as plain values. If it has changed, a finished run is not reused.

    :param arguments: with the data's defaults.
    """
    values = arguments.to_dict()
    values = {name: values[name] for name in names(DistillationArguments, lambda fact: fact.affects_result)}
    values |= {"comparison_method": cell.entry.method.name, "comparison_weight": cell.weight}
    if cell.entry.temperature is not None:
        values |= {"comparison_temperature": cell.entry.temperature}
    for name in ("teacher", "student"):  # a checkpoint may be trained again and saved under the same name
        checkpoint = getattr(arguments, name)
        if isinstance(checkpoint, str) and Path(checkpoint).is_dir():
            files = sorted(Path(checkpoint).glob("*.safetensors")) or sorted(Path(checkpoint).glob("*.bin"))
            values[f"{name}_weights"] = [_digest(file, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    if cell.entry.method.adapts_by_training:
        own = plan.adapting(cell)
        of_its_own = [own.entry.arguments] if own.entry.arguments else []
        values |= {"adaptation": [own.entry.method.name, own.learning_rate, own.weight, *of_its_own]}
    return values


@functools.cache
def _digest(file: Path, changed: int, size: int) -> str:
    """sha256 of a file's content, read once as long as it does not change."""
    return file_digest(file)
