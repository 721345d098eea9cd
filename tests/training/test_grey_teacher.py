"""A teacher of grey images, and teachers and students of another image size than they are shown."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_distillation import settings
from transformers import AutoModel, ResNetConfig, SamImageProcessorPil, ViTConfig, ViTImageProcessorPil

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.inference.model_names import ModelNameError
from rd_hf.models.backbone import Backbone, BackboneError


@pytest.fixture
def grey_teacher(tmp_path):
    """A small frozen model of one channel, whose processor has one mean."""
    torch.manual_seed(5)
    config = ResNetConfig(num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(tmp_path / "grey")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4], image_std=[0.3])
    processor.save_pretrained(tmp_path / "grey")
    return tmp_path / "grey"


def test_a_teacher_of_grey_images_is_shown_such(grey_teacher, blobs_npz, tmp_path, monkeypatch, caplog):
    shown = []
    extract = Backbone.extract
    monkeypatch.setattr(Backbone, "extract", lambda self, pixels: shown.append(pixels) or extract(self, pixels))
    run = tmp_path / "run"
    rd_hf.distill(**settings(grey_teacher, blobs_npz, run, method="drd", max_steps=3, num_views=1))
    assert shown and {tuple(pixels.shape[1:]) for pixels in shown} == {(1, 32, 32)}
    assert "reads grey images, so it gets the mean of the three channels" in caplog.text
    first = json.loads((run / "metrics.json").read_text())["teacher"]["test"]
    again = rd_hf.evaluate(str(run / "teacher"), str(blobs_npz), backbone=str(grey_teacher))
    assert again["confusion_matrix"] == first["confusion_matrix"]


def test_a_teacher_that_does_not_take_the_size_of_its_processor_is_named_with_both_sizes(blobs_npz, tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8, image_size=32
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(tmp_path / "vit")
    says = r"The teacher '.*vit' \(ViTModel\) does not run on images of 48 x 48 .*\(32\*32\).*teacher_image_size"
    with pytest.raises(ArgumentError, match=says):
        rd_hf.distill(**settings(tmp_path / "vit", blobs_npz, tmp_path / "run"))


@pytest.mark.parametrize("capability, is_slow", [("AVX2", True), ("AVX512", False)])
def test_a_precision_that_the_cpu_emulates_is_said(
    capability, is_slow, teacher, blobs_npz, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", teacher_dtype="bfloat16", max_steps=1, num_views=1))
    assert ("has no instructions for bfloat16" in caplog.text) == is_slow


def test_a_teacher_whose_processor_pads_is_shown_squares_of_the_size_that_is_given(blobs_npz, tmp_path, caplog):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8, image_size=32
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "sam")
    pads = SamImageProcessorPil(size={"longest_edge": 32}, pad_size={"height": 32, "width": 32})
    pads.save_pretrained(tmp_path / "sam")
    values = settings(tmp_path / "sam", blobs_npz, tmp_path / "run", max_steps=2, eval_steps=2, num_views=1)
    with pytest.raises(ModelNameError, match=r"The teacher '.*sam' cannot be used: Sam.*Give teacher_image_size"):
        rd_hf.distill(**values)
    rd_hf.distill(**values, teacher_image_size=32)
    assert "SamImageProcessorPil) does more than resize" in caplog.text
    config = json.loads((tmp_path / "run" / "teacher" / "config.json").read_text())
    assert config["teacher_image_size"] == [32, 32]
    again = json.loads((tmp_path / "run" / "teacher" / "preprocessor_config.json").read_text())
    assert again["image_mean"] == list(pads.image_mean) and again["size"] == {"height": 32, "width": 32}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda name, value: {name: value * torch.nan if value.is_floating_point() else value}, "are not finite"),
        (lambda name, value: {f"module.{name}": value}, "lacks weights of ResNetModel that run before the end"),
    ],
)
def test_a_teacher_whose_weights_are_of_no_use_is_named(damage, says, teacher, blobs_npz, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    damaged = {name: value for pair in weights.items() for name, value in damage(*pair).items()}
    save_file(damaged, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackboneError, match=f"'{folder}' .*{says}"):
        rd_hf.distill(**settings(folder, blobs_npz, tmp_path / "run"))


@pytest.mark.parametrize("method", ["ce", "rd"])
def test_a_student_that_does_not_take_its_images_is_named_with_the_argument(method, teacher, blobs_npz, tmp_path):
    student = {
        "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "patch_size": 8, "image_size": 32,
    }  # fmt: skip
    values = settings(teacher, blobs_npz, tmp_path / "run", method=method, student=student, student_image_size=48)
    with pytest.raises(ArgumentError, match=r"The student \(ViT.*48 x 48 .*\(32\*32\).*student_image_size"):
        rd_hf.distill(**values)
