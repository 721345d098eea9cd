"""Stages of segmenters and of MONAI's networks, of images and of volumes: the right ones, in reach, and resumed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from dense_models import MODELS, Dense, networks, upernet_swin
from torch import Tensor, nn

from rd_hf.models.features import Stage, StageError, StageFeature, tensors
from rd_hf.models.reprogramming import Projector, common_grid, resample
from rd_hf.models.stages import find_stages
from rd_hf.models.tape import StagedModel
from rd_hf.training.cka import cka
from rd_hf.training.objective import comparable

BY_NAME = {dense.name: dense for dense in MODELS}
every_model = pytest.mark.parametrize("dense", MODELS, ids=lambda dense: dense.name)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def staged_model(name: str) -> StagedModel:
    return find_stages(BY_NAME[name].build(), BY_NAME[name].image_size)


def images(dense: Dense, seed: int) -> Tensor:
    return torch.randn(2, 3, *dense.image_size, generator=torch.Generator().manual_seed(seed))


def answer(output: Any) -> Tensor:
    """The logits, the first tensor of every output here."""
    return next(tensor for _, tensor in tensors(output))


@every_model
def test_stages(dense: Dense) -> None:
    stages = staged_model(dense.name).stages
    assert [stage.name for stage in stages] == dense.stage_names
    assert [stage.grid for stage in stages] == [(side,) * dense.rank for side in dense.sides]


@every_model
def test_resuming_is_exact_and_every_stage_has_a_gradient(dense: Dense) -> None:
    staged = staged_model(dense.name)
    with torch.no_grad():
        output, tape = staged.forward(images(dense, 1))
    for index, feature in enumerate(tape.features):
        with torch.no_grad():  # where a gradient is wanted, attention takes another kernel
            assert (answer(staged.resume(tape, index, feature)) - answer(output)).abs().max() == 0
        leaf = StageFeature(*(None if part is None else part.clone().requires_grad_() for part in feature))
        resumed = answer(staged.resume(tape, index, leaf))
        weights = torch.linspace(-1, 1, resumed.numel()).view_as(resumed)
        parts = [part for part in leaf if part is not None]
        gradients = torch.autograd.grad((resumed * weights).sum(), parts, materialize_grads=True)
        assert any(gradient.any() for gradient in gradients)


@every_model
def test_the_output_follows_the_features_of_all_stages(dense: Dense) -> None:
    staged = staged_model(dense.name)
    with torch.no_grad():
        _, tape = staged.forward(images(dense, 1))
        expected, other = staged.forward(images(dense, 2))
        for last in range(len(staged.stages)):
            injected = {index: other.features[index] for index in range(last + 1)}
            follows = torch.allclose(answer(staged.resume(tape, injected)), answer(expected), atol=1e-6)
            assert follows == dense.follows


def test_several_stages_are_one_stage_where_there_is_one() -> None:
    dense, staged = BY_NAME["UNet 3D"], staged_model("UNet 3D")
    with torch.no_grad():
        _, tape = staged.forward(images(dense, 1))
        _, other = staged.forward(images(dense, 2))
        alone = staged.resume(tape, 1, other.features[1])
        assert torch.equal(staged.resume(tape, {1: other.features[1]}), alone)
        # a stage between two injected ones is computed from the shallower one
        both = staged.resume(tape, {0: other.features[0], 2: other.features[2]})
        assert torch.equal(both, staged.model(images(dense, 2)))


def test_a_feature_that_does_not_fit_one_of_several_stages_is_refused() -> None:
    dense, staged = BY_NAME["UNet 3D"], staged_model("UNet 3D")
    _, tape = staged.forward(images(dense, 1))
    with pytest.raises(StageError, match=r"'model.0' outputs a map of shape \(2, 4, 16, 16, 16\)"):
        staged.resume(tape, {0: tape.features[1], 1: tape.features[1]})


def test_a_stage_named_by_hand_that_reaches_no_output_is_refused() -> None:
    model = upernet_swin()
    dead = "backbone.swin.encoder.layers.3"  # the head reads what this hands on beside its feature
    with pytest.raises(StageError, match=rf"{dead}': its gradient there is zero"):
        find_stages(model, (64, 64), ["backbone.swin.encoder.layers.0", dead])
    assert len(find_stages(model, (64, 64), [dead], must_reach_output=False).stages) == 1


def test_the_reach_check_leaves_no_trace_on_frozen_parameters() -> None:
    model = BY_NAME["SegResNetDS 2D"].build().train()
    frozen = next(model.parameters()).requires_grad_(False)
    before, state = {name: buffer.clone() for name, buffer in model.named_buffers()}, torch.get_rng_state()
    find_stages(model, (64, 64))
    assert not frozen.requires_grad and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)
    model.requires_grad_(False)
    assert len(find_stages(model, (64, 64)).stages) == 4  # what is injected has a gradient all the same


class Severed(nn.Module):
    """Its output is cut off from its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)).detach())


def test_a_model_without_a_gradient_from_any_stage_is_refused() -> None:
    with pytest.raises(StageError, match=r"no gradient leads from its output.*blocks.0, blocks.1"):
        find_stages(Severed(), (16, 16))


def test_a_head_that_starts_at_zero_is_no_reason_to_refuse() -> None:
    dense = BY_NAME["ResNet 2D"]
    model = dense.build()
    nn.init.zeros_(model.fc.weight)
    assert [stage.name for stage in find_stages(model, dense.image_size).stages] == dense.stage_names


def as_volume(feature: StageFeature, depth: int) -> StageFeature:
    """Features of slices (B * depth, C, h, w) as those of volumes (B, C, depth, h, w)."""
    return StageFeature(feature.map.unflatten(0, (-1, depth)).movedim(1, 2))


@pytest.mark.parametrize("name", ["SegResNet 3D", "UNet 3D"])
@pytest.mark.parametrize("teacher", ["ViT 2D", "ViT 3D"])
def test_projecting_into_a_volume_student(name: str, teacher: str) -> None:
    dense, staged = BY_NAME[name], staged_model(name)
    with torch.no_grad():
        if teacher == "ViT 2D":  # slice by slice
            slices = torch.randn(2 * 8, 3, 64, 64, generator=torch.Generator().manual_seed(3))
            feature = as_volume(staged_model(teacher).forward(slices)[1].features[-1], 8)
        else:
            feature = staged_model(teacher).forward(images(BY_NAME[teacher], 3))[1].features[-1]
        assert feature.map.shape[2:] == ((8, 8, 8) if teacher == "ViT 2D" else (4, 4, 4))
        feature = StageFeature(feature.map, None)
        _, tape = staged.forward(images(dense, 1))
    of_teacher = Stage("teacher", feature.map.shape[1], tuple(feature.map.shape[2:]), 0)
    projectors = [Projector(of_teacher, stage, hidden_channels=8) for stage in staged.stages]
    projected = {}
    for index, (projector, stage) in enumerate(zip(projectors, staged.stages, strict=True)):
        given = resample(feature, common_grid(of_teacher.grid, stage.grid))
        projector.calibrate(given, tape.features[index])
        projected[index] = projector(given)
        assert projected[index].map.shape == tape.features[index].map.shape
        for kind, columns in (("pooled", stage.channels), ("flattened", tape.features[index].map[0].numel())):
            sides = [comparable(side, kind) for side in (projected[index], tape.features[index])]
            assert sides[0].shape == (2, columns)
            assert 0 <= cka(*sides, "biased") <= 1 + 1e-6
    answer(staged.resume(tape, projected)).square().sum().backward()
    for projector in projectors:
        assert all(parameter.grad.any() for parameter in projector.parameters())


def test_an_images_feature_is_not_projected_into_a_volume() -> None:
    with pytest.raises(StageError, match="8x8 and the student's 4x4x4"):
        common_grid((8, 8), (4, 4, 4))


def test_a_volume_of_depth_one_gives_what_the_image_gives() -> None:
    torch.manual_seed(0)
    sides = [Stage("teacher", 6, (5, 5), 0), Stage("student", 4, (8, 8), 0)]
    flat = Projector(*sides, hidden_channels=8)
    deep = Projector(*(Stage(s.name, s.channels, (1, *s.grid), 0) for s in sides), hidden_channels=8)
    with torch.no_grad():
        for image, volume in zip(flat.parameters(), deep.parameters(), strict=True):
            if volume.ndim == 5:  # the middle slice of the kernel, between paddings
                volume.zero_()[:, :, volume.shape[2] // 2] = image
            else:
                volume.copy_(image)
        features = torch.randn(3, 6, 5, 5)
        expected = flat(StageFeature(features)).map
        torch.testing.assert_close(deep(StageFeature(features[:, :, None])).map[:, :, 0], expected)


def test_channels_come_from_the_config_or_the_caller() -> None:
    grey = next(dense for dense in networks(3) if dense.name == "ViT 3D").build()
    grey.patch_embedding.patch_embeddings = nn.Conv3d(1, 16, 8, 8)
    assert len(find_stages(grey, (32, 32, 32), in_channels=1).stages) == 4
    with pytest.raises(StageError, match=r"(?s)\(2, 3, 32, 32, 32\).*in_channels"):
        find_stages(grey, (32, 32, 32))
