"""Values of numpy's types, enums and the like are those of Python from the start, and wrong ones are named."""

import enum
from collections import OrderedDict

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict

import rd_hf
from rd_hf.arguments.config import arguments_from, config_text
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.plain_values import plain
from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison.arguments import ComparisonArguments

NEEDED = {"teacher": "t", "student": "s", "dataset": "d"}


class Method(enum.StrEnum):
    plus = "rd_plus"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("learning_rate", np.float64(0.5), 0.5),
        ("learning_rate", np.float32(0.5), 0.5),
        ("learning_rate", np.int64(1), 1.0),
        ("learning_rate", torch.tensor(0.5), 0.5),
        ("seed", np.int64(3), 3),
        ("num_views", np.int64(4), 4),
        ("augment", np.bool_(False), False),
        ("method", Method.plus, "rd_plus"),
        ("method", np.str_("rd_plus"), "rd_plus"),
        ("dataset", np.str_("data"), "data"),
        ("dimensions", np.int64(3), "3"),
        ("teacher_stages", np.array(["a", "b"]), ["a", "b"]),
        ("teacher_stages", ("a", "b"), ["a", "b"]),
        ("label_column", np.array(["a", "b"]), ["a", "b"]),
        ("student_mean", np.array([0.5, 0.25, 0.5]), "0.5,0.25,0.5"),
        ("crop_size", np.int64(64), "64"),
        ("max_run_time", np.float64(1.5), "1.5"),
        ("student", {"model_type": "resnet", "depths": np.array([1, 1])}, {"model_type": "resnet", "depths": [1, 1]}),
        ("student", OrderedDict(model_type="vit", hidden_size=np.int64(8)), {"model_type": "vit", "hidden_size": 8}),
        ("label_names", {np.int64(0): "none", 255: "lesion"}, {"0": "none", "255": "lesion"}),
    ],
)  # fmt: skip
def test_values_of_other_types_are_those_of_python(name, given, value):
    arguments = arguments_from(NEEDED | {name: given})
    found = getattr(arguments, name)
    assert found == value and type(found) is type(value)
    assert DistillationArguments(**yaml.safe_load(config_text(arguments))).to_dict() == arguments.to_dict()


def test_a_data_set_in_memory_stays_what_it_is():
    data = DatasetDict(train=Dataset.from_dict({"image": [1]}))
    assert arguments_from(NEEDED | {"dataset": data}).dataset is data
    assert plain({"x": {"dataset": data}})["x"]["dataset"] is data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": ["rd", "drd"]}, r"`method` is \['rd', 'drd'\]; it must be one of rd_plus, rd, drd, ce"),
        ({"method": {"rd": 1}}, "`method` is .* it must be one of"),
        ({"seed": 2**33}, "`seed` is 8589934592; it must be at least 0 and at most 4294967295"),
        ({"learning_rate": np.array([0.5, 1.0])}, r"`learning_rate` is \[0.5, 1.0\]; it must be of type float"),
    ],
)
def test_values_of_wrong_types_are_named(changes, message):
    with pytest.raises(ArgumentError, match=message):
        arguments_from(NEEDED | changes)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("seeds", range(3), [0, 1, 2]),
        ("seeds", np.arange(3), [0, 1, 2]),
        ("seeds", (0, np.int64(1)), [0, 1]),
        ("shots", (5, "all"), [5, "all"]),
        ("methods", ("ce", "rd"), ["ce", "rd"]),
        ("use_unlabeled", (np.bool_(True), False), [True, False]),
        ("workers", np.int64(2), 2),
        ("arguments", OrderedDict(learning_rate=np.float64(0.5)), {"learning_rate": 0.5}),
        ("tuning", {"weight": np.array([0.5, 1.0])}, {"weight": [0.5, 1.0]}),
    ],
)
def test_a_comparison_takes_tuples_ranges_and_arrays_as_lists(name, given, value):
    found = getattr(ComparisonArguments(data={"x": {"dataset": "d"}}, output_dir="o", **{name: given}), name)
    assert found == value and repr(found) == repr(value)


def test_a_comparison_names_a_seed_that_is_too_large():
    with pytest.raises(ArgumentError, match="`seeds` contains 4294967296; each seed must be a whole number from 0 to"):
        ComparisonArguments(data={"x": {"dataset": "d"}}, output_dir="o", seeds=[2**32])


def test_ready_students_are_chosen_by_numbers_of_numpy():
    with pytest.raises(ArgumentError, match="`image_size` is 16; it must be a whole number, and at least 32"):
        rd_hf.students_within(image_size=np.int64(16))
    with pytest.raises(ArgumentError, match="`num_labels` is 0"):
        rd_hf.students_within(image_size=np.int64(32), num_labels=np.int64(0))
