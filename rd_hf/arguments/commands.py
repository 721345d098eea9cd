"""What each command but distill and compare takes, as dataclasses."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from functools import partial
from typing import Literal

from .options import option
from .values import color_names, parse_yaml_texts, rule_of, window_of

MODEL = "Hub id or folder of a student, a reprogrammed teacher, a plain checkpoint or an ONNX export"
PAGE = "page or frame to read of files that have several, from 1; by default the one that the model was trained with"
WINDOW = (
    "window of DICOM files: center,width, minmax, or none for the whole range of the bits; by default the one that the "
    "model was trained with, or the file's own"
)
COLORS = "YAML mapping of the colours of masks to classes; by default as in the model's training"
CALIBRATED = "classes only: divide the logits by the temperature that was fitted on the model's validation images"

_model = partial(option, group="model")
_data = partial(option, group="data")
_export = partial(option, group="export")
_output = partial(option, group="output")


@dataclass
class StudentsArguments:
    """What `rd-hf students` takes."""

    task: Literal["classification", "segmentation"] = option("classification", "what the student is for")
    max_params: str | None = option(None, "most parameters, such as 1M, 500k, 1e6 or 1000000")
    max_latency_ms: float | None = option(
        None, "longest median time per image or window on this machine's CPU, in milliseconds", above=0
    )
    max_gflop: float | None = option(
        None, "most operations per image or window, in 1e9; a multiplication and an addition are two", above=0
    )
    dimensions: Literal[2, 3] = option(2, "2 for images, 3 for volumes")
    image_size: int | None = option(
        None,
        "side of the image in pixels (student_image_size of distill), by default 224; for volumes, side of the cube in "
        "voxels (crop_size or volume_size of distill), by default 96",
        above=0,
    )
    num_labels: int = option(2, "classes; of masks, with the background", above=0)
    threads: int | None = option(None, "CPU threads while latency is measured; by default those of torch", above=0)
    json: bool = option(False, "print one JSON object per line")


@dataclass
class EvaluationArguments:
    """What `rd-hf evaluate` takes."""

    model: str = _model(MISSING, MODEL)
    dataset: str = _data(MISSING, "Hub id, folder, or .npz file or table of labelled images or volumes")
    split: str = _data("test", "split to score")
    revision: str | None = _model(None, "branch, tag or commit of the model")
    backbone: str | None = _model(
        None, "folder of the foundation model, for a reprogrammed teacher whose foundation model is local"
    )
    dataset_config_name: str | None = _data(None, "configuration of a Hub data set")
    dataset_revision: str | None = _data(None, "branch, tag or commit of a Hub data set")
    image_column: str | None = _data(None, "column of images or volumes, if it cannot be found automatically")
    label_column: list | str | None = _data(
        None, "column of labels, or a YAML list of 0/1 columns, if it cannot be found automatically"
    )
    mask_column: str | None = _data(None, "column of masks, if it cannot be found automatically")
    mask_colors: dict | str | None = _data(None, COLORS)
    uncertain: Literal["ignore", "positive", "negative"] | None = _data(
        None, "how -1 is read in 0/1 columns; by default as in the model's training"
    )
    batch_size: int = _model(64, "images per forward pass", above=0)
    group_column: str | None = _data(
        None, "column of groups, such as patients: intervals draw the images of a group together; by default that of "
        "the model's training, where every row has it"
    )  # fmt: skip
    subgroup_column: list | str | None = _data(
        None, "column, or a YAML list of columns: report the scores for each of its values"
    )
    on_bad_image: Literal["error", "skip"] = _data("error", "error stops at an unreadable file; skip leaves it out")
    page: int | None = _data(None, PAGE, above=0)
    dicom_window: str | None = _data(None, WINDOW)
    predictions: str | None = _output(
        None, "also write the probabilities of every row to this CSV file; of masks, Dice and pixels of each class"
    )
    calibrated: bool = _model(False, CALIBRATED)
    report: str | None = _output(None, "also write a page of the results, with curves and images, to this .html file")
    report_images: bool = _output(True, "show images, which may be of patients, and file names in that page")
    trust_remote_code: bool = _model(False, "run model code from the repo")

    def __post_init__(self):
        self.label_column = parse_yaml_texts(self.label_column)
        self.subgroup_column = parse_yaml_texts(self.subgroup_column)
        self.mask_colors = color_names(parse_yaml_texts(self.mask_colors, mappings=True))
        window_of(self.dicom_window)


@dataclass
class PredictionArguments:
    """What `rd-hf predict` takes."""

    model: str = option(MISSING, MODEL)
    images: list[str] = option(
        MISSING, "image files, folders and globs; for a model of volumes NIfTI files and folders of DICOM slices"
    )
    revision: str | None = option(None, "branch, tag or commit of the model")
    backbone: str | None = option(
        None, "folder of the foundation model, for a reprogrammed teacher whose foundation model is local"
    )
    batch_size: int = option(64, "images per forward pass; volumes come one by one", above=0)
    top_k: int = option(3, "classes shown in the table", above=0)
    calibrated: bool = option(False, CALIBRATED)
    trust_remote_code: bool = option(False, "run model code from the repo")
    json: bool = option(False, "print one JSON object per line, with every class")
    on_bad_image: Literal["error", "skip"] = option("error", "error stops at an unreadable file; skip leaves it out")
    page: int | None = option(None, PAGE, above=0)
    dicom_window: str | None = option(None, WINDOW)
    output_dir: str | None = option(
        None,
        "for a model that gives masks: folder of the masks, PNG files of the images' names and sizes; of volumes NIfTI "
        "files with each source's shape, affine and orientation",
    )
    skip_existing: bool = option(
        False, "for a model that gives masks: leave out what has a mask in output_dir already, to go on after a stop"
    )
    overlay: bool = option(False, "for a model that gives masks: also write pictures of the images under their masks")
    dicom_seg: bool = option(
        False,
        "for a model that gives masks of volumes: also write the mask of each DICOM series as DICOM SEG, which repeats "
        "the patient's and the study's elements, as the standard demands",
    )

    def __post_init__(self):
        window_of(self.dicom_window)


@dataclass
class PushArguments:
    """What `rd-hf push` takes."""

    folder: str = option(
        MISSING, "folder of a student, reprogrammed teacher or exported model; may come first, without --folder"
    )
    repo_id: str = option(MISSING, "name of the repo, such as me/xray-student")
    format: str | None = option(
        None,
        "for a student: transformers (the default; loads without rd_hf and its code) or rd_hf (the folder as it is, "
        "with the code that loads it)",
    )
    private: bool = option(False, "make a new repo private; one that is public is refused")
    revision: str | None = option(None, "branch, created if it does not exist")
    create_pr: bool = option(False, "open a pull request instead of committing")
    commit_message: str | None = option(None, "title of the commit")
    space: bool = option(False, "publish a folder of `export --format web` as a static Space")


@dataclass
class ReportArguments:
    """What `rd-hf report` takes."""

    run: str = option(MISSING, "folder of a run, ended or killed; may come first, without --run")
    operating_point: str | None = option(
        None,
        "rule for a threshold on validation: sensitivity=0.95, specificity=0.9, or youden; by default as in the run's "
        "config.yaml, where a value given here is kept",
    )
    positive_label: str | None = option(
        None, "one label per image: the class whose sensitivity and specificity operating_point means"
    )
    subgroup_column: list | str | None = option(
        None, "column, or a YAML list of columns: report the scores on test for each of its values"
    )
    report_images: bool | None = option(
        None, "show images, which may be of patients, and file names in report.html; by default as in the training"
    )
    student_alone: str | None = option(
        None, "folder of a run with --method ce on the same data, whose scores report.html shows too", text="folder"
    )

    def __post_init__(self):
        self.operating_point = rule_of(self.operating_point)
        self.subgroup_column = parse_yaml_texts(self.subgroup_column)


@dataclass
class InfoArguments:
    """What `rd-hf info` takes."""

    model: str = option(
        MISSING,
        "folder of a run, or Hub id or folder of a student, a reprogrammed teacher, a plain checkpoint or an ONNX "
        "export; may come first, without --model",
    )
    revision: str | None = option(None, "branch, tag or commit of the model")
    trust_remote_code: bool = option(False, "run model code from the repo")
    json: bool = option(False, "print one JSON object")


@dataclass
class ExportArguments:
    """What `rd-hf export` takes."""

    model: str = _model(MISSING, "Hub id or folder of a student")
    output_dir: str = _export(MISSING, "new folder for the export")
    format: str = _export(
        "transformers",
        "transformers (loads without rd_hf), onnx, web (a page that runs the student in the browser), or of "
        "volumes bundle (of MONAI)",
    )
    quantize: str | None = _export(
        None, "int8: an ONNX model in eight bits, calibrated on the train split of the data set"
    )
    dynamic_size: bool = _export(False, "onnx: accept images of any size, if the model can")
    web_runtime: str | None = _export(
        None, "web: npm package of onnxruntime-web, a .tgz file or an unpacked folder; by default npm fetches it once"
    )
    cdn: bool = _export(
        False, "web: let the page fetch onnxruntime-web from a public server, in place of a copy in the folder"
    )
    dataset: str | None = _data(None, "onnx, web: labelled data to check the export on; random numbers by default")
    split: str = _data("test", "split to check the export on")
    revision: str | None = _model(None, "branch, tag or commit of the model")
    dataset_config_name: str | None = _data(None, "configuration of a Hub data set")
    dataset_revision: str | None = _data(None, "branch, tag or commit of a Hub data set")
    image_column: str | None = _data(None, "column of images or volumes, if it cannot be found automatically")
    label_column: list | str | None = _data(
        None, "column of labels, or a YAML list of 0/1 columns, if it cannot be found automatically"
    )
    mask_column: str | None = _data(None, "column of masks, if it cannot be found automatically")
    mask_colors: dict | str | None = _data(None, COLORS)
    on_bad_image: str = _data("error", "unreadable images: error (stop), or skip (leave out)")
    batch_size: int = _model(64, "images per forward pass where quantize scores the model", above=0)

    def __post_init__(self):
        self.label_column = parse_yaml_texts(self.label_column)
        self.mask_colors = color_names(parse_yaml_texts(self.mask_colors, mappings=True))


@dataclass
class CacheInfoArguments:
    """What `rd-hf cache info` takes."""

    cache_dir: str | None = option(None, "folder of the caches; by default the same as in distill")


@dataclass
class CacheVerifyArguments(CacheInfoArguments):
    """What `rd-hf cache verify` takes."""

    key: str | None = option(None, "one cache, by the name of its folder or the beginning of that name")


@dataclass
class CacheClearArguments(CacheVerifyArguments):
    """What `rd-hf cache clear` takes."""

    older_than_days: float | None = option(None, "only caches unused for this many days", at_least=0)
