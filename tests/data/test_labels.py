import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from rd_hf.data.columns import DataError
from rd_hf.data.label_reader import read_labels
from rd_hf.data.labels import Labels, align_labels
from rd_hf.tasks.classification import MultiLabel, SingleLabel

CLASS = ClassLabel(names=["b", "a"])


def splits(feature, **rows):
    """Splits with a column "y" of the given feature."""
    features = Features({"y": feature})
    return DatasetDict({name: Dataset.from_dict({"y": values}, features=features) for name, values in rows.items()})


@pytest.mark.parametrize(
    "feature, train, test, names, expected",
    [
        (CLASS, [0, 1], [1], ["b", "a"], ([0, 1], [1])),  # names keep their order
        (Value("string"), ["z", "m"], ["a"], ["a", "m", "z"], ([2, 1], [0])),  # over all splits, sorted
        (Value("large_string"), ["z"], ["a"], ["a", "z"], ([1], [0])),
        (Value("int64"), [3, 0], [10], ["0", "3", "10"], ([1, 0], [2])),  # by number, not by text
        (Value("float64"), [3.0, 0.0], [0.0], ["0", "3"], ([1, 0], [0])),
        (Value("bool"), [True, False], [True], ["False", "True"], ([1, 0], [1])),
        (Value("uint8"), [1, 1], [0], ["0", "1"], ([1, 1], [0])),
    ],
)
def test_single_label(feature, train, test, names, expected):
    labels = read_labels(splits(feature, train=train, test=test), "y")
    assert labels.names == names and labels.problem_type == SingleLabel.problem_type and not labels.are_vectors
    assert (labels.values["train"].tolist(), labels.values["test"].tolist()) == expected
    assert labels.values["train"].dtype == np.int64


@pytest.mark.parametrize(
    "feature, rows, names, expected",
    [
        (List(CLASS), [[0], [], [1, 0]], ["b", "a"], [[1, 0], [0, 0], [1, 1]]),
        (List(Value("string")), [["q"], ["p", "q"]], ["p", "q"], [[0, 1], [1, 1]]),
        (List(Value("int64")), [[7], [2, 7], []], ["2", "7"], [[0, 1], [1, 1], [0, 0]]),
        (List(Value("int64")), [[0, 1, 0], [1, 1, 0]], ["0", "1", "2"], [[0, 1, 0], [1, 1, 0]]),  # a vector a row
        (List(Value("float32"), length=2), [[0.0, 1.0]], ["0", "1"], [[0, 1]]),
    ],
)
def test_multi_label(feature, rows, names, expected):
    labels = read_labels(splits(feature, train=rows), "y")
    assert labels.names == names and labels.problem_type == MultiLabel.problem_type and labels.are_vectors
    assert labels.values["train"].tolist() == expected and labels.values["train"].dtype == np.float32


def test_names_given_apart():
    labels = read_labels(splits(Value("int64"), train=[2, 0]), "y", ["a", "b", "c"])
    assert labels.names == ["a", "b", "c"] and labels.values["train"].tolist() == [2, 0]
    assert read_labels(splits(List(Value("int64")), train=[[0, 1]]), "y", ["a", "b"]).names == ["a", "b"]


def test_columns_of_0_and_1():
    rows = DatasetDict(train=Dataset.from_dict({"mass": [1, 0], "cyst": [True, False]}))
    labels = read_labels(rows, ["cyst", "mass"])
    assert labels.names == ["cyst", "mass"] and labels.values["train"].tolist() == [[1, 1], [0, 0]]


def test_only_the_rows_shown_are_read():
    rows = splits(Value("string"), train=["a", None, "c"])
    assert read_labels(DatasetDict(train=rows["train"].select([2, 0])), "y").names == ["a", "c"]


@pytest.mark.parametrize(
    "feature, rows, message",
    [
        (Value("string"), ["a", None], r"split 'train', row 1, column 'y': label None .*unlabelled"),
        (Value("string"), ["a", ""], "row 1.*label ''"),
        (Value("float64"), [1.0, float("nan")], "row 1.*label nan"),
        (Value("float64"), [1.0, float("inf")], "row 1.*label inf"),
        (Value("float64"), [0.5], "row 0.*label 0.5"),
        (Value("int64"), [0, -1], "row 1.*label -1.*unlabelled"),
        (CLASS, [0, None], r"row 1.*label None is outside the 2 names \['b', 'a'\]"),
        (CLASS, [0, -1], "row 1.*label -1"),
        (List(Value("string")), [["a"], None], "row 1.*missing"),
        (List(Value("string")), [["a", ""]], "row 0.*empty entry"),
        (List(Value("int64")), [[3], [-2, 1]], "row 1.*whole number"),
        (List(List(Value("int64"))), [[[1]]], "lists of List"),
        ({"a": Value("int64")}, [{"a": 1}], "column 'y' contains"),
    ],
)
def test_faulty_labels_name_their_row(feature, rows, message):
    with pytest.raises(DataError, match=message):
        read_labels(splits(feature, train=rows), "y")


def test_values_outside_the_names_given():
    with pytest.raises(DataError, match=r"split 'test', row 1.*label 2"):
        read_labels(splits(Value("int64"), train=[0], test=[1, 2]), "y", ["a", "b"])
    with pytest.raises(DataError, match="3 entries per row, but there are 2 names"):
        read_labels(splits(List(Value("int64")), train=[[0, 1, 0]]), "y", ["a", "b"])


def test_a_column_that_is_neither_0_nor_1():
    rows = DatasetDict(train=Dataset.from_dict({"mass": [1, 2], "cyst": [0, 0]}))
    with pytest.raises(DataError, match="row 1, column 'mass': label 2"):
        read_labels(rows, ["cyst", "mass"])


@pytest.mark.parametrize(
    "train, test, message",
    [
        (CLASS, ClassLabel(names=["a", "b"]), r"differ between split 'test' \(\['a', 'b'\]\)"),
        (Value("int64"), Value("string"), "text in split 'test', but numbers in 'train'"),
        (Value("bool"), Value("int64"), "numbers in split 'test', but bool in 'train'"),
        (Value("string"), List(Value("string")), "lists of text in split 'test', but text"),
    ],
)
def test_splits_must_agree(train, test, message):
    rows = {"int64": [0], "bool": [True], "string": ["a"]}
    made = {}
    for name, feature in (("train", train), ("test", test)):
        values = [["a"]] if isinstance(feature, List) else rows[feature.dtype]
        made[name] = splits(feature, x=values)["x"]
    with pytest.raises(DataError, match=message):
        read_labels(DatasetDict(made), "y")


def test_integers_that_a_reader_made_floats_agree_with_integers():
    made = DatasetDict(train=splits(Value("int64"), x=[0, 1])["x"], test=splits(Value("float64"), x=[1.0])["x"])
    assert read_labels(made, "y").values["test"].tolist() == [1]


def test_an_empty_label_column_is_refused_at_its_row():
    made = DatasetDict(train=splits(Value("string"), x=["a"])["x"], test=Dataset.from_dict({"y": [None]}))
    with pytest.raises(DataError, match="split 'test', row 0"):
        read_labels(made, "y")


def test_align_single_label():
    labels = Labels.of_numbers({"train": np.array([0, 1]), "test": np.array([1])}, ["a", "b", "never"])
    aligned = align_labels(labels, ["b", "c", "a"])
    assert aligned.names == ["b", "c", "a"]
    assert aligned.values["train"].tolist() == [2, 0] and aligned.values["test"].tolist() == [0]
    with pytest.raises(DataError, match=r"\['b'\]; the model's classes are \['a'\]"):
        align_labels(labels, ["a"])


def test_align_multi_label():
    labels = Labels.of_vectors({"train": np.array([[1, 0], [1, 1]], dtype=np.float32)}, ["a", "b"])
    assert align_labels(labels, ["b", "c", "a"]).values["train"].tolist() == [[0, 0, 1], [1, 0, 1]]
    with pytest.raises(DataError, match=r"\['b'\]"):
        align_labels(labels, ["a", "c"])


def test_what_has_names():
    assert has_names(CLASS) and has_names(List(CLASS)) and has_names(Value("string"))
    assert not has_names(Value("int64")) and not has_names(List(Value("bool")))
