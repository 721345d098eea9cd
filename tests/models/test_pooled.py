"""One vector of a frozen model in place of its last map, and a reprogrammed teacher that reads it."""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    Dinov2WithRegistersConfig,
    MobileNetV2Config,
    PreTrainedModel,
    ResNetConfig,
    SiglipConfig,
    ViTConfig,
    ViTForImageClassification,
)

from rd_hf.models.backbone import Backbone, BackboneError, weights_hash
from rd_hf.models.features import Stage
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.models.pooled import HEAD, HIDDEN, POOLER
from rd_hf.models.slices import SliceReading
from rd_hf.models.teacher_network import TeacherNetwork

TOWER = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, **TOWER}
TEACHERS = {
    "vit": ViTConfig(**VIT),
    "dinov2": Dinov2WithRegistersConfig(**VIT),
    "siglip": SiglipConfig(text_config=TEXT, vision_config=VIT),
    "clip": CLIPConfig(text_config=TEXT, vision_config=VIT),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=32),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
}
IMAGE = (32, 32)


class PlainClassifier(nn.Module):
    """Convolutions of any rank, and a linear head on their mean."""

    def __init__(self, convolution: type[nn.Module] = nn.Conv2d):
        super().__init__()
        self.features = nn.Sequential(convolution(3, 4, 3, 2, 1), nn.ReLU(), convolution(4, 6, 3, 2, 1))
        self.drop, self.fc = nn.Dropout(), nn.Linear(6, 5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.features(pixels).flatten(2).mean(2)))


def make_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(copy.deepcopy(TEACHERS[name]))
    for module in model.modules():  # as it starts, MobileNetV2 gives all but 0
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vector(backbone: Backbone, features: str, pixels: torch.Tensor) -> tuple[Stage, torch.Tensor]:
    size = tuple(pixels.shape[2:])
    stage = backbone.find_pooled(size, features)
    backbone.tap([stage], [stage.grid], size)
    (feature,) = backbone.extract(pixels)
    assert feature.prefix is None and feature.map.shape == (len(pixels), stage.channels, *[1] * len(size))
    return stage, feature.map.flatten(1)


def behind(name: str, tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What the tower's own head would read, by transformers' output."""
    with torch.no_grad():
        output = tower(pixels)
    hidden, pooler = output.last_hidden_state, output.pooler_output
    if name in ("mobilenet_v2", "resnet"):
        return hidden.mean((2, 3))
    prefix = {"siglip": 0, "dinov2": 5}.get(name, 1)
    parts = [hidden[:, prefix:].mean(1), *([hidden[:, 0]] if prefix else [])]
    return torch.cat([*parts, *([] if name == "dinov2" else [pooler])], dim=1)  # DINOv2's pooler is the class token


@pytest.mark.parametrize("name", TEACHERS)
def test_the_vector_of_a_teacher_is_what_is_behind_its_stages_and_all_of_these(name):
    backbone, pixels = Backbone.from_model(make_model(name)), random(3, 3, *IMAGE)
    stages = backbone.find_stages(IMAGE)
    backbone.tap(stages, [stage.grid for stage in stages], IMAGE)
    maps = backbone.extract(pixels)
    pooled = torch.cat([part for m, p in maps for part in (m.mean((2, 3)), *([] if p is None else [p[:, 0]]))], dim=1)

    last, of_last = vector(backbone, "last", pixels)
    expected = behind(name, backbone.tower, pixels)
    torch.testing.assert_close(of_last, expected)

    every, of_all = vector(backbone, "all", pixels)
    # without what the last stage says already: ResNet ends in it, CLIP's final norm is its pooler's alone
    rest = {"resnet": expected[:, :0], "clip": expected[:, 32:]}.get(name, expected)
    torch.testing.assert_close(of_all, torch.cat([pooled, rest], dim=1))
    assert every.channels == of_all.shape[1] and every.name == last.name == stages[-1].name
    assert Stage.from_dict(json.loads(json.dumps(every.to_dict()))) == every


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.Conv3d])
def test_a_plain_network_gives_what_its_linear_head_reads(convolution):
    network = PlainClassifier(convolution).eval()
    pixels = random(2, 3, *[16] * (2 if convolution is nn.Conv2d else 3))
    stage, found = vector(Backbone.from_model(TeacherNetwork(network)), "last", pixels)
    assert stage.pooled == (HEAD,)
    torch.testing.assert_close(found, network.features(pixels).flatten(2).mean(2).detach())
    without_head, found = vector(Backbone.from_model(TeacherNetwork(network.features)), "last", pixels)
    assert without_head.pooled == (without_head.name,)  # the last stage, pooled
    torch.testing.assert_close(found, network.features(pixels).flatten(2).mean(2).detach())


def test_a_pooler_whose_weights_the_checkpoint_lacks_is_left_out(tmp_path):
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**VIT)).save_pretrained(tmp_path / "classifier")
    make_model("vit").save_pretrained(tmp_path / "with_pooler")
    lacking, complete = (Backbone.from_pretrained(tmp_path / name) for name in ("classifier", "with_pooler"))
    before = weights_hash(lacking.tower)
    assert lacking.missing and lacking.find_pooled(IMAGE, "last").pooled == (HIDDEN,)
    assert weights_hash(lacking.tower) == before
    assert complete.find_pooled(IMAGE, "last").pooled == (HIDDEN, POOLER)


@pytest.mark.parametrize("features", ["last", "all"])
def test_of_a_volume_in_slices_the_vectors_are_averaged(features):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = make_model("dinov2")
    read = Backbone.from_model(model, slices=SliceReading("axial", IMAGE, mean, std))
    volume = torch.rand(2, 1, 32, 32, 5, generator=torch.Generator().manual_seed(1))
    stage, found = vector(read, features, volume)
    assert stage.grid == (1, 1, 1)
    one = Backbone.from_model(model)
    expected = [vector(one, features, next(iter(read.slices.images(v, 5))))[1].mean(0) for v in volume]
    torch.testing.assert_close(found, torch.stack(expected))


def around(backbone: Backbone, student: str, stages: str, features: str) -> RDTeacherForImageClassification:
    configs = {
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "vit": {**VIT, "hidden_size": 8, "num_hidden_layers": 2},
    }
    torch.manual_seed(1)
    classifier = AutoModelForImageClassification.from_config(
        AutoConfig.for_model(student, num_labels=3, **configs[student])
    )
    wrapped = RDStudentForImageClassification.from_classifier(classifier, image_size=32)
    return RDTeacherForImageClassification.from_parts(
        wrapped, backbone, 32, stages, hidden_channels=8, teacher_features=features
    )


@pytest.mark.parametrize(
    ("teacher", "student", "stages", "features"),
    [("vit", "resnet", "last", "all"), ("mobilenet_v2", "vit", "all", "last"), ("siglip", "resnet", "all", "all")],
)
def test_a_reprogrammed_teacher_of_a_vector_trains_and_comes_back_with_the_same_logits(
    teacher, student, stages, features, tmp_path
):
    make_model(teacher).save_pretrained(tmp_path / "backbone")
    backbone = Backbone.from_pretrained(tmp_path / "backbone")
    model = around(backbone, student, stages, features).train()
    assert [bool(stage.pooled) for stage in model.teacher_stages] == [False] * (len(model.projectors) - 1) + [True]
    kernels = [m.kernel_size for m in model.projectors[-1].modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(1, 1)] * 3  # there are no neighbours

    pixels = random(4, 3, *IMAGE)
    extracted = backbone.extract(pixels)
    output = model(student_pixel_values=pixels, teacher_features=extracted)
    output.hybrid_logits[-1].square().sum().backward()
    read = model.projectors[-1].prefix or model.projectors[-1].bottleneck  # a ViT reads one token
    assert all(p.grad.abs().sum() > 0 for p in read.parameters())

    model.eval()
    logits = model(teacher_features=backbone.extract(pixels)).logits
    model.attach(backbone)
    torch.testing.assert_close(model(pixel_values=pixels).logits, logits)
    model.save_pretrained(tmp_path / "without")
    model.save_pretrained(tmp_path / "with", save_backbone=True)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "without", backbone=tmp_path / "backbone")
    including = AutoModelForImageClassification.from_pretrained(tmp_path / "with")
    for again in (loaded, including):
        saved = again.state_dict()
        assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
        # mapped weights are aligned differently, and some processors then round differently
        torch.testing.assert_close(again(pixel_values=pixels).logits, logits)


def test_a_vector_of_other_parts_is_refused():
    backbone = Backbone.from_model(make_model("mobilenet_v2"))
    stage = backbone.find_pooled(IMAGE, "all")
    other = Stage(stage.name, stage.channels, stage.grid, 0, (*stage.pooled, POOLER))
    with pytest.raises(BackboneError, match="is expected"):
        backbone.tap([other], [other.grid], IMAGE)
