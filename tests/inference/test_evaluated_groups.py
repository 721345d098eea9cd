"""Intervals of `rd-hf evaluate` draw the images of a patient together, as those of the training did."""

import json
import logging

import numpy as np
import pytest
from conftest import blob_images
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

import rd_hf
from rd_hf.arguments.commands import ExportArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.columns import DataError

STUDENT = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4], "depths": [1], "layer_type": "basic"}


def split(count, seed, *columns, patients=None):
    labels = np.arange(count) % 2
    patients = [f"p{row // 3}" for row in range(count)] if patients is None else patients
    features = {"image": Image(), "label": ClassLabel(names=["a", "b"])} | {name: Value("string") for name in columns}
    rows = {"image": list(blob_images(labels, seed=seed)), "label": labels} | dict.fromkeys(columns, patients)
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a patient of each three images, and its data."""
    run = tmp_path_factory.mktemp("groups") / "run"
    sizes = {"train": 24, "validation": 18, "test": 30}
    data = DatasetDict({name: split(size, size, "patient") for name, size in sizes.items()})
    common = {"method": "ce", "max_steps": 2, "student_image_size": 32, "group_column": "patient"}
    rd_hf.distill(student=STUDENT, dataset=data, output_dir=str(run), **common)
    return run, data


def test_the_groups_of_the_training_are_those_of_the_evaluation(trained):
    run, data = trained
    expected = json.loads((run / "metrics.json").read_text())["test"]
    scores = rd_hf.evaluate(str(run / "student"), data)
    assert scores["groups"] == expected["groups"] == 10 and scores["intervals"] == expected["intervals"]


def test_another_column_and_data_without_one(trained, caplog):
    run, _ = trained
    student = str(run / "student")
    other = rd_hf.evaluate(student, DatasetDict(test=split(30, 30, "case")), group_column="case")
    assert other["groups"] == 10
    with caplog.at_level(logging.INFO, "rd_hf"):
        alone = rd_hf.evaluate(student, DatasetDict(test=split(30, 30)))
        some = rd_hf.evaluate(student, DatasetDict(test=split(30, 30, "patient", patients=[None] * 15 + ["p"] * 15)))
    assert "groups" not in alone and alone["intervals"] == some["intervals"] != other["intervals"]
    assert caplog.text.count("The model's training had the groups of 'patient'. Some rows here have none") == 2
    with pytest.raises(DataError, match="the column 'case' that `group_column` names"):
        rd_hf.evaluate(student, DatasetDict(test=split(6, 6, "patient")), group_column="case")


def test_a_split_that_is_made_again_has_the_groups_that_it_was_made_with(tmp_path):
    data = DatasetDict(train=split(60, 60, "patient", "case"))
    common = {"method": "ce", "max_steps": 1, "student_image_size": 32, "group_column": "patient"}
    rd_hf.distill(student=STUDENT, dataset=data, output_dir=str(tmp_path / "run"), **common)
    student = str(tmp_path / "run" / "student")
    expected = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert rd_hf.evaluate(student, data, group_column="patient")["intervals"] == expected["intervals"]
    with pytest.raises(ArgumentError, match="with the groups of patient, and cannot be made again with those"):
        rd_hf.evaluate(student, data, group_column="case")
    assert rd_hf.evaluate(student, data, "train", group_column="case")["groups"] == 20
    config = json.loads((tmp_path / "run" / "student" / "config.json").read_text())
    config["provenance"]["dataset"]["made_splits"]["rows"]["test"] = "0" * 16  # as another version may have made it
    (tmp_path / "run" / "student" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArgumentError, match="this version of rd_hf makes another one"):
        rd_hf.evaluate(student, data)


def test_export_takes_a_list_of_columns_as_evaluate_does():
    arguments = ExportArguments(model="m", output_dir="o", label_column="[mass, cyst]")
    assert arguments.label_column == ["mass", "cyst"]
