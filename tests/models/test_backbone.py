"""The frozen backbone: identified by its weights, never changed, never silently random."""

import inspect
import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    CLIPConfig,
    MobileNetV2Config,
    ViTConfig,
    modeling_utils,
)

from rd_hf.models.backbone import Backbone, BackboneError, weights_hash
from rd_hf.models.features import StageError, whole_float32
from rd_hf.models.stages import image_tower
from rd_hf.models.tower_loading import NO_CONVERSION, load_tower

VIT = ViTConfig(
    hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)
MOBILENET = MobileNetV2Config(depth_multiplier=0.35, image_size=32)
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
CLIP = CLIPConfig(text_config={"vocab_size": 50, **TOWER}, vision_config={"image_size": 32, "patch_size": 8, **TOWER})
SIZE = (32, 32)


def save(config, folder, dtype=torch.float32):
    torch.manual_seed(0)
    AutoModel.from_config(config).to(dtype).save_pretrained(folder)
    return folder


def tapped(backbone: Backbone, grid=None, last_only=False) -> Backbone:
    stages = backbone.find_stages(SIZE)
    stages = stages[-1:] if last_only else stages
    backbone.tap(stages, [grid or stage.grid for stage in stages], SIZE)
    return backbone


def drop_weights(folder, pattern: str) -> None:
    file = folder / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if not re.search(pattern, name)}
    save_file(kept, file, metadata={"format": "pt"})


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", [VIT, MOBILENET, CLIP], ids=["vit", "mobilenet_v2", "clip"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extracting_changes_nothing_and_gives_usable_features(config, dtype, tmp_path):
    backbone = tapped(Backbone.from_pretrained(save(config, tmp_path), dtype=dtype), grid=(2, 2))
    before = {name: value.clone() for name, value in backbone.tower.state_dict().items()}
    backbone.tower.train()  # somebody else's doing

    features = backbone.extract(pixels())

    assert not any(module.training for module in backbone.tower.modules())
    assert not any(parameter.requires_grad for parameter in backbone.tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.tower.state_dict().items())
    for feature in features:
        assert feature.map.shape[0] == 3 and feature.map.shape[2:] == (2, 2) and feature.map.dtype == dtype
        assert not feature.map.requires_grad and not feature.map.is_inference()
        weight = torch.ones(1, dtype=dtype, requires_grad=True)
        (feature.map * weight).sum().backward()
        assert weight.grad is not None


def test_features_are_the_models_own(tmp_path):
    backbone = tapped(Backbone.from_pretrained(save(VIT, tmp_path)), last_only=True)
    reference = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        tokens = reference(pixels(), output_hidden_states=True).hidden_states[-1]
    (feature,) = backbone.extract(pixels())
    assert torch.allclose(feature.map.flatten(2).transpose(1, 2), tokens[:, 1:], atol=1e-5)
    assert torch.allclose(feature.prefix, tokens[:, :1], atol=1e-5)


@pytest.mark.parametrize("config", [VIT, MOBILENET], ids=["vit", "mobilenet_v2"])
def test_chunks_make_no_difference(config, tmp_path):
    save(config, tmp_path)
    whole = tapped(Backbone.from_pretrained(tmp_path, batch_size=5)).extract(pixels(5))
    chunked = tapped(Backbone.from_pretrained(tmp_path, batch_size=2)).extract(pixels(5))
    for one, other in zip(whole, chunked, strict=True):
        assert torch.allclose(one.map, other.map, atol=1e-5)
        assert (one.prefix is None) == (other.prefix is None)


def test_no_activation_is_kept(tmp_path):
    backbone = tapped(Backbone.from_pretrained(save(VIT, tmp_path)), grid=(1, 1))
    for feature in backbone.extract(pixels()):
        for part in feature:
            assert part.untyped_storage().nbytes() == part.nbytes


def test_hash_is_that_of_the_stored_weights(tmp_path):
    save(VIT, tmp_path / "float32")
    sources = [Backbone.from_pretrained(tmp_path / "float32", dtype=dtype).source for dtype in ("float32", "bfloat16")]
    assert sources[0] == sources[1]
    assert sources[0]["id"] == "local" and sources[0]["revision"] is None
    assert sources[0]["sha256"] == weights_hash(AutoModel.from_pretrained(tmp_path / "float32"))
    other = Backbone.from_pretrained(save(VIT, tmp_path / "bfloat16", torch.bfloat16)).source
    assert other["sha256"] != sources[0]["sha256"]


def test_hash_does_not_depend_on_the_head(tmp_path):
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(MOBILENET)
    classifier.save_pretrained(tmp_path / "classifier")
    classifier.base_model.save_pretrained(tmp_path / "base")
    one, other = (Backbone.from_pretrained(tmp_path / name).source["sha256"] for name in ("classifier", "base"))
    assert one == other


def test_hash_sees_every_value():
    model = AutoModel.from_config(MOBILENET)
    before = weights_hash(model)
    assert weights_hash(model) == before
    for tensor in list(model.state_dict().values())[:: len(model.state_dict()) // 7]:
        value = tensor.flatten()[-1].clone()
        tensor.view(-1)[-1] += 1
        assert weights_hash(model) != before
        tensor.view(-1)[-1] = value
    assert weights_hash(model) == before


def test_weights_missing_after_the_last_stage_are_tolerated(tmp_path):
    complete = Backbone.from_pretrained(save(VIT, tmp_path))
    drop_weights(tmp_path, r"^pooler\.")
    torch.manual_seed(1)
    backbone = tapped(Backbone.from_pretrained(tmp_path))
    assert backbone.missing == ("pooler.dense.bias", "pooler.dense.weight")
    again = Backbone.from_pretrained(tmp_path)
    assert backbone.source == again.source != complete.source
    features = tapped(complete).extract(pixels())
    for one, other in zip(backbone.extract(pixels()), features, strict=True):
        assert torch.equal(one.map, other.map)


@pytest.mark.parametrize("pattern", [r"layers?\.1\..*attention.*weight", "cls_token", r"layers?\.3\..*bias"])
def test_random_weights_before_the_last_stage_are_refused(pattern, tmp_path):
    drop_weights(save(VIT, tmp_path), pattern)
    backbone = Backbone.from_pretrained(tmp_path)
    assert backbone.missing
    with pytest.raises(BackboneError, match=re.escape(backbone.missing[0])):
        tapped(backbone)


def test_other_stages_than_those_of_the_tower_are_refused(tmp_path):
    backbone = Backbone.from_pretrained(save(MOBILENET, tmp_path))
    stages = backbone.find_stages(SIZE)
    with pytest.raises(BackboneError, match="image size"):
        backbone.tap(stages, [stage.grid for stage in stages], (96, 96))


def test_extracting_before_tapping_is_refused(tmp_path):
    with pytest.raises(BackboneError, match="tap"):
        Backbone.from_pretrained(save(MOBILENET, tmp_path)).extract(pixels())


def test_pickled_weights_are_refused(tmp_path):
    save(MOBILENET, tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        Backbone.from_pretrained(tmp_path)


def test_weights_are_those_of_the_repo_and_of_no_open_pull_request(monkeypatch):
    """For a repo without safetensors transformers would ask for a conversion, which this variable turns off."""
    assert f'is_env_variable_true("{NO_CONVERSION}")' in inspect.getsource(modeling_utils)
    seen = []
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *_, **__: seen.append(os.environ.get(NO_CONVERSION)))
    for name, answer in (("is_open_clip", False), ("timm_config", None)):
        monkeypatch.setattr(f"rd_hf.models.tower_loading.{name}", lambda *_, answer=answer: answer)
    monkeypatch.delenv(NO_CONVERSION, raising=False)
    with pytest.raises(TypeError):  # nothing was loaded
        load_tower("someone/model", None, False, None)
    assert seen == ["1"] and NO_CONVERSION not in os.environ


def test_hub_source_has_the_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--somebody--tower"
    save(MOBILENET, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = Backbone.from_pretrained("somebody/tower")
    assert backbone.source == {
        "id": "somebody/tower",
        "revision": commit,
        "sha256": Backbone.from_pretrained(repo / "snapshots" / commit).source["sha256"],
    }
    assert json.dumps(backbone.source)


def test_a_backbone_that_is_spread_over_devices_stays_and_hands_its_features_on(tmp_path, monkeypatch):
    """There is one device here: the CPU; features are sent to where nothing is computed."""
    plain = tapped(Backbone.from_pretrained(save(VIT, tmp_path)))
    maps, load = [], AutoModel.from_pretrained
    watched = lambda *args, **kw: maps.append(kw["device_map"]) or load(*args, **kw)  # noqa: E731
    monkeypatch.setattr(AutoModel, "from_pretrained", watched)
    spread = tapped(Backbone.from_pretrained(tmp_path, device_map="auto"))
    assert spread.source == plain.source and maps == ["auto"]
    for one, other in zip(plain.extract(pixels()), spread.extract(pixels()), strict=True):
        assert torch.equal(one.map, other.map) and torch.equal(one.prefix, other.prefix)
    spread.to("meta")
    assert spread.device.type == "cpu"
    assert {part.device.type for feature in spread.extract(pixels()) for part in feature} == {"meta"}


def test_weights_that_would_be_fetched_at_every_step_are_refused(tmp_path, monkeypatch):
    with torch.device("meta"):  # as accelerate leaves what it keeps elsewhere
        model = AutoModel.from_config(VIT)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda *args, **kw: (model, {"missing_keys": []}))
    with pytest.raises(BackboneError, match="do not fit on the devices of the device map 'auto'"):
        Backbone.from_pretrained(tmp_path, device_map="auto")


def test_a_tower_that_packs_its_patches_in_another_way_is_refused_in_a_sentence():
    narrow = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
    tower = AutoModel.from_config(AutoConfig.for_model("muse_glimmer_vision", **narrow, layer_types=["full_attention"]))
    says = (
        r"\(MuseGlimmerVisionModel\) reads grid_thw beside its images, in a way that rd_hf does not know.*another one"
    )
    with pytest.raises(StageError, match=says):
        Backbone.from_model(tower)


@pytest.mark.parametrize("model_type", ["git", "flava"])
def test_the_image_tower_that_transformers_does_not_find(model_type):
    narrow = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    configs = {f"{kind}_config": narrow for kind in ("vision", "image", "text", "multimodal")}
    config = AutoConfig.for_model(model_type, **(configs if model_type == "flava" else configs | narrow))
    with torch.device("meta"):
        assert type(image_tower(AutoModel.from_config(config))).__name__ in ("GitVisionModel", "FlavaImageModel")


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_float32_is_whole_whatever_the_process_has_set(setting):
    """Torch refuses to read its older settings where the newer ones differ by operation."""
    before = torch.backends.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        torch.backends.fp32_precision = setting
        torch.backends.cudnn.conv.fp32_precision = setting
        with whole_float32():
            assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cudnn.conv.fp32_precision == setting
    finally:
        torch.backends.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before
