"""Maps show each patch at its place: Hiera's tokens are put back, and tokens of groups are refused."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel, GroupViTVisionConfig, GroupViTVisionModel
from vision_families import FAMILIES

from rd_hf.models.stages import Stage, StageError, find_stages
from rd_hf.models.token_order import apart, row_by_row

BY_TYPE = {family.model_type: family for family in FAMILIES}
SIDE = 64
HIERA = {
    "model_type": "hiera", "embed_dim": 4, "image_size": [SIDE, SIDE], "depths": [1, 2, 1, 1],
    "num_heads": [1, 1, 2, 2], "masked_unit_size": [8, 8],
}  # fmt: skip


@pytest.fixture(scope="module")
def hiera():
    return small(**HIERA)


def small(model_type, **values):
    torch.manual_seed(0)
    return AutoModel.from_config(CONFIG_MAPPING[model_type](**values)).eval()


def test_maps_of_hiera_are_those_that_it_rolls_back_itself(hiera):
    staged = find_stages(hiera, (SIDE, SIDE))
    assert [stage.grid for stage in staged.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [len(stage.unrolled) for stage in staged.stages] == [3, 2, 1, 0]
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = hiera(pixels, output_hidden_states=True).reshaped_hidden_states[1:]
        output, tape = staged.forward(pixels)
        for index, (own, feature) in enumerate(zip(expected, tape.features, strict=True)):
            assert torch.equal(feature.map, own.permute(0, 3, 1, 2))
            assert torch.equal(staged.resume(tape, index, feature)[0], output[0])
    assert [Stage.from_dict(stage.to_dict()) for stage in staged.stages] == list(staged.stages)


def test_blocks_inside_a_stage_and_what_lies_before_them(hiera):
    names = ["embeddings", "encoder.stages.1.layers.0.layernorm_before", "encoder.stages.1.layers.1"]
    staged = find_stages(hiera, (SIDE, SIDE), names)
    assert [len(stage.unrolled) for stage in staged.stages] == [0, 3, 2]


def test_where_nothing_is_pooled_after_the_second_stage_the_strides_stay():
    model = small(**HIERA, num_query_pool=1)
    staged = find_stages(model, (SIDE, SIDE), [f"encoder.stages.{number}" for number in range(4)])
    assert [len(stage.unrolled) for stage in staged.stages] == [3, 2, 2, 2]
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).reshaped_hidden_states[1:]
        features = staged.forward(pixels)[1].features
    assert all(torch.equal(f.map, own.permute(0, 3, 1, 2)) for f, own in zip(features, expected, strict=True))


@pytest.mark.parametrize(("grid", "strides"), [((4, 12), ((2, 2),)), ((8, 16), ((2, 4), (2, 2))), ((3, 5), ())])
def test_one_order_is_the_inverse_of_the_other(grid, strides):
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    assert torch.equal(row_by_row(apart(tokens, grid, strides), grid, strides), tokens)


def test_tokens_of_groups_are_no_map():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = GroupViTVisionConfig(**sizes, depths=[1, 1, 1], num_hidden_layers=3)
    with pytest.raises(StageError, match="GroupViTVisionModel gathers its patches in groups, which lie on no grid"):
        find_stages(GroupViTVisionModel(config), (224, 224))


@pytest.mark.parametrize("model_type", ["hiera", "vit", "dinov2", "segformer", "resnet", "pvt_v2", "cvt"])
def test_a_bright_patch_moves_the_map_at_its_place(model_type):
    """In the first stage, whose cells see little else."""
    family = BY_TYPE[model_type]
    height, width = family.image_size
    staged = find_stages(family.build(), family.image_size)
    before = torch.randn(1, 3, height, width) * 0.1
    after = before.clone()
    after[:, :, height // 2 : height * 3 // 4, width // 4 : width // 2] += 5
    with torch.no_grad():
        maps = [staged.forward(pixels)[1].features[0].map for pixels in (before, after)]
    moved = (maps[0] - maps[1]).square().sum(dim=1)[0]
    rows, columns = moved.shape
    row, column = divmod(int(moved.argmax()), columns)
    assert 0.4 <= (row + 0.5) / rows <= 0.85 and 0.15 <= (column + 0.5) / columns <= 0.6
