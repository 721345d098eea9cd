"""The fields of a distillation that name its models, its data and its method; `options.Option` explains the facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .options import OTHERS, option

_data = partial(option, group="data", compare="data")
_volumes = partial(_data, card=True)
_models = partial(option, group="models", compare="any")
_run = partial(option, group="run", card=False)
_method = partial(option, group="method and loss", compare="reprogramming")


@dataclass
class TaskFields:
    """What is distilled into what, and on which data."""

    # fmt: off
    dataset: dict | str | None = _data(
        None, "Hub id, folder, or .npz file or table (.csv, .tsv, .jsonl, .parquet) of labelled images or volumes",
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
        None, "folder for everything that the run writes; rd-hf distill needs it, and rd_hf.distill makes runs/TIME "
        "without it",
        text="folder", resume="ignored", affects_result=False, compare="grid",
    )
    method: Literal["rd_plus", "rd", "drd", "ce"] = _method(
        "rd", "rd reprograms the teacher's last stage, drd all its stages; rd_plus is rd that starts at a linear probe "
        "and also learns from the student; ce trains the student alone", compare="grid",
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
    teacher_features: Literal["stage", "last", "all"] | None = _models(
        None, "classes only: what is read of the teacher: the map of its last stage; one vector of its last layer, "
        "which its own head would read; or one vector of all stages, pooled, and the last layer",
        by_method={OTHERS: "stage", "rd_plus": "all"},
    )
    teacher_image_size: int | None = _models(
        None, "side of the square image that the teacher sees, in pixels; by default from its image processor. Where "
        "that does more than resize, crop and normalise (padding, tiles), the image is resized to the square",
        above=0, loading=True,
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
    student_mean: list | str | None = _models(
        None, "mean of red, green and blue in 0..1 by which the student's images are normalised, such as "
        "0.485,0.456,0.406, in place of its image processor's", text="words", card=True, loading=True,
    )
    student_std: list | str | None = _models(
        None, "standard deviation of red, green and blue to go with student_mean, such as 0.229,0.224,0.225",
        text="words", card=True, loading=True,
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
    subgroup_column: list | str | None = _data(
        None, "report the scores on test for each value of this column, such as sex, or of each in a YAML list",
        text="words", resume="allowed", affects_result=False, compare="never",
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
        None, "more images or volumes, without labels, named in the same way as dataset, or a folder of tar files with "
        "images (webdataset), which are decoded when they are visited", text="data",
    )
    unlabeled_streaming: bool = _data(
        False, "stream unlabeled_dataset (a Hub id, or parquet, tar or image files), as `datasets` does with "
        "streaming=True: each image is decoded and shown to the teacher when a step needs it, and nothing is kept",
        compare="never",
    )
    stream_buffer_size: int = _data(
        1000, "images of a stream that are in memory, undecoded, among which the next one is drawn", above=0,
        compare="never",
    )
    on_bad_image: Literal["error", "skip"] = _data(
        "error", "error stops at an unreadable file; skip leaves it out and lists it, or shows another image in its "
        "place where it is in a tar file or stream of unlabelled images",
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
        "64,64,48; by default the sides of the median volume, at most 64, as multiples of 16", text="words",
    )
    crop_size: list | str | None = _volumes(
        None, "masks of volumes: voxels along each axis of the crops that student and teacher see, such as 96,96,64; "
        "by default the sides of the median volume, at most 96, as multiples of 16", text="words",
    )
    volume_channels: int | None = _data(
        None, "volumes: channels of each volume, which are files CASE_0000, CASE_0001, ... or the last axis of a 4D "
        "NIfTI file; by default 1", above=0,
    )
    on_leak: Literal["error", "warn"] = _data(
        "warn", "error stops if two splits share images or volumes (value by value) or values of group_column; "
        "warn counts and reports them", resume="allowed",
    )
    # fmt: on
