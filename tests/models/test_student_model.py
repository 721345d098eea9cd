"""The student: round trips, labels, pipelines, and what its config says of its origin."""

import copy
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextV2Config,
    MobileNetV2Config,
    PoolFormerConfig,
    ResNetConfig,
    SegformerConfig,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
    pipeline,
)

import rd_hf  # noqa: F401 registers the models
from rd_hf.exports.run import in_own_memory
from rd_hf.models.configuration_rd import RDStudentConfig
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.students.loading import StudentError, load_student

WIDTHS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
TWO_STAGES = WIDTHS | {"num_encoder_blocks": 2, "patch_sizes": [7, 3], "strides": [4, 2]}
FAMILIES = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=32),
    "vit": ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    ),
    "swin": SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "segformer": SegformerConfig(num_attention_heads=[1, 2], sr_ratios=[4, 2], mlp_ratios=[2, 2], **TWO_STAGES),
    "convnextv2": ConvNextV2Config(num_stages=2, **WIDTHS),
    "poolformer": PoolFormerConfig(padding=[2, 1], mlp_ratios=[2.0, 2.0], **TWO_STAGES),
}
NAMES = {0: "benign", 1: "malignant", 2: "normal"}


def student(family: str = "resnet", **kwargs) -> RDStudentForImageClassification:
    torch.manual_seed(0)
    config = copy.deepcopy(FAMILIES[family])
    config.id2label, config.label2id = dict(NAMES), {name: index for index, name in NAMES.items()}
    model = AutoModelForImageClassification.from_config(config).eval()
    return RDStudentForImageClassification.from_classifier(model, image_size=32, **kwargs)


def pixels(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family, dtype, tmp_path):
    model = student(family).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)

    assert type(loaded) is RDStudentForImageClassification
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "configuration_rd.py", "modeling_rd_student.py",
    }  # fmt: skip
    assert not any(info.values())
    assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {dtype}
    assert loaded.config.dtype == loaded.model.config.dtype == dtype
    for one in (loaded, model):  # weights mapped from a file lie at another alignment, which changes the last bit
        in_own_memory(one)
    assert torch.equal(loaded(pixels().to(dtype)).logits, model(pixels().to(dtype)).logits)
    assert type(loaded(pixels().to(dtype))) is type(model.model(pixels().to(dtype)))


def test_logits_are_the_wrapped_classifiers_and_the_weights_are_shared():
    model = student()
    assert torch.equal(model(pixels()).logits, model.model(pixels()).logits)
    classifier = model.model
    again = RDStudentForImageClassification.from_classifier(classifier)
    assert again.model is classifier and again.config.classifier_config is classifier.config


def test_wrapping_draws_no_random_numbers_and_changes_no_weight():
    torch.manual_seed(0)
    classifier = AutoModelForImageClassification.from_config(copy.deepcopy(FAMILIES["vit"]))
    before, state = copy.deepcopy(classifier.state_dict()), torch.get_rng_state()
    RDStudentForImageClassification.from_classifier(classifier)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_loading_with_another_number_of_labels(tmp_path):
    student().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded(pixels()).logits.shape == (2, 5)
    saved = load_file(tmp_path / "model.safetensors")
    kept = loaded.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in saved.items() if "classifier" not in name)


def test_attention_implementation_and_attentions(tmp_path):
    student("vit").save_pretrained(tmp_path)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).model.config._attn_implementation == "sdpa"
    model = AutoModelForImageClassification.from_pretrained(
        tmp_path, attn_implementation="eager", output_attentions=True, output_hidden_states=True
    )
    assert model.model.config._attn_implementation == "eager"
    output = model(pixels())
    assert len(output.attentions) == 2 and len(output.hidden_states) == 3
    assert RDStudentForImageClassification.from_classifier(model.model).config._attn_implementation == "eager"
    assert model.model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_single_label_loss(family):
    model, labels = student(family), torch.tensor([0, 2])
    output = model(pixels(), labels=labels)
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(output.logits, labels))
    assert model.config.problem_type == model.model.config.problem_type == "single_label_classification"


def test_multi_label_loss(tmp_path):
    model, labels = student(), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    model.config.problem_type = "multi_label_classification"
    output = model(pixels(), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    assert torch.allclose(output.loss, expected)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.model.config.problem_type == "multi_label_classification"


def labels_agree(config: RDStudentConfig, names: dict[int, str]) -> bool:
    inner = config.classifier_config
    indices = {name: index for index, name in names.items()}
    return all((c.id2label, c.label2id, c.num_labels) == (names, indices, len(names)) for c in (config, inner))


def test_labels_agree_however_they_are_set(tmp_path):
    config = student().config
    assert labels_agree(config, NAMES)
    config.id2label = {0: "a", 1: "b"}
    assert labels_agree(config, {0: "a", 1: "b"})
    config.label2id = {"y": 1, "x": 0}
    assert labels_agree(config, {0: "x", 1: "y"})
    config.num_labels = 4
    assert labels_agree(config, {index: f"LABEL_{index}" for index in range(4)})
    config.classifier_config.id2label = {0: "inner"}
    assert config.id2label == {0: "inner"} and config.num_labels == 1

    student().save_pretrained(tmp_path)
    assert labels_agree(AutoConfig.from_pretrained(tmp_path), NAMES)
    other = {0: "u", 1: "v", 2: "w"}
    assert labels_agree(AutoConfig.from_pretrained(tmp_path, id2label=other), other)
    assert labels_agree(RDStudentConfig(FAMILIES["resnet"].to_dict(), id2label=other), other)
    assert labels_agree(RDStudentConfig(FAMILIES["resnet"].to_dict(), label2id={"p": 0, "q": 1}), {0: "p", 1: "q"})
    assert RDStudentConfig(FAMILIES["resnet"].to_dict(), num_labels=7).classifier_config.num_labels == 7
    top = json.loads((tmp_path / "config.json").read_text())
    assert top["id2label"] == {"0": "benign", "1": "malignant", "2": "normal"}


def test_class_names_that_repeat_are_kept():
    config = RDStudentConfig(FAMILIES["resnet"].to_dict(), id2label={0: "crane", 1: "crane", 2: "x"})
    config.label2id = {"crane": 1, "x": 2}
    assert config.id2label == {0: "crane", 1: "crane", 2: "x"}


def test_no_local_path_is_saved(tmp_path):
    student("vit").model.save_pretrained(tmp_path / "base")
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    assert str(tmp_path) in classifier.config._name_or_path
    model = RDStudentForImageClassification.from_classifier(classifier)
    model.save_pretrained(tmp_path / "first")
    AutoModelForImageClassification.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for folder in ("first", "second"):
        assert str(tmp_path) not in (tmp_path / folder / "config.json").read_text()


def test_provenance_is_kept(tmp_path):
    provenance = {"teacher": {"id": "a/b", "revision": None, "sha256": "0" * 64}, "method": "rd", "rd_hf": "0.1.0"}
    student(provenance=provenance).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).provenance == provenance


@pytest.mark.parametrize("path", ["/home/me/xrays", "C:\\xrays", "~/xrays", "file:///xrays", "\\\\server\\xrays"])
def test_provenance_with_a_local_path_is_refused(path):
    with pytest.raises(ValueError, match=r"provenance\.data\[1\]\.id"):
        student(provenance={"data": ["x", {"id": path}]})
    with pytest.raises(ValueError, match="local path"):
        student().config.provenance = {"id": path}


def test_provenance_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match=r"provenance\.x.*Tensor"):
        student(provenance={"x": torch.ones(1)})


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="RGB"):
        student()(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="has 1 for its number of channels, which must be 3"):
        RDStudentConfig(ResNetConfig(num_channels=1))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_gradient_checkpointing_is_the_wrapped_models():
    assert not student("mobilenet_v2").supports_gradient_checkpointing
    model = student("vit").train()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def image_file(path, mode: str) -> str:
    grey = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)
    image = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    image.save(path)
    return str(path)


# 16-bit values above 255 would be clipped: the pipeline's own conversion to RGB is Pillow's
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_pipeline_reads_a_file(mode, tmp_path):
    model = student()
    model.save_pretrained(tmp_path / "student")
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "student")
    assert AutoImageProcessor.from_pretrained(tmp_path / "student").size["height"] == 32

    classify = pipeline("image-classification", model=str(tmp_path / "student"))
    scores = classify(image_file(tmp_path / "image.png", mode), top_k=3)
    grey = Image.fromarray(np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)).convert("RGB")
    with torch.no_grad():
        expected = model(processor(grey, return_tensors="pt")["pixel_values"]).logits.softmax(-1)[0]
    assert {score["label"] for score in scores} == set(NAMES.values())
    for score in scores:
        index = model.config.label2id[score["label"]]
        assert score["score"] == pytest.approx(float(expected[index]), abs=1e-5)


@pytest.mark.parametrize("model_type", ["mobilenet_v1", "mobilenet_v2", "efficientnet"])
def test_what_tensorflow_keeps_is_not_what_torch_drops(model_type):
    tiny = {"mobilenet_v1": {"depth_multiplier": 0.1}, "mobilenet_v2": {"depth_multiplier": 0.1}, "efficientnet": {}}
    config = {"model_type": model_type, **tiny[model_type]}
    student, _, _ = load_student(config, ["no", "yes"], "single_label_classification", image_size=32)
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and {norm.momentum for norm in norms} == {0.1}
    if model_type == "mobilenet_v2":
        assert student.model.dropout.p == student.model.config.classifier_dropout_prob == 0.2
        own, _, _ = load_student(
            config | {"classifier_dropout_prob": 0.5}, ["no", "yes"], "single_label_classification", image_size=32
        )
        assert own.model.dropout.p == 0.5


def test_an_inline_config_of_a_type_with_two_classifiers_takes_the_first():
    config = {
        "model_type": "levit",
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [1, 2, 3],
        "depths": [1, 1, 1],
    }
    student, _, _ = load_student(config, ["no", "yes"], "single_label_classification", image_size=64)
    assert type(student.model).__name__ == "LevitForImageClassification"
    assert student.eval()(pixel_values=torch.zeros(1, 3, 64, 64)).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "siglip2"}, "siglip2, which reads packed patches.* siglip.*choose another student"),
        ({"model_type": "perceiver"}, "perceiver, which mixes the image into latents"),
        ({"model_type": "pp_lcnet"}, "pp_lcnet, which answers no `logits`"),
        pytest.param(
            {"model_type": "dinat"},
            r"\(dinat\) cannot be built: it needs the package natten, which is not installed: pip install natten\.$",
            marks=pytest.mark.skipif(find_spec("natten") is not None, reason="natten is installed"),
        ),
    ],
)
def test_what_only_looks_like_an_image_classifier_is_refused_in_a_sentence(config, says):
    with pytest.raises(StudentError, match=says):
        load_student(config, ["no", "yes"], "single_label_classification", image_size=32)


def test_the_classes_of_the_data_win_over_those_of_a_config():
    config = {"model_type": "pvt", "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1] * 4}
    student, _, _ = load_student(config, ["no", "yes"], "single_label_classification", image_size=64)
    assert student.config.id2label == {0: "no", 1: "yes"} and student.model.classifier.out_features == 2
