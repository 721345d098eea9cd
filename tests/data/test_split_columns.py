"""What divides a table, or a data set of one split: its column of splits, or the folders in its paths."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.sources import load_data

PATHS = [f"{split}/{number}.png" for split in ("train", "test") for number in range(4)]
HALVES = {"train": 4, "test": 4}


@pytest.fixture
def folder(tmp_path):
    for number, path in enumerate(PATHS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), number).save(tmp_path / path)
    return tmp_path


def table(file, names, cells, start=""):
    lines = [f"{start}{path},{'ab'[number % 2]}{cells(path)}" for number, path in enumerate(PATHS)]
    file.write_text("\n".join([names, *lines]))
    return file


def sizes(data):
    return {name: len(rows) for name, rows in data.splits.items()}


def files(data, split):
    return [row["path"][-10:] for row in data.splits[split].select_columns(["image"])[:]["image"]]


@pytest.mark.parametrize("column", ["split", "Split", "SPLIT", " Split"])
@pytest.mark.parametrize("name", ["labels.csv", "train.csv"])
def test_column_of_splits_in_any_case(folder, column, name):
    file = table(folder / name, f"file_name,label,{column}", lambda path: "," + path.split("/")[0].upper())
    data = load_data(file)
    assert sizes(data) == HALVES and [path[:5] for path in files(data, "test")] == ["test/"] * 4
    table(file, f"file_name,label,{column}", lambda path: ",test" if path == PATHS[5] else ",")
    with pytest.raises(DataError, match=rf"7 of 8 rows have nothing in column '{column.strip()}'"):
        load_data(file)


def memory(folder, **columns):
    rows = {"image": [str(folder / path) for path in PATHS], "label": ["a", "b"] * 4}
    return Dataset.from_dict(rows | columns)


SPLITS = ["train"] * 3 + ["val"] * 2 + ["test"] * 3


def test_column_of_splits_in_memory_and_saved(folder, tmp_path, log):
    for column in ("split", "Split"):
        rows = memory(folder, **{column: SPLITS})
        DatasetDict(train=rows).save_to_disk(str(tmp_path / column))
        for data in (rows, DatasetDict(train=rows), tmp_path / column):
            assert sizes(load_data(data)) == {"train": 3, "validation": 2, "test": 3}
    numbers = memory(folder, split=[["train", "test"].index(path.split("/")[0]) for path in PATHS])
    data = load_data(numbers.cast_column("split", ClassLabel(names=["training", "testing"])))
    assert sizes(data) == HALVES and [path[:5] for path in files(data, "test")] == ["test/"] * 4
    assert sizes(load_data(numbers)) == {"train": 8} and not log.text  # a column of something else
    with pytest.raises(DataError, match=r"column 'split' contains \['other'\]"):
        load_data(memory(folder, split=[*SPLITS[:-1], "other"]))


def test_column_that_contradicts_splits_in_memory_is_said(folder, log):
    rows = memory(folder, split=SPLITS)
    data = load_data(DatasetDict(train=rows.select(range(5)), test=rows.select(range(5, 8))))
    assert sizes(data) == {"train": 5, "test": 3}
    assert log.text.count("Split 'train' has rows of validation in its column 'split'. They stay in 'train'.") == 1


@pytest.mark.parametrize("column", ["file_name", "path", "Image Index", "picture"])
@pytest.mark.parametrize("name", ["metadata.csv", "labels.csv"])
@pytest.mark.parametrize("start", ["", "./", "images/", ".\\"])
def test_paths_in_folders_of_splits_divide_a_table(folder, log, column, name, start):
    if start == "images/":
        (folder / "images").mkdir()
        for split in ("train", "test"):
            (folder / split).rename(folder / "images" / split)
    file = table(folder / name, f"{column},label", lambda path: "", start)
    data = load_data(file, image_column=column)
    assert sizes(data) == HALVES and [path[:5] for path in files(data, "test")] == ["test/"] * 4
    if name != "metadata.csv":
        assert f"The paths of '{file}' lie in folders of splits, which divide it: train 4, test 4." in log.text


def test_paths_that_do_not_divide_are_said(folder, log):
    file = table(folder / "train.csv", "file_name,label", lambda path: "")
    assert sizes(load_data(file)) == {"train": 8}
    warning = "lie in folders of splits (train, test), but no column split divides them"
    assert log.text.count(warning) == 1
    (folder / "9.png").write_bytes((folder / PATHS[0]).read_bytes())
    file = table(folder / "labels.csv", "file_name,label", lambda path: "")
    file.write_text(file.read_text() + "\n9.png,a")
    assert sizes(load_data(file)) == {"train": 9} and log.text.count(warning) == 2


def test_column_that_is_named_almost_so_is_said(folder, log):
    for number, path in enumerate(PATHS):
        (folder / path).rename(folder / f"{number}.png")
    lines = [f"{number}.png,{'ab'[number % 2]},{path.split('/')[0]}" for number, path in enumerate(PATHS)]
    (folder / "labels.csv").write_text("\n".join(["file_name,label,subset", *lines]))
    assert sizes(load_data(folder / "labels.csv")) == {"train": 8}
    assert "Column 'subset' names splits (test, train), but only a column split divides a table." in log.text
