"""One image or patient in two splits, and one image under two labels."""

import json

import numpy as np
import pytest
from conftest import blob_arrays, blob_images
from PIL import Image
from test_distillation import settings

import rd_hf
from rd_hf.data.leaks import (
    LeakError,
    conflicting_labels,
    pixel_digest,
    report_conflicts,
    report_leaks,
    shared_files,
    shared_groups,
    shared_images,
)


def test_the_digest_is_of_the_pixels_and_their_shape():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).convert("RGB")
    other = Image.frombytes("RGB", (4, 6), image.tobytes())
    again = Image.fromarray(np.asarray(image))
    assert pixel_digest(image).tobytes() == pixel_digest(again).tobytes() != pixel_digest(other).tobytes()


def test_of_made_splits_the_way_out_is_a_group_column():
    with pytest.raises(LeakError, match="rd_hf made splits: .*`group_column`"):
        report_leaks(["leak"], "error", {"made_splits": {"names": ["test"]}})


def test_shared_images_are_counted_for_each_pair_of_splits():
    images = {
        "train": {0: b"a", 1: b"b", 4: b"b"},
        "validation": {0: b"c"},
        "test": {0: b"b", 1: b"a", 2: b"b", 3: b"d"},
    }
    assert shared_images(images) == [
        "3 of 4 rows of 'test' are also in 'train', value by value (row 0 is row 1 of 'train', row 1 is row 0 of "
        "'train', row 2 is row 1 of 'train'), so scores on 'test' will be too good."
    ]
    files = {("test", 0): "t.png", ("train", 1): "b.png", ("test", 1): "u.png", ("test", 2): "v.png"}
    assert shared_files(images, lambda *row: files.get(row)) == [
        "Of 'test' and 'train': t.png is b.png, v.png is b.png."
    ]
    assert shared_files(images, lambda *row: None) == []
    assert shared_images({"train": {0: b"a", 1: b"a"}, "test": {0: b"b"}}) == []


def test_shared_groups_are_counted_and_rows_without_a_group_share_nothing():
    groups = {"train": ["p1", "p2", None], "validation": ["p2", None], "test": ["p3"]}
    assert [sentence[:54] for sentence in shared_groups(groups)] == [
        "1 groups are in both 'train' and 'validation' of the o"
    ]


def test_one_image_under_two_labels_is_listed_with_a_row_for_each():
    images = {"train": {0: b"a", 1: b"a", 2: b"b"}, "test": {0: b"a", 1: b"b"}}
    labels = {"train": {0: "cat", 1: "dog", 2: "cat"}, "test": {0: "dog", 1: "cat"}}
    assert conflicting_labels(images, labels) == [
        "Equal rows have different labels: 'cat' in row 0 of 'train', 'dog' in row 1 of 'train'."
    ]
    (named,) = conflicting_labels(images, labels, lambda split, row: f"{row}.png" if split == "train" else None)
    assert named.endswith("'cat' in row 0 of 'train' (0.png), 'dog' in row 1 of 'train' (1.png).")


@pytest.fixture
def leaking(tmp_path):
    """Three test images are also train images, one of them under another label."""
    arrays = blob_arrays()
    arrays["test_images"][[4, 7, 9]] = arrays["train_images"][[1, 4, 7]]
    np.savez(tmp_path / "leaking.npz", **arrays)
    return tmp_path / "leaking.npz"


def test_a_run_reports_leaks_before_training_or_refuses_them(teacher, leaking, tmp_path, caplog):
    values = settings(teacher, leaking, tmp_path / "run", shots=None, use_unlabeled=False, max_steps=1)
    with pytest.raises(LeakError, match="3 of 24 rows of 'test' are also in 'train'.*\n.*`on_leak` warn"):
        rd_hf.distill(**values, on_leak="error")
    assert not (tmp_path / "run").exists()
    caplog.clear()
    rd_hf.distill(**values)
    assert "3 of 24 rows of 'test' are also in 'train'" in caplog.text
    assert "Equal rows with different labels: 1." in caplog.text
    assert "'malignant' in row 7 of 'train', 'benign' in row 9 of 'test'" in caplog.text
    (noted,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["leaks"]
    assert noted.startswith("3 of 24 rows of 'test' are also in 'train'")
    assert "**3 of 24 rows of 'test'" in (tmp_path / "run" / "student" / "README.md").read_text()


def test_a_patient_in_two_splits_is_refused_where_asked(teacher, tmp_path):
    rows = []
    for split, count in (("train", 12), ("validation", 6), ("test", 6)):
        for number in range(count):
            name = f"{split}/{number}.png"
            (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(blob_images(np.array([number % 2]), seed=len(rows))[0]).save(tmp_path / "data" / name)
            rows.append((name, ("cat", "dog")[number % 2], number if split != "validation" else 100 + number))
    lines = ["file_name,label,patient", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines))
    values = settings(teacher, tmp_path / "data", tmp_path / "run", shots=None, use_unlabeled=False, max_steps=1)
    with pytest.raises(LeakError, match="6 groups are in both 'train' and 'test'"):
        rd_hf.distill(**values, group_column="patient", on_leak="error")


def test_of_many_contradictions_the_first_are_shown(caplog):
    report_conflicts([f"Equal rows have different labels: {number}" for number in range(8)])
    assert "Equal rows with different labels: 8." in caplog.text and "and 3 more" in caplog.text
    assert "labels: 4" in caplog.text and "labels: 5" not in caplog.text
