"""The fields of a distillation's arguments, each with all that is known of it.

Names are those of transformers' TrainingArguments wherever they mean the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .options import option

# What the arguments of a group have in common; `options.Option` explains the facts.
_data = partial(option, group="data", compare="data")
_volumes = partial(_data, card=True)
_models = partial(option, group="models", compare="any")
_run = partial(option, group="run", card=False)
_method = partial(option, group="method and loss", compare="reprogramming")
_views = partial(option, group="views and cache", compare="any")
_training = partial(option, group="training", compare="any")
_processes = partial(option, group="processes and precision", compare="any")
_logging = partial(option, group="evaluation and logging", compare="any")
_publishing = partial(option, group="publishing", compare="never", resume="allowed", card=False)


@dataclass
class DistillationFields:
    """The fields of `rd_hf.arguments.distillation.DistillationArguments`, in their order.

    The weights of the loss have the papers' values (RD: arXiv 2407.06504, DRD: arXiv 2605.04447) where these give one;
    the other defaults were chosen on validation data.
    """

    # fmt: off
    dataset: dict | str | None = _data(
        None, "Hub id, folder, or .npz, .csv or .parquet file of labelled images or volumes",
        required=True, text="data", loading=True,
    )
    student: dict | str | None = _models(
        None, "Hub id, folder, or inline transformers config such as '{model_type: resnet, depths: [1, 1, 1, 1]}'",
        required=True, text="model", loading=True,
    )
    teacher: str | None = _models(
        None, "Hub id or folder of the frozen foundation model; method ce needs none",
        text="model", compare="teachers", loading=True,
    )
    output_dir: str | None = _run(
        None, "folder for everything that the run writes",
        text="folder", resume="ignored", affects_result=False, compare="grid",
    )
    method: Literal["rd", "drd", "ce"] = _method(
        "rd", "rd reprograms the teacher's last stage, drd all its stages; ce trains the student alone", compare="grid",
    )

    teacher_revision: str | None = _models(None, "branch, tag or commit of the teacher", text="words", loading=True)
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = _models(
        "float32", "precision of the frozen teacher; bfloat16 is about twice as fast on hardware that supports it",
        loading=True,
    )
    teacher_batch_size: int | None = _models(
        None, "images per forward pass of the teacher; by default 8 on a CPU (larger batches are slower there) and "
        "the whole batch on a GPU", above=0, resume="allowed", affects_result=False,
    )
    teacher_device_map: dict | str | None = _models(
        None, "auto, or a YAML mapping of modules to devices: splits a teacher that is too large for one GPU over all "
        "GPUs of the machine (one process per machine)", text="words", card=True, resume="allowed", loading=True,
    )
    teacher_stages: list | str | None = _models(
        None, "YAML list of module paths of the teacher's stages, if they cannot be found automatically",
        text="words", card=True,
    )
    slice_axis: Literal["axial", "coronal", "sagittal"] = _models(
        "axial", "volumes: the slices in which a teacher of images reads them",
    )
    student_revision: str | None = _models(None, "branch, tag or commit of the student", text="words", loading=True)
    student_stages: list | str | None = _models(
        None, "YAML list of module paths of the student's stages, if they cannot be found automatically",
        text="words", card=True,
    )
    student_image_size: int | None = _models(
        None, "side of the square image that the student sees, in pixels; by default from its processor or config. For "
        "volumes give volume_size or crop_size",
        above=0, loading=True,
    )
    projector_channels: int = _models(
        256, "width of a projector's bottleneck; at most twice the student's channels at that stage are used",
        above=0, compare="reprogramming",
    )
    projector_layers: int = _models(
        3, "convolutions per projector; 1 is a linear map", above=0, compare="reprogramming",
    )
    trust_remote_code: bool = _models(False, "run model code from the teacher's or student's repo", loading=True)

    dataset_config_name: str | None = _data(None, "configuration of a Hub data set", text="words")
    dataset_revision: str | None = _data(None, "branch, tag or commit of a Hub data set", text="words")
    image_column: str | None = _data(
        None, "column of images or volumes, if it cannot be found automatically", text="words"
    )
    label_column: list | str | None = _data(
        None, "column of labels, or a YAML list of 0/1 columns for a multi-label task", text="words",
    )
    label_kind: Literal["auto", "single", "multi"] = _data(
        "auto", "labels per image: single is one and multi is any number; auto reads names joined by | as several, and "
        "0/1 rows with exactly one 1 as one",
    )
    uncertain: Literal["ignore", "positive", "negative"] | None = _data(
        None, "how -1 is read in 0/1 columns: ignore leaves it out of loss and scores, positive is 1, negative is 0; "
        "each of them reads an empty cell as 0",
    )
    task: Literal["auto", "classification", "segmentation"] = _data(
        "auto", "classes of images, or of pixels (masks); auto is segmentation for data with masks and no classes",
    )
    mask_column: str | None = _data(None, "column of masks, if it cannot be found automatically", text="words")
    mask_colors: dict | str | None = _data(
        None, "YAML mapping of the colours of masks to classes, such as '{\"#ff0000\": tumour, \"0,255,0\": organ}'; "
        "black is the background where it is not named", text="words",
    )
    label_names: dict | str | list | None = _data(
        None, "only for masks: YAML list of the classes of the values 0, 1, ..., or a mapping such as "
        "'{0: background, 255: lesion}'", text="words",
    )
    group_column: str | None = _data(
        None, "column that identifies the patient: splits made here never share a patient", text="words",
    )
    validation_fraction: float = _data(
        0.15, "share of train that becomes validation if the data has no such split", above=0, below=1,
    )
    test_fraction: float = _data(
        0.15, "share of train that becomes test if the data has no such split", above=0, below=1,
    )
    shots: int | None = _data(
        None, "labels per class (multi-label: positive labels per class; masks: labelled rows in all); the rest of "
        "train is unlabelled", above=0, compare="grid",
    )
    label_fraction: float | None = _data(
        None, "share of train that keeps its labels; the rest of train is unlabelled", above=0, below=1, compare="grid",
    )
    use_unlabeled: bool = _data(
        False, "also train on the unlabelled rows of train, with the loss terms that need no labels", compare="grid",
    )
    unlabeled_dataset: str | None = _data(
        None, "more images or volumes, without labels, named in the same way as dataset", text="data",
    )
    on_bad_image: Literal["error", "skip"] = _data(
        "error", "error stops at an unreadable file; skip leaves it out and lists it",
    )
    page: int | None = _data(
        None, "page or frame to read of files with several, from 1; by default they are refused", above=0, card=False,
    )
    dicom_window: str | None = _data(
        None, "window of DICOM files: center,width (such as 40,400), minmax, or none for the whole range of the bits; "
        "by default the file's own, or minmax", text="words",
    )
    dimensions: Literal["auto", "2", "3"] = _data(
        "auto", "2 reads images, 3 volumes (NIfTI, DICOM series, MedMNIST3D); auto finds it from the data",
    )
    spacing: list | str | None = _volumes(
        None, "masks of volumes: millimetres from voxel to voxel (to the right, front and head of the patient) that "
        "every volume is resampled to, such as 1,1,2; by default the median of train", text="words",
    )
    intensity_window: list | str | None = _volumes(
        None, "volumes: lowest and highest value that is shown, such as -160,240 (CT, in HU), or lung, bone, soft or "
        "brain; by default the volume's own percentiles 0.5 and 99.5, and a z-score (MR)", text="words",
    )
    volume_size: list | str | None = _volumes(
        None, "classes of volumes: voxels along each axis that the whole volume is resized to, such as 64 or "
        "64,64,48; by default 64, where no side of the median volume is smaller", text="words",
    )
    crop_size: list | str | None = _volumes(
        None, "masks of volumes: voxels along each axis of the crops that student and teacher see, such as 96,96,64; "
        "by default 96, where no side of the median volume is smaller", text="words",
    )
    volume_channels: int | None = _data(
        None, "volumes: channels of each volume, which are files CASE_0000, CASE_0001, ... or the last axis of a 4D "
        "NIfTI file; by default 1", above=0,
    )
    on_leak: Literal["error", "warn"] = _data(
        "warn", "error stops if two splits share images or volumes (value by value) or values of group_column; "
        "warn counts and reports them", resume="allowed",
    )

    skips: Literal["own", "reprogrammed"] = _method(
        "reprogrammed", "masks only: whether a hybrid pass reads the student's own features of shallower stages, "
        "or reprogrammed ones of the teacher",
    )
    hybrid_norms: Literal["student", "own"] = _method(
        "own", "masks only: running statistics of the student's batch norms in hybrid passes: the student's, or ones "
        "of their own",
    )
    hybrid_weight: float = _method(1.0, "alpha at the first step: cross-entropy of the hybrid logits", at_least=0)
    hybrid_weight_end: float = _method(0.0, "alpha at the last step (linear in between)", at_least=0)
    kl_weight: float = _method(1.0, "beta at the first step: KL from the hybrid logits to the student's", at_least=0)
    kl_weight_end: float = _method(0.0, "beta at the last step (linear in between)", at_least=0)
    cka_weight: float = _method(1.0, "gamma: 1 - CKA of reprogrammed and student features", at_least=0)
    temperature: float = _method(1.0, "temperature of the KL term", above=0)
    cka_estimator: Literal["debiased", "biased"] = _method(
        "debiased", "estimator of CKA; the biased one gives almost no signal in small batches",
    )
    cka_features: Literal["pooled", "flattened", "positions"] = _method(
        "pooled", "CKA of what the head reads, of whole feature maps, or of positions of these, each a row",
    )
    cka_positions: int = _method(
        16, "positions per image and stage, drawn at every step; only with cka_features positions", above=0,
    )
    detach_hybrid_in_kl: bool = _method(True, "the KL term trains the student only, not the projectors")
    detach_reprogrammed_in_cka: bool = _method(False, "the CKA term trains the student only, not the projectors")
    class_weights: Literal["none", "balanced"] = _method(
        "none", "balanced weights classes by inverse frequency (multi-label: positives)", compare="any",
    )
    label_smoothing: float = _method(0.0, "label smoothing of the cross-entropies", at_least=0, below=1, compare="any")

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
    cache_dtype: Literal["float16", "bfloat16", "float32"] | None = _views(
        None, "precision of cached features; by default float16 for a float32 teacher, otherwise the teacher's own",
    )
    verify_cache: int | None = _views(
        None, "number of randomly drawn cached features to recompute and compare before training",
        above=0, card=False, resume="allowed", compare="never",
    )
    augment: bool = _views(True, "augment what train shows; teacher and student see the same view")
    rotation_degrees: float = _views(
        10.0, "largest rotation; of volumes about the axis from feet to head, and a third of it about the others",
        at_least=0,
    )  # fmt: skip
    scale: float = _views(0.1, "largest relative change in size", at_least=0)
    shift: float = _views(
        0.05, "largest shift, relative to the image side; crops of volumes lie anywhere", at_least=0
    )
    horizontal_flip: bool = _views(True, "mirror left and right; turn off if laterality matters")
    vertical_flip: bool = _views(False, "mirror top and bottom; of volumes front and back, and head and feet")
    brightness: float = _views(0.1, "largest change in brightness, relative to the full range", at_least=0)
    contrast: float = _views(0.2, "largest relative change in contrast", at_least=0)
    gamma: float = _views(0.2, "gamma lies between 1 / (1 + this) and 1 + this", at_least=0)

    num_train_epochs: float = _training(60.0, "passes over the labelled rows", above=0)
    max_steps: int = _training(-1, "optimiser steps; overrides num_train_epochs if positive", at_least=-1)
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
        0, "seed of splits, shots, initial weights, order, views and dropout", at_least=0, compare="grid",
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
    push_to_hub: bool = _publishing(False, "push the student to hub_model_id when the run has ended")
    hub_model_id: str | None = _publishing(None, "name of the repo on the Hub, such as me/xray-student", text="words")
    hub_teacher_id: str | None = _publishing(None, "also push the reprogrammed teacher, to this repo", text="words")
    hub_private_repo: bool = _publishing(False, "make new repos private")
    resume: bool = _run(False, "continue from the last checkpoint in output_dir", resume="ignored", compare="never")
    overwrite_output_dir: bool = _run(
        False, "delete what an earlier run left in output_dir", resume="ignored", compare="never",
    )
    # fmt: on
