"""The foundation models of timm and open_clip in docs/reference/teachers.md: architectures with few random weights."""

import open_clip
import pytest
import timm
import torch
from conftest import REPOSITORY
from test_open_clip_teachers import TEXT
from timm.layers import GluMlp, SwiGLUPacked
from timm_checkpoints import save_model
from torch import nn

import rd_hf
from rd_hf.models.backbone import Backbone

# fewer and narrower layers than the real ones; image size, patches, layers of a block and tokens are theirs
SMALL = {"depth": 4, "embed_dim": 32, "num_heads": 2}
GIANT = {"init_values": 1e-5, "img_size": 224, **SMALL}
PACKED = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 5.3375, "init_values": 1e-5, **SMALL}
# Hub id: architecture of timm, its arguments; then the side of the grids and the tokens in front
NAMED = {
    "MahmoodLab/UNI": ("vit_large_patch16_224", {"init_values": 1e-5, **SMALL}, 14, 1),
    "prov-gigapath/prov-gigapath": (
        "vit_giant_patch14_dinov2", {"patch_size": 16, "mlp_ratio": 5.33334, **GIANT}, 14, 1,
    ),
    "bioptimus/H-optimus-0": ("vit_giant_patch14_reg4_dinov2", GIANT, 16, 5),
    "bioptimus/H-optimus-1": ("vit_giant_patch14_reg4_dinov2", GIANT, 16, 5),
}  # fmt: skip
IN_PYTHON = {
    "MahmoodLab/UNI2-h": (
        "vit_giant_patch14_224", {**PACKED, "img_size": 224, "reg_tokens": 8, "no_embed_class": True}, 16, 9,
    ),
    "paige-ai/Virchow": ("vit_huge_patch14_224", PACKED, 16, 1),
    "paige-ai/Virchow2": ("vit_huge_patch14_224", {**PACKED, "img_size": 224, "reg_tokens": 4}, 16, 5),
}  # fmt: skip
TOWERS = {
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": (
        {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "",
         "timm_proj": "linear", "image_size": 224},
        14, 1,
    ),
    "wisdomik/QuiltNet-B-32": (
        {"layers": 4, "width": 32, "head_width": 16, "patch_size": 32, "image_size": 224}, 7, 1,
    ),
}  # fmt: skip


def check(backbone, side, tokens):
    stages = backbone.find_stages((224, 224))
    assert [stage.grid for stage in stages] == [(side, side)] * 4
    assert {stage.prefix_tokens for stage in stages} == {tokens}
    backbone.tap(stages, [(7, 7)] * 4, (224, 224))
    for feature in backbone.extract(torch.rand(2, 3, 224, 224)):
        assert feature.map.shape[2:] == (7, 7) and feature.map.isfinite().all()


@pytest.mark.parametrize("name", NAMED)
def test_a_checkpoint_of_timm_is_read_from_a_folder_with_model_args(name, tmp_path):
    architecture, arguments, side, tokens = NAMED[name]
    save_model(tmp_path, architecture, num_classes=0, side=224, **arguments)
    backbone = Backbone.from_pretrained(tmp_path)
    assert not backbone.missing
    check(backbone, side, tokens)


@pytest.mark.parametrize("name", IN_PYTHON)
def test_a_model_whose_layers_no_json_names_is_a_network_in_hand(name):
    architecture, arguments, side, tokens = IN_PYTHON[name]
    network = timm.create_model(architecture, num_classes=0, **arguments).eval()
    assert any(isinstance(module, GluMlp) for module in network.modules())
    check(Backbone.from_model(rd_hf.TeacherNetwork(network)), side, tokens)


@pytest.mark.parametrize("name", TOWERS)
def test_an_image_tower_of_open_clip(name):
    vision, side, tokens = TOWERS[name]
    clip = open_clip.CLIP(16, vision, TEXT).eval()
    check(Backbone.from_model(rd_hf.TeacherNetwork(clip.visual)), side, tokens)


def test_each_row_of_the_table_is_built_here():
    page = (REPOSITORY / "docs" / "reference" / "teachers.md").read_text()
    table = page.split("## Models of timm and open_clip\n")[1].split("\n- ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    built = NAMED | IN_PYTHON | TOWERS
    assert len(rows) == len(built)
    for name, (*_, side, tokens) in built.items():
        (row,) = (row for row in rows if f"{name}`" in row)
        assert f"| {side} x {side} patches, {tokens} token{'s' if tokens > 1 else ''} |" in row, name
        assert ("in Python only" in row) == (name in IN_PYTHON)
