"""The fields of a distillation that say how it trains, runs and publishes; `options.Option` explains the facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .options import option

LARGEST_SEED = 2**32 - 1  # that numpy's global generator takes

_data = partial(option, group="data", compare="data")
_views = partial(option, group="views and cache", compare="any")
_run = partial(option, group="run", card=False)
_training = partial(option, group="training", compare="any")
_processes = partial(option, group="processes and precision", compare="any")
_logging = partial(option, group="evaluation and logging", compare="any")
_publishing = partial(option, group="publishing", compare="never", resume="allowed", card=False)


@dataclass
class TrainingFields:
    """Views, optimiser, processes, evaluation, publishing and the folder of the run.

    Names are those of transformers' TrainingArguments wherever they mean the same thing.
    """

    # fmt: off
    num_views: int | str | None = _views(
        16, "augmented views per image; later epochs repeat them and read the teacher's features from the cache. "
        "`endless` (in YAML also null) draws a new view in every epoch and runs the teacher at every step",
        above=0, text="words", card=True,
    )
    cache: bool = _views(
        True, "keep the teacher's features of each image and view on disk, for this run and later ones; without it "
        "the teacher runs at every step, on the same views",
    )
    cache_dir: str | None = _views(
        None, "folder of the caches; by default the environment variable RD_HF_CACHE, or else rd_hf/teacher_features "
        "in the Hugging Face cache", text="folder", resume="allowed", affects_result=False,
    )
    cache_limit: str | None = _views(
        None, "largest size of the cache, such as 500MB, 20GB or 20GiB; features beyond it are computed at every step. "
        "Of volumes one half is for features, the other for the resampled volumes that a run keeps in TMPDIR. By "
        "default half of the free disk, to which the space of the cache itself counts",
        text="words", resume="allowed", affects_result=False,
    )
    cache_dtype: Literal["float16", "bfloat16", "float32", "int8"] | None = _views(
        None, "precision of cached features; by default float16 for a float32 teacher, otherwise the teacher's own. "
        "int8 halves the size of maps: a byte per value, and a scale per image, view and channel; vectors and maps of "
        "up to 4 positions stay float16, which is smaller for them",
    )
    verify_cache: int | None = _views(
        None, "number of randomly drawn cached features to recompute and compare before training",
        above=0, card=False, resume="allowed", compare="never",
    )
    augment: bool = _views(True, "augment what train shows; teacher and student see the same view")
    rotation_degrees: float = _views(
        10.0, "largest rotation; of volumes about the axis from feet to head, and a third of it about the others",
        at_least=0, at_most=180,
    )  # fmt: skip
    scale: float = _views(0.1, "largest relative change in size", at_least=0)
    shift: float = _views(
        0.05, "largest shift, relative to the image side; crops of volumes lie anywhere", at_least=0, below=1,
    )
    horizontal_flip: bool = _views(True, "mirror left and right; turn off if laterality matters")
    vertical_flip: bool = _views(False, "mirror top and bottom; of volumes front and back, and head and feet")
    brightness: float = _views(0.1, "largest change in brightness, relative to the full range", at_least=0)
    contrast: float = _views(0.2, "largest relative change in contrast", at_least=0)
    gamma: float = _views(0.2, "brightness curve: its exponent lies between 1 / (1 + this) and 1 + this", at_least=0)

    num_train_epochs: float | None = _training(
        None, "passes over the labelled rows; by default 60, and more if these are fewer than 300 optimiser steps",
        above=0,
    )
    max_steps: int = _training(-1, "optimiser steps, in place of num_train_epochs, if positive", at_least=-1)
    per_device_train_batch_size: int | None = _training(
        None, "labelled rows per step and process; by default 32, and 4 of volumes", above=0, resume="allowed",
    )
    per_device_unlabeled_batch_size: int | None = _training(
        None, "unlabelled rows per step and process; by default 64, and 4 of volumes", above=0, resume="allowed",
    )
    per_device_eval_batch_size: int = _logging(64, "images per forward pass in evaluation", above=0, resume="allowed")
    gradient_accumulation_steps: int = _training(
        1, "batches per optimiser step", above=0, resume="allowed", compare="never",
    )
    cka_batch: Literal["global", "local"] = _processes(
        "global", "global: CKA of all rows of an optimiser step, over processes and accumulated batches (which then "
        "run the student's forward pass twice); local: of each batch on its own, averaged",
    )
    sync_batch_norm: bool = _processes(False, "the student's batch norms use the batches of all processes (GPU)")
    learning_rate: float = _training(1e-3, "highest learning rate of AdamW", above=0)
    weight_decay: float = _training(0.05, "decoupled weight decay, not applied to norms and biases", at_least=0)
    warmup_ratio: float = _training(0.05, "share of the steps in which the learning rate rises", at_least=0, at_most=1)
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = _training(
        "cosine", "schedule of the learning rate after warm-up",
    )
    max_grad_norm: float = _training(1.0, "gradients are clipped to this norm; 0 turns clipping off", at_least=0)
    bf16: bool = _processes(False, "bfloat16 mixed precision for the trained part", compare="data")
    fp16: bool = _processes(False, "float16 mixed precision for the trained part (GPU)", compare="data")
    torch_compile: bool = _processes(
        False, "compile the blocks of student and teacher with torch.compile; the first steps are slow", compare="never"
    )
    gradient_checkpointing: bool = _processes(False, "recompute the student's activations to save memory")
    dataloader_num_workers: int = _processes(
        0, "worker processes that load batches", at_least=0, resume="allowed", affects_result=False,
    )
    seed: int = _training(
        0, "seed of splits, shots, initial weights, order, views and dropout", at_least=0, at_most=LARGEST_SEED,
        compare="grid",
    )
    split_seed: int | None = _data(
        None, "seed of the splits made here; by default `seed`. Runs with different seeds that share it are scored on "
        "the same images", at_least=0,
    )
    view_seed: int | None = _views(
        None, "seed of the views; by default `seed`. Runs with different seeds that share it also share a cache",
        at_least=0, compare="data",
    )

    metric_for_best_model: (
        Literal["auroc", "accuracy", "balanced_accuracy", "f1", "average_precision", "dice", "iou"] | None
    ) = _logging(
        None, "validation metric that chooses the model; by default auroc, and dice for masks",
    )
    operating_point: str | None = _logging(
        None, "classes only: rule for a threshold on validation: sensitivity=0.95, specificity=0.9, or youden. The "
        "threshold is stored with the student, and predict and evaluate decide by it",
        text="words", card=True, resume="allowed", affects_result=False, compare="never",
    )
    positive_label: str | None = _logging(
        None, "one label per image: the class whose sensitivity and specificity operating_point means; of two classes "
        "by default the last", text="words", resume="allowed", affects_result=False, compare="never",
    )
    eval_steps: int | None = _logging(
        None, "steps between evaluations on validation; by default 20 evaluations per run", above=0,
    )
    logging_steps: int = _logging(
        10, "steps between training rows in metrics.jsonl", above=0, resume="allowed", affects_result=False,
    )
    save_steps: int | None = _logging(
        None, "steps between checkpoints; by default one at every evaluation",
        above=0, resume="allowed", affects_result=False, compare="never",
    )
    save_total_limit: int = _logging(
        2, "checkpoints that are kept", above=0, resume="allowed", affects_result=False, compare="never",
    )
    process_timeout: float = _processes(
        30.0, "minutes that processes wait for one that does not answer; then the run ends and names it",
        above=0, resume="allowed", affects_result=False,
    )
    max_run_time: str | None = _run(
        None, "hours or HH:MM:SS after which the run saves a checkpoint and exits with code 85, ready to be resumed",
        text="words", card=True, resume="allowed", compare="never",
    )
    early_stopping_patience: int | None = _training(
        None, "evaluations without improvement after which the run stops", above=0, resume="allowed",
    )
    report_to: list | str | None = _logging(
        None, "an Accelerate tracker such as tensorboard or wandb, or a YAML list of them",
        text="words", resume="allowed", compare="never",
    )
    license: str | None = _publishing(
        None, "licence of what is published, as spelled on the Hub (apache-2.0, cc-by-nc-4.0, other); if none is "
        "given, the card says so", text="words",
    )
    card_images: bool = _publishing(
        False, "masks only: show test images with their masks in the student's card; these are pictures of patients, "
        "and are published with it",
    )
    report_images: bool = _run(
        True, "show test images, which may be of patients, and file names in report.html, which is never pushed",
        resume="allowed", affects_result=False, compare="never",
    )
    push_to_hub: bool = _publishing(False, "push the student to hub_model_id when the run has ended")
    hub_model_id: str | None = _publishing(None, "name of the repo on the Hub, such as me/xray-student", text="words")
    hub_teacher_id: str | None = _publishing(None, "also push the reprogrammed teacher, to this repo", text="words")
    hub_private_repo: bool = _publishing(False, "make new repos private; one that is public is refused")
    resume: bool = _run(False, "continue from the last checkpoint in output_dir", resume="ignored", compare="never")
    overwrite_output_dir: bool = _run(
        False, "delete what an earlier run left in output_dir", resume="ignored", compare="never",
    )
    # fmt: on
