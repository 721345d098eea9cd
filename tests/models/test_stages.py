"""Stages of any transformers vision model: found, tapped, resumed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    MobileNetV2Config,
    MobileNetV2Model,
    PixioConfig,
    PixioModel,
    RfDetrConfig,
    SamVisionConfig,
    SamVisionModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config
from vision_families import FAMILIES, SQUARE, VIT, Family

from rd_hf.models.features import Form, Stage, StageError, StageFeature
from rd_hf.models.stages import find_stages, image_tower, pair_stages
from rd_hf.models.tape import StagedModel

BY_TYPE = {family.model_type: family for family in FAMILIES}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
in_both_modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models lose more to the start of threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def staged_family(model_type: str) -> StagedModel:
    family = BY_TYPE[model_type]
    return find_stages(family.build(), family.image_size)


def images(image_size: tuple[int, int], count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *image_size, generator=torch.Generator().manual_seed(1))


def buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same_buffers(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def leaf(feature: StageFeature) -> StageFeature:
    return StageFeature(*[None if part is None else part.detach().clone().requires_grad_() for part in feature])


@contextmanager
def computed_modules(model: nn.Module, marked: list[str]) -> Iterator[list[str]]:
    """Names of the childless modules whose forward really ran, in order, and "end of x" where marked module x ended."""
    ran: list[str] = []

    def counting(name, forward):
        def run(*args, **kwargs):
            ran.append(name)
            return forward(*args, **kwargs)

        return run

    leaves = {module: name for name, module in model.named_modules() if not list(module.children())}
    for module, name in leaves.items():
        module.forward = counting(name, module.forward)
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(f"end of {name}"))
        for name in marked
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()
        for module in leaves:
            del module.forward


@every_family
def test_stages_of_the_family(family: Family) -> None:
    stages = staged_family(family.model_type).stages
    assert [(stage.channels, *stage.grid) for stage in stages] == family.maps
    assert [stage.prefix_tokens for stage in stages] == family.prefixes()


@in_both_modes
@every_family
def test_resuming_with_a_stages_own_output_is_the_full_pass(family: Family, training: bool) -> None:
    staged = staged_family(family.model_type)
    staged.model.train(training)
    with torch.no_grad():
        output, tape = staged.forward(images(family.image_size))
    assert [tuple(feature.map.shape[1:]) for feature in tape.features] == family.maps
    before = buffers(staged.model)
    for index, feature in enumerate(tape.features):
        with torch.no_grad():
            resumed = staged.resume(tape, index, feature)
        torch.testing.assert_close(family.logits(resumed), family.logits(output), atol=1e-5, rtol=0)
    assert_same_buffers(staged.model, before)


@every_family
def test_only_the_rest_of_the_model_runs(family: Family) -> None:
    staged = staged_family(family.model_type)
    staged.model.eval()
    with torch.no_grad(), computed_modules(staged.model, [stage.name for stage in staged.stages]) as ran:
        _, tape = staged.forward(images(family.image_size, 1))
        full = list(ran)
        for index, stage in enumerate(staged.stages):
            ran.clear()
            staged.resume(tape, index, tape.features[index])
            end = f"end of {stage.name}"
            assert ran[ran.index(end) + 1 :] == full[full.index(end) + 1 :]
            assert all(name.startswith("end of ") for name in ran[: ran.index(end)])  # replayed, nothing computed
    assert not any("forward" in vars(module) for module in staged.model.modules())


@every_family
def test_logits_depend_on_the_injected_feature(family: Family) -> None:
    staged = staged_family(family.model_type)
    staged.model.train()
    _, tape = staged.forward(images(family.image_size))
    for index in range(len(staged.stages)):
        feature = leaf(tape.features[index])
        logits = family.logits(staged.resume(tape, index, feature))
        weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
        parts = [part for part in feature if part is not None]
        grads = torch.autograd.grad((logits * weights).sum(), parts, materialize_grads=True)
        last = index == len(staged.stages) - 1
        if family.head_reads_prefix_only and last:
            assert grads[0].abs().max() == 0  # why a projector must give the prefix too
        else:
            assert grads[0].abs().max() > 0
        if feature.prefix is not None and (family.head_reads_prefix_only or not last):
            assert grads[1].abs().max() > 0


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able:FutureWarning")
@every_family
def test_gradient_checkpointing(family: Family) -> None:
    staged = staged_family(family.model_type)
    if not staged.model.supports_gradient_checkpointing:
        pytest.skip(f"{family.model_type} does not support gradient checkpointing")
    staged.model.train()
    index = 0  # the longest rest
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            staged.model.gradient_checkpointing_enable()
        try:
            output, tape = staged.forward(images(family.image_size))
            feature = leaf(tape.features[index])
            before = buffers(staged.model)
            resumed = family.logits(staged.resume(tape, index, feature))
            torch.testing.assert_close(resumed, family.logits(output), atol=1e-5, rtol=0)
            gradients.append(torch.autograd.grad(resumed.square().sum(), feature.map)[0])
            assert_same_buffers(staged.model, before)  # after the backward pass, which runs layers again
        finally:
            staged.model.gradient_checkpointing_disable()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "model_type", ["resnet", "mobilenet_v2", "convnext", "swin", "segformer", "vit", "cvt", "levit"]
)
def test_hidden_states_are_those_of_the_full_pass(model_type: str) -> None:
    family, staged = BY_TYPE[model_type], staged_family(model_type)
    staged.model.eval()
    with torch.no_grad():
        output, tape = staged.forward(images(family.image_size), output_hidden_states=True)
        for index, feature in enumerate(tape.features):
            resumed = staged.resume(tape, index, feature)
            assert len(resumed.hidden_states) == len(output.hidden_states) > 1
            for mine, full in zip(resumed.hidden_states, output.hidden_states, strict=True):
                torch.testing.assert_close(mine, full)
            torch.testing.assert_close(resumed.logits, output.logits)


def test_replays_are_detached_and_the_recorded_features_are_not() -> None:
    staged = staged_family("resnet")
    staged.model.train()
    _, tape = staged.forward(images(SQUARE))
    staged.resume(tape, 1, leaf(tape.features[1])).logits.sum().backward()
    with_gradient = {
        name.split(".stages.")[1][0]
        for name, p in staged.model.named_parameters()
        if p.grad is not None and ".stages." in name
    }
    assert with_gradient == {"2", "3"}
    assert not any(p.grad is not None for p in staged.model.resnet.embedder.parameters())
    tape.features[1].map.sum().backward()
    assert all(p.grad is not None for p in staged.model.resnet.embedder.parameters())
    staged.model.zero_grad()


def test_labels_reach_the_resumed_pass() -> None:
    staged = staged_family("vit")
    staged.model.eval()
    output, tape = staged.forward(images(SQUARE), labels=torch.tensor([0, 1, 2]))
    torch.testing.assert_close(staged.resume(tape, 0, tape.features[0]).loss, output.loss)


def test_an_exception_leaves_the_model_as_it_was() -> None:
    staged = staged_family("mobilevit")
    staged.model.train()
    head = staged.model.classifier
    _, tape = staged.forward(images((64, 64)))

    def fail(*args):
        raise KeyError("from the head")

    handle = head.register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="from the head"):
        staged.resume(tape, 0, tape.features[0])
    handle.remove()
    assert not any("forward" in vars(module) for module in staged.model.modules())
    assert all(m.track_running_stats for m in staged.model.modules() if isinstance(m, nn.BatchNorm2d))
    before = buffers(staged.model)
    staged.model(images((64, 64)))
    with pytest.raises(AssertionError):
        assert_same_buffers(staged.model, before)  # the ordinary pass tracks again


def test_a_forward_set_on_a_module_before_is_kept() -> None:
    staged = find_stages(BY_TYPE["vit"].build(), SQUARE)
    first = staged.model.vit.layers[0]
    own = first.forward
    first.forward = lambda *args, **kwargs: own(*args, **kwargs)
    mine = first.forward
    _, tape = staged.forward(images(SQUARE))
    staged.resume(tape, 2, tape.features[2])
    assert first.forward is mine


def test_frozen_batch_norms_use_their_running_statistics() -> None:
    family = BY_TYPE["resnet"]
    staged = find_stages(family.build(), family.image_size)
    staged.model.train()
    staged.model(images(SQUARE))  # running statistics that differ from the batch's
    for module in staged.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    _, tape = staged.forward(images(SQUARE))
    frozen = staged.resume(tape, 0, tape.features[0]).logits
    staged.model.train()
    assert not torch.allclose(frozen, staged.resume(tape, 0, tape.features[0]).logits, atol=1e-4)
    staged.model.eval()
    torch.testing.assert_close(frozen, staged.resume(tape, 0, tape.features[0]).logits)


@pytest.mark.parametrize("model_type", ["resnet", "vit", "swin", "cvt"])
def test_under_autocast(model_type: str) -> None:
    family, staged = BY_TYPE[model_type], staged_family(model_type)
    staged.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, tape = staged.forward(images(family.image_size))
        for index in range(len(staged.stages)):
            feature = StageFeature(
                *[None if part is None else part.detach().float().requires_grad_() for part in tape.features[index]]
            )
            resumed = staged.resume(tape, index, feature).logits
            torch.testing.assert_close(resumed, output.logits)
            resumed.float().sum().backward()
            assert all(part is None or part.dtype == torch.float32 for part in feature)
            assert feature.map.grad is not None or feature.prefix.grad is not None
    staged.model.zero_grad()


def test_a_feature_that_does_not_fit_is_refused() -> None:
    staged = staged_family("vit")
    _, tape = staged.forward(images(SQUARE))
    own = tape.features[1]
    with pytest.raises(StageError, match=r"prefix of shape \(3, 1, 16\).*has None"):
        staged.resume(tape, 1, StageFeature(own.map, None))
    with pytest.raises(StageError, match=r"vit.layers.1.*map of shape \(3, 16, 4, 4\).*\(3, 8, 4, 4\)"):
        staged.resume(tape, 1, StageFeature(own.map[:, :8], own.prefix))
    with pytest.raises(StageError, match="same images"):
        staged.resume(tape, 1, StageFeature(own.map[:2], own.prefix[:2]))


@pytest.mark.parametrize(
    ("model_type", "size", "grid"), [("convnext", (64, 32), (16, 8)), ("segformer", (32, 64), (8, 16))]
)
def test_another_image_size_than_the_probes(model_type: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    staged = staged_family(model_type)
    staged.model.eval()
    output, tape = staged.forward(images(size))
    assert tuple(tape.features[0].map.shape[2:]) == grid
    for index, feature in enumerate(tape.features):
        torch.testing.assert_close(staged.resume(tape, index, feature).logits, output.logits)


def test_tokens_of_another_image_size_are_laid_out_in_its_proportion() -> None:
    staged = staged_family("dinov2")
    staged.model.eval()
    output, tape = staged.forward(images((24, 48)))
    assert tape.features[0].map.shape == (3, 16, 3, 6)
    torch.testing.assert_close(staged.resume(tape, 0, tape.features[0]).logits, output.logits)


def test_isotropic_models_are_cut_evenly() -> None:
    model = BY_TYPE["ijepa"].build()  # six blocks
    last_blocks = {
        n: [int(s.name[-1]) for s in find_stages(model, SQUARE, num_stages=n).stages] for n in (1, 2, 3, 4, 9)
    }
    assert last_blocks == {1: [5], 2: [2, 5], 3: [1, 3, 5], 4: [0, 2, 3, 5], 9: [0, 1, 2, 3, 4, 5]}


def test_stages_are_named_by_their_last_block() -> None:
    assert [stage.name for stage in staged_family("swin").stages] == [f"swin.encoder.layers.{i}" for i in range(4)]
    assert [stage.name for stage in staged_family("poolformer").stages] == [
        "poolformer.encoder.block.0.0",
        "poolformer.encoder.block.1.0",
        "poolformer.encoder.block.2.1",
        "poolformer.encoder.block.3.0",
    ]


class Residual(nn.Module):
    """A block that writes over its input in place, as old convolutional code does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu_(x) + self.convolution(x)


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), Residual(4))
    second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), Residual(6), Residual(6))
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class WithLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = sequential()

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.net(pixel_values))


@in_both_modes
@pytest.mark.parametrize(("build", "prefix"), [(sequential, ""), (WithLogits, "net.")])
def test_stages_named_by_hand(build, prefix: str, training: bool) -> None:
    model = build()
    names = [prefix + name for name in ("1.3", "0", "1.2", "1.1")]
    staged = find_stages(model, (16, 24), names=names)
    assert [(s.name, s.channels, s.grid) for s in staged.stages] == [
        (prefix + "0", 4, (8, 12)),
        (prefix + "1.1", 6, (4, 6)),
        (prefix + "1.2", 6, (4, 6)),
        (prefix + "1.3", 6, (4, 6)),
    ]
    model.train(training)
    output, tape = staged.forward(images((16, 24)))
    logits = output.logits if prefix else output
    own = [feature.map.clone() for feature in tape.features]
    for index, feature in enumerate(tape.features):
        resumed = staged.resume(tape, index, feature)
        torch.testing.assert_close(resumed.logits if prefix else resumed, logits)
    for feature, before in zip(tape.features, own, strict=True):
        assert torch.equal(feature.map, before)  # no resumed pass wrote over the tape
    assert own[0].min() < 0 and own[1].min() < 0  # nor did the blocks that follow in the recorded one


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_.*able:FutureWarning")
def test_a_stage_inside_a_checkpointed_layer() -> None:
    family = BY_TYPE["swin"]
    staged = find_stages(family.build(), family.image_size, names=["swin.encoder.layers.2.blocks.0"])
    staged.model.train()
    staged.model.gradient_checkpointing_enable()
    output, tape = staged.forward(images(family.image_size))
    feature = leaf(tape.features[0])
    resumed = staged.resume(tape, 0, feature).logits
    torch.testing.assert_close(resumed, output.logits)
    resumed.square().sum().backward()
    assert feature.map.grad.abs().max() > 0


class Pair(NamedTuple):
    feature: torch.Tensor
    side: dict[str, list[torch.Tensor]]


class Branching(nn.Module):
    """Every block's side output and a shared activation reach the end around the blocks in between."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([BranchingBlock(*channels) for channels in ((3, 4), (4, 6), (6, 8))])
        self.activation = nn.Tanh()

    def forward(self, x):
        total = x.new_zeros(len(x))
        for block in self.blocks:
            x, side = block(self.activation(x))
            total = total + side["sides"][0].flatten(1).sum(1) + self.activation(x).flatten(1).sum(1)
        return total


class BranchingBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(channels_in, channels, 3, 2, 1)
        self.side = nn.Conv2d(channels_in, 2, 1)

    def forward(self, x):
        return Pair(self.main(x), {"sides": [self.side(x)], "none": None})


def test_what_passes_around_the_stages_is_replayed_and_detached() -> None:
    torch.manual_seed(0)
    model = Branching()
    staged = find_stages(model, (16, 16))
    output, tape = staged.forward(images((16, 16)))
    for index, feature in enumerate(tape.features):
        model.zero_grad()
        injected = leaf(feature)
        with computed_modules(model, []) as ran:
            resumed = staged.resume(tape, index, injected)
        assert ran.count("activation") == 6 - (2 * index + 1)  # the calls before the block are replayed
        torch.testing.assert_close(resumed, output)
        resumed.sum().backward()
        assert [block.main.weight.grad is not None for block in model.blocks] == [i > index for i in range(3)]
        assert [block.side.weight.grad is not None for block in model.blocks] == [i > index for i in range(3)]
        assert injected.map.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name", ["resnet.encoder", "resnet.embedder.embedder.convolution", "resnet.encoder.stages.1.layers.1"]
)
def test_stages_inside_and_around_the_blocks(name: str) -> None:
    staged = find_stages(BY_TYPE["resnet"].build(), SQUARE, names=[name])
    output, tape = staged.forward(images(SQUARE))
    torch.testing.assert_close(staged.resume(tape, 0, tape.features[0]).logits, output.logits)


def test_tokens_that_fit_no_grid_are_refused() -> None:
    form = Form("tokens", (), channels=8, grid=(4, 4), image_size=(32, 32), prefix_tokens=1)
    assert form.read(torch.zeros(2, 9, 8), (16, 32)).map.shape == (2, 8, 2, 4)
    assert form.read(torch.zeros(2, 17, 8), (16, 32)).map.shape == (2, 8, 4, 4)  # pooled to a fixed grid
    with pytest.raises(StageError, match=r"11 patch tokens do not fit the grid of 16x32 images"):
        form.read(torch.zeros(2, 12, 8), (16, 32))


def test_wrong_names_are_refused_with_the_way_out() -> None:
    model = BY_TYPE["resnet"].build()
    with pytest.raises(StageError, match=r"nearest name is 'resnet.encoder.stages.2'"):
        find_stages(model, SQUARE, names=["resnet.encoder.stage.2"])
    with pytest.raises(StageError, match=r"'classifier.1'.*neither a map"):
        find_stages(model, SQUARE, names=["classifier.1"])
    with pytest.raises(StageError, match=r"'resnet.encoder.stages' .*called 0 times"):
        find_stages(model, SQUARE, names=["resnet.encoder.stages"])
    with pytest.raises(StageError, match="names is empty"):
        find_stages(model, SQUARE, names=[])


def test_a_model_without_lists_of_blocks_is_cut_after_the_last_module_of_each_resolution() -> None:
    staged = find_stages(sequential(), (16, 24))
    assert [(s.name, s.channels, s.grid) for s in staged.stages] == [("0", 4, (8, 12)), ("1", 6, (4, 6))]


def test_a_model_without_stages_is_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(StageError, match=r"outermost nn.ModuleLists \(it has none\).*names=\[.*'0'"):
        find_stages(model, (16, 24))


def test_a_model_that_does_not_run_on_the_probe_is_refused() -> None:
    with pytest.raises(StageError, match=r"ViTForImageClassification does not run.*\(2, 3, 48, 48\).*image size"):
        find_stages(BY_TYPE["vit"].build(), (48, 48))
    with pytest.raises(StageError, match="image_tower"):
        find_stages(clip(), SQUARE)


def test_a_model_that_shuffles_its_tokens_is_refused() -> None:
    model = ViTMAEModel(ViTMAEConfig(**VIT))
    random_state = torch.get_rng_state()
    with pytest.raises(StageError, match="draws random numbers in eval mode"):
        find_stages(model, SQUARE)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_probe_leaves_no_trace() -> None:
    family = BY_TYPE["levit"]  # fills a cache of attention biases in eval mode, which goes stale when trained
    model = family.build()
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    flags = {name: module.training for name, module in model.named_modules()}
    before, random_state = buffers(model), torch.get_rng_state()
    find_stages(model, family.image_size)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same_buffers(model, before)
    assert all(not m.attention_bias_cache for m in model.modules() if "attention_bias_cache" in vars(m))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_probe_restores_buffers_that_a_pass_changes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)])
            self.register_buffer("passes", torch.zeros(()))

        def forward(self, x):
            self.passes += 1
            for block in self.blocks:
                x = block(x)
            return x.mean((2, 3))

    model = Counting()
    assert len(find_stages(model, (16, 16)).stages) == 2
    assert model.passes == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_probe_takes_the_models_dtype(dtype: torch.dtype) -> None:
    staged = find_stages(BY_TYPE["convnextv2"].build().to(dtype), (64, 96))
    assert staged.stages == staged_family("convnextv2").stages


TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VIT))


def siglip() -> SiglipModel:
    return SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VIT))


def sam_vision() -> SamVisionModel:
    config = SamVisionConfig(
        hidden_size=16, output_channels=8, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8,
        window_size=2, global_attn_indexes=[1, 3], mlp_dim=16,
    )  # fmt: skip
    return SamVisionModel(config)


BARE = {
    "ViTModel": (lambda: ViTModel(ViTConfig(**VIT)), [(16, 4, 4)] * 4, [1] * 4),
    "Dinov2Model": (lambda: Dinov2Model(Dinov2Config(**VIT)), [(16, 4, 4)] * 4, [1] * 4),
    "CLIPVisionModel": (lambda: CLIPVisionModel(CLIPVisionConfig(**VIT)), [(16, 4, 4)] * 4, [1] * 4),
    "PixioModel": (lambda: PixioModel(PixioConfig(**VIT)), [(16, 4, 4)] * 4, [8] * 4),
    "CLIPModel": (clip, [(16, 4, 4)] * 4, [1] * 4),
    "SiglipModel": (siglip, [(16, 4, 4)] * 4, [0] * 4),
    "SamVisionModel, channels last": (sam_vision, [(16, 4, 4)] * 4, [0] * 4),
    "MobileNetV2Model": (
        lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1)),
        [(8, 8, 8), (8, 4, 4), (16, 2, 2), (32, 1, 1)],
        [0] * 4,
    ),
    "ConvNextModel": (
        lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1])),
        [(4, 8, 8), (6, 4, 4), (8, 2, 2), (10, 1, 1)],
        [0] * 4,
    ),
}


@pytest.mark.parametrize("name", BARE)
def test_towers_and_backbones_without_a_head(name: str) -> None:
    build, maps, prefixes = BARE[name]
    torch.manual_seed(0)
    staged = find_stages(image_tower(build()).eval(), SQUARE)
    assert [(s.channels, *s.grid) for s in staged.stages] == maps
    assert [s.prefix_tokens for s in staged.stages] == prefixes
    with torch.no_grad():
        output, tape = staged.forward(images(SQUARE))
        for index, feature in enumerate(tape.features):
            torch.testing.assert_close(staged.resume(tape, index, feature)[0], output[0])


def test_image_tower() -> None:
    two_towers = clip()
    assert image_tower(two_towers) is two_towers.vision_model
    two_towers = siglip()
    assert image_tower(two_towers) is two_towers.vision_model
    for model_type in ("vit", "resnet", "dinov2", "swin"):
        model = staged_family(model_type).model
        assert image_tower(model) is model
        assert image_tower(model.base_model) is model.base_model
    model = sequential()
    assert image_tower(model) is model


def test_pair_stages() -> None:
    assert pair_stages(4, 4) == [0, 1, 2, 3]
    assert pair_stages(4, 5) == [0, 1, 1, 2, 3]
    assert pair_stages(4, 1) == [3]
    assert pair_stages(1, 4) == [0, 0, 0, 0]
    assert pair_stages(12, 4) == [2, 5, 8, 11]
    assert pair_stages(3, 5) == [0, 0, 1, 1, 2]
    for teacher in range(1, 8):
        for student in range(1, 8):
            pairs = pair_stages(teacher, student)
            assert pairs == sorted(pairs) and pairs[-1] == teacher - 1 and pairs[0] >= 0
    with pytest.raises(ValueError, match="the teacher has 0"):
        pair_stages(0, 4)


def test_stages_survive_a_config() -> None:
    for stage in staged_family("cvt").stages:
        values = stage.to_dict()
        assert {type(value) for value in values.values()} == {str, int, list}
        assert Stage.from_dict(values) == stage


class TokensFirst(nn.Module):
    """Patches and a class token (tokens, B, C) through blocks, as CLIP's own code has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(pixel_values).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
        for block in self.blocks:
            tokens = torch.tanh(block(tokens))
        return self.head(tokens.mean(dim=0))


def test_the_images_may_lie_behind_the_tokens() -> None:
    model = TokensFirst().eval()
    staged = find_stages(model, (32, 24))
    assert [(stage.grid, stage.prefix_tokens) for stage in staged.stages] == [((4, 3), 1)] * 4
    logits, tape = staged.forward(torch.rand(3, 3, 32, 24))
    assert tape.features[1].map.shape == (3, 8, 4, 3) and tape.features[1].prefix.shape == (3, 1, 8)
    for index, feature in enumerate(tape.features):
        assert torch.equal(staged.resume(tape, index, feature), logits)


class Packed(TokensFirst):
    """Blocks that read the tokens of all images as one sequence, as Pixtral's."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2).flatten(0, 1)[None]
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.view(len(pixel_values), -1, 8).mean(dim=1))


def test_a_stem_alone_is_no_stage_where_the_blocks_cannot_be_read() -> None:
    with pytest.raises(StageError, match=r"no stages found in Packed.*blocks \(its children output no map"):
        find_stages(Packed().eval(), (32, 24))


@pytest.mark.parametrize(("windows", "names"), [
    (2, ["backbone.projector"]), (1, [f"backbone.backbone.encoder.layer.{number}" for number in range(4)]),
])  # fmt: skip
def test_blocks_of_windows_are_passed_over_for_the_map_behind_them(windows: int, names: list[str]) -> None:
    """RF-DETR folds windows into the batch, and its blocks of global attention read the tokens window by window."""
    torch.manual_seed(0)
    backbone = RfDetrDinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=112, patch_size=14, num_windows=windows,
        out_features=["stage2", "stage4"], window_block_indexes=[0, 2],
    )  # fmt: skip
    decoder = {"decoder_layers": 1, "decoder_ffn_dim": 16, "group_detr": 1, "num_queries": 4}
    heads = {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2}
    model = AutoModel.from_config(RfDetrConfig(backbone_config=backbone, d_model=16, **decoder, **heads)).eval()
    staged = find_stages(model, (112, 112), must_reach_output=False)
    assert [stage.name for stage in staged.stages] == names
    images = torch.randn(1, 3, 112, 112)
    changed = images.clone()
    changed[..., 28:42, 84:98] += 5.0
    with torch.no_grad():
        pairs = zip(staged.forward(images)[1].features, staged.forward(changed)[1].features, strict=True)
    for before, after in pairs:
        moved = (before.map - after.map).abs().amax(dim=1)[0]
        assert divmod(int(moved.argmax()), 8) == (2, 6)
