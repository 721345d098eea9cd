"""Students of volumes: networks of MONAI for the channels and the size of the data."""

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.stages import find_stages
from rd_hf.students.loading import StudentError, adopt_student, load_student
from rd_hf.students.volumes import VolumeStudent

NAMES = ["background", "organ"]
TWO = VolumeStudent(2, (16, 32, 16))
TINY = {
    "AttentionUnet": {"channels": [4, 6, 8], "strides": [2, 2]},
    "BasicUNet": {"features": [4, 4, 6, 8, 10, 4]},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8]},
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "SegResNetDS": {"init_filters": 4, "blocks_down": [1, 1]},
    "UNet": {"channels": [4, 6, 8], "strides": [2, 2]},
    "DenseNet": {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]},
    "ResNet": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10]},
}
CLASSIFIERS = ("DenseNet", "ResNet")


def inline(network: str, **fields) -> dict:
    return {"model_type": "monai", "network": network, "arguments": TINY[network]} | fields


def task(network: str) -> str:
    return "single_label_classification" if network in CLASSIFIERS else "segmentation"


@pytest.mark.parametrize("network", TINY)
def test_a_network_takes_the_channels_and_the_size_of_the_data(network):
    torch.manual_seed(0)
    student, processor, source = load_student(inline(network), NAMES, task(network), volumes=TWO)
    assert processor is None and source["id"] == f"MONAI {network} from scratch"
    assert (student.config.spatial_dims, student.config.in_channels) == (3, 2)
    assert student.config.image_size == [16, 32, 16]
    logits = student.eval()(pixel_values=torch.rand(2, 2, 16, 32, 16)).logits
    assert logits.shape == ((2, 2) if network in CLASSIFIERS else (2, 2, 16, 32, 16))
    grids = [stage.grid for stage in find_stages(student.model, (16, 32, 16)).stages]
    assert len(grids) >= 2 and all(len(grid) == 3 for grid in grids) and grids[0] > grids[-1]


def test_a_resnet_needs_its_name_only():
    with torch.device("meta"):
        student = load_student({"model_type": "monai", "network": "ResNet"}, NAMES, task("ResNet"), volumes=TWO)[0]
    assert 0.1e6 < sum(parameter.numel() for parameter in student.parameters()) < 5e6


@pytest.mark.parametrize(
    ("student", "task", "volumes", "match"),
    [
        ({"model_type": "resnet"}, "single_label_classification", TWO, "'resnet'.*volumes.*network: ViT.*DenseNet"),
        ({"model_type": "segformer"}, "segmentation", TWO, "network: UNet.*SegResNet.*--dimensions 3"),
        (inline("UNet", spatial_dims=2), "segmentation", TWO, "reads images .*: 2.*set spatial_dims to 3"),
        (inline("UNet", in_channels=3), "segmentation", TWO, "of 3 channels, but those of the data have 2"),
        (inline("UNet", spatial_dims=3), "segmentation", None, "reads volumes .*the data are images"),
        (inline("UNet", in_channels=1), "segmentation", None, "images of 1 channel,"),
    ],
)  # fmt: skip
def test_what_does_not_read_the_data_is_refused(student, task, volumes, match):
    with pytest.raises(StudentError, match=match):
        load_student(student, NAMES, task, volumes=volumes)


def test_a_saved_student_keeps_its_head_for_the_same_classes_only(tmp_path):
    torch.manual_seed(0)
    student, _, _ = load_student(inline("UNet"), NAMES, "segmentation", volumes=TWO)
    student.save_pretrained(tmp_path / "student")
    again, processor, _ = load_student(
        str(tmp_path / "student"), NAMES, "segmentation", volumes=VolumeStudent(2, (32, 32, 32))
    )
    assert processor is None and again.config.image_size == [32, 32, 32]
    assert type(again) is RDStudentForSemanticSegmentation
    for name, value in student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    other, _, _ = load_student(str(tmp_path / "student"), ["background", "liver"], "segmentation", volumes=TWO)
    changed = [name for name, value in student.state_dict().items() if not torch.equal(value, other.state_dict()[name])]
    assert changed and all(name.startswith("model.network.model.2") for name in changed)
    with pytest.raises(StudentError, match="of 2 channels, but those of the data have 1"):
        load_student(str(tmp_path / "student"), NAMES, "segmentation", volumes=VolumeStudent(1, (16, 16, 16)))
    with pytest.raises(StudentError, match="but the data are images"):
        load_student(str(tmp_path / "student"), NAMES, "segmentation")
    ResNetForImageClassification(ResNetConfig(hidden_sizes=[4, 4], depths=[1, 1])).save_pretrained(tmp_path / "resnet")
    with pytest.raises(StudentError, match="is a resnet of transformers, which reads images, but the data are volumes"):
        load_student(str(tmp_path / "resnet"), NAMES, "single_label_classification", volumes=TWO)


def test_a_network_in_memory_is_adopted():
    config = MonaiNetConfig("UNet", 3, 2, 16, TINY["UNet"], num_labels=2)
    assert adopt_student(MonaiNetForSemanticSegmentation(config), NAMES, "segmentation", TWO).config.spatial_dims == 3
    with pytest.raises(StudentError, match="but the data are images"):
        adopt_student(MonaiNetForSemanticSegmentation(config), NAMES, "segmentation")
    flat = MonaiNetForImageClassification(MonaiNetConfig("ResNet", 2, 3, 32, TINY["ResNet"], num_labels=2))
    with pytest.raises(StudentError, match="reads images .*but the data are volumes"):
        adopt_student(flat, ["LABEL_0", "LABEL_1"], "single_label_classification", TWO)
    wrapped = RDStudentForImageClassification.from_classifier(flat)
    assert (wrapped.config.spatial_dims, wrapped.config.in_channels) == (2, 3)
