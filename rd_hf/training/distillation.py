"""`rd_hf.distill` and `rd_hf.distill_from_models`: from names or models in hand to a student and the run's folder."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from transformers import BaseImageProcessor, PreTrainedModel

from ..arguments.config import arguments_from
from ..arguments.distillation import MODEL_IN_MEMORY, DistillationArguments
from ..arguments.effects import check_effects
from ..arguments.options import options, preset_in_words, public_values
from ..arguments.target_checks import check_targets
from ..arguments.values import ArgumentError
from ..data.pixels import PixelTransform
from ..data.timm_processor import savable
from ..hub import push as hub
from ..hub.publication import published_config
from ..inference.model_names import check_pair
from ..models.backbone import Backbone
from ..models.modeling_rd_student import RDStudent
from ..runtime.interrupts import Stopped, with_more
from ..runtime.processes import end_run, own_log, report_lost_process, start_accelerator
from ..runtime.progress import console
from ..students.loading import LoadedStudent, adopt_student
from ..students.timm_students import is_of_timm, note_images
from .assembly import assemble_models, load_models, open_trainer
from .checks import check_labels
from .compilation import check_compiler, compiled_models
from .models_in_hand import check_processor_of_student, check_processor_of_teacher
from .report import summary, write_report
from .run_data import RunData, load_run_data
from .run_folder import check_not_in_use, check_run_folder, open_run_folder
from .run_models import LoadedTeacher, Models, recompute_activations
from .trainer import Trainer

logger = logging.getLogger(__name__)

LoadModels = Callable[[DistillationArguments, RunData, Accelerator], tuple[LoadedStudent, LoadedTeacher | None]]


def distill(
    teacher: str | None = None,
    student: str | dict | None = None,
    dataset: Any = None,
    *,
    verbose: bool = True,
    **arguments: Any,
) -> RDStudent:
    """Distil a student from a frozen teacher.

    :param teacher: Hub id or folder of the foundation model; None with `method="ce"`.
    :param student: Hub id, folder, or inline transformers config (a dict with `model_type`).
    :param dataset: Hub id, folder, file, or a `datasets.DatasetDict` in memory.
    :param verbose: whether log lines, progress and the closing line are shown, as by `rd-hf distill`.
    :param arguments: any other field of `DistillationArguments`; without `output_dir` the run goes to `runs/<time>`.
    :return: the student with the weights that were best on validation. The run's folder holds it too, with the teacher,
        scores, predictions and plots.
    :raises ArgumentError: for an unknown or contradictory argument.
    """
    names = {"teacher": teacher, "student": student, "dataset": dataset}
    with console(verbose):
        return run_distillation(arguments_from(_with_folder(arguments | names)))


def distill_from_models(
    student: tuple[PreTrainedModel, BaseImageProcessor | None],
    backbone: tuple[PreTrainedModel | Backbone, BaseImageProcessor | None] | None,
    data: Any,
    arguments: Mapping[str, Any],
    *,
    verbose: bool = True,
) -> RDStudent:
    """Distil with models in hand: what `distill` does once it has loaded student and teacher.

    :param student: an image classifier of transformers for the data's classes, and its image processor. The classifier
        itself is trained, not a copy. Of volumes an RDVolumeProcessor, or None for what arguments and data give.
    :param backbone: the foundation model, which is frozen, and its image processor (None for a model of volumes, which
        then reads them in 0..1); None with `method="ce"`. A network that is not a model of transformers is wrapped in
        `rd_hf.TeacherNetwork`. A reprogrammed teacher that is loaded later needs the folder of this model, or the model
        itself.
    :param data: what `distill` takes as `dataset`.
    :param arguments: the fields of `DistillationArguments` that differ from their defaults.
    :param verbose: as in `distill`.
    :return: as in `distill`.
    :raises ArgumentError: for an argument that is unknown, contradictory, or about loading models by name.
    :raises StudentError: when the student's classes are not those of the data.
    """
    if not isinstance(arguments, Mapping):
        raise ArgumentError(
            f"`arguments` is of type {type(arguments).__name__}; it must be a mapping of names to values, such as "
            "{'max_steps': 500}."
        )
    for name, stated in options(DistillationArguments).items():
        if stated.loading and name in arguments:
            raise ArgumentError(f"`{name}` is only for models and data that are loaded by name: leave it out here.")
    student, backbone = check_pair("student", student), backbone and check_pair("teacher", backbone)
    in_hand = {"student": MODEL_IN_MEMORY, "teacher": backbone and MODEL_IN_MEMORY, "dataset": data}

    def adopt_models(
        arguments: DistillationArguments, run_data: RunData, accelerator: Accelerator
    ) -> tuple[LoadedStudent, LoadedTeacher | None]:
        """The models in hand, once the data says which classes there are."""
        torch.manual_seed(arguments.seed)
        classifier, processor = student
        processor = savable(processor)
        check_processor_of_student(processor, arguments, run_data)
        if run_data.volumes is not None and processor is not None:
            run_data.volume_processor = processor
        adopted = adopt_student(
            classifier, run_data.task.names, run_data.task.problem_type, volumes=run_data.volume_student
        )
        if is_of_timm(adopted.model.config):
            note_images(adopted.model.config, processor, PixelTransform(processor).size)
        own = LoadedStudent(adopted, processor, {"id": "local", "revision": None})
        if backbone is None or arguments.method == "ce":
            return own, None
        model, processor = backbone
        if not isinstance(model, Backbone):
            model = Backbone.from_model(model)
        processor = savable(processor)
        check_processor_of_teacher(model, processor)
        model.batch_size = arguments.teacher_batch_size or model.batch_size
        return own, LoadedTeacher(model, processor)

    with console(verbose):
        return _run(arguments_from(_with_folder(dict(arguments) | in_hand)), adopt_models)


def run_distillation(arguments: DistillationArguments) -> RDStudent:
    """Run one distillation as `arguments` say; see `distill`.

    :raises Stopped: after a signal, or when `max_run_time` is over.
    """
    return _run(arguments, load_models)


def _with_folder(values: dict[str, Any]) -> dict[str, Any]:
    """Arguments with a new folder for the run, where none is given.

    :raises ArgumentError: when a run is to be resumed, which has a folder.
    """
    if values.get("output_dir") is not None:
        return values
    if values.get("resume"):
        raise ArgumentError("`resume` needs `output_dir`, the folder of the run that goes on: give both, or neither.")
    return values | {"output_dir": _new_folder()}


def _new_folder() -> str:
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}"


def _run(arguments: DistillationArguments, load: LoadModels) -> RDStudent:
    check_effects(arguments)
    check_targets(arguments)
    seconds = arguments.seconds_to_run()
    deadline = None if seconds is None else time.monotonic() + seconds
    accelerator = start_accelerator(arguments)
    with report_lost_process(accelerator):
        # which by default names the time, and that may differ by a second
        arguments.output_dir = broadcast_object_list([arguments.output_dir])[0]
        return _run_joined(arguments, load, accelerator, deadline)


def _run_joined(
    arguments: DistillationArguments, load: LoadModels, accelerator: Accelerator, deadline: float | None
) -> RDStudent:
    set_seed(arguments.seed)
    check_run_folder(arguments)
    if accelerator.is_main_process:
        check_not_in_use(Path(arguments.output_dir))
    if arguments.torch_compile:
        check_compiler(accelerator.device)
    with accelerator.main_process_first():
        run_data = load_run_data(arguments)
    metric = run_data.task.selection_metric(arguments.metric_for_best_model)
    arguments = run_data.with_defaults(arguments.with_values(metric_for_best_model=metric))
    check_effects(arguments, run_data.known())
    check_labels(arguments, run_data)
    preset = preset_in_words(arguments, run_data.defaults(arguments.method))
    if preset is not None:
        logger.info("%s", preset)
    folder = Path(arguments.output_dir)
    models = assemble_models(*load(arguments, run_data, accelerator), arguments, run_data, accelerator)
    check_effects(arguments, run_data.known(models.student), tell=True)
    if arguments.push_to_hub and accelerator.is_main_process:  # fail before hours of training, not after them
        _check_destinations(arguments, models)
    trainer = open_trainer(arguments, accelerator, run_data, models)
    is_main = accelerator.is_main_process
    with open_run_folder(resolved(arguments, run_data, models, trainer)) if is_main else nullcontext():
        accelerator.wait_for_everyone()
        if arguments.report_to is not None:
            _start_trackers(arguments, accelerator)
        try:
            with own_log(accelerator, folder), report_lost_process(accelerator):  # whose words are for the log too
                train_and_report(run_data, models, trainer, deadline)
        except Stopped:
            end_run(accelerator)
            raise
        end_run(accelerator)
    if arguments.push_to_hub and accelerator.is_main_process:
        for kind, repo_id in _repos(arguments).items():
            logger.info("Published: %s", hub.push(folder / kind, repo_id, private=arguments.hub_private_repo))
    models.student.name_or_path = str((folder / "student").absolute())  # what `push_to_hub` publishes
    if arguments.gradient_checkpointing:
        recompute_activations(models.student, False)
    return models.student.eval()


def train_and_report(run_data: RunData, models: Models, trainer: Trainer, deadline: float | None) -> None:
    """Train and write the report; no process exits before all are done."""
    started = time.perf_counter()
    with compiled_models(models) if trainer.arguments.torch_compile else nullcontext():
        trainer.train(deadline)
    folder, accelerator = trainer.output_dir, trainer.accelerator
    try:
        scores = write_report(folder, run_data, models, trainer, time.perf_counter() - started)
    except KeyboardInterrupt as interrupt:
        ended = f"The training has ended. `rd-hf report {folder}` scores its models and writes the report."
        raise with_more(interrupt, ended) from None
    if accelerator.is_main_process:
        logger.info("%s", summary(scores, run_data, folder))
    accelerator.wait_for_everyone()


def _repos(arguments: DistillationArguments) -> dict[str, str]:
    """Where the run's student and teacher are published, by the names of their folders."""
    repos = {"student": arguments.hub_model_id, "teacher": arguments.hub_teacher_id}
    return {kind: repo_id for kind, repo_id in repos.items() if repo_id is not None}


def _check_destinations(arguments: DistillationArguments, models: Models) -> None:
    """:raises PushError: when a model of this run may not be published where it is to go."""
    for kind, repo_id in _repos(arguments).items():
        model = models.student if kind == "student" else models.teacher
        config = json.loads(model.config.to_json_string(use_diff=False))
        hub.check_destination(repo_id, published_config(config, None), private=arguments.hub_private_repo)


def resolved(
    arguments: DistillationArguments, run_data: RunData, models: Models, trainer: Trainer
) -> DistillationArguments:
    """The arguments with the steps and Hub commits that they came to, so that config.yaml gives the same run later."""
    found = {name: getattr(trainer, name) for name in ("max_steps", "eval_steps", "save_steps")}
    commits = {
        "dataset_revision": run_data.source["revision"],
        "student_revision": models.student.config.provenance["student_base"]["revision"],
        "teacher_revision": None if models.backbone is None else models.backbone.source["revision"],
    }
    return arguments.with_values(**found, **{name: commit for name, commit in commits.items() if commit is not None})


def _start_trackers(arguments: DistillationArguments, accelerator: Accelerator) -> None:
    """The arguments for trackers: all except local paths."""
    values = public_values(arguments)
    accelerator.init_trackers("rd_hf", config={name: str(value) for name, value in values.items()})
