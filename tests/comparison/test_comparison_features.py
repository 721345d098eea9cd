"""What a comparison's methods read of the teacher: maps, one vector, and vectors averaged over the views."""

import copy
import shutil

import numpy as np
import pytest
import torch
from test_comparison import grid, make_plan, open_bench, results, run_here  # noqa: F401
from transformers import AutoModel, ViTConfig, ViTImageProcessorPil

from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison.adaptation import AdaptedTeacher, with_lora
from rd_hf.models.backbone import Backbone
from rd_hf.training.trainer import Trainer

VECTORS = {"teacher_features": "all", "target_views": "mean"}
WIDTH = 8 + 16 + 24  # of the stages of conftest's teacher, behind which nothing is


def test_probe_and_logit_methods_read_vectors_and_means_and_others_keep_maps(grid, tmp_path, monkeypatch):  # noqa: F811
    seen = {}
    train = Trainer.train

    def watched(self, deadline=None):
        batch = {"rows": [3, 4, 3], "views": [0, 0, 1], "teacher_pixels": None, "teacher_positions": None}
        if self.inputs.backbone is not None:
            seen[self.output_dir.parent.name.removesuffix("+unlabelled")] = self.inputs.teacher_features(batch)[-1].map
        return train(self, deadline)

    monkeypatch.setattr(Trainer, "train", watched)
    grid["arguments"] |= {"max_steps": 1, "eval_steps": 1, "cache_dtype": "float32"} | VECTORS
    plan = make_plan(grid, methods=["linear_probe", "lp_kd", "at"])
    assert run_here(plan) == []
    assert seen["lp_kd"].shape == (3, WIDTH, 1, 1)
    first, other_row, other_view = seen["lp_kd"]
    assert torch.equal(first, other_view) and not torch.equal(first, other_row)
    assert seen["at"].shape[1] == 24 and seen["at"].shape[2] > 1
    found = results(plan, tmp_path)
    assert found["linear_probe"]["trained_parameters"] == 3 * (WIDTH + 1)


@pytest.mark.parametrize("features", ["last", "all"])
def test_an_adapted_teacher_puts_its_head_on_the_vector_that_the_frozen_one_gives(features):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    frozen = Backbone.from_model(AutoModel.from_config(config))
    stage = frozen.find_pooled((32, 32), features)
    frozen.tap([stage], [stage.grid], (32, 32))
    pixels = torch.randn(2, 3, 32, 32)
    tower = copy.deepcopy(frozen.tower)
    merge = with_lora(tower)
    adapted = AdaptedTeacher(tower, (32, 32), 3, stage)
    logits = adapted(pixel_values=pixels).logits
    expected = adapted.head(frozen.extract(pixels)[0].map.flatten(1))  # LoRA starts at the frozen teacher
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert any(p.grad.abs().sum() > 0 for name, p in tower.named_parameters() if "lora_" in name)
    merge()
    torch.testing.assert_close(adapted(pixel_values=pixels).logits, expected)


@pytest.mark.parametrize(
    ("method", "name", "value", "message"),
    [
        ("at", "teacher_features", "all", "reads the maps"),
        ("cka", "target_views", "mean", "does not learn logits"),
    ],
)
def test_what_a_method_does_not_read_is_no_argument_of_it(grid, method, name, value, message):  # noqa: F811
    with pytest.raises(ArgumentError, match=message):
        make_plan(grid, methods=[{"name": "other", "method": method, name: value}])


def test_means_of_maps_are_refused(grid, tmp_path):  # noqa: F811
    (failure,) = run_here(make_plan(grid, methods=[{"name": "mean", "method": "lp_kd", "target_views": "mean"}]))
    assert "`teacher_features` to all or last" in failure


def test_teachers_of_the_same_weights_and_other_pixels_have_features_of_their_own(grid, teacher, tmp_path):  # noqa: F811
    brighter = shutil.copytree(teacher, tmp_path / "brighter")
    size = {"height": 40, "width": 40}
    ViTImageProcessorPil(size=size, image_mean=[0.0] * 3, image_std=[0.1] * 3).save_pretrained(brighter)
    arguments, bench, models, run_data = open_bench(grid)
    other = arguments.with_values(teacher=str(brighter))
    models_of_other = bench.models(other)
    validation = bench.open(other, models_of_other.transforms).validation
    one = bench.pooled_features(arguments, models, run_data.validation)
    two = bench.pooled_features(other, models_of_other, validation)
    assert not np.allclose(one, two)
    assert bench.pooled_features(arguments, models, run_data.validation) is one
