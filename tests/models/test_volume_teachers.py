"""Foundation models of volumes: networks of MONAI from a folder, and plain networks in memory, with their stages."""

import importlib.util
from functools import partial

import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import ViTImageProcessor

from rd_hf import TeacherNetwork
from rd_hf.data.augmentation import AugmentationParameters
from rd_hf.models.backbone import Backbone
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.models.slices import SliceReading
from rd_hf.models.stages import find_stages
from rd_hf.teacher_cache.key import key_id, teacher_key
from rd_hf.teacher_cache.network_state import network_state

MODELS = REPOSITORY.parent / "shared" / "models"
RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10]}
UNET = {"channels": [4, 6, 8], "strides": [2, 2]}
SIDE = (32, 32, 32)


def shared(name: str):
    folder = MODELS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


class MeshNet(nn.Module):
    """As ../shared/models/meshnet_brain_t1/*/config.json describes it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        dilations = [1, 2, 4, 8, 16, 8, 4, 2, 1]
        self.layers = nn.ModuleList(
            nn.Conv3d(channels if index else 1, channels, 3, padding=dilation, dilation=dilation)
            for index, dilation in enumerate(dilations)
        )
        self.head = nn.Conv3d(channels, classes, 1)

    def forward(self, x):
        for layer in self.layers:
            x = F.elu(layer(x))
        return self.head(x)


class Shifted(nn.Conv3d):
    def forward(self, x):
        return super().forward(x) + 1


def volumes(*size: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(2, channels, *(size or SIDE), generator=torch.Generator().manual_seed(0))


def check_features(backbone: Backbone, side: int, names: list[str], channels: list[int], sides: list[int]) -> None:
    size = (side,) * 3
    stages = backbone.find_stages(size)
    assert [stage.name for stage in stages] == names
    assert [(stage.channels, stage.grid) for stage in stages] == [
        (width, (side,) * 3) for width, side in zip(channels, sides, strict=True)
    ]
    backbone.tap(stages, [(2, 2, 2)] * len(stages), size)
    for stage, feature in zip(stages, backbone.extract(volumes(*size)), strict=True):
        assert feature.map.shape == (2, stage.channels, 2, 2, 2) and feature.prefix is None
        assert feature.map[0].sub(feature.map[1]).abs().max() > 0
    # all reach the output by gradient
    assert [stage.name for stage in find_stages(backbone.tower, size).stages] == names


def test_linknet_of_brains():
    folder = shared("linknet3d_brain_t1")
    spec = importlib.util.spec_from_file_location("linknet3d", folder / "linknet3d.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.LinkNet3d()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    backbone = Backbone.from_model(TeacherNetwork(network, in_channels=1))
    names = [f"network.down{number}" for number in range(4)]
    check_features(backbone, 64, names, [16, 32, 64, 128], [16, 8, 4, 2])


def test_meshnet_of_brains():
    folder = shared("meshnet_brain_t1") / "channels21"
    network = MeshNet(21, 18)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    backbone = Backbone.from_model(TeacherNetwork(network, in_channels=1))
    names = [f"network.layers.{number}" for number in (1, 3, 5, 8)]
    check_features(backbone, 16, names, [21] * 4, [16] * 4)


@pytest.mark.parametrize(
    ("model_class", "network", "arguments"),
    [(MonaiNetForImageClassification, "ResNet", RESNET), (MonaiNetForSemanticSegmentation, "UNet", UNET)],
)
def test_a_network_of_monai_in_a_folder(model_class, network, arguments, tmp_path):
    torch.manual_seed(0)
    model = model_class(MonaiNetConfig(network, 3, 1, 32, arguments, num_labels=4)).eval()
    model.save_pretrained(tmp_path)
    backbone = Backbone.from_pretrained(tmp_path)
    assert not backbone.missing
    stages = backbone.find_stages(SIDE)
    assert [stage.name for stage in stages] == [stage.name for stage in find_stages(model, SIDE).stages]
    backbone.tap(stages, [stage.grid for stage in stages], SIDE)
    expected = find_stages(model, SIDE).forward(volumes())[1].features
    for feature, own in zip(backbone.extract(volumes()), expected, strict=True):
        torch.testing.assert_close(feature.map, own.map)


def student() -> RDStudentForImageClassification:
    torch.manual_seed(1)
    config = MonaiNetConfig("ResNet", 3, 1, 32, RESNET, num_labels=3)
    return RDStudentForImageClassification.from_classifier(MonaiNetForImageClassification(config))


def test_a_teacher_of_a_network_in_memory_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    backbone = Backbone.from_model(TeacherNetwork(MeshNet(4, 2), in_channels=1))
    model = RDTeacherForImageClassification.from_parts(student(), backbone, SIDE, hidden_channels=4).eval()
    model.attach(backbone)
    expected = model(pixel_values=volumes()).logits
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = RDTeacherForImageClassification.from_pretrained(tmp_path, backbone=TeacherNetwork(MeshNet(4, 2), 1))
    with pytest.raises(ValueError, match="cannot be loaded, because a folder does not hold the network's code"):
        TeacherNetwork.from_pretrained(tmp_path)
    torch.testing.assert_close(again.eval()(pixel_values=volumes()).logits, expected)


def test_a_cache_tells_networks_and_readings_apart():
    def key(network: nn.Module, slices: SliceReading | None = None, size=SIDE) -> str:
        torch.manual_seed(0)
        nn.init.ones_(network.weight)
        nn.init.zeros_(network.bias)
        backbone = Backbone.from_model(TeacherNetwork(network, in_channels=1), slices=slices)
        # the one module of the network is its stage
        teacher = RDTeacherForImageClassification.from_parts(
            student(), backbone, size, hidden_channels=4, teacher_stages=["network"]
        )
        values = teacher_key(teacher, backbone, ViTImageProcessor(), None, 0, "data", 5, torch.float16)
        assert ("slices" in values) == (slices is not None)
        return key_id(values)

    def plane() -> nn.Conv2d:
        return nn.Conv2d(1, 4, 3, padding=1)

    readings = [SliceReading(axis, (32, 32), (mean,), (1.0,)) for axis, mean in [("axial", 0), ("coronal", 0)]]
    readings += [SliceReading("axial", (32, 32), (0.5,), (1.0,)), SliceReading("axial", (16, 16), (0,), (1.0,))]
    keys = [key(plane(), reading) for reading in readings]
    keys += [key(nn.Conv3d(1, 4, 3, padding=1)), key(Shifted(1, 4, 3, padding=1))]
    assert len(set(keys)) == len(keys)
    assert key(plane(), readings[0]) == keys[0]


def test_a_cache_tells_networks_apart_by_what_their_forwards_read():
    def signed(body: str) -> type[nn.Module]:
        """A class as a session has it, without a file."""
        found: dict = {"nn": nn, "__name__": "typed"}
        exec(f"class Signed(nn.Conv2d):\n    def forward(self, x):\n        return {body}", found)
        return found["Signed"]

    def state(kind: type[nn.Module], **attributes) -> str:
        torch.manual_seed(0)
        network = nn.Sequential(kind(1, 4, 3), nn.ReLU())
        for name, value in attributes.items():
            setattr(network[0], name, value)
        return network_state(network.eval())

    def buffered(value: float) -> str:
        network = nn.Sequential(nn.Conv2d(1, 4, 3))
        network[0].register_buffer("offset", torch.tensor([value]), persistent=False)
        return network_state(network)

    kind, other = signed("self.sign * super().forward(x)"), signed("self.sign + super().forward(x)")
    differing = [state(kind, sign=sign) for sign in (1.0, -1.0, None, True, (1.0, 2), [1.0, {"a": "b"}])]
    differing += [state(kind, sign=torch.tensor(sign)) for sign in (1.0, -1.0)]
    differing += [state(kind, sign=sign) for sign in (torch.relu, lambda x: x + 1, partial(torch.add, alpha=2))]
    differing += [state(other, sign=1.0), state(Shifted, sign=1.0), buffered(1.0), buffered(2.0)]
    assert len(set(differing)) == len(differing)
    again = signed("(\n\n        self.sign * super().forward(x)\n)")
    assert state(again, sign=1.0) == state(kind, sign=1.0, thing=object()) == differing[0]


def test_the_seed_of_views_is_in_a_key_where_it_draws_something():
    backbone = Backbone.from_model(TeacherNetwork(nn.Conv3d(1, 4, 3, padding=1), in_channels=1))
    teacher = RDTeacherForImageClassification.from_parts(
        student(), backbone, SIDE, hidden_channels=4, teacher_stages=["network"]
    )

    def seed(augmentation: AugmentationParameters | None, volumes: dict | None) -> int | None:
        shown = (ViTImageProcessor(), augmentation, 7, "data", 5, torch.float16)
        return teacher_key(teacher, backbone, *shown, volumes)["seed"]

    assert seed(None, None) is None and seed(None, {"version": 1}) is None
    assert seed(None, {"version": 1, "crop_size": [8, 8, 8]}) == 7
    assert seed(AugmentationParameters(), {"version": 1}) == seed(AugmentationParameters(), None) == 7
