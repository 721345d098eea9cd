"""The foundation models of docs/reference/teachers.md as teachers: their architectures, with few random weights."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from transformers import AutoConfig, AutoModel

from rd_hf.data.pixels import PixelTransform, load_processor
from rd_hf.models.backbone import Backbone

# narrower and of fewer layers than the real ones; image size, patches and prefix tokens are theirs
NARROW: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
TEXT: dict[str, Any] = NARROW | {
    "num_hidden_layers": 1,
    "vocab_size": 64,
    "eos_token_id": 2,
    "max_position_embeddings": 8,
}
PLAIN: dict[str, Any] = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
PLAIN |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}


def squared(kind: str, side: int) -> dict[str, Any]:
    """A preprocessor_config.json that resizes to a square."""
    return PLAIN | {"image_processor_type": kind, "size": {"height": side, "width": side}}


def cropped(kind: str, edge: int, side: int) -> dict[str, Any]:
    """A preprocessor_config.json that resizes the shorter edge and crops a square."""
    crop = {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    return PLAIN | crop | {"image_processor_type": kind, "size": {"shortest_edge": edge}}


def transformer(layers: int, side: int, patch: int, **fields: Any) -> dict[str, Any]:
    """The config of a plain vision transformer."""
    return NARROW | {"num_hidden_layers": layers, "image_size": side, "patch_size": patch} | fields


SAM = {"image_processor_type": "SamImageProcessor", "size": {"longest_edge": 1024}, "do_pad": True}
SAM_CONFIG: dict[str, Any] = {
    "vision_config": transformer(4, 1024, 16, output_channels=8, mlp_dim=16, global_attn_indexes=[]),
    "mask_decoder_config": {"hidden_size": 8, "num_attention_heads": 2, "mlp_dim": 8, "iou_head_hidden_dim": 8},
    "prompt_encoder_config": {"hidden_size": 8},
}
SAM |= PLAIN | {"pad_size": {"height": 1024, "width": 1024}}
# Hub id: model type, config, preprocessor_config.json, --teacher_image_size; then grids of the stages, prefix tokens
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int | None, list[int], int]] = {
    "microsoft/rad-dino": (
        "dinov2", transformer(4, 518, 14), cropped("BitImageProcessor", 518, 518), None, [37] * 4, 1,
    ),
    "google/medsiglip-448": (
        "siglip", {"vision_config": transformer(4, 448, 14), "text_config": TEXT},
        squared("SiglipImageProcessor", 448), None, [32] * 4, 0,
    ),
    "google/siglip2-base-patch16-224": (
        "siglip", {"vision_config": transformer(4, 224, 16), "text_config": TEXT},
        squared("SiglipImageProcessor", 224), None, [14] * 4, 0,
    ),
    "flaviagiammarino/pubmed-clip-vit-base-patch32": (
        "clip", {"vision_config": transformer(4, 224, 32), "text_config": TEXT},
        cropped("CLIPImageProcessor", 224, 224), None, [7] * 4, 1,
    ),
    "google/medgemma-4b-it": (
        "gemma3",
        {"vision_config": transformer(4, 896, 14), "text_config": TEXT | {"head_dim": 8, "num_key_value_heads": 1}},
        squared("Gemma3ImageProcessor", 896), None, [64] * 4, 0,
    ),
    "vinid/plip": (
        "clip", {"vision_config": transformer(4, 224, 32), "text_config": TEXT},
        cropped("CLIPImageProcessor", 224, 224), None, [7] * 4, 1,
    ),
    "wanglab/medsam-vit-base": ("sam", SAM_CONFIG, SAM, 1024, [64] * 4, 0),
    "facebook/sam-vit-base": ("sam", SAM_CONFIG, SAM, 1024, [64] * 4, 0),
    "owkin/phikon": ("vit", transformer(4, 224, 16), squared("ViTImageProcessor", 224), None, [14] * 4, 1),
    "owkin/phikon-v2": (
        "dinov2", transformer(4, 224, 16), cropped("BitImageProcessor", 224, 224), None, [14] * 4, 1,
    ),
    "facebook/dinov2-base": (
        "dinov2", transformer(4, 518, 14), cropped("BitImageProcessor", 256, 224), None, [16] * 4, 1,
    ),
    "facebook/dinov2-with-registers-base": (
        "dinov2_with_registers", transformer(4, 518, 14, num_register_tokens=4),
        cropped("BitImageProcessor", 256, 224), None, [16] * 4, 5,
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        "dinov3_vit", transformer(4, 224, 16, num_register_tokens=4),
        squared("DINOv3ViTImageProcessorFast", 224), None, [14] * 4, 5,
    ),
    "facebook/dinov3-convnext-tiny-pretrain-lvd1689m": (
        "dinov3_convnext", {"depths": [3, 3, 9, 3], "hidden_sizes": [4, 6, 8, 10]},
        squared("DINOv3ViTImageProcessorFast", 224), None, [56, 28, 14, 7], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_foundation_model_is_read_after_its_stages(name, tmp_path):
    model_type, fields, processor, image_size, grids, prefix_tokens = MODELS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    size = PixelTransform(load_processor(str(tmp_path), image_size=image_size)).size
    torch.manual_seed(0)
    backbone = Backbone.from_model(AutoModel.from_config(AutoConfig.for_model(model_type, **fields)))
    stages = backbone.find_stages(size)
    assert [stage.grid for stage in stages] == [(side, side) for side in grids]
    assert {stage.prefix_tokens for stage in stages} == {prefix_tokens}


def test_each_row_of_the_table_of_teachers_is_built_here():
    page = (REPOSITORY / "docs" / "reference" / "teachers.md").read_text()
    rows = re.search(r"^## Models of transformers\n\n(.+?)\n\n", page, re.DOTALL | re.MULTILINE)[1].splitlines()[2:]
    assert {row.split("|")[2].strip(" `").split("`")[0].split()[0] for row in rows} == set(MODELS)
