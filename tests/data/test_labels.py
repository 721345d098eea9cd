import re

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from rd_hf.data.columns import DataError
from rd_hf.data.labels.labels import Labels, align_labels
from rd_hf.data.labels.reader import read_labels
from rd_hf.tasks.classification import MultiLabel, SingleLabel

CLASS = ClassLabel(names=["b", "a"])
NAN = float("nan")
RULES = ("ignore", "positive", "negative")


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
        (List(Value("float32"), length=2), [[0.0, 1.0], [1.0, 1.0]], ["0", "1"], [[0, 1], [1, 1]]),
        (List(Value("string")), [["q "], None, [" p", "q"]], ["p", "q"], [[0, 1], [0, 0], [1, 1]]),  # None: no label
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
        (Value("float64"), [1.0, float("inf")], "row 1.*label inf"),
        (Value("float64"), [0.5], "row 0.*label 0.5"),
        (Value("string"), ["1", "0.5"], "row 1.*label '0.5'"),
        (Value("int64"), [0, -2], "row 1.*label -2"),
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


@pytest.mark.parametrize(
    "feature, rows, missing",
    [
        (Value("string"), ["a", None, "", " \u00a0", "nan", "NaN"], [0, 1, 1, 1, 1, 1]),
        (Value("string"), ["0", "1", None, "<NA>", "-1"], [0, 0, 1, 1, 1]),
        (Value("string"), ["None", "NA", "N/A", "null", "<NA>"], [0, 0, 0, 0, 0]),  # words are names
        (Value("float64"), [1.0, 0.0, float("nan"), None, -1.0], [0, 0, 1, 1, 1]),
        (Value("int64"), [0, 3, -1, None], [0, 0, 1, 1]),
        (CLASS, [0, -1, None], [0, 1, 1]),
        (List(Value("string")), [["a"], [], None], [0, 0, 1]),  # an empty list says that there is nothing
        (List(Value("int64"), length=2), [[1, 1], None], [0, 1]),
    ],
)
def test_rows_without_label(feature, rows, missing):
    assert read_labels(splits(feature, train=rows), "y").missing["train"].tolist() == [bool(gap) for gap in missing]


def test_a_split_without_any_label_has_no_kind():
    made = DatasetDict(test=Dataset.from_dict({"y": [None]}), train=splits(Value("string"), x=["a"])["x"])
    assert read_labels(made, "y").missing["test"].all()
    with pytest.raises(DataError, match="'y' is empty in every split"):
        read_labels(DatasetDict(train=made["test"]), "y")


def test_minus_one_beside_one_is_refused():
    with pytest.raises(DataError, match="only -1 and 1"):
        read_labels(splits(Value("int64"), train=[1, -1]), "y")
    with pytest.raises(DataError, match="only -1 and 1"):
        read_labels(splits(Value("string"), train=["1.0", "-1.0"]), "y")


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


def test_a_class_that_the_data_has_no_column_of_is_not_known():
    labels = Labels.of_vectors({"train": np.array([[1, 0], [1, 1]], dtype=np.float32)}, ["a", "b"])
    aligned = align_labels(labels, ["b", "c", "a"], are_columns=True)
    assert np.array_equal(aligned.values["train"], [[0, np.nan, 1], [1, np.nan, 1]], equal_nan=True)
    assert aligned.notes == ["The data has no column of ['c'], which are not scored."]


def test_align_keeps_rows_without_label_and_old_names_with_spaces():
    labels = Labels.of_numbers({"train": np.array([0, -1, 1])}, ["a", "b"])
    assert align_labels(labels, ["c", "b ", "a"]).values["train"].tolist() == [2, -1, 1]
    unknown = np.array([[1, np.nan]], dtype=np.float32)
    aligned = align_labels(Labels.of_vectors({"train": unknown}, ["a", "b"]), ["b", "a"]).values["train"]
    assert np.isnan(aligned[0, 0]) and aligned[0, 1] == 1


def test_align_matches_numbers_that_an_earlier_version_read_without_zeros():
    labels = Labels.of_numbers({"train": np.array([0, 1, 2])}, ["00", "01", "2"])
    aligned = align_labels(labels, ["2", "1", "0"])
    assert aligned.values["train"].tolist() == [2, 1, 0] and "without the zeros in front" in aligned.notes[0]
    with pytest.raises(DataError, match="does not know: .'01'"):
        align_labels(Labels.of_numbers({"train": np.array([0, 1])}, ["01", "1"]), ["0", "1"])


def test_align_names_the_spelling_that_the_model_knows():
    labels = Labels.of_numbers({"train": np.array([0, 1])}, ["Benign", "malignant"])
    with pytest.raises(DataError, match="'Benign' differs from the model's 'benign' only in capitals"):
        align_labels(labels, ["benign", "malignant"])


# --- text


@pytest.mark.parametrize(
    "rows, names, expected",
    [
        (["10", "2", "0"], ["0", "2", "10"], [2, 1, 0]),  # numbers in their order
        (["1.0", "0.0", "1.0"], ["0", "1"], [1, 0, 1]),  # integers as a table with gaps has them
        (["1,0", "0,0"], ["0", "1"], [1, 0]),
        (["01", "10", "02"], ["01", "02", "10"], [0, 2, 1]),  # leading zeros stay
        (["1", "01"], ["01", "1"], [1, 0]),
        (["1", "x"], ["1", "x"], [0, 1]),
        (["TRUE", "FALSE"], ["False", "True"], [1, 0]),
        ([" benign", "benign\u00a0", "\ufeffbenign", "ill"], ["benign", "ill"], [0, 0, 0, 1]),
        (["e\u0301", "\u00e9", "a"], ["a", "\u00e9"], [1, 1, 0]),  # one letter, composed or not
        (["None", "mild", "severe"], ["None", "mild", "severe"], [0, 1, 2]),
        (["a|b", "c"], ["a|b", "c"], [0, 1]),  # no part occurs twice: names with a bar
        (["a;b", "a", "b"], ["a", "a;b", "b"], [1, 0, 2]),
        (["[1]", "two"], None, "'two' is not one"),
    ],
)
def test_text_as_one_label(rows, names, expected):
    made = splits(Value("string"), train=rows)
    if names is None:
        with pytest.raises(DataError, match=expected):
            read_labels(made, "y")
        return
    labels = read_labels(made, "y")
    assert labels.names == names and labels.values["train"].tolist() == expected


@pytest.mark.parametrize(
    "rows, kind, names, expected",
    [
        (["a|b", "a", "b | c"], "auto", ["a", "b", "c"], [[1, 1, 0], [1, 0, 0], [0, 1, 1]]),
        (["a|b", "c"], "multi", ["a", "b", "c"], [[1, 1, 0], [0, 0, 1]]),
        (["a;b", "a"], "multi", ["a", "b"], [[1, 1], [1, 0]]),
        (["a,b", "a"], "multi", ["a", "b"], [[1, 1], [1, 0]]),
        (["a, left|b", "b"], "multi", ["a, left", "b"], [[1, 1], [0, 1]]),  # only the first separator that occurs
        (["['a', 'b']", "['b']", "[]"], "auto", ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
        (["['a' 'b']", "['b']"], "auto", ["a", "b"], [[1, 1], [0, 1]]),  # numpy writes no commas
        (['["it\'s", "b"]', "['b']"], "auto", ["b", "it's"], [[1, 1], [1, 0]]),
        (["[a, b c]", "[b c]"], "auto", ["a", "b c"], [[1, 1], [0, 1]]),
        (["[0 1 1]", "[1 0 0]"], "auto", ["0", "1", "2"], [[0, 1, 1], [1, 0, 0]]),
        (["[0., 1.]", "[1., 1.]"], "auto", ["0", "1"], [[0, 1], [1, 1]]),
        (["[3, 5]", "[5]"], "auto", ["3", "5"], [[1, 1], [0, 1]]),
        (["{'a', 'b'}", "{'b'}"], "auto", ["a", "b"], [[1, 1], [0, 1]]),
        (["x", "y"], "multi", ["x", "y"], [[1, 0], [0, 1]]),
    ],
)
def test_text_as_several_labels(rows, kind, names, expected):
    labels = read_labels(splits(Value("string"), train=rows), "y", kind=kind)
    assert labels.names == names and labels.values["train"].tolist() == expected
    assert labels.problem_type == MultiLabel.problem_type


def test_the_way_out_of_several_labels_is_named_where_they_were_only_found():
    made = splits(Value("string"), train=["a|b", "a"])
    assert "`label_kind` single" in read_labels(made, "y").notes[0]
    assert "`label_kind`" not in read_labels(made, "y", kind="multi").notes[0]  # as for a model, or if it was given


def test_a_list_that_cannot_be_understood_is_refused():
    with pytest.raises(DataError, match=r"'a' b\].*cannot be read as one.*`label_kind` single"):
        read_labels(splits(Value("string"), train=["['a' b]", "['a']"]), "y")


def test_single_keeps_a_bar_in_the_name():
    labels = read_labels(splits(Value("string"), train=["a|b", "a", "b"]), "y", kind="single")
    assert labels.names == ["a", "a|b", "b"] and labels.problem_type == SingleLabel.problem_type


@pytest.mark.parametrize(
    "rows, words",
    [
        ([" a", "b"], r"1 labels of column 'y' are read without the spaces.*' a'"),
        (["nan", "b", "a"], "1 rows of column 'y' contain the word nan"),
        (["nan", "1", "0"], "1 rows of column 'y' contain the word nan"),
        (["None", "NA", "b"], "Column 'y' has classes named 'None' and 'NA'"),
        (["-1", "a", "b"], "Column 'y' has classes named '-1'. Leave the cell empty"),
        (["1", "01", "2"], r"\['1', '01'\], which differ only in zeros in front"),
        (["a|b", "a"], r"1 of 2 different labels contain '\|'.*several labels per image.*`label_kind` single"),
        (["a|b", "c"], r"1 of 2 labels contain '\|'.*no part of them occurs in two.*`label_kind` multi"),
        (["a;b", "a"], "1 of 2 labels contain ';'.*`label_kind` multi"),
        (["a/b", "a", "b"], r"1 of 3 labels contain '/'.*write \| between them"),
        (["-1", "0", "1"], "1 rows of column 'y' are -1, which is read as no label.*give `uncertain`"),
        (["['a']", "['b']"], "lists exactly one label.*`label_kind` single"),
    ],
)
def test_what_the_log_says(rows, words):
    notes = read_labels(splits(Value("string"), train=rows), "y").notes
    assert any(re.search(words, note) for note in notes), notes


@pytest.mark.parametrize("rows", [["a, left", "b, right"], ["a-1", "b"], ["n/a b", "c"], ["0", "1"], ["a", "b"]])
def test_ordinary_names_are_no_reason_for_a_note(rows):
    assert read_labels(splits(Value("string"), train=rows), "y").notes == []


# --- vectors of 0 and 1


ONE_HOT = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("feature", [List(Value("int64")), List(Value("float32"), length=3)])
def test_one_hot_rows_are_one_label(feature):
    made = splits(feature, train=ONE_HOT, test=[[0, 1, 0]])
    labels = read_labels(made, "y", ["a", "b", "c"])
    assert labels.problem_type == SingleLabel.problem_type and labels.names == ["a", "b", "c"]
    assert labels.values["train"].tolist() == [1, 0, 2] and labels.values["test"].tolist() == [1]
    assert "exactly one 1" in labels.notes[0] and "`label_kind` multi" in labels.notes[0]
    several = read_labels(made, "y", ["a", "b", "c"], kind="multi")
    assert several.values["train"].tolist() == ONE_HOT and several.notes == []


def test_one_hot_columns_and_text():
    rows = DatasetDict(train=Dataset.from_dict({"a": ["1.0", "0.0"], "b": ["0", "1"]}))
    assert read_labels(rows, ["a", "b"]).values["train"].tolist() == [0, 1]
    assert read_labels(rows, ["a", "b"], kind="multi").values["train"].tolist() == [[1, 0], [0, 1]]
    assert read_labels(splits(Value("string"), train=["[0 1]", "[1 0]"]), "y").values["train"].tolist() == [1, 0]


def test_a_row_of_several_in_one_split_makes_all_multi_label():
    labels = read_labels(splits(List(Value("int64")), train=ONE_HOT, test=[[1, 1, 0]]), "y")
    assert labels.problem_type == MultiLabel.problem_type


def test_single_refuses_rows_of_several():
    made = splits(List(Value("int64")), train=ONE_HOT, test=[[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    with pytest.raises(DataError, match=r"'test', row 1.*2 labels \['0', '1'\].*2 rows"):
        read_labels(made, "y", kind="single")
    labels = read_labels(splits(List(Value("string")), train=[["b"], ["a"], None]), "y", kind="single")
    assert labels.values["train"].tolist() == [1, 0, -1]


def findings(**columns):
    return DatasetDict(train=Dataset.from_dict(columns))


CHEXPERT = {"mass": ["1.0", "-1.0", "", None], "cyst": ["0.0", "1", "-1", None]}


@pytest.mark.parametrize(
    "uncertain, expected",
    [
        ("positive", [[1, 0], [1, 1], [0, 1]]),
        ("negative", [[1, 0], [0, 1], [0, 0]]),
        ("ignore", [[1, 0], [NAN, 1], [0, NAN]]),
    ],
)
@pytest.mark.parametrize("typed", [False, True])
def test_uncertain_findings(uncertain, expected, typed):
    columns = CHEXPERT
    if typed:
        columns = {name: [float(cell) if cell else None for cell in cells] for name, cells in CHEXPERT.items()}
    labels = read_labels(findings(**columns), ["mass", "cyst"], uncertain=uncertain)
    assert np.array_equal(labels.values["train"][:3], np.array(expected, dtype=np.float32), equal_nan=True)
    assert labels.missing["train"].tolist() == [False, False, False, True]
    assert "mass: 1 uncertain (-1), 1 empty; cyst: 1 uncertain (-1), 0 empty" in labels.notes[0]


def test_uncertain_findings_are_asked_for():
    message = r"mass: 1 uncertain \(-1\), 1 empty; cyst: 1 uncertain \(-1\), 0 empty.*`uncertain` ignore"
    with pytest.raises(DataError, match=message) as error:
        read_labels(findings(**CHEXPERT), ["mass", "cyst"])
    assert "unlabelled" not in str(error.value)
    with pytest.raises(DataError, match="mass: 0 uncertain.*1 empty"):
        read_labels(findings(mass=["1", ""], cyst=["1", "1"]), ["mass", "cyst"])
    with pytest.raises(DataError, match=r"1 empty.*empty in all columns has no label \(1 rows\).*write 0") as error:
        read_labels(findings(mass=["1", "", ""], cyst=["1", "1", ""]), ["mass", "cyst"])
    assert "Say how -1 is read" not in str(error.value)


def test_uncertain_in_rows_of_a_list_and_in_one_column():
    made = splits(List(Value("float64"), length=2), train=[[1, -1], [1, 1], [NAN, 0]])
    assert read_labels(made, "y", uncertain="positive").values["train"].tolist() == [[1, 1], [1, 1], [0, 0]]
    column = splits(Value("int64"), train=[0, 1, -1])
    read = {rule: read_labels(column, "y", uncertain=rule).values["train"].tolist() for rule in RULES}
    assert read == {"ignore": [0, 1, -1], "positive": [0, 1, 1], "negative": [0, 1, 0]}


def test_uncertain_rows_of_one_column_are_known():
    read = read_labels(splits(Value("string"), train=["0", "1", "-1", ""]), "y", uncertain="ignore")
    assert read.uncertain["train"].tolist() == [False, False, True, False]
    assert read.missing["train"].tolist() == [False, False, True, True]
    for rule in ("positive", "negative", None):
        assert read_labels(splits(Value("int64"), train=[0, 1, -1]), "y", uncertain=rule).uncertain == {}


@pytest.mark.parametrize("cell", ["yes", "2", "0.5", "01"])
def test_other_cells_of_columns_are_refused(cell):
    with pytest.raises(DataError, match=f"row 1, column 'mass': label '{cell}' is neither 0 nor 1"):
        read_labels(findings(mass=["1", cell], cyst=["1", "1"]), ["mass", "cyst"], uncertain="ignore")
