"""Towers of packed patches as teachers of whole images: packed as their processors do, and each patch in its place."""

import importlib
from copy import deepcopy
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from test_teacher_cache import settings
from torch import nn
from transformers import (
    AutoModel,
    Glm4vImageProcessorPil,
    Glm4vVisionModel,
    PixtralVisionConfig,
    PixtralVisionModel,
    Qwen2_5_VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLVisionModel,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)
from transformers.models.glm4v.configuration_glm4v import Glm4vVisionConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

import rd_hf
from rd_hf.models.backbone import Backbone
from rd_hf.models.packed_tower import PackedTower, is_packed
from rd_hf.models.probe import UnfitImageError

SIDE, GRID = 8, (6, 4)
SIZE = (GRID[0] * SIDE, GRID[1] * SIDE)
OF_QWEN = {"depth": 4, "num_heads": 2, "patch_size": SIDE}
HIDDEN = {"hidden_size": 32, "intermediate_size": 32}
OF_SIGLIP = HIDDEN | {"num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": SIDE}
CONFIGS = {
    "qwen2_vl": Qwen2VLVisionConfig(**OF_QWEN, embed_dim=32, hidden_size=16),
    "qwen2_5_vl": Qwen2_5_VLVisionConfig(
        **OF_QWEN, **HIDDEN, out_hidden_size=16, window_size=4 * SIDE, fullatt_block_indexes=[3]
    ),
    "qwen3_vl": Qwen3VLVisionConfig(
        **OF_QWEN, **HIDDEN, out_hidden_size=16, num_position_embeddings=16, deepstack_visual_indexes=[1]
    ),
    "glm4v": Glm4vVisionConfig(**OF_QWEN, **HIDDEN, out_hidden_size=16, image_size=32),
    "siglip2": Siglip2VisionConfig(**OF_SIGLIP, num_patches=16),
    "pixtral": PixtralVisionConfig(**OF_SIGLIP, image_size=64),
}
MODELS = {
    "qwen2_vl": Qwen2VisionTransformerPretrainedModel, "qwen2_5_vl": Qwen2_5_VisionTransformerPretrainedModel,
    "qwen3_vl": Qwen3VLVisionModel, "glm4v": Glm4vVisionModel, "siglip2": Siglip2VisionModel,
    "pixtral": PixtralVisionModel,
}  # fmt: skip
PROCESSORS = {
    "qwen2_vl": Qwen2VLImageProcessorPil(patch_size=SIDE),
    "glm4v": Glm4vImageProcessorPil(patch_size=SIDE),
    "siglip2": Siglip2ImageProcessorPil(patch_size=SIDE, max_num_patches=GRID[0] * GRID[1]),
}
# not in every supported version of transformers: the names of model and config, the config, and the processor's options
NEWER = {
    "video_llama_3": ("VideoLlama3VisionModel", "VideoLlama3Vision", OF_SIGLIP, {}),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeVisionTransformerPretrainedModel", "Ernie4_5_VLMoeVision", OF_QWEN | HIDDEN, {}),
    "glm_image": ("GlmImageVisionModel", "GlmImageVision", OF_QWEN | HIDDEN | {"image_size": 64},
                  {"temporal_patch_size": 1, "merge_size": 1}),
    "hunyuan_vl": ("HunYuanVLVisionTransformer", "HunYuanVLVision",
                   OF_SIGLIP | {"num_key_value_heads": 2, "out_hidden_size": 16, "text_hidden_size": 16,
                                "max_image_size": 64}, {}),
    "cosmos3_edge": ("Cosmos3EdgeVisionModel", "Cosmos3EdgeVision", OF_SIGLIP | {"num_patches": 16}, {}),
    "lfm3_vl": ("Lfm3VlVisionModel", "Lfm3VlVision",
                OF_SIGLIP | {"num_key_value_heads": 2, "layer_types": ["full_attention"] * 4}, None),
    "kimi_k25": ("Kimi_K25VisionModel", "Kimi_K25Vision", OF_SIGLIP | {"pos_emb_height": 8, "pos_emb_width": 8}, None),
    "qwen2_5_omni": ("Qwen2_5OmniVisionEncoder", "Qwen2_5OmniVisionEncoder",
                     OF_QWEN | HIDDEN | {"out_hidden_size": 16, "window_size": 4 * SIDE,
                                         "fullatt_block_indexes": [3]}, None),
    "minimax_m3_vl": ("MiniMaxM3VLVisionModel", "MiniMaxM3VLVision", OF_SIGLIP, None),
}  # fmt: skip
for newer, (model, family, settings_of_config, of_processor) in NEWER.items():
    if find_spec(f"transformers.models.{newer}"):
        of_family = {
            kind: importlib.import_module(f"transformers.models.{newer}.{kind}_{newer}")
            for kind in ("configuration", "modeling", *(["image_processing_pil"] if of_processor is not None else []))
        }
        CONFIGS[newer] = getattr(of_family["configuration"], f"{family}Config")(**settings_of_config)
        MODELS[newer] = getattr(of_family["modeling"], model)
        if of_processor is not None:
            processor = getattr(of_family["image_processing_pil"], f"{family.removesuffix('Vision')}ImageProcessorPil")
            PROCESSORS[newer] = processor(patch_size=SIDE, **of_processor)


def tower_of(name) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](CONFIGS[name]).eval()


def pixels_of(images: int) -> torch.Tensor:
    return torch.randn(images, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PROCESSORS)
def test_images_are_packed_as_the_processor_packs_them(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    options = {} if name == "siglip2" else {"do_resize": False}
    expected = PROCESSORS[name](image, return_tensors="pt", do_normalize=False, **options)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    packed = PackedTower(tower_of(name))._pack(pixels, CONFIGS[name])
    for given, key in zip(packed.values(), expected, strict=True):
        torch.testing.assert_close(given.float(), expected[key].float())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_patch_shows_in_its_own_cell_of_every_stage(name):
    """Attention is turned off, so that nothing but the order of the tokens moves a patch."""
    tower = tower_of(name)
    assert is_packed(tower)
    for path, module in tower.named_modules():
        if path.endswith(("attn.proj", "o_proj", "out_proj")):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    backbone = Backbone.from_model(tower)
    stages = backbone.find_stages(SIZE)
    assert [(stage.name, stage.channels, stage.grid) for stage in stages] == [
        (f"stages.{index}", 32, GRID) for index in range(4)
    ]
    backbone.tap(stages, [GRID] * 4, SIZE)
    images = pixels_of(2)
    changed = images.clone()
    changed[1, :, 3 * SIDE : 4 * SIDE, 2 * SIDE : 3 * SIDE] += 1.0
    for before, after in zip(backbone.extract(images), backbone.extract(changed), strict=True):
        moved = (before.map - after.map).abs().amax(dim=1) > 1e-6
        assert moved.nonzero().tolist() == [[1, 3, 2]]


@pytest.mark.parametrize("name", CONFIGS)
def test_images_of_a_batch_do_not_see_one_another(name):
    tower = deepcopy(PackedTower(tower_of(name)))  # as a comparison copies a teacher that it trains
    images = pixels_of(3)
    with torch.no_grad():
        torch.testing.assert_close(tower(images), torch.cat([tower(image[None]) for image in images]))
        assert not torch.equal(tower(images)[0], tower(images)[1])


def test_one_vector_of_all_stages():
    backbone = Backbone.from_model(tower_of("qwen2_vl"))
    stage = backbone.find_pooled(SIZE, "all")
    assert [name for name in stage.pooled if name.startswith("stages.")] == [f"stages.{index}" for index in range(4)]
    backbone.tap([stage], [(1, 1)], SIZE)
    assert backbone.extract(pixels_of(2))[0].map.shape == (2, stage.channels, 1, 1) and stage.channels >= 4 * 32


def test_sides_without_a_whole_grid_are_refused():
    with pytest.raises(UnfitImageError, match="44 x 32 pixels have no whole grid: use multiples of 16"):
        Backbone.from_model(tower_of("qwen2_vl")).find_stages((44, 32))


def test_a_checkpoint_with_a_language_model_is_a_teacher_by_its_folder(tmp_path):
    text = HIDDEN | {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 8}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = CONFIGS["qwen2_5_vl"].to_dict() | {"out_hidden_size": 32}
    config = Qwen2_5_VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path)
    saved, own = Backbone.from_pretrained(tmp_path), Backbone.from_model(model)
    assert saved.source["sha256"] == own.source["sha256"] and not saved.missing
    found = []
    for backbone in (saved, own):
        backbone.tap(backbone.find_stages(SIZE)[-1:], [GRID], SIZE)
        found.append(backbone.extract(pixels_of(1))[0].map)
    assert torch.equal(*found)


def test_a_run_distils_from_one(tmp_path, blobs_npz, no_report, cache_dir):
    folder = tmp_path / "teacher"
    tower_of("siglip2").save_pretrained(folder)
    PROCESSORS["siglip2"].save_pretrained(folder)
    values = settings(folder, blobs_npz, tmp_path / "run", method="drd", max_steps=2, eval_steps=2, num_views=1)
    rd_hf.distill(**values, teacher_image_size=32)
    assert (tmp_path / "run" / "checkpoints").is_dir()
