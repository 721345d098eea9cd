"""How the labels of the data reach a run: rows without label, uncertain findings, and the reading of a model's data."""

import csv
import json

import numpy as np
import pytest
from conftest import blob_arrays, blob_images
from PIL import Image

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.training.run_data import load_run_data

STUDENT = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip


def values(dataset, folder, **changes):
    return {
        "student": STUDENT, "dataset": str(dataset), "output_dir": str(folder), "student_image_size": 24,
        "method": "ce", "max_steps": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 32,
    } | changes  # fmt: skip


def table(folder, header, cells):
    """A table of blobs, a row of cells per image."""
    (folder / "images").mkdir(parents=True)
    images = blob_images(np.arange(len(cells)) % 2)
    lines = [f"file_name,{header}"]
    for row, (image, own) in enumerate(zip(images, cells, strict=True)):
        Image.fromarray(image).save(folder / "images" / f"{row}.png")
        lines.append(f"images/{row}.png,{own}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def patients(folder):
    """40 rows of ten patients in turn, of whom every fourth row of the first six has no label."""
    label = ["" if row % 4 == 3 and row % 10 < 6 else "ab"[row % 2] for row in range(40)]
    return table(folder, "label,patient", [f"{label[row]},p{row % 10}" for row in range(40)])


def arguments(dataset, tmp_path, **changes):
    return DistillationArguments(**values(dataset, tmp_path / "run", teacher="t", **({"method": "rd"} | changes)))


def test_rows_without_label_serve_as_unlabelled_images(tmp_path, caplog):
    path = patients(tmp_path / "data")
    caplog.set_level("INFO")
    without = load_run_data(arguments(path, tmp_path))
    load_run_data(arguments(path, tmp_path, method="ce", use_unlabeled=True))
    assert "Method ce learns from labels only, so 6 rows without label are not used." in caplog.text
    assert "6 rows of train have no label and are passed over" in caplog.text and "left out" not in caplog.text
    run = load_run_data(arguments(path, tmp_path, use_unlabeled=True))
    bare = [row for row in range(40) if row % 4 == 3 and row % 10 < 6]
    assert len(without.train) + len(without.validation.images) + len(without.test.images) == 40 - len(bare)
    assert len(without.unlabelled_rows) == 0 and np.array_equal(run.labelled_rows, without.labelled_rows)
    assert run.unlabelled_rows.tolist() == list(range(len(without.train), len(without.train) + len(bare)))
    files = [run.train[int(row)]["image"]["path"] for row in run.unlabelled_rows]
    assert [int(file.rsplit("/")[-1].removesuffix(".png")) for file in files] == bare
    assert run.source == without.source


def test_unlabelled_rows_of_scored_patients_are_not_used(tmp_path):
    path = patients(tmp_path / "data")
    run = load_run_data(arguments(path, tmp_path, use_unlabeled=True, group_column="patient"))
    scored = {row["group"] for split in (run.validation, run.test) for row in split.images}
    files = [run.train[int(row)]["image"]["path"] for row in run.unlabelled_rows]
    used = {f"p{int(file.rsplit('/')[-1].removesuffix('.png')) % 10}" for file in files}
    assert used == {f"p{number}" for number in (1, 3, 5)} - scored and scored


def test_nothing_unlabelled_to_use_is_refused(blobs_npz, tmp_path):
    with pytest.raises(ArgumentError, match="use_unlabeled.*shots"):
        load_run_data(arguments(blobs_npz, tmp_path, use_unlabeled=True))


def test_uncertain_findings_are_left_out_of_training_and_scores(tmp_path):
    cells = [f"{row % 2},{('1.0', '0.0', '-1.0', '')[(row // 2) % 4]}" for row in range(80)]
    path = table(tmp_path / "data", "mass,cyst", cells)
    rd_hf.distill(**values(path, tmp_path / "run", label_column=["mass", "cyst"], uncertain="ignore"), verbose=False)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    counted = np.sum(scores["confusion_matrix"], axis=(1, 2))
    with (tmp_path / "run" / "predictions.csv").open() as file:
        files = [row["file"] for row in csv.DictReader(file)]
    assert counted[0] == len(files) and 0 < counted[1] < counted[0]
    listed = {line.partition(",")[0] for line in path.read_text().splitlines()[1:]}
    assert set(files) < listed  # as the table names them
    student = str(tmp_path / "run" / "student")
    again = rd_hf.evaluate(student, str(path), label_column=["mass", "cyst"])  # reads -1 as in training
    assert {name: again[name] for name in ("auroc", "confusion_matrix")} == {
        name: scores[name] for name in ("auroc", "confusion_matrix")
    }
    other = rd_hf.evaluate(student, str(path), "train", label_column=["mass", "cyst"], uncertain="positive")
    assert np.sum(other["confusion_matrix"], axis=(1, 2)).tolist() == [80, 80]
    with pytest.raises(ArgumentError, match="read with uncertain = ignore.*cannot be made again with positive"):
        rd_hf.evaluate(student, str(path), label_column=["mass", "cyst"], uncertain="positive")


@pytest.mark.parametrize(
    "kind, trained", [("auto", "single_label_classification"), ("multi", "multi_label_classification")]
)
def test_one_hot_data_is_read_as_the_model_was_trained(tmp_path, kind, trained):
    arrays = blob_arrays()
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.eye(3, dtype=np.float32)[arrays[f"{split}_labels"].ravel()]
    np.savez(tmp_path / "data.npz", **arrays)
    student = rd_hf.distill(**values(tmp_path / "data.npz", tmp_path / "run", label_kind=kind), verbose=False)
    assert student.config.problem_type == trained
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert rd_hf.evaluate(str(tmp_path / "run" / "student"), str(tmp_path / "data.npz"))["auroc"] == scores["auroc"]


def test_a_test_split_without_labels_is_made_from_train_and_made_again(blobs_npz, tmp_path):
    arrays = {name: array for name, array in blob_arrays().items() if name != "test_labels"}
    np.savez(tmp_path / "data.npz", **arrays)
    rd_hf.distill(**values(tmp_path / "data.npz", tmp_path / "run"), verbose=False)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    student = str(tmp_path / "run" / "student")
    assert np.sum(scores["confusion_matrix"]) == 9  # 15 % of 60
    assert rd_hf.evaluate(student, str(tmp_path / "data.npz"))["confusion_matrix"] == scores["confusion_matrix"]
    np.savez(tmp_path / "other.npz", **(arrays | {"val_labels": np.full(24, -1)}))
    with pytest.raises(ArgumentError, match="Split `validation` has no labels.*rd-hf predict"):
        rd_hf.evaluate(student, str(tmp_path / "other.npz"), "validation")
