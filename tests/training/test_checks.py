"""What would stop a run late, or in a library's own words, is said in a sentence before any training."""

import logging
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from test_distillation import settings
from torch import nn

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.order import RowOrder, StepPlan
from rd_hf.data.pixel_store import PixelStore
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.modeling_monai import MonaiNetForSemanticSegmentation
from rd_hf.scoring.classification import MetricError
from rd_hf.students.loading import load_student
from rd_hf.training.assembly import planned_steps
from rd_hf.training.checks import check_answered_size, check_batch_norm, check_logits_vary, warn_of_few_cka_images
from rd_hf.training.trainer import Trainer


@pytest.fixture
def no_image_is_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr(PixelStore, "decode", refuse)


def table(folder, rows, header):
    """A CSV file of small images with these columns."""
    lines = [header]
    for number, labels in enumerate(rows):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{labels}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def test_a_class_that_stays_in_train_is_named_with_the_argument(tmp_path, no_image_is_read):
    data = table(
        tmp_path, ["cyst" if n == 40 else ("benign", "malignant")[n % 2] for n in range(41)], "file_name,label"
    )
    with pytest.raises(
        MetricError, match=r"'cyst' \(1 in train, 0 in validation, 0 in test\).*`metric_for_best_model`"
    ):
        rd_hf.distill(**settings(None, data, tmp_path / "run", method="ce"))
    assert not (tmp_path / "run").exists()


def test_a_metric_of_another_task_is_refused(tmp_path, no_image_is_read):
    data = table(tmp_path, [("benign", "malignant")[n % 2] for n in range(40)], "file_name,label")
    with pytest.raises(MetricError, match="is dice, which is not defined .*choose one of auroc, accuracy"):
        rd_hf.distill(**settings(None, data, tmp_path / "run", method="ce"), metric_for_best_model="dice")
    assert not (tmp_path / "run").exists()


def test_label_smoothing_of_several_labels_is_refused_with_an_argument_that_exists(tmp_path, no_image_is_read):
    images = [Image.fromarray(np.full((8, 8), n, np.uint8)) for n in range(40)]
    findings = {"effusion": [n % 2 for n in range(40)], "nodule": [int(n % 4 < 2) for n in range(40)]}
    data = DatasetDict(train=Dataset.from_dict({"image": images} | findings).cast_column("image", datasets.Image()))
    values = settings(None, None, tmp_path / "run", method="ce", label_column=["effusion", "nodule"]) | {
        "dataset": data
    }
    with pytest.raises(ValueError, match="`label_smoothing` is for single-label.*`class_weights` balanced"):
        rd_hf.distill(**values, label_smoothing=0.1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{"method": "rd_plus"}, {"method": "rd", "divergence": "dist"}])
def test_correlations_of_one_image_are_refused(options, teacher, blobs_npz, tmp_path):
    values = settings(teacher, blobs_npz, tmp_path / "run", use_unlabeled=False, per_device_train_batch_size=1)
    values.pop("per_device_unlabeled_batch_size", None)
    with pytest.raises(ArgumentError, match="`divergence` dist correlates the rows of a step, but a step has one row"):
        rd_hf.distill(**(values | {"cka_weight": 0} | options))


def test_runs_in_the_folder_of_their_data_and_half_precision_without_a_gpu_are_refused(teacher, tmp_path):
    (tmp_path / "data").mkdir()
    for option in ("dataset", "unlabeled_dataset"):
        values = settings(teacher, "elsewhere", tmp_path / "data" / "runs" / "one") | {option: str(tmp_path / "data")}
        with pytest.raises(ArgumentError, match=f"`output_dir` .*one lies in the folder of `{option}`, .*data"):
            rd_hf.distill(**values)
    if not torch.accelerator.is_available():
        with pytest.raises(ArgumentError, match="`fp16` needs a GPU, and there is none here"):
            rd_hf.distill(**settings(teacher, "elsewhere", tmp_path / "run", fp16=True))
    assert not (tmp_path / "data" / "runs").exists()


def test_a_batch_of_one_image_is_refused_where_a_batch_norm_would_see_one_value():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    statistics = model[1].running_mean.clone()
    check_batch_norm(model, (8, 8), 1)  # its map has 3 x 3 pixels
    with pytest.raises(ArgumentError, match="`per_device_train_batch_size` is 1.*batch norm.*in 1, where"):
        check_batch_norm(model, (3, 3), 1)
    check_batch_norm(model, (3, 3), 2)
    assert model.training and torch.equal(model[1].running_mean, statistics)
    check_batch_norm(nn.Conv2d(3, 4, 3), (3, 3), 1)


@pytest.mark.parametrize(("strides", "side", "answered", "step"), [([2], 17, 18, 2), ([2, 2], 7, 8, 4)])
def test_a_crop_that_the_network_answers_with_another_size_is_refused_with_the_multiple(strides, side, answered, step):
    arguments = {"channels": [4, 8, 8][: len(strides) + 1], "strides": strides}
    model = MonaiNetForSemanticSegmentation(MonaiNetConfig("UNet", 3, 1, 16, arguments))
    check_answered_size(model, 1, (16, 8, 8))
    named = f"UNet answers {answered} x 8 x 8 voxels for a crop of {side} x 8 x 8: choose a crop_size .* of {step}[.]"
    with pytest.raises(ArgumentError, match=named):
        check_answered_size(model, 1, (side, 8, 8))


def test_a_student_whose_logits_do_not_depend_on_the_image_is_refused():
    weak = {"model_type": "efficientnet", "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}
    names, task = ["no", "yes"], "single_label_classification"
    check_logits_vary(load_student(weak, names, task)[0].model, 3, (64, 64))
    student = load_student(weak | {"initializer_range": 0.0001}, names, task)[0].model
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ArgumentError, match="EfficientNet.* do not depend on the image.*initializer_range"):
        check_logits_vary(student, 3, (64, 64))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    nn.init.zeros_(student.classifier.weight)  # as heads are that start at zero: they learn
    check_logits_vary(student, 3, (64, 64))


def test_no_batch_is_smaller_than_the_others():
    """33 images in batches of 32: the epoch's last image is not alone."""
    plan = StepPlan(RowOrder(np.arange(33), 0, 0), None, 32, 0)
    assert {len(plan.batch(step, 0)) for step in range(5)} == {32}


@pytest.mark.parametrize(
    ("labelled", "given", "steps"),
    [
        (60, {}, 300),  # 60 passes would be 113 steps
        (3200, {}, 6000),
        (60, {"num_train_epochs": 60.0}, 113),
        (60, {"num_train_epochs": 0.1}, 1),
        (3200, {"max_steps": 7, "num_train_epochs": 60.0}, 7),
    ],
)
def test_few_labels_get_more_passes_unless_a_number_is_given(labelled, given, steps):
    plan = StepPlan(RowOrder(np.arange(labelled), 0, 0), None, 32, 0)
    run_data = SimpleNamespace(labelled_rows=np.arange(labelled))
    arguments = DistillationArguments(method="ce", student="s", dataset="d", output_dir="o", **given)
    assert planned_steps(arguments, run_data, plan) == steps


def test_passes_count_the_rows_of_all_processes_and_batches():
    plan = StepPlan(RowOrder(np.arange(3200), 0, 0), None, 32, 0, accumulation=2, processes=5)
    arguments = DistillationArguments(method="ce", student="s", dataset="d", output_dir="o", num_train_epochs=3)
    assert planned_steps(arguments, SimpleNamespace(labelled_rows=np.arange(3200)), plan) == 30


@pytest.fixture
def of_images():
    return DistillationArguments(method="rd", teacher="t", student="s", dataset="d", output_dir="o")


@pytest.mark.parametrize(("labelled", "unlabelled", "said"), [
    (10, 0, "CKA compares 10 images in 32 views at each step, which is too few"),
    (20, 0, "CKA compares 20 images in 32 views at each step. Views of one image resemble each other"),
    (10, 5, "CKA compares 15 images in 64 views at each step, which is too few"),
    (10, 40, "CKA compares 42 images in 64 views"), (32, 0, ""), (40, 40, ""),
])  # fmt: skip
def test_images_that_a_step_shows_several_times_count_once(labelled, unlabelled, said, of_images, caplog):
    orders = [RowOrder(np.arange(count), 0, 0) if count else None for count in (labelled, unlabelled)]
    with caplog.at_level(logging.INFO, "rd_hf"):
        warn_of_few_cka_images(of_images, StepPlan(*orders, 32, 32), 1, 1, False)
    assert said in caplog.text and bool(caplog.text) == bool(said)
    assert "add images without labels" in caplog.text or unlabelled or labelled >= 16


def test_few_rows_of_few_images_can_be_positions(of_images, caplog):
    plan = StepPlan(RowOrder(np.arange(4), 0, 0), None, 4, 0)
    for positions in (1, 32):
        warn_of_few_cka_images(of_images, plan, 1, positions, of_masks=True)
    (record,) = caplog.records
    assert "CKA compares 4 images at each step" in record.message and "`cka_features` to positions" in record.message


def test_few_volumes_are_called_volumes(of_images, caplog):
    warn_of_few_cka_images(of_images, StepPlan(RowOrder(np.arange(4), 0, 0), None, 8, 0), 1, 1, True, "volume")
    assert "CKA compares 4 volumes in 8 views" in caplog.text and "add volumes without labels" in caplog.text
    assert "image" not in caplog.text


def test_the_default_steps_are_told_where_training_starts(tmp_path, blobs_npz, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "rd_hf")
    train, told_before = Trainer.train, []

    def starts(*given):
        told_before.append("Training takes" in caplog.text)
        train(*given)

    def ends(_):
        raise InterruptedError

    monkeypatch.setattr(Trainer, "train", starts)
    monkeypatch.setattr(Trainer, "loader", ends)
    values = settings(None, blobs_npz, tmp_path / "run", method="ce", max_steps=-1)
    with pytest.raises(InterruptedError):
        rd_hf.distill(**values)
    assert told_before == [False] and "Training takes 300 optimiser steps" in caplog.text


def test_the_student_alone_logs_what_it_does_not_read(tmp_path, teacher, blobs_npz, caplog):
    values = settings(teacher, blobs_npz, tmp_path / "run", max_steps=1) | {"method": "ce"}
    rd_hf.distill(**values, temperature=2.0)
    (told,) = (message for message in caplog.messages if "does not read" in message)
    assert "teacher" in told and "temperature" in told


def test_unlabelled_volumes_beside_images_are_refused_in_words_of_their_argument(teacher, blobs_npz, tmp_path):
    volumes = tmp_path / "volumes.npz"
    np.savez(volumes, train_images=np.zeros((4, 12, 12, 12), dtype=np.uint8))
    with pytest.raises(
        ArgumentError, match="`unlabeled_dataset` does not fit the labelled images: .* a data set of images"
    ):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", unlabeled_dataset=str(volumes)))
