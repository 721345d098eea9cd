"""Checkpoints of timm in each layout of its repos: weights, labels, stages, and the pixels that timm itself makes."""

import json
import logging

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm_checkpoints import LABELS, as_of_the_first_releases, rewrite, save_model
from transformers import AutoImageProcessor, AutoModelForImageClassification

from rd_hf.data.pixels import PixelTransform, load_processor
from rd_hf.data.timm_processor import processor_of, settings_of
from rd_hf.inference.loading import load_model
from rd_hf.models.backbone import Backbone, BackboneError
from rd_hf.models.configuration_rd import RDStudentConfig
from rd_hf.students.kinds import StudentError
from rd_hf.students.loading import load_student

LAYOUTS = {
    "of today": lambda folder: None,
    "without arguments": lambda folder: rewrite(folder, model_args=None),
    "of the first releases": as_of_the_first_releases,
    "of transformers": lambda folder: rewrite(folder, model_type="timm_wrapper"),
}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_a_teacher_and_a_student(tmp_path, layout):
    model = save_model(tmp_path)
    LAYOUTS[layout](tmp_path)
    backbone = Backbone.from_pretrained(tmp_path)
    assert not backbone.missing and backbone.source["id"] == "local"
    pixels, loaded = torch.randn(2, 3, 32, 32), backbone.tower.timm_model
    saved = model.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    # up to rounding: a CPU may compute without gradients by another kernel
    torch.testing.assert_close(loaded.forward_features(pixels), model.forward_features(pixels))
    assert [stage.grid for stage in backbone.find_stages((32, 32))] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    student, processor, source = load_student(str(tmp_path), list(LABELS), "single_label_classification")
    assert source["id"] == "local" and student(pixels).logits.shape == (2, 3)
    assert torch.equal(student.model.timm_model.conv1[0].weight, model.conv1[0].weight)
    assert list(processor.image_mean) == [0.6, 0.5, 0.4] and processor.crop_size["height"] == 32


def test_weights_of_a_block_that_the_config_does_not_build_are_refused(tmp_path):
    """As those of UNI, whose config.json does not say `init_values`: its layer scale would be left out silently."""
    save_model(tmp_path, "test_vit", side=160, init_values=1e-5)
    assert "timm_model.blocks.0.ls1.gamma" in Backbone.from_pretrained(tmp_path).tower.state_dict()
    rewrite(tmp_path, model_args=None)
    with pytest.raises(BackboneError, match=r"weights .*blocks.0.ls1.gamma.*init_values: 1.0e-5, into `model_args`"):
        Backbone.from_pretrained(tmp_path)


def test_a_size_that_the_checkpoint_fixes_is_the_size_of_the_model(tmp_path):
    """As that of H-optimus-0, whose architecture has another one by default."""
    model = save_model(tmp_path, "test_vit", side=96, img_size=96)
    pretrained = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    rewrite(tmp_path, model_args=None, pretrained_cfg=pretrained | {"fixed_input_size": True})
    backbone = Backbone.from_pretrained(tmp_path)
    assert torch.equal(backbone.tower.timm_model.pos_embed, model.pos_embed)
    assert [stage.grid for stage in backbone.find_stages((96, 96))] == [(6, 6)] * 4


def test_a_checkpoint_is_evaluated_with_its_own_labels(tmp_path):
    save_model(tmp_path)
    names = [f"kind {number}" for number in range(7)]
    rewrite(tmp_path, label_names=names)
    assert load_model(str(tmp_path)).task.names == names


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_pct": 0.875},
        {"crop_pct": 1.0, "interpolation": "bilinear"},
        {"crop_mode": "squash", "crop_pct": 0.8},
        {"input_size": (3, 40, 64), "crop_mode": "squash", "crop_pct": 1.0},
    ],
)
def test_pixels_are_those_of_timm(changes):
    settings = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}
    settings |= changes
    transform = PixelTransform(processor_of(settings))
    data = timm.data.resolve_data_config(pretrained_cfg=settings)
    expected = timm.data.create_transform(**data, is_training=False)(PICTURE)
    pixels = transform.normalize(transform.geometry(PICTURE)[None])[0]
    assert transform.size == settings["input_size"][1:] and (pixels - expected).abs().max() < 1e-4
    again = PixelTransform(processor_of(settings_of(transform.processor, transform.size)))
    assert torch.equal(again.geometry(PICTURE), transform.geometry(PICTURE))
    assert torch.equal(again.scale, transform.scale)


def test_a_folder_that_does_not_say_its_pixels_is_read_as_timm_does_by_default(tmp_path, caplog):
    save_model(tmp_path, architecture="lcnet_035")
    rewrite(tmp_path, pretrained_cfg=None, model_type="timm_wrapper")
    with caplog.at_level(logging.WARNING):
        processor = load_processor(str(tmp_path))
    assert "has no pretrained_cfg" in caplog.text and "`student_mean`" in caplog.text
    assert processor.crop_size["height"] == 224 and list(processor.image_mean) == [0.485, 0.456, 0.406]
    colours = {"image_mean": [0.1, 0.2, 0.3]}
    student, processor, _ = load_student(
        str(tmp_path), list(LABELS), "single_label_classification", image_size=64, colours=colours
    )
    assert processor.image_mean == [0.1, 0.2, 0.3] and processor.crop_size["height"] == 64
    assert student.model.config.pretrained_cfg["input_size"] == [3, 64, 64]
    assert student.model.config.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]


def test_a_processor_beside_the_config_comes_first(tmp_path):
    save_model(tmp_path)
    processor_of({"input_size": (3, 48, 48), "mean": (0.1,) * 3, "std": (0.9,) * 3}).save_pretrained(tmp_path)
    assert list(load_processor(str(tmp_path)).image_mean) == [0.1] * 3


def test_labels_follow_the_student_and_not_the_checkpoint(tmp_path):
    save_model(tmp_path)
    rewrite(tmp_path, label_names=[f"kind {number}" for number in range(7)])
    student, _, _ = load_student(str(tmp_path), list(LABELS), "single_label_classification")
    student.save_pretrained(tmp_path / "student")
    student.to_transformers().save_pretrained(tmp_path / "plain")
    saved = RDStudentConfig.from_pretrained(tmp_path / "student").classifier_config
    assert [saved.id2label[number] for number in range(3)] == list(LABELS)
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "plain")
    assert [again.config.id2label[number] for number in range(3)] == list(LABELS)
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval()(pixels).logits, student.eval()(pixels).logits)


def test_an_inline_config_starts_from_the_weights_that_timm_draws():
    torch.manual_seed(0)
    config = {"model_type": "timm_wrapper", "architecture": "lcnet_050"}
    student, processor, source = load_student(config, list(LABELS), "single_label_classification", image_size=64)
    deviation = student.model.timm_model.conv_stem.weight.std().item()
    assert deviation == pytest.approx((2 / 72) ** 0.5, rel=0.15)  # of the fan out; transformers draws all with .02
    assert source["id"] == "timm lcnet_050 from scratch"
    logits = student(torch.randn(8, 3, 64, 64)).logits
    assert logits.std(0).max() > 1e-3  # the first weights tell images apart
    pretrained = student.model.config.pretrained_cfg
    assert pretrained["input_size"] == [3, 64, 64] and pretrained["crop_mode"] == "squash"
    assert PixelTransform(processor).size == (64, 64)


@pytest.mark.parametrize(
    ("config", "side"),
    [
        ({"architecture": "test_vit"}, 160),
        ({"architecture": "test_vit", "model_args": {"img_size": 64}}, 64),
        ({"architecture": "test_efficientnet"}, 160),
    ],
)
def test_an_inline_config_has_the_side_of_its_architecture(config, side):
    config = {"model_type": "timm_wrapper", **config}
    student, processor, _ = load_student(config, list(LABELS), "single_label_classification")
    assert PixelTransform(processor).size == (side, side)
    assert student(torch.randn(1, 3, side, side)).logits.shape == (1, 3)


def test_an_architecture_that_is_bound_to_a_size_is_built_for_the_one_asked_for():
    config = {"model_type": "timm_wrapper", "architecture": "test_vit"}
    student, _, _ = load_student(config, list(LABELS), "single_label_classification", image_size=64)
    assert student(torch.randn(1, 3, 64, 64)).logits.shape == (1, 3)


def test_an_unknown_architecture_is_refused_with_near_names():
    config = {"model_type": "timm_wrapper", "architecture": "resnet_18"}
    with pytest.raises(StudentError, match="'resnet_18'.*resnet18"):
        load_student(config, list(LABELS), "single_label_classification")


def test_a_teacher_of_grey_images(tmp_path):
    save_model(tmp_path, in_chans=1)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["pretrained_cfg"] |= {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5]}
    path.write_text(json.dumps(values))
    backbone = Backbone.from_pretrained(tmp_path)
    assert [stage.channels for stage in backbone.find_stages((32, 32))] == [32, 48, 192, 96]
    transform = PixelTransform(load_processor(str(tmp_path)), channels=1)
    assert transform.normalize(transform.geometry(PICTURE)[None]).shape == (1, 1, 32, 32)


def test_the_processor_of_transformers_is_what_plain_code_gets(tmp_path):
    """The config that a student saves makes transformers' own class prepare images as rd_hf does."""
    config = {"model_type": "timm_wrapper", "architecture": "lcnet_035"}
    student, processor, _ = load_student(config, list(LABELS), "single_label_classification", image_size=48)
    student.to_transformers().save_pretrained(tmp_path)
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(PICTURE)["pixel_values"]
    transform = PixelTransform(processor)
    assert torch.allclose(pixels, transform.normalize(transform.geometry(PICTURE)[None]), atol=1e-4)
