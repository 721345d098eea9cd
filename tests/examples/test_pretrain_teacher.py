"""`examples/pretrain_teacher.py`: the loss, that no label enters the training, and the checkpoint that it leaves."""

import json
import runpy

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, blob_arrays
from safetensors.torch import load_file
from transformers import AutoModel

from rd_hf.data.columns import DataError
from rd_hf.data.pixels import PixelTransform
from rd_hf.models.backbone import Backbone
from rd_hf.students.loading import load_student

SMALL = ["--hidden_sizes", "8", "16", "--depths", "1", "1"]


@pytest.fixture(scope="module")
def example():
    """The names of the script."""
    return runpy.run_path(str(REPOSITORY / "examples" / "pretrain_teacher.py"))


def pretrained(example, folder, permuted=False, sizes=()):
    """Train for a few steps; :return: the folder of the checkpoint."""
    arrays = blob_arrays()
    if permuted:
        arrays["train_labels"] = np.random.default_rng(0).permutation(arrays["train_labels"])
    folder.mkdir()
    np.savez(folder / "blobs.npz", **arrays)
    data = str(folder / "blobs.npz")
    flags = ["--max_steps", "3", "--batch_size", "8", "--image_size", "32", "--processor_size", "48"]
    example["main"](["--dataset", data, "--output_dir", str(folder / "teacher"), *flags, *sizes])
    return folder / "teacher"


@pytest.fixture(scope="module")
def checkpoint(example, tmp_path_factory):
    return pretrained(example, tmp_path_factory.mktemp("pretraining") / "first")


@pytest.fixture(scope="module")
def small(example, tmp_path_factory):
    return pretrained(example, tmp_path_factory.mktemp("pretraining") / "small", sizes=SMALL)


def test_the_loss_is_the_formula_of_the_paper(example):
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 5, 7))
    views = np.stack([first, second], axis=1).reshape(10, 7)  # the paper's order: 2k - 1 and 2k are of one image
    norms = np.linalg.norm(views, axis=1)
    exponentials = np.exp(views @ views.T / np.outer(norms, norms) / 0.3)
    terms = [-np.log(exponentials[i, i ^ 1] / (exponentials[i].sum() - exponentials[i, i])) for i in range(10)]
    loss = example["nt_xent"](torch.tensor(first), torch.tensor(second), 0.3)
    assert loss.item() == pytest.approx(np.mean(terms), abs=1e-5)


def test_the_checkpoint_is_a_teacher(checkpoint):
    assert type(AutoModel.from_pretrained(checkpoint, use_safetensors=True)).__name__ == "ResNetModel"
    backbone = Backbone.from_pretrained(checkpoint)
    assert [stage.channels for stage in backbone.find_stages((32, 32))] == [32, 64, 128, 256]
    assert not backbone.missing and PixelTransform.from_pretrained(str(checkpoint)).size == (48, 48)


def test_a_smaller_one_is_a_student_with_a_new_head(small):
    student, *_ = load_student(str(small), ["round", "square", "both"], "single_label_classification", 32)
    weights, first = load_file(small / "model.safetensors"), "embedder.embedder.convolution.weight"
    assert torch.equal(student.model.resnet.state_dict()[first], weights[first])
    assert student.model.config.depths == [1, 1] and student.model.config.num_labels == 3


def test_its_scores_are_beside_it(checkpoint):
    metrics = json.loads((checkpoint / "metrics.json").read_text())
    assert metrics["training"]["images"] == 60 and metrics["recipe"]["max_steps"] == 3
    assert set(metrics["test"]["blobs"]) == {"random weights", "teacher"}


def test_a_wrong_path_to_read_out_is_found_before_the_training(example, tmp_path):
    np.savez(tmp_path / "blobs.npz", **blob_arrays())
    arguments = ["--dataset", str(tmp_path / "blobs.npz"), "--output_dir", str(tmp_path / "teacher")]
    with pytest.raises(DataError, match="bolbs"):
        example["main"]([*arguments, "--probe", str(tmp_path / "bolbs.npz")])
    with pytest.raises(SystemExit):  # which of the two would be read out?
        example["main"]([*arguments, "--probe", str(tmp_path / "blobs.npz")])
    assert not (tmp_path / "teacher").exists()


def test_labels_do_not_enter_the_training(example, small, tmp_path):
    permuted = pretrained(example, tmp_path / "permuted", permuted=True, sizes=SMALL)
    weights, others = (load_file(folder / "model.safetensors") for folder in (small, permuted))
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
