"""Stages of the architectures of timm: where they end, and that a pass resumed there is the whole pass, to the bit."""

import pytest
import timm
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageClassification

from rd_hf.models.stages import find_stages
from rd_hf.models.timm_models import stated_blocks

FOURS, EIGHTS = [16, 8, 4, 2], [4, 2, 1]  # sides of the maps of 64 pixels: after strides 4 to 32, and 16 to 64
# side of the images, sides of the maps after the stages, and prefix tokens
ARCHITECTURES = {
    "test_byobnet": (64, FOURS, 0),
    "test_convnext": (64, FOURS, 0),
    "test_efficientnet": (64, FOURS, 0),
    "test_efficientnet_gn": (64, FOURS, 0),
    "test_mambaout": (64, FOURS, 0),
    "test_nfnet": (64, FOURS, 0),
    "test_resnet": (64, FOURS, 0),
    "test_vit": (160, [10] * 4, 1),
    "test_vit2": (160, [10] * 4, 1),
    "test_vit4": (160, [10] * 4, 1),
    "lcnet_035": (64, FOURS, 0),
    "mobilenetv3_small_050": (64, FOURS, 0),
    "mobilenetv4_conv_small_035": (64, FOURS, 0),
    "efficientnet_lite0": (64, FOURS, 0),
    "tinynet_e": (64, FOURS, 0),
    "ghostnet_050": (64, FOURS, 0),
    "mnasnet_small": (64, FOURS, 0),
    "regnetx_002": (64, FOURS, 0),
    "convnext_atto": (64, FOURS, 0),
    "edgenext_xx_small": (64, FOURS, 0),
    "fastvit_t8": (64, FOURS, 0),
    "mobileone_s0": (64, FOURS, 0),
    "repvit_m0_9": (64, FOURS, 0),
    "efficientvit_b0": (64, FOURS, 0),
    "starnet_s1": (64, FOURS, 0),
    "hgnetv2_b0": (64, FOURS, 0),
    "rexnet_100": (64, FOURS, 0),
    "mambaout_femto": (64, FOURS, 0),
    "resnet10t": (64, FOURS, 0),
    "densenet121": (64, FOURS, 0),
    "dla46_c": (64, FOURS, 0),
    "pvt_v2_b0": (64, FOURS, 0),
    "mobilevit_xxs": (64, FOURS, 0),
    "mobilevitv2_050": (64, FOURS, 0),
    "shvit_s1": (64, EIGHTS, 0),
    "efficientvit_m0": (224, [14, 7, 4], 0),
    "levit_128s": (224, [14, 7, 4], 0),
    "pit_ti_224": (224, [27, 14, 7], 1),
    "coat_lite_tiny": (224, [56, 28, 14, 7], 1),
    "xcit_nano_12_p16_224": (224, [14] * 4, 0),
    "vit_tiny_patch16_224": (224, [14] * 4, 1),
    "deit_tiny_distilled_patch16_224": (224, [14] * 4, 2),
    "eva02_tiny_patch14_224": (224, [16] * 4, 1),
    "mixer_s32_224": (224, [7] * 4, 0),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wrapped(architecture: str, auto_class=AutoModelForImageClassification):
    torch.manual_seed(0)
    return auto_class.from_config(CONFIG_MAPPING["timm_wrapper"](architecture=architecture, num_labels=3)).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stages_end_where_the_model_says_and_passes_resume_there(architecture):
    side, grids, prefix = ARCHITECTURES[architecture]
    staged = find_stages(wrapped(architecture), (side, side))
    assert [stage.grid for stage in staged.stages] == [(grid, grid) for grid in grids]
    assert {stage.prefix_tokens for stage in staged.stages} == {prefix}
    with torch.no_grad():
        output, tape = staged.forward(torch.randn(2, 3, side, side))
        for index, feature in enumerate(tape.features):
            assert torch.equal(staged.resume(tape, index, feature).logits, output.logits)


def test_maps_of_hiera_are_those_that_it_rolls_back_itself():
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", img_size=64, stages=(1, 2, 1, 1), embed_dim=8, num_heads=1).eval()
    staged = find_stages(model, (64, 64))
    assert [stage.grid for stage in staged.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(pixels, intermediates_only=True)
        output, tape = staged.forward(pixels)
        for index, (own, feature) in enumerate(zip(expected, tape.features, strict=True)):
            assert torch.equal(feature.map, own)
            assert torch.equal(staged.resume(tape, index, feature), output)


def test_a_teacher_has_the_stages_of_the_classifier():
    names = [
        [stage.name for stage in find_stages(wrapped("test_resnet", kind), (64, 64), must_reach_output=False).stages]
        for kind in (AutoModel, AutoModelForImageClassification)
    ]
    assert names[0] == names[1] == [f"timm_model.layer{number}" for number in range(1, 5)]


def test_a_plain_model_of_timm_has_the_same_stages():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = timm.create_model("test_resnet", num_classes=0)

        def forward(self, pixel_values):
            return self.trunk(pixel_values)

    assert list(stated_blocks(timm.create_model("test_resnet"))) == ["layer1", "layer2", "layer3", "layer4"]
    assert [stage.name for stage in find_stages(Reader(), (64, 64)).stages] == [f"trunk.layer{n}" for n in range(1, 5)]


def test_where_feature_info_names_no_module_stages_are_named_by_hand():
    model = wrapped("hrnet_w18_small")
    assert stated_blocks(model) == {}
    names = [f"timm_model.incre_modules.{number}" for number in range(4)]
    stages = find_stages(model, (64, 64), names).stages
    assert [(stage.channels, stage.grid) for stage in stages] == [
        (128, (16, 16)), (256, (8, 8)), (512, (4, 4)), (1024, (2, 2)),
    ]  # fmt: skip
