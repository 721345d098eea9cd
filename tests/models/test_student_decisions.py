"""How a student decides, in its config: the temperature of calibrated probabilities, and the operating point."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, ResNetConfig, ViTImageProcessorPil

import rd_hf  # noqa: F401 registers the models
from rd_hf.cards.provenance import read_decisions
from rd_hf.exports.run import export
from rd_hf.models.configuration_rd import DECISIONS, RDStudentConfig
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.students.loading import load_student

NAMES = {0: "benign", 1: "malignant", 2: "normal"}
SMALL = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=NAMES).to_dict()
POINT = {"rule": "sensitivity=0.95", "thresholds": {"malignant": 0.25}}
BOTH = {"calibration_temperature": 1.5, "operating_point": POINT}


def config(**values) -> RDStudentConfig:
    values = {"problem_type": "single_label_classification"} | values
    return RDStudentConfig(SMALL, image_size=32, **values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a student that has both."""
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(ResNetConfig(**SMALL)).eval()
    classifier.config.problem_type = "single_label_classification"
    student = RDStudentForImageClassification.from_classifier(classifier, image_size=32)
    student.config.calibration_temperature, student.config.operating_point = BOTH.values()
    folder = tmp_path_factory.mktemp("student")
    student.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_student_without_them_writes_neither(tmp_path):
    config().save_pretrained(tmp_path)
    assert not set(DECISIONS) & set(json.loads((tmp_path / "config.json").read_text()))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.calibration_temperature is None and loaded.operating_point is None


@pytest.mark.parametrize("format", ["rd_hf", "transformers", "onnx"])
def test_every_form_has_both_at_the_top_of_its_config(format, saved, tmp_path):
    folder = saved
    if format != "rd_hf":
        folder = tmp_path / format
        export(str(saved), str(folder), format)
    values = json.loads((folder / "config.json").read_text())
    assert {name: values[name] for name in DECISIONS} == BOTH
    loaded = AutoConfig.from_pretrained(folder)
    assert read_decisions(loaded.to_dict()) == BOTH


def test_other_classes_forget_both(saved, tmp_path):
    fewer = AutoModelForImageClassification.from_pretrained(saved, num_labels=2, ignore_mismatched_sizes=True)
    renamed = AutoConfig.from_pretrained(saved, id2label={0: "a", 1: "b", 2: "c"})
    for loaded in (fewer.config, renamed):
        assert read_decisions(loaded.to_dict()) == {}
    same = AutoConfig.from_pretrained(saved, id2label=NAMES)
    assert read_decisions(same.to_dict()) == BOTH


@pytest.mark.parametrize("plain", [False, True])
def test_a_student_that_starts_from_another_inherits_neither(plain, saved, tmp_path):
    folder = saved
    if plain:
        folder = tmp_path / "plain"
        export(str(saved), str(folder))
    student, _, _ = load_student(str(folder), list(NAMES.values()), "single_label_classification")
    assert read_decisions(student.config.to_dict()) == {}
    student.save_pretrained(tmp_path / "saved")
    assert not any(name in (tmp_path / "saved" / "config.json").read_text() for name in DECISIONS)


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "1.5"])
def test_impossible_temperatures_are_refused(value):
    with pytest.raises(ValueError, match="`calibration_temperature` is .* above 0"):
        config(calibration_temperature=value)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "sensitivity"}, {"rule": "sensitivity=0"}, {"rule": "sensitivity=1.5"}, {"rule": "accuracy=0.9"},
        {"rule": None}, {"thresholds": {}}, {"thresholds": None}, {"thresholds": {"sick": 0.5}},
        {"thresholds": {"malignant": 1.5}}, {"thresholds": {"malignant": None}},
        {"thresholds": {"malignant": float("nan")}}, {"thresholds": {"malignant": 0.5, "normal": 0.5}},
    ],
)  # fmt: skip
def test_impossible_operating_points_are_refused(change):
    with pytest.raises(ValueError, match="`operating_point` is .*benign, malignant, normal"):
        config(operating_point=POINT | change)


def test_several_labels_per_image_have_several_thresholds():
    point = {"rule": "youden", "thresholds": {"malignant": 0, "normal": 1}}
    several = config(operating_point=point, problem_type="multi_label_classification")
    assert several.operating_point == {"rule": "youden", "thresholds": {"malignant": 0.0, "normal": 1.0}}
    for rule in ("sensitivity=1", "sensitivity=1.0", "specificity=.9"):
        assert config(operating_point=POINT | {"rule": rule}).operating_point["rule"] == rule
