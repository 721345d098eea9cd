"""Rows without label leave train; a split that is scored has a label in every row or is not scored."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PillowImage

from rd_hf.data.columns import DataError
from rd_hf.data.sources import load_data
from rd_hf.data.splits import complete_splits
from rd_hf.data.subgroups import MISSING, subgroup_values
from rd_hf.data.unlabelled import outside_scored
from rd_hf.tasks.make import make_task

CLASS = ClassLabel(names=["a", "b"])


def picture(value):
    return {"bytes": b"P5\n2 2\n255\n" + bytes([value] * 4), "path": None}


def rows(labels, feature=CLASS, first=0, **columns):
    features = Features({"image": Image(), "label": feature} | {name: Value("string") for name in columns})
    images = [picture(first + row) for row in range(len(labels))]
    return Dataset.from_dict({"image": images, "label": labels, **columns}, features=features)


def values(images):
    return [row["image"]["bytes"][-1] for row in images]


@pytest.mark.parametrize(
    "feature, labels, kept",
    [
        (CLASS, [0, -1, 1, None], [0, 1]),
        (Value("string"), ["a", None, "b", " "], [0, 1]),
        (Value("float64"), [0.0, float("nan"), 1.0, None], [0, 1]),
        (List(Value("string")), [["b"], None, ["a", "b"], None], [[0, 1], [1, 1]]),
    ],
)
def test_rows_without_label_leave_train(feature, labels, kept):
    data = load_data(rows(labels, feature))
    assert data.labels("train").tolist() == kept and values(data.splits["train"]) == [0, 2]
    assert values(data.unlabelled) == [1, 3] and data.unlabelled.column_names == ["image"]
    assert data.source["splits"] == {"train": 2}
    assert data.source["fingerprint"] == load_data(rows(labels, feature).select([0, 2])).source["fingerprint"]


def test_data_without_gaps_has_no_unlabelled_rows():
    assert load_data(rows([0, 1])).unlabelled is None


def test_gaps_in_a_scored_split_are_refused():
    splits = DatasetDict(train=rows([0, 1]), test=rows([0, -1, 1, -1]))
    with pytest.raises(DataError, match=r"2 of 4 rows of split 'test'.*the first is row 1.*remove these rows"):
        load_data(splits)
    assert values(load_data(splits, scored=["validation"]).splits["test"]) == [0, 2]


def test_a_split_without_labels_is_left_out(caplog):
    data = load_data(DatasetDict(train=rows([0, 1] * 10), test=rows([-1, -1])))
    assert list(data.splits) == ["train"] and data.without_labels == ("test",)
    assert "Split 'test' has no labels: all 2 rows" in caplog.text
    made = complete_splits(data, make_task(data.problem_type, data.label_names).marks, 0.2, 0.2, 0)
    assert len(made.splits["test"]) == 4


def test_a_split_without_the_label_column_is_left_out(caplog):
    bare = rows([0, 1]).remove_columns("label")
    data = load_data(DatasetDict(train=rows([0, 1]), test=bare))
    assert data.without_labels == ("test",) and "Split 'test' has no label column" in caplog.text
    with pytest.raises(DataError, match="split 'test' has no column 'label'"):  # another column may be meant
        load_data(DatasetDict(train=rows([0, 1]), test=bare.add_column("truth", ["a", "b"])))


def test_train_without_labels_is_refused():
    data = load_data(DatasetDict(train=rows([-1, -1]), test=rows([0, 1])))
    with pytest.raises(DataError, match="no row of split 'train' has a label"):
        complete_splits(data, make_task(data.problem_type, data.label_names).marks, 0.2, 0.2, 0)
    with pytest.raises(DataError, match="no row of train has a label in column 'label'"):
        load_data(rows([-1, None]))


def test_unlabelled_rows_of_patients_that_are_scored_are_left_out(caplog):
    labels, patients = [0, 1, -1, -1, -1], ["p", "q", "p", "q", None]
    data = load_data(rows(labels, patient=patients).select([0, 1, 2, 3]), group_column="patient")
    splits = DatasetDict(test=data.splits["train"].select([1]))
    assert values(outside_scored(data.unlabelled, splits, ["test"])) == [2]
    assert "1 of 2 rows without label are left out, because their group is in test" in caplog.text


def test_unlabelled_rows_of_files_that_are_scored_are_left_out(tmp_path, caplog):
    """As where a second reader left the label of an image empty."""
    for number in range(3):
        PillowImage.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
    lines = ["file_name,label", "0.png,a", "1.png,b", "./0.png,", "2.png,", "x/../1.png,"]
    (tmp_path / "x").mkdir()
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = load_data(tmp_path / "t.csv")
    splits = DatasetDict(test=data.splits["train"])
    kept = outside_scored(data.unlabelled, splits, ["test"])
    assert [row["image"]["path"] for row in kept] == [str(tmp_path / "2.png")]
    assert "2 of 3 rows without label are left out, because their file is in test" in caplog.text


def test_several_columns_that_are_all_empty_are_no_label():
    table = Dataset.from_dict(
        {"image": [picture(row) for row in range(3)], "mass": ["1", None, "0"], "cyst": ["1", None, "0"]}
    )
    data = load_data(table.cast_column("image", Image()), label_column=["mass", "cyst"])
    assert data.labels("train").tolist() == [[1, 1], [0, 0]] and values(data.unlabelled) == [1]
    assert data.labels("train").dtype == np.float32


def test_a_split_that_is_left_out_needs_no_groups():
    train, test = rows([0, 1], patient=["p", "q"]), rows([-1, -1], patient=[None, "q"])
    for bare in (test, test.remove_columns("patient")):
        data = load_data(DatasetDict(train=train, test=bare), group_column="patient")
        assert data.without_labels == ("test",) and data.splits["train"]["group"][:] == ["p", "q"]
    with pytest.raises(DataError, match="split 'train', row 0: group column 'patient' is empty"):
        load_data(DatasetDict(train=rows([0, 1], patient=[None, "q"]), test=test), group_column="patient")


@pytest.mark.parametrize("word", ["nan", "NaN", "<NA>", " "])
def test_the_word_nan_is_no_group(word):
    with pytest.raises(DataError, match="split 'train', row 1: group column 'patient' is empty"):
        load_data(rows([0, 1], patient=["p", word]), group_column="patient")


def test_the_word_nan_is_no_subgroup():
    kinds = ["f", "nan", "", None, "<NA>", "m"]
    data = load_data(rows([0, 1] * 3, sex=kinds), subgroup_columns=["sex"])
    assert subgroup_values(data.splits["train"], "sex", range(6)) == ["f", *[MISSING] * 4, "m"]


def test_groups_in_numbers_and_in_text():
    train = rows([0, 1, -1, -1], patient=["1", "2", "3", "4"]).cast_column("patient", Value("int64"))
    for patients in (["3", "7"], ["3.0", "7.0"]):
        data = load_data(DatasetDict(train=train, test=rows([0, 1], patient=patients)), group_column="patient")
        assert values(outside_scored(data.unlabelled, data.splits, ["test"])) == [3]
    with pytest.raises(DataError, match="numbers in split 'train', but text such as '03' in 'test'"):
        load_data(DatasetDict(train=train, test=rows([0, 1], patient=["03", "7"])), group_column="patient")


def test_cells_of_the_split_column_that_are_empty_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text("file_name,label,split\n0.png,a,train\n1.png,b,\n")
    with pytest.raises(DataError, match="1 of 2 rows have nothing in column 'split'; the first is row 1"):
        load_data(tmp_path / "t.csv")


@pytest.mark.parametrize("names", [None, ["0", "1"], ["00", "01"]])
def test_uncertain_rows_of_one_column_are_not_scored(names, caplog):
    caplog.set_level("INFO")
    number = Value("int64")
    splits = DatasetDict(train=rows([0, 1, -1, 1], number), test=rows([-1, 1, 0, -1], number))
    data = load_data(splits, uncertain="ignore", label_names=names)
    assert data.labels("test").tolist() == [1, 0] and values(data.splits["test"]) == [1, 2]
    assert data.labels("train").tolist() == [0, 1, 1] and values(data.unlabelled) == [2]
    assert "2 of 4 rows of split 'test' are uncertain, so they are not scored." in caplog.text
    with pytest.raises(DataError, match="1 of 3 rows of split 'test' have no label.*the first is row 2"):
        load_data(DatasetDict(train=splits["train"], test=rows([-1, 1, None], number)), uncertain="ignore")
    with pytest.raises(DataError, match="2 of 4 rows of split 'test' have no label"):
        load_data(splits)
