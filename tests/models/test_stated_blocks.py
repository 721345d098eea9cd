"""What needs no timm: blocks that a model names itself, layouts of timm's configs, a student's normalisation."""

import json
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.configuration_rd import RDStudentConfig
from rd_hf.models.stages import find_stages, list_blocks
from rd_hf.models.timm_models import stated_blocks, timm_config
from rd_hf.students.kinds import StudentError
from rd_hf.students.loading import load_student

LABELS = ["a", "b", "c"]


class Named(nn.Module):
    """Maps of a half, a quarter and an eighth of the image's sides."""

    def __init__(self, last="deep"):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 1))
        self.deep = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 8, 1)
        self.feature_info = [
            {"module": "stem", "reduction": 2},
            {"module": "middle", "reduction": 4},
            {"module": last, "reduction": 8},
        ]

    def forward(self, pixel_values):
        return self.head(self.deep(self.middle(self.stem(pixel_values)))).mean((2, 3))


def test_stages_are_those_that_a_model_names_without_its_stem():
    model = nn.Sequential(Named())
    assert [(stage.name, stage.grid) for stage in find_stages(model, (32, 32)).stages] == [
        ("0.middle", (8, 8)), ("0.deep", (4, 4)),
    ]  # fmt: skip
    assert list(list_blocks(model)) == ["0.middle", "0.deep"]


def test_names_that_are_no_modules_say_nothing():
    assert stated_blocks(Named(last="stage3")) == {}


@pytest.mark.parametrize("is_flat", [False, True])
def test_a_config_of_timm_is_read_in_each_layout(tmp_path, is_flat):
    images = {"input_size": [3, 32, 32], "mean": [0.1] * 3, "std": [0.2] * 3}
    model = {"architecture": "resnet18", "num_classes": 3, "model_args": {"num_classes": 3, "drop_rate": 0.1}}
    values = model | (images | {"labels": LABELS} if is_flat else {"pretrained_cfg": images, "label_names": LABELS})
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = timm_config(tmp_path)
    assert config.pretrained_cfg.items() >= images.items()  # transformers 5.17 adds a hash of the commit
    assert config.model_args == {"drop_rate": 0.1}
    config.id2label = {0: "x", 1: "y"}
    saved = config.to_dict()
    assert saved["label_names"] == ["x", "y"] and saved["num_classes"] == 2


def test_other_configs_are_not_those_of_timm(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    assert timm_config(tmp_path) is None


@pytest.mark.parametrize("field", ["classifier_config", "vision_config", None])
def test_a_config_by_which_timm_would_load_another_file_is_refused(tmp_path, field):
    values = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "x.bin"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", field: values} if field else values))
    with pytest.raises(ValueError, match="checkpoint_path"):
        timm_config(tmp_path)
    with pytest.raises(ValueError, match="`classifier_config` has `checkpoint_path`"):
        RDStudentConfig(classifier_config=values)


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_without_timm_a_student_of_it_is_refused_with_the_way_out():
    with pytest.raises(StudentError, match=r"pip install 'rd-hf\[timm\]'"):
        load_student({"model_type": "timm_wrapper", "architecture": "lcnet_050"}, LABELS, "single_label_classification")


def test_a_students_normalisation_is_what_the_arguments_say():
    given = {"dataset": "d", "student": "s", "method": "ce"}
    arguments = DistillationArguments(**given, student_mean="0.4, 0.5,0.6", student_std=[0.2])
    assert arguments.student_colours == {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3}
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    colours = arguments.student_colours
    _, processor, _ = load_student(config, LABELS, "single_label_classification", image_size=32, colours=colours)
    pixels = processor(torch.full((3, 40, 40), 255, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([3.0, 2.5, 2.0]), atol=1e-5)
    assert DistillationArguments(**given).student_colours == {}
    for wrong in ({"student_mean": "1,2"}, {"student_mean": "a"}, {"student_std": "0,1,1"}, {"student_std": "2"}):
        with pytest.raises(ArgumentError, match=f"`{next(iter(wrong))}` is .*three numbers"):
            DistillationArguments(**given, **wrong)
