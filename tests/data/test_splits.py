import contextlib
import io
import json
import logging
import os
from dataclasses import dataclass

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from rd_hf.data import splits
from rd_hf.data.columns import DataError
from rd_hf.tasks.classification import MultiLabel, SingleLabel
from rd_hf.tasks.task import Task


@dataclass(frozen=True)
class ImageData:
    """What splits.py reads of rd_hf.data.sources.ImageData, with names in place of images."""

    splits: DatasetDict
    label_names: list[str]
    task: Task
    source: dict
    without_labels: tuple[str, ...] = ()
    masks: None = None

    def labels(self, split):
        dtype = np.float32 if isinstance(self.task, MultiLabel) else np.int64
        return np.array(self.splits[split]["label"], dtype=dtype)


def complete_splits(data, *arguments, **options):
    """Splits by the classes of the data's task."""
    return splits.complete_splits(data, data.task.marks, *arguments, **options)


def choose_labelled(data, *arguments, **options):
    """Labels by the classes of the data's task."""
    return splits.choose_labelled(data, data.task.marks, *arguments, **options)


def image_data(groups=None, names=None, files=None, **labels):
    """Data whose images are "split:row", or of these files, from labels per split and groups per split."""
    splits, arrays = {}, {split: np.asarray(values) for split, values in labels.items()}
    for split, values in arrays.items():
        names_of_files = files or [f"{split}:{row}" for row in range(len(values))]
        columns = {"image": [{"bytes": None, "path": file} for file in names_of_files], "label": values.tolist()}
        splits[split] = Dataset.from_dict(columns | ({"group": groups[split]} if groups else {}))
    many = any(values.ndim == 2 for values in arrays.values())
    size = (
        next(iter(arrays.values())).shape[1] if many else max(values.max(initial=0) for values in arrays.values()) + 1
    )
    names = names or [f"class {index}" for index in range(size)]
    return ImageData(DatasetDict(splits), names, (MultiLabel if many else SingleLabel)(names), {"id": "local"})


def single(*counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def multi(rows, rates, seed=0):
    return (np.random.default_rng(seed).random((rows, len(rates))) < rates).astype(np.float32)


def images(data):
    return {split: [image["path"] for image in rows["image"]] for split, rows in data.splits.items()}


def class_counts(data, split):
    return np.bincount(data.labels(split), minlength=len(data.label_names)).tolist()


def test_rows_of_one_file_stay_in_one_split(caplog):
    caplog.set_level(logging.INFO, "rd_hf")
    files = [f"{row % 60}.png" for row in range(100)]  # 40 files are named twice
    data = image_data(files=files, train=single(60, 40))
    made = {name: set(own) for name, own in images(complete_splits(data, 0.2, 0.2, seed=0)).items()}
    assert len(set.union(*made.values())) == sum(map(len, made.values())) == 60
    assert "80 rows of train share their file with others" in caplog.text


def test_missing_splits_are_made_from_train_by_class_and_share_no_row():
    data = complete_splits(image_data(train=single(100, 60, 20)), 0.1, 0.2, seed=0)
    assert list(data.splits) == ["train", "validation", "test"]
    assert class_counts(data, "train") == [70, 42, 14]
    assert class_counts(data, "validation") == [10, 6, 2]
    assert class_counts(data, "test") == [20, 12, 4]
    everything = [name for names in images(data).values() for name in names]
    assert sorted(everything) == sorted(f"train:{row}" for row in range(180))


def test_a_given_split_stays_as_it_is_and_the_share_is_of_the_given_train():
    data = image_data(train=single(40, 40), test=single(5, 5))
    made = complete_splits(data, 0.25, 0.5, seed=0)
    assert images(made)["test"] == images(data)["test"]
    assert class_counts(made, "validation") == [10, 10] and class_counts(made, "train") == [30, 30]


def test_rows_keep_their_order_and_belong_to_their_labels():
    labels = single(30, 30)
    made = complete_splits(image_data(train=labels), 0.2, 0.2, seed=5)
    for split, names in images(made).items():
        rows = [int(name.split(":")[1]) for name in names]
        assert rows == sorted(rows)
        assert made.labels(split).tolist() == labels[rows].tolist()


def test_sizes_do_not_drift_with_many_small_classes():
    made = complete_splits(image_data(train=single(*[12] * 40)), 0.15, 0.15, seed=0)
    assert abs(len(made.splits["validation"]) - 72) <= 2 and abs(len(made.splits["test"]) - 72) <= 2
    assert all(1 <= count <= 2 for count in class_counts(made, "validation"))


@pytest.mark.parametrize("seed", range(3))
def test_each_class_with_enough_rows_is_in_every_split(seed):
    made = complete_splits(image_data(train=single(200, 3, 4)), 0.1, 0.1, seed)
    assert all(min(class_counts(made, split)) >= 1 for split in made.splits)


def test_a_class_too_small_to_share_out_stays_in_train_with_a_warning(caplog):
    made = complete_splits(image_data(train=single(50, 50, 2)), 0.2, 0.2, seed=0)
    assert class_counts(made, "train")[2] == 2
    assert (
        "Class 'class 2' has 2 rows, too few to divide between train, validation, test; they stay in train."
        in caplog.text
    )
    assert "Split 'test' has no row of 'class 2'." in caplog.text
    complete_splits(image_data(train=single(50, 50, 1)), 0.2, 0.2, seed=0)
    assert "has 1 row, too few to divide between train, validation, test; it stays in train." in caplog.text


def test_multi_label_splits_keep_the_share_of_each_label_and_of_rows_without_any():
    labels = multi(600, [0.3, 0.1, 0.03])
    made = complete_splits(image_data(train=labels), 0.2, 0.2, seed=0)
    for split in ("validation", "test"):
        part = made.labels(split)
        assert abs(len(part) - 120) <= 4
        assert np.all(np.abs(part.sum(axis=0) - 0.2 * labels.sum(axis=0)) <= 2)
        assert abs((part.sum(axis=1) == 0).sum() - 0.2 * (labels.sum(axis=1) == 0).sum()) <= 2


def test_multi_label_train_keeps_a_label_whose_rows_other_labels_take():
    rows = ["11111", "11111", "00101", "00000", "11110", "01110", "00011"]
    labels = np.array([[int(mark) for mark in row] for row in rows], dtype=np.float32)
    for seed in (*range(30), 570):
        made = complete_splits(image_data(train=labels), 0.3, 0.3, seed)
        assert made.labels("train").sum(axis=0).min() >= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_never_split(seed):
    generator = np.random.default_rng(seed)
    patients = generator.integers(0, 60, 300)
    labels = (patients % 3 == 0).astype(int)
    made = complete_splits(image_data({"train": [f"p{p}" for p in patients]}, train=labels), 0.2, 0.2, seed)
    held = [set(rows["group"]) for rows in made.splits.values()]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    for split in ("validation", "test"):
        assert abs(len(made.splits[split]) - 60) <= 8
        assert abs(made.labels(split).mean() - labels.mean()) < 0.06


def test_a_few_large_groups_still_fill_every_split():
    groups = ["a"] * 50 + ["b"] * 10 + ["c"] * 10
    made = complete_splits(image_data({"train": groups}, train=[0, 1] * 35), 0.1, 0.1, seed=0)
    assert set(made.splits["train"]["group"]) == {"a"}
    assert len(made.splits["validation"]) == len(made.splits["test"]) == 10


def test_rows_without_a_group_are_free():
    made = complete_splits(image_data({"train": [None] * 20}, train=single(10, 10)), 0.2, 0.2, seed=0)
    assert [len(made.splits[split]) for split in made.splits] == [12, 4, 4]


def test_a_group_of_a_given_split_is_not_taken_into_a_split_made_here():
    groups = {"train": [f"p{row % 10}" for row in range(40)], "validation": ["p0", "p1", "p2", "x"]}
    made = complete_splits(image_data(groups, train=[0, 1] * 20, validation=[0, 1, 0, 1]), 0.2, 0.3, seed=0)
    assert not set(made.splits["test"]["group"]) & {"p0", "p1", "p2"}


@pytest.mark.parametrize(
    "train, test",
    [([1, 1, 2, 3], ["2", "3"]), (["1", "1", "2", "3"], [2.0, 3.0]), (["1", "1", "2", "3"], ["2.0", "3.0"])],
)
def test_a_group_that_is_written_in_two_ways_is_one(caplog, train, test):
    given = image_data({"train": train, "test": test}, train=[0, 1, 0, 1], test=[0, 1])
    complete_splits(given, 0.5, 0.5, seed=0)
    assert "2 groups are in both 'train' and 'test'" in caplog.text


def test_groups_on_two_sides_of_given_splits_are_counted(caplog):
    groups = {"train": [1, 1, 2, 3], "validation": [4, 5], "test": [2, 3]}
    given = image_data(groups, train=[0, 1, 0, 1], validation=[0, 1], test=[0, 1])
    assert images(complete_splits(given, 0.2, 0.2, seed=0)) == images(given)
    assert "2 groups are in both 'train' and 'test'" in caplog.text
    assert "'train' and 'validation'" not in caplog.text


def test_splits_are_logged_with_their_sizes(caplog):
    with caplog.at_level(logging.INFO):
        complete_splits(image_data(train=single(50, 50)), 0.1, 0.2, seed=3)
    assert "Splits: train 70, validation 10, test 20 (validation and test made from train with seed 3)" in caplog.text


def test_another_seed_gives_other_splits_and_other_labels():
    data = image_data(train=single(50, 50))
    first, again, other = (complete_splits(data, 0.2, 0.2, seed) for seed in (0, 0, 1))
    assert images(first) == images(again) != images(other)
    first, again, other = (choose_labelled(data, 5, None, seed).rows.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_same_in_another_process(light_python, tmp_path):
    program = (
        "import json, numpy as np; from test_splits import *;"
        "d = image_data({'train': ['p%d' % (r // 2) for r in range(80)]}, train=single(50, 30));"
        "s = complete_splits(d, .2, .2, 7);"
        "print(json.dumps([images(s), choose_labelled(s, 3, None, 7).rows.tolist()]))"
    )
    folder = os.path.dirname(__file__)
    path = os.pathsep.join([folder, os.path.dirname(os.path.dirname(folder))])
    there = light_python.run("-c", program, cwd=tmp_path, environment={"PYTHONPATH": path})
    assert there.returncode == 0, there.stderr
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(program, {})
    assert json.loads(there.stdout) == json.loads(here.getvalue())


def test_without_shots_or_fraction_every_row_is_labelled():
    chosen = choose_labelled(image_data(train=single(4, 6)), None, None, seed=0)
    assert chosen.rows.tolist() == list(range(10)) and len(chosen.unlabelled_rows) == 0
    assert chosen.rows.dtype == chosen.unlabelled_rows.dtype == np.int64


def test_shots_are_labels_a_class_and_the_rest_is_unlabelled(caplog):
    labels = single(40, 30, 3)
    chosen = choose_labelled(image_data(train=labels), 5, None, seed=0)
    assert np.bincount(labels[chosen.rows]).tolist() == [5, 5, 3]
    assert sorted([*chosen.rows, *chosen.unlabelled_rows]) == list(range(73))
    assert chosen.rows.tolist() == sorted(chosen.rows) and chosen.unlabelled_rows.tolist() == sorted(
        chosen.unlabelled_rows
    )
    assert "Class 'class 2' has 3 rows in train, fewer than shots = 5" in caplog.text
    assert "class 0" not in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_multi_label_shots_are_positive_labels_a_class_without_waste(seed):
    labels = multi(300, [0.4, 0.2, 0.01, 0.1], seed)
    labels[7, 2] = 1
    chosen = labels[choose_labelled(image_data(train=labels), 6, None, seed).rows]
    assert np.all(chosen.sum(axis=0) >= np.minimum(6, labels.sum(axis=0)))
    assert len(chosen) <= 24
    assert chosen.sum(axis=1).min() >= 1


def test_label_fraction_is_stratified_with_at_least_one_label_a_class():
    labels = single(200, 100, 3, 1)
    chosen = choose_labelled(image_data(train=labels), None, 0.1, seed=0)
    assert np.bincount(labels[chosen.rows]).tolist() == [20, 10, 1, 1]
    assert sorted([*chosen.rows, *chosen.unlabelled_rows]) == list(range(304))


def test_multi_label_fraction_keeps_the_share_of_each_label():
    labels = multi(400, [0.3, 0.1, 0.01])
    labels[3, 2] = 1
    chosen = labels[choose_labelled(image_data(train=labels), None, 0.1, seed=0).rows]
    assert abs(len(chosen) - 40) <= 3
    assert np.all(np.abs(chosen.sum(axis=0) - 0.1 * labels.sum(axis=0)) <= 2) and chosen[:, 2].sum() >= 1


def test_shots_and_fraction_together_are_refused():
    with pytest.raises(ValueError, match="give one of them"):
        choose_labelled(image_data(train=single(4, 4)), 2, 0.5, seed=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (image_data(test=[0, 1]), "no 'train' split, only 'test'"),
        (image_data(train=[0, 1], test=np.zeros(0, dtype=int)), "split 'test' has no rows"),
        (
            image_data(train=[0, 1, 0], test=[3, 2], names=["0", "1", "a", "b"]),
            r"train and test use different labels: train has \['0', '1'\], and test has \['a', 'b'\]",
        ),
        (image_data(train=[0, 0, 2], test=[0, 1, 2]), "train has no row of class 'class 1'"),
        (image_data(train=[[1, 0], [1, 0]], test=[[0, 1]]), "train has no row of class 'class 1'"),
        (image_data(train=[0, 0, 0]), "only one class \\('class 0'\\)"),
        (image_data(train=[0, 1, 1]), "train has 3 rows, but no class has enough rows to make a 'validation' split"),
    ],
)
def test_data_that_cannot_be_used_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        complete_splits(data, 0.15, 0.15, seed=0)


def test_fractions_that_leave_no_train_are_refused():
    with pytest.raises(DataError, match="leave no rows for train"):
        complete_splits(image_data(train=single(10, 10)), 0.5, 0.5, seed=0)


def test_multi_label_shots_start_with_the_rarest_label():
    labels = np.zeros((100, 2), dtype=np.float32)
    labels[:, 0] = labels[:5, 1] = 1
    assert choose_labelled(image_data(train=labels), 5, None, seed=0).rows.tolist() == [0, 1, 2, 3, 4]
