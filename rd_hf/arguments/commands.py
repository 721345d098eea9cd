"""What each command but distill and compare takes, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .values import parse_yaml_value


@dataclass
class StudentsArguments:
    """What `rd-hf students` takes."""

    # fmt: off
    max_params: str | None = field(default=None, metadata={"help": "most parameters, such as 1M, 500k, 1e6 or 1000000"})
    max_latency_ms: float | None = field(default=None, metadata={"help": "longest median time of one image on this machine's CPU, in milliseconds"})
    max_gflop: float | None = field(default=None, metadata={"help": "most operations for one image, in 1e9; a multiplication and an addition are two"})
    image_size: int = field(default=224, metadata={"help": "side of the square image that the student sees, in pixels; what distill calls student_image_size"})
    num_labels: int = field(default=2, metadata={"help": "classes"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads while time is measured; by default torch's"})
    json: bool = field(default=False, metadata={"help": "print one JSON object a line"})
    # fmt: on


@dataclass
class EvaluationArguments:
    """What `rd-hf evaluate` takes."""

    # fmt: off
    model: str = field(metadata={"help": "Hub id or folder of a student, a reprogrammed teacher or an ONNX export"})
    dataset: str = field(metadata={"help": "Hub id or folder, .npz, .csv or .parquet file of labelled images"})
    split: str = field(default="test", metadata={"help": "split to score"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the model"})
    backbone: str | None = field(default=None, metadata={"help": "folder of the foundation model, for a reprogrammed teacher that came from a local one"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub data set"})
    image_column: str | None = field(default=None, metadata={"help": "column of images, where it cannot be found"})
    label_column: list | str | None = field(default=None, metadata={"help": "column of labels, or a YAML list of 0/1 columns, where it cannot be found"})
    batch_size: int = field(default=64, metadata={"help": "images a forward"})
    on_bad_image: Literal["error", "skip"] = field(default="error", metadata={"help": "stop at an image that cannot be read, or skip it"})
    predictions: str | None = field(default=None, metadata={"help": "also write the probabilities of every row to this CSV file"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run model code found in the repo"})
    # fmt: on

    def __post_init__(self):
        self.label_column = parse_yaml_value(self.label_column)


@dataclass
class PredictionArguments:
    """What `rd-hf predict` takes."""

    # fmt: off
    model: str = field(metadata={"help": "Hub id or folder of a student, a reprogrammed teacher or an ONNX export"})
    images: list[str] = field(metadata={"help": "image files, folders and globs"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the model"})
    backbone: str | None = field(default=None, metadata={"help": "folder of the foundation model, for a reprogrammed teacher that came from a local one"})
    batch_size: int = field(default=64, metadata={"help": "images a forward"})
    top_k: int = field(default=3, metadata={"help": "classes shown in the table"})
    trust_remote_code: bool = field(default=False, metadata={"help": "run model code found in the repo"})
    json: bool = field(default=False, metadata={"help": "print one JSON object a line, with every class"})
    on_bad_image: Literal["error", "skip"] = field(default="error", metadata={"help": "stop at an image that cannot be read, or skip it"})
    # fmt: on


@dataclass
class PushArguments:
    """What `rd-hf push` takes."""

    # fmt: off
    folder: str = field(metadata={"help": "folder of a student, reprogrammed teacher or exported model; may stand first, without --folder"})
    repo_id: str = field(metadata={"help": "name of the repo, such as me/xray-student"})
    format: str | None = field(default=None, metadata={"help": "of a student: transformers (the default; loads without rd_hf and without its code) or rd_hf (its folder as it is, with the code that loads it)"})
    private: bool = field(default=False, metadata={"help": "make the repo private, if it is a new one"})
    revision: str | None = field(default=None, metadata={"help": "branch, made where it does not exist"})
    create_pr: bool = field(default=False, metadata={"help": "open a pull request instead of committing"})
    commit_message: str | None = field(default=None, metadata={"help": "title of the commit"})
    # fmt: on


@dataclass
class ReportArguments:
    """What `rd-hf report` takes."""

    run: str = field(metadata={"help": "folder of a run, ended or killed; may stand first, without --run"})


@dataclass
class ExportArguments:
    """What `rd-hf export` takes."""

    # fmt: off
    model: str = field(metadata={"help": "Hub id or folder of a student"})
    output_dir: str = field(metadata={"help": "new folder for the export"})
    format: str = field(default="transformers", metadata={"help": "transformers (loads without rd_hf) or onnx"})
    quantize: str | None = field(default=None, metadata={"help": "int8: an ONNX model in eight bits, calibrated on the data set's train split"})
    dynamic_size: bool = field(default=False, metadata={"help": "onnx: let the model take images of any size, where it can"})
    dataset: str | None = field(default=None, metadata={"help": "onnx: labelled images to check the export on; random ones by default"})
    split: str = field(default="test", metadata={"help": "split to check the export on"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of the model"})
    dataset_config_name: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    dataset_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub data set"})
    image_column: str | None = field(default=None, metadata={"help": "column of images, where it cannot be found"})
    label_column: str | None = field(default=None, metadata={"help": "column of labels, where it cannot be found"})
    batch_size: int = field(default=64, metadata={"help": "images a forward"})
    # fmt: on


@dataclass
class CacheInfoArguments:
    """What `rd-hf cache info` takes."""

    cache_dir: str | None = field(default=None, metadata={"help": "folder of the caches; by default as in distill"})


@dataclass
class CacheVerifyArguments(CacheInfoArguments):
    """What `rd-hf cache verify` takes."""

    key: str | None = field(default=None, metadata={"help": "one cache, by its folder's name or the beginning of it"})


@dataclass
class CacheClearArguments(CacheVerifyArguments):
    """What `rd-hf cache clear` takes."""

    older_than_days: float | None = field(default=None, metadata={"help": "only caches unused for so many days"})
