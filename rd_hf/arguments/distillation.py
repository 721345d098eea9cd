"""The arguments of a distillation: one dataclass serves the command line, YAML files and Python.

Names are those of transformers' TrainingArguments wherever they mean the same thing.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .values import ArgumentError, nearest, number_of_views, parse_yaml_value, plain_value

POSITIVE = """student_image_size teacher_batch_size num_views verify_cache projector_channels projector_layers shots num_train_epochs temperature
    learning_rate per_device_train_batch_size per_device_unlabeled_batch_size per_device_eval_batch_size eval_steps
    gradient_accumulation_steps logging_steps save_steps save_total_limit early_stopping_patience process_timeout"""
NOT_NEGATIVE = """hybrid_weight hybrid_weight_end kl_weight kl_weight_end cka_weight weight_decay max_grad_norm
    dataloader_num_workers seed split_seed view_seed rotation_degrees scale shift brightness contrast gamma label_smoothing warmup_ratio"""
LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
LONGEST_HOURS = 10_000
IN_MEMORY = "(a data set in memory)"
MODEL_IN_MEMORY = "(a model in memory)"


def _argument(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class DistillationArguments:
    """Everything a run depends on.

    The weights of the loss have the papers' values (RD: arXiv 2407.06504, DRD: arXiv 2605.04447) where these give one;
    the other defaults were chosen on validation data.

    :raises ArgumentError: when a value is out of range or two arguments contradict each other.
    """

    # fmt: off
    dataset: dict | str | None = _argument(None, "Hub id or folder, .npz, .csv or .parquet file of labelled images")
    student: dict | str | None = _argument(None, "Hub id, folder, or inline transformers config such as '{model_type: resnet, depths: [1, 1, 1, 1]}'")
    teacher: str | None = _argument(None, "Hub id or folder of the frozen foundation model; not needed with method ce")
    output_dir: str | None = _argument(None, "folder for everything the run leaves")
    method: Literal["rd", "drd", "ce"] = _argument("rd", "rd reprograms the teacher's last stage, drd all of them, ce trains the student alone")

    teacher_revision: str | None = _argument(None, "branch, tag or commit of the teacher")
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = _argument("float32", "precision of the frozen teacher; bfloat16 is about twice as fast where the processor has it")
    teacher_batch_size: int | None = _argument(None, "images per teacher forward; by default 8 on a CPU (larger ones are slower there), the whole batch on a GPU")
    teacher_device_map: dict | str | None = _argument(None, "auto, or a YAML mapping of modules to devices: spreads a teacher too large for one GPU over those of the machine (one process a machine)")
    teacher_stages: list | str | None = _argument(None, "module paths of the teacher's stages as a YAML list, where they cannot be found")
    student_revision: str | None = _argument(None, "branch, tag or commit of the student")
    student_stages: list | str | None = _argument(None, "module paths of the student's stages as a YAML list, where they cannot be found")
    student_image_size: int | None = _argument(None, "side of the square image that the student sees; by default that of its own processor or config")
    projector_channels: int = _argument(256, "width of the projectors' bottleneck, at most twice the student's channels at the stage")
    projector_layers: int = _argument(3, "convolutions of a projector; 1 is a linear map")
    trust_remote_code: bool = _argument(False, "run model code found in the teacher's or student's repo")

    dataset_config_name: str | None = _argument(None, "configuration of a Hub data set")
    dataset_revision: str | None = _argument(None, "branch, tag or commit of a Hub data set")
    image_column: str | None = _argument(None, "column of images, where it cannot be found")
    label_column: list | str | None = _argument(None, "column of labels, or a YAML list of 0/1 columns for a multi-label task")
    group_column: str | None = _argument(None, "column that names the patient: one patient stays on one side of every split made here")
    validation_fraction: float = _argument(0.15, "share of train that becomes validation where the data has none")
    test_fraction: float = _argument(0.15, "share of train that becomes test where the data has none")
    shots: int | None = _argument(None, "labels a class (multi-label: positive labels a class); the rest of train is unlabelled")
    label_fraction: float | None = _argument(None, "share of train that keeps its labels; the rest of train is unlabelled")
    use_unlabeled: bool = _argument(False, "learn from the train rows without label too, by the terms that need none")
    unlabeled_dataset: str | None = _argument(None, "further images without labels, named as dataset is")
    on_bad_image: Literal["error", "skip"] = _argument("error", "stop at an image that cannot be read, or skip, count and list them")
    on_leak: Literal["error", "warn"] = _argument("warn", "stop where two splits share images (pixel by pixel) or values of group_column, or count and report them")

    hybrid_weight: float = _argument(1.0, "alpha at the first step: cross-entropy of the hybrid logits")
    hybrid_weight_end: float = _argument(0.0, "alpha at the last step (linear in between)")
    kl_weight: float = _argument(1.0, "beta at the first step: KL from the hybrid logits to the student's")
    kl_weight_end: float = _argument(0.0, "beta at the last step (linear in between)")
    cka_weight: float = _argument(1.0, "gamma: 1 - CKA of reprogrammed and student features")
    temperature: float = _argument(1.0, "temperature of the KL term")
    cka_estimator: Literal["debiased", "biased"] = _argument("debiased", "the biased one gives almost no signal in small batches")
    cka_features: Literal["pooled", "flattened"] = _argument("pooled", "CKA on what the head reads, or on whole maps")
    detach_hybrid_in_kl: bool = _argument(True, "KL trains the student only, not the projectors")
    detach_reprogrammed_in_cka: bool = _argument(False, "CKA trains the student only, not the projectors")
    class_weights: Literal["none", "balanced"] = _argument("none", "weigh classes by inverse frequency (multi-label: positives)")
    label_smoothing: float = _argument(0.0, "label smoothing of the cross-entropies")

    num_views: int | str | None = _argument(16, "augmented views an image; in later epochs they come round again, and the teacher's features are read from the cache. `endless` (in YAML also null) shows a new view in every epoch and runs the teacher at every step")
    cache: bool = _argument(True, "keep the teacher's features of each image and view on disk, for this and later runs; --no_cache runs the teacher at every step on the same views")
    cache_dir: str | None = _argument(None, "folder of the caches; by default that of the environment variable RD_HF_CACHE, else rd_hf/teacher_features in the folder of Hugging Face's files")
    cache_dtype: Literal["float16", "bfloat16", "float32"] | None = _argument(None, "precision of cached features; by default float16 for a float32 teacher, otherwise the teacher's own")
    verify_cache: int | None = _argument(None, "cached features, drawn at random, that are computed again and compared before training")
    augment: bool = _argument(True, "augment the training images; teacher and student see the same view")
    rotation_degrees: float = _argument(10.0, "largest rotation")
    scale: float = _argument(0.1, "largest relative change of size")
    shift: float = _argument(0.05, "largest shift, relative to the image side")
    horizontal_flip: bool = _argument(True, "mirror left and right; turn off where laterality matters")
    vertical_flip: bool = _argument(False, "mirror top and bottom")
    brightness: float = _argument(0.1, "largest change of brightness, relative to the full range")
    contrast: float = _argument(0.2, "largest relative change of contrast")
    gamma: float = _argument(0.2, "gamma lies between 1 / (1 + this) and 1 + this")

    num_train_epochs: float = _argument(60.0, "passes over the labelled rows")
    max_steps: int = _argument(-1, "optimiser steps; overrides num_train_epochs when positive")
    per_device_train_batch_size: int = _argument(32, "labelled images a step and process")
    per_device_unlabeled_batch_size: int = _argument(64, "unlabelled images a step and process")
    per_device_eval_batch_size: int = _argument(64, "images a forward in evaluation")
    gradient_accumulation_steps: int = _argument(1, "batches an optimiser step")
    cka_batch: Literal["global", "local"] = _argument("global", "CKA of all rows of an optimiser step, over processes and accumulated batches (these then run the student's forward twice), or of each batch on its own, averaged")
    sync_batch_norm: bool = _argument(False, "the student's batch norms see the batches of all processes (GPU)")
    learning_rate: float = _argument(1e-3, "highest learning rate of AdamW")
    weight_decay: float = _argument(0.05, "decoupled weight decay, not on norms and biases")
    warmup_ratio: float = _argument(0.05, "share of the steps in which the learning rate rises")
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = _argument("cosine", "course of the learning rate after warm-up")
    max_grad_norm: float = _argument(1.0, "gradients are clipped to this norm; 0 turns it off")
    bf16: bool = _argument(False, "bfloat16 mixed precision for the trained part")
    fp16: bool = _argument(False, "float16 mixed precision for the trained part (GPU)")
    torch_compile: bool = _argument(False, "compile the blocks of student and teacher with torch.compile for the training; the first steps are slow")
    gradient_checkpointing: bool = _argument(False, "recompute the student's activations to save memory")
    dataloader_num_workers: int = _argument(0, "processes that fetch batches")
    seed: int = _argument(0, "seed of splits, shots, initial weights, order, views and dropout")
    split_seed: int | None = _argument(None, "seed of the splits that are made here; by default `seed`. Runs of several seeds that share one are scored on the same images")
    view_seed: int | None = _argument(None, "seed of the views; by default `seed`. Runs of several seeds that share one also share a cache")

    metric_for_best_model: Literal["auroc", "accuracy", "balanced_accuracy", "f1", "average_precision"] = _argument("auroc", "validation metric that chooses the model")
    eval_steps: int | None = _argument(None, "steps between evaluations on validation; by default 20 evaluations a run")
    logging_steps: int = _argument(10, "steps between training rows in metrics.jsonl")
    save_steps: int | None = _argument(None, "steps between checkpoints; by default at every evaluation")
    save_total_limit: int = _argument(2, "checkpoints kept")
    process_timeout: float = _argument(30.0, "minutes that processes wait for one that does not answer, before the run ends and names it")
    max_run_time: str | None = _argument(None, "hours or HH:MM:SS after which the run saves and ends with exit code 85, to be resumed")
    early_stopping_patience: int | None = _argument(None, "evaluations without improvement before the run stops")
    report_to: list | str | None = _argument(None, "an Accelerate tracker or a YAML list of them, for instance tensorboard or wandb")
    license: str | None = _argument(None, "licence of what is published, as the Hub spells it (apache-2.0, cc-by-nc-4.0, other); the card says so if none is given")
    push_to_hub: bool = _argument(False, "push the student to hub_model_id when the run has ended")
    hub_model_id: str | None = _argument(None, "name of the repo on the Hub, such as me/xray-student")
    hub_teacher_id: str | None = _argument(None, "also push the reprogrammed teacher, to this repo")
    hub_private_repo: bool = _argument(False, "make the repos private that are new")
    resume: bool = _argument(False, "continue from the last checkpoint in output_dir")
    overwrite_output_dir: bool = _argument(False, "delete what an earlier run left in output_dir")
    # fmt: on

    def __post_init__(self):
        self.num_views = number_of_views(self.num_views)
        for name, annotation in get_type_hints(type(self)).items():
            setattr(self, name, plain_value(name, getattr(self, name), annotation))
        self.student = parse_yaml_value(self.student)
        self.label_column = parse_yaml_value(self.label_column)
        self.teacher_device_map = parse_yaml_value(self.teacher_device_map)
        self.teacher_stages = parse_yaml_value(self.teacher_stages)
        self.student_stages = parse_yaml_value(self.student_stages)
        self.report_to = None if self.report_to == "none" else parse_yaml_value(self.report_to)
        for name in ("dataset", "student"):
            if getattr(self, name) is None:
                raise ArgumentError(f"`{name}` is missing: give --{name}, or `{name}:` in the configuration file.")
        if self.method != "ce" and self.teacher is None:
            raise ArgumentError(f"`teacher` is missing: method {self.method} needs one. Only method ce trains without.")
        self._check_ranges()
        self._check_together()
        self.seconds_to_run()

    def _check_ranges(self):
        for name in POSITIVE.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(f"`{name}` is {value}; it must be above 0.")
        if self.label_smoothing >= 1 or self.warmup_ratio > 1:
            raise ArgumentError("`label_smoothing` must be below 1, `warmup_ratio` at most 1.")
        for name in ("validation_fraction", "test_fraction", "label_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ArgumentError(f"`{name}` is {value}; it must lie between 0 and 1.")
        for name in NOT_NEGATIVE.split():
            if (getattr(self, name) or 0) < 0:
                raise ArgumentError(f"`{name}` is {getattr(self, name)}; it must not be negative.")
        for name, annotation in get_type_hints(type(self)).items():
            literal = next((kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal), None)
            may_be_none = literal is not annotation and getattr(self, name) is None
            choices = get_args(literal)
            if literal is not None and not may_be_none and getattr(self, name) not in choices:
                raise ArgumentError(f"`{name}` is {getattr(self, name)!r}; it must be one of {', '.join(choices)}.")

    def _check_together(self):
        if self.shots is not None and self.label_fraction is not None:
            raise ArgumentError("`shots` and `label_fraction` both say how many labels are kept: give one of them.")
        if self.bf16 and self.fp16:
            raise ArgumentError("`bf16` and `fp16` exclude each other.")
        if self.verify_cache and not (self.uses_cache and self.num_views):
            raise ArgumentError("`verify_cache` needs a cache: a teacher, a number of views, and not `no_cache`.")
        if self.push_to_hub and self.hub_model_id is None:
            raise ArgumentError("`push_to_hub` needs `hub_model_id`, the name of the repo, such as me/xray-student.")
        if self.hub_teacher_id is not None and (not self.push_to_hub or self.method == "ce"):
            raise ArgumentError("`hub_teacher_id` needs `push_to_hub`, and a method that has a teacher.")
        if self.license is not None and not LICENSE.fullmatch(self.license):
            raise ArgumentError(f"`license` is {self.license!r}; it must be spelt as on the Hub, such as apache-2.0.")
        if self.resume and self.overwrite_output_dir:
            raise ArgumentError("`resume` and `overwrite_output_dir` exclude each other.")
        if self.use_unlabeled and not (self.shots or self.label_fraction or self.unlabeled_dataset):
            raise ArgumentError(
                "`use_unlabeled` finds no unlabelled rows: every train row has its label. Name an `unlabeled_dataset`, "
                "or withhold labels with `shots` or `label_fraction`."
            )

    def seconds_to_run(self) -> float | None:
        """`max_run_time` in seconds.

        :raises ArgumentError: when it is neither hours nor HH:MM:SS.
        """
        if self.max_run_time is None:
            return None
        parts = str(self.max_run_time).split(":")
        try:
            hours, minutes, seconds = (float(part) for part in (parts if len(parts) == 3 else [*parts, 0, 0]))
        except ValueError:
            hours = minutes = seconds = 0.0
        total = 3600 * hours + 60 * minutes + seconds
        # YAML reads 12:00:00 without quotes as the number 43200.
        if not 0 < total < 3600 * LONGEST_HOURS or minutes < 0 or seconds < 0:
            raise ArgumentError(
                f"`max_run_time` is {self.max_run_time!r}; it must be hours, below {LONGEST_HOURS}, or HH:MM:SS (in a "
                "YAML file in quotes)."
            )
        return total

    @property
    def seed_of_views(self) -> int:
        """What the augmentation of each (row, view) follows from."""
        return self.seed if self.view_seed is None else self.view_seed

    @property
    def seed_of_splits(self) -> int:
        """What missing splits are drawn by."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def views(self) -> int | None:
        """Different views an image has; None: a new one every epoch."""
        return self.num_views if self.augment else 1

    @property
    def uses_cache(self) -> bool:
        """Whether the teacher's features are kept: there is a teacher, the views are limited, and it is wanted."""
        return self.cache and self.views is not None and self.method != "ce"

    @property
    def uses_unlabeled(self) -> bool:
        """Whether rows without label enter the training. Method ce has no term for them."""
        return self.method != "ce" and (self.use_unlabeled or self.unlabeled_dataset is not None)

    def to_dict(self) -> dict[str, Any]:
        """All arguments as plain values, in their order above; a data set in memory is only said to be one."""
        values = {field_.name: getattr(self, field_.name) for field_ in dataclasses.fields(self)}
        for name in ("dataset", "unlabeled_dataset"):
            if values[name] is not None and not isinstance(values[name], str):
                values[name] = IN_MEMORY
        return values


def arguments_from(values: dict[str, Any], kind: type = DistillationArguments):
    """Build an argument dataclass from names and values, with a helpful error for a name that does not exist.

    :raises ArgumentError: naming the unknown argument and the nearest one there is.
    """
    check_names(values, kind)
    return kind(**values)


def check_names(values: dict[str, Any], kind: type = DistillationArguments, where: str = "") -> None:
    """:raises ArgumentError: when a name in `values` is not a field of `kind`."""
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ArgumentError(f"Unknown argument `{name}`{where}.{nearest(name, known)}")


def read_config(path: str | Path, kind: type = DistillationArguments) -> dict[str, Any]:
    """Read a YAML file of the arguments of `kind`.

    :raises ArgumentError: when the file is missing, is no YAML mapping, or has an unknown key.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"There is no configuration file {path}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArgumentError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"{path} must hold `name: value` lines, not a {type(values).__name__}.")
    check_names(values, kind, f" in {path}")
    return values


def write_config(arguments: DistillationArguments, path: str | Path) -> None:
    """Write every argument as YAML, so that `--config` with this file runs the same job again."""
    values = arguments.to_dict() | {"resume": False, "overwrite_output_dir": False}
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
