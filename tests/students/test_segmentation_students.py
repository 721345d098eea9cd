"""Students for masks: ready ones work, and load_student and adopt_student build what the task asks for."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForSemanticSegmentation,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    ViTImageProcessorPil,
)

from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.stages import find_stages
from rd_hf.students import budget as student_budget
from rd_hf.students.loading import StudentError, adopt_student, load_student
from rd_hf.students.zoo_masks import READY_SEGMENTERS

CLASSES = ["background", "lesion", "cyst"]
TINY = {"hidden_sizes": [4, 6, 8, 12], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}
UNET = {"model_type": "monai", "network": "UNet"}
UNLABELLED = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("student", READY_SEGMENTERS, ids=[student.name for student in READY_SEGMENTERS])
def test_every_ready_student_has_stages_and_is_trained_by_a_step(student):
    torch.manual_seed(0)
    model = load_student(student.config, CLASSES, "segmentation", 64)[0].train()
    stages = find_stages(model.model, (64, 64)).stages
    assert len(stages) >= 2 and stages[0].grid[0] > stages[-1].grid[0]
    assert student.takes(64)
    images, masks = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    masks[:, 16:40, 16:40] = 1
    logits = model(pixel_values=images).logits
    assert logits.shape[:2] == (2, 3) and logits.shape[2] >= 8
    assert logits.flatten(2).std(2).max() > 1e-2  # the first weights tell places apart
    first = {name: parameter.clone() for name, parameter in model.named_parameters()}
    F.cross_entropy(F.interpolate(logits, (64, 64), mode="bilinear"), masks).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, first[name])]
    assert len(moved) > len(first) / 2 and all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_command_lists_students_for_masks(monkeypatch, capsys):
    few = [student for student in READY_SEGMENTERS if student.name in ("unet_8", "unet_16", "segformer_b0")]
    monkeypatch.setattr(student_budget, "READY_SEGMENTERS", few)
    assert main(["students", "--task", "segmentation", "--max_params", "1M", "--image_size", "64", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["name"] for answer in answers] == ["unet_16", "unet_8"]
    model, _, _ = load_student(answers[0]["student"], ["background", "x"], "segmentation", 64)
    assert answers[0]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert all(answer["gflop"] > 0 and answer["milliseconds"] > 0 for answer in answers)
    with pytest.raises(ArgumentError, match="`task` is 'detection'; it must be classification or segmentation"):
        student_budget.students_within(task="detection")


@pytest.mark.parametrize("network", ["AttentionUnet", "BasicUNet", "DynUNet", "SegResNet", "UNet"])
def test_a_network_of_monai_needs_its_name_only(network):
    model, processor, source = load_student({**UNET, "network": network}, CLASSES, "segmentation", 64)
    assert type(model) is RDStudentForSemanticSegmentation and source["id"] == f"MONAI {network} from scratch"
    assert model(torch.rand(2, 3, 64, 64)).logits.shape == (2, 3, 64, 64)
    assert model.config.id2label == dict(enumerate(CLASSES)) and model.config.problem_type is None
    assert type(processor) is SegformerImageProcessorPil and not processor.do_reduce_labels
    assert (processor.size.height, processor.size.width) == (64, 64)


def test_what_the_user_says_of_a_network_stands():
    given = {"channels": [4, 6], "strides": [2], "norm": "batch"}
    model, _, _ = load_student(UNET | {"arguments": given}, CLASSES, "segmentation", 64)
    assert model.model.config.arguments == given
    model, _, _ = load_student(UNET | {"arguments": {"norm": "batch"}}, CLASSES, "segmentation", 64)
    assert model.model.config.arguments["channels"] == [16, 32, 64, 128]
    with pytest.raises(StudentError, match="strides"):
        load_student(UNET | {"arguments": {"channels": [4, 6]}}, CLASSES, "segmentation", 64)


def test_an_inline_encoder_keeps_the_resolution_that_masks_need():
    config = {"model_type": "mobilenet_v2", "depth_multiplier": 0.35}
    model, _, _ = load_student(config, CLASSES, "segmentation", 64)
    assert model(torch.rand(2, 3, 64, 64)).logits.shape == (2, 3, 8, 8)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout2d)} == {0.2}
    model, _, _ = load_student(config | {"output_stride": 16}, CLASSES, "segmentation", 64)
    assert model(torch.rand(2, 3, 64, 64)).logits.shape == (2, 3, 4, 4)


def test_a_classifiers_encoder_is_taken_over(tmp_path):
    torch.manual_seed(0)
    encoder = SegformerForImageClassification(SegformerConfig(**TINY))
    encoder.save_pretrained(tmp_path)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}, do_reduce_labels=True).save_pretrained(tmp_path)
    model, processor, source = load_student(str(tmp_path), CLASSES, "segmentation")
    assert type(model.model) is SegformerForSemanticSegmentation and source == {"id": "local", "revision": None}
    pairs = zip(model.model.segformer.parameters(), encoder.segformer.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert not processor.do_reduce_labels


def test_a_mobilenet_of_classes_gets_a_finer_output(tmp_path):
    MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    model, _, _ = load_student(str(tmp_path), CLASSES, "segmentation")
    assert model(torch.rand(2, 3, 64, 64)).logits.shape == (2, 3, 8, 8)


def test_a_saved_student_keeps_its_head_for_the_same_classes_only(tmp_path):
    first, processor, _ = load_student(UNET, CLASSES, "segmentation", 64)
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _, _ = load_student(str(tmp_path), CLASSES, "segmentation")
    weights, others = first.state_dict(), again.state_dict()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    renamed, _, _ = load_student(str(tmp_path), ["background", "b", "c"], "segmentation")
    changed = {name for name, value in renamed.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed and len(changed) < len(weights) and renamed.config.id2label[2] == "c"
    fewer, _, _ = load_student(str(tmp_path), ["background", "b"], "segmentation")
    assert fewer(torch.rand(2, 3, 64, 64)).logits.shape == (2, 2, 64, 64)


def test_models_of_the_other_kind_are_refused(tmp_path):
    resnet = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    resnet.save_pretrained(tmp_path / "resnet")
    load_student(UNET, CLASSES, "segmentation", 64)[0].save_pretrained(tmp_path / "unet")
    single = "single_label_classification"
    with pytest.raises(StudentError, match="resnet' is a ResNetForImageClassification, but the data have masks"):
        load_student(str(tmp_path / "resnet"), CLASSES, "segmentation")
    with pytest.raises(StudentError, match="unet' is a RDStudentForSemanticSegmentation, but the data have classes"):
        load_student(str(tmp_path / "unet"), CLASSES, single)
    with pytest.raises(StudentError, match="'resnet' is not a semantic segmenter"):
        load_student({"model_type": "resnet"}, CLASSES, "segmentation")
    with pytest.raises(StudentError, match="UNet gives no classes, but the data have classes"):
        load_student(UNET, CLASSES, single)
    with pytest.raises(StudentError, match="DenseNet gives no masks.*SegResNet"):
        load_student(UNET | {"network": "DenseNet"}, CLASSES, "segmentation")
    with pytest.raises(StudentError, match="is a ResNetForImageClassification, but the data have masks"):
        adopt_student(resnet, CLASSES, "segmentation")
    with pytest.raises(StudentError, match="is a SegformerForSemanticSegmentation, but the data have classes"):
        adopt_student(SegformerForSemanticSegmentation(SegformerConfig(**TINY)), CLASSES, single)


def test_a_segmenter_in_memory_is_adopted():
    model = AutoModelForSemanticSegmentation.from_config(SegformerConfig(**TINY, id2label=UNLABELLED))
    student = adopt_student(model, CLASSES, "segmentation")
    assert type(student) is RDStudentForSemanticSegmentation and student.model is model
    assert student.config.id2label == dict(enumerate(CLASSES)) and student.config.problem_type is None
    assert adopt_student(student, CLASSES, "segmentation").model is model
    assert adopt_student(model.bfloat16(), CLASSES, "segmentation").dtype == torch.float32  # in which it is trained
    with pytest.raises(StudentError, match="classes are background, lesion, cyst, but"):
        adopt_student(student, ["background", "x", "y"], "segmentation")
