"""The set of class names: two spellings of one name, names beside numbers, names without rows."""

import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from rd_hf.data.columns import DataError
from rd_hf.data.labels.spellings import check_spellings, folded
from rd_hf.data.sources import load_data

PICTURE = {"bytes": b"P5\n2 2\n255\n\x00\x01\x02\x03", "path": None}


def rows(labels, feature, **columns):
    features = Features({"image": Image(), "label": feature} | {name: Value("string") for name in columns})
    return Dataset.from_dict({"image": [PICTURE] * len(labels), "label": labels, **columns}, features=features)


def named(data, split="train"):
    return [data.label_names[label] for label in data.labels(split)]


@pytest.mark.parametrize(
    "first, second",
    [("Benign", "BENIGN"), ("a b", "a  b"), ("a b", "a\u00a0b"), ("Stage II", "Stage \u2161"), ("a\u200bb", "ab")],
)
def test_spellings_of_one_name(first, second):
    assert folded(first) == folded(second)
    with pytest.raises(DataError, match="differ only in capitals") as error:
        check_spellings({first: 3, second: 1, "other": 2}, "column")
    assert f"{first!r} (3 rows) and {second!r} (1 row)" in str(error.value)
    check_spellings({first: 3, second: 0}, "column")  # a name that no row has disturbs nobody


@pytest.mark.parametrize("first, second", [("grade 1", "grade 2"), ("HER2+", "HER2-"), ("01", "1"), ("a_b", "a b")])
def test_different_names(first, second):
    check_spellings({first: 1, second: 1}, "column")


@pytest.mark.parametrize(
    "labels, feature",
    [
        (["Benign", "benign"], Value("string")),
        ([0, 1], ClassLabel(names=["Benign", "benign"])),
        ([["Benign"], ["benign", "x"]], List(Value("string"))),
        ([[0], [1, 2]], List(ClassLabel(names=["Benign", "benign", "x"]))),
        (["Benign|x", "benign|x"], Value("string")),
    ],
)
def test_spellings_are_refused_whatever_the_column(labels, feature):
    with pytest.raises(DataError, match=r"'Benign' \(1 row\) and 'benign' \(1 row\)"):
        load_data(rows(labels, feature))


def test_a_model_that_knows_both_spellings_is_evaluated():
    data = load_data(rows(["A", "a"], Value("string")), label_names=["a", "A"])
    assert data.labels("train").tolist() == [1, 0]


def test_class_names_with_spaces_are_one_class():
    data = load_data(rows([0, 1, 2], ClassLabel(names=["ill", "ill ", "well"])))
    assert data.label_names == ["ill", "well"] and data.labels("train").tolist() == [0, 0, 1]


def test_class_names_in_two_forms_of_unicode_are_one_class(caplog):
    caplog.set_level("INFO")
    data = load_data(rows([0, 1, 2], ClassLabel(names=["e\u0301", "ill", "\u00e9"])))
    assert data.label_names == ["\u00e9", "ill"] and data.labels("train").tolist() == [0, 1, 0]
    assert "['e\u0301', '\u00e9'] of column 'label' differ only in the spaces around them or in the form" in caplog.text


# --- names beside numbers


@pytest.mark.parametrize("feature", [Value("int64"), Value("string"), Value("float64")])
@pytest.mark.parametrize("column", ["label_name", "class_name", "Diagnosis", "name"])
def test_numbers_get_the_names_beside_them(feature, column, caplog):
    caplog.set_level("INFO")
    values = [{"float64": float, "string": str, "int64": int}[feature.dtype](n) for n in (10, 2, 2, 10)]
    data = load_data(rows(values, feature, **{column: ["well", "ill", "ill ", None]}))
    assert data.label_names == ["ill", "well"]  # in the numbers' order
    assert named(data) == ["well", "ill", "ill", "well"]
    assert f"The numbers of 'label' get their names from column '{column}': 2 is 'ill', 10 is 'well'" in caplog.text


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"label_name": ["a", "b", "B", "a"]}, "Column 'label_name' does not give each number .*1 has the names"),
        ({"label_name": ["a", "a", "a", "a"]}, "Column 'label_name' does not give each number"),
        ({"label_name": ["a", "b", "B", "a"], "sex": ["a", "b", "b", "a"]}, "'label_name' does not give each number"),
        ({"class_a": ["a", "b", "b", "a"], "class_b": ["c", "d", "d", "c"]}, "'class_a', 'class_b' could name them"),
        ({"hospital": ["x", "y", "y", "x"]}, "'hospital' could name them"),
    ],
)
def test_columns_that_may_not_be_the_names(columns, words, caplog):
    caplog.set_level("INFO")
    data = load_data(rows([0, 1, 1, 0], Value("int64"), **columns))
    assert data.label_names == ["0", "1"]
    assert any(re.search(words, line) for line in caplog.messages), caplog.messages


def test_codes_with_leading_zeros_get_names_and_columns_that_agree_serve_alike():
    names = ["well", "ill", "ill"]
    data = load_data(rows(["01", "007", "007"], Value("string"), label_name=names, class_name=names))
    assert data.label_names == ["ill", "well"] and named(data) == names
    codes = load_data(rows(["01", "007", "007"], Value("string"), label_name=names), label_names=["01", "007"])
    assert codes.labels("train").tolist() == [0, 1, 1]


def test_other_columns_are_passed_over_in_silence(caplog):
    caplog.set_level("INFO")
    data = load_data(rows([0, 1, 1, 0], Value("int64"), patient=["p", "q", "r", "s"], view=["a", "a", "b", "b"]))
    assert data.label_names == ["0", "1"] and "could name them" not in caplog.text


@pytest.mark.parametrize("model", [["b", "a"], ["0", "1"], ["first", "second"]])
def test_models_of_names_numbers_and_indices(model):
    data = load_data(rows([0, 1, 1], Value("string"), label_name=["a", "b", "b"]), label_names=model)
    assert data.labels("train").tolist() == ([1, 0, 0] if model == ["b", "a"] else [0, 1, 1])


@pytest.mark.parametrize("labels, feature", [([1], Value("int64")), (["1"], Value("string"))])
def test_numbers_are_the_models_numbers_with_zeros_before_they_are_positions(labels, feature, caplog):
    caplog.set_level("INFO")
    data = load_data(rows(labels, feature), label_names=["00", "02", "01"])
    assert named(data) == ["01"] and "The labels ['1'] are the model's ['01']" in caplog.text
    assert named(load_data(rows(labels, feature), label_names=["a", "b", "c"])) == ["b"]
    assert (
        "The numbers of 'label' are read as positions of the model's classes, counted from 0: 1 is 'b'" in caplog.text
    )


@pytest.mark.parametrize("labels, feature", [([True], Value("bool")), (["True"], Value("string"))])
def test_truth_values_are_positions_of_the_models_names(labels, feature):
    assert named(load_data(rows(labels, feature), label_names=["well", "ill"])) == ["ill"]


@pytest.mark.parametrize("feature", [Value("string"), Value("int64"), List(Value("string"))])
def test_rows_that_all_lack_a_label_are_refused_for_a_model_too(feature):
    with pytest.raises(DataError, match="no row of train has a label"):
        load_data(rows([None, None], feature), label_names=["a", "b"])


# --- names without rows


def test_names_without_rows_are_left_out(caplog):
    caplog.set_level("INFO")
    data = load_data(rows([2, 0], ClassLabel(names=["a", "never", "b"])))
    assert data.label_names == ["a", "b"] and data.labels("train").tolist() == [1, 0]
    assert "No row of any split has the class ['never']" in caplog.text
    several = load_data(rows([[2, 0], [0]], List(ClassLabel(names=["a", "never", "b"]))))
    assert several.label_names == ["a", "b"] and several.labels("train").tolist() == [[1, 1], [1, 0]]


def test_names_with_rows_elsewhere_stay():
    feature = ClassLabel(names=["a", "b"])
    data = load_data(DatasetDict(train=rows([0], feature), test=rows([1], feature)))
    assert data.label_names == ["a", "b"]


def test_names_without_rows_keep_their_place_in_a_model():
    data = load_data(rows([2, 0], ClassLabel(names=["a", "never", "b"])), label_names=["a", "never", "b"])
    assert data.label_names == ["a", "never", "b"] and data.labels("train").tolist() == [2, 0]


def test_columns_that_the_user_named_stay():
    table = rows([0, 0], Value("int64")).add_column("a", [1, 0]).add_column("b", [0, 0])
    assert load_data(table, label_column=["a", "b"]).label_names == ["a", "b"]
    assert np.array_equal(load_data(table, label_column=["a", "b"]).labels("train"), [[1, 0], [0, 0]])


def test_findings_without_a_column_are_not_known_to_a_model_of_several(caplog):
    caplog.set_level("INFO")
    columns = {"mass": ["1", "0"], "cyst": ["0", "1"]}
    table = rows([0, 1], Value("int64"), **columns).remove_columns("label")
    model = {"label_names": ["cyst", "fracture", "mass"], "label_kind": "multi"}
    data = load_data(table, label_column=["mass", "cyst"], **model)
    assert np.array_equal(data.labels("train"), [[0, np.nan, 1], [1, np.nan, 0]], equal_nan=True)
    assert "The data has no column of ['fracture'], which are not scored" in caplog.text
    alone = load_data(table, label_column="cyst", **model)  # no numbers of classes, although it is of 0 and 1
    assert np.array_equal(alone.labels("train"), [[0, np.nan, np.nan], [1, np.nan, np.nan]], equal_nan=True)


def test_several_labels_of_which_no_row_has_any_are_refused():
    table = rows([[], []], List(Value("string")))
    with pytest.raises(DataError, match="no row of train has a label in 'label'"):
        load_data(table, label_kind="multi")


def test_a_transform_is_told_not_to_be_applied(caplog):
    load_data(rows([0, 1], Value("int64")).with_transform(lambda batch: batch))
    assert "has a transform, which is not applied" in caplog.text


def test_vectors_of_which_a_class_has_no_row_get_the_names_beside_them():
    names = ["malignant", "benign"] * 3
    data = load_data(rows([[0, 1, 0], [1, 0, 0]] * 3, List(Value("int64")), label_name=names))
    assert data.label_names == ["benign", "malignant"] and named(data) == names


def test_a_column_of_0_and_1_with_the_name_of_a_class_is_that_class(caplog):
    caplog.set_level("INFO")
    table = rows([0], Value("int64")).remove_columns("label").select([0] * 3).add_column("healthy", [1, 0, 1])
    data = load_data(table, label_column="healthy", label_names=["healthy", "ill"], label_kind="single")
    assert named(data) == ["healthy", "ill", "healthy"] and "1 is read as 'healthy' and 0 as 'ill'" in caplog.text
    with pytest.raises(DataError, match="'healthy' has 0 and 1, and the name of one of the model's 3 classes"):
        load_data(table, label_column="healthy", label_names=["healthy", "ill", "worse"], label_kind="single")
