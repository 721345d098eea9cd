"""MONAI's networks as models of transformers: built by name, saved and loaded, distilled into."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSemanticSegmentation

import rd_hf
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.configuration_rd import RDStudentConfig
from rd_hf.models.modeling_monai import MonaiNetForImageClassification, MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.stages import find_stages
from rd_hf.students.loading import StudentError, load_student

RESNET = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10]}
VIT = {"patch_size": 8, "hidden_size": 16, "mlp_dim": 16, "num_layers": 4, "num_heads": 2}
DYNUNET = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8]}
SWIN = {"depths": [1] * 4, "num_heads": [1, 1, 2, 2], "feature_size": 12, "window_size": 2, "norm_name": "batch"}
LEVELS = {"channels": [4, 6, 8], "strides": [2, 2]}
NETWORKS = {
    "DenseNet": {"init_features": 4, "growth_rate": 4, "block_config": [1, 1]},
    "EfficientNetBN": {"model_name": "efficientnet-b0"},
    "ResNet": RESNET,
    "ViT": VIT,
    "AttentionUnet": LEVELS,
    "BasicUNet": {"features": [4, 4, 6, 8, 10, 4]},
    "DynUNet": DYNUNET,
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "SegResNetDS": {"init_filters": 4, "blocks_down": [1, 1]},
    "SwinUNETR": SWIN,
    "UNETR": {"feature_size": 4, "hidden_size": 16, "mlp_dim": 16, "num_heads": 2},
    "UNet": LEVELS,
}
AUTO = {MonaiNetForImageClassification: AutoModelForImageClassification}
AUTO |= {MonaiNetForSemanticSegmentation: AutoModelForSemanticSegmentation}


def build(network: str, rank: int = 2, **values) -> MonaiNetForImageClassification | MonaiNetForSemanticSegmentation:
    torch.manual_seed(0)
    options = {"image_size": 32, "num_labels": 4, "arguments": NETWORKS[network]} | values
    config = MonaiNetConfig(network, rank, **options)
    segments = network in MonaiNetForSemanticSegmentation.networks
    return (MonaiNetForSemanticSegmentation if segments else MonaiNetForImageClassification)(config)


def pixels(rank: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, *(32,) * rank, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("network", "rank"), [*((network, 2) for network in NETWORKS), ("ViT", 3), ("DynUNet", 3), ("UNet", 3)]
)
def test_round_trip(network, rank, tmp_path):
    model = build(network, rank, in_channels=1)
    assert model.train()(pixels(rank, 1)).logits.shape[:2] == (2, 4)  # no deep supervision
    model.eval()
    with torch.no_grad():
        logits = model(pixel_values=pixels(rank, 1)).logits
    assert logits.shape == ((2, 4) if type(model) is MonaiNetForImageClassification else (2, 4, *(32,) * rank))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json", "model.safetensors", "configuration_monai.py", "modeling_monai.py",
    }  # fmt: skip
    state = torch.get_rng_state()
    loaded, info = AUTO[type(model)].from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(loaded) is type(model) and not any(info.values())
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=pixels(rank, 1)).logits, logits)
    assert find_stages(loaded, (32,) * rank).stages[0].name.startswith("network.")


def test_monais_own_initialisation_is_kept():
    model = build("UNet")
    torch.manual_seed(0)
    from monai.networks.nets import UNet

    own = UNet(spatial_dims=2, in_channels=3, out_channels=4, **LEVELS)
    assert all(torch.equal(value, model.network.state_dict()[name]) for name, value in own.state_dict().items())


def test_a_new_head_is_initialised(tmp_path):
    build("ResNet").save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded.network.fc.weight.shape == (7, 10)
    assert 0.05 < loaded.network.fc.weight.std() < 0.5


def test_losses():
    classes, masks = torch.tensor([0, 2]), torch.randint(0, 4, (2, 32, 32))
    output = build("ResNet").eval()(pixels(2), labels=classes)
    assert torch.allclose(output.loss, torch.nn.functional.cross_entropy(output.logits, classes))
    masks[:, :16] = 255
    output = build("UNet").eval()(pixels(2), labels=masks)
    inside = torch.nn.functional.cross_entropy(output.logits[:, :, 16:], masks[:, 16:])
    assert torch.allclose(output.loss, inside)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="`network` is 'Unet'.*BasicUNet"):
        MonaiNetConfig("Unet")
    with pytest.raises(ValueError, match="spatial_dims"):
        MonaiNetConfig("UNet", 4)
    with pytest.raises(ValueError, match=r"`image_size` is .*; it must be one side or 3"):
        MonaiNetConfig("UNet", 3, image_size=[8, 8])
    with pytest.raises(ValueError, match="SegResNet does not accept its `arguments`.*filters"):
        build("SegResNet", arguments={"filters": 8})
    with pytest.raises(ValueError, match="must not have 'deep_supervision'"):
        build("DynUNet", arguments={**DYNUNET, "deep_supervision": True})
    with pytest.raises(ValueError, match="'UNet', but MonaiNetForImageClassification supports DenseNet"):
        MonaiNetForImageClassification(MonaiNetConfig("UNet", arguments=LEVELS))


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "$__import__('os').getcwd()"},
        {"norm": ["GROUP", {"eps": "@device"}]},
        {"act": {"_target_": "os.getcwd"}},
    ],
)
def test_what_a_bundle_would_run_is_refused(arguments):
    with pytest.raises(ValueError, match="`arguments.*which a bundle of MONAI would run"):
        MonaiNetConfig("UNet", arguments={**LEVELS, **arguments})


def test_monai_is_imported_only_where_a_network_is_built(tmp_path, light_python):
    build("ResNet").save_pretrained(tmp_path)
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "monai":
            raise ModuleNotFoundError("No module named 'monai'", name=name)
sys.meta_path.insert(0, Absent())
import rd_hf
from transformers import AutoConfig, AutoModelForImageClassification
assert AutoConfig.from_pretrained({str(tmp_path)!r}).network == "ResNet"
try:
    AutoModelForImageClassification.from_pretrained({str(tmp_path)!r})
except ImportError as error:
    assert "pip install rd-hf[volumes]" in str(error), error
else:
    raise AssertionError
"""
    done = light_python.run("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_as_a_students_classifier(tmp_path):
    wrapped = RDStudentForImageClassification.from_classifier(build("ResNet", image_size=[32, 48]))
    assert wrapped.config.image_size == [32, 48]
    wrapped.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded.model) is MonaiNetForImageClassification
    torch.testing.assert_close(loaded(pixels(2)).logits, wrapped.eval()(pixels(2)).logits)
    assert AutoConfig.from_pretrained(tmp_path).classifier_config.arguments == RESNET
    with pytest.raises(ValueError, match="has 1 for its number of channels, which must be 3"):
        RDStudentConfig(MonaiNetConfig("ResNet", in_channels=1))


def test_as_an_inline_student():
    values = {"model_type": "monai", "network": "ResNet", "spatial_dims": 2, "arguments": RESNET}
    student, _, source = load_student(values, ["a", "b"], "single_label_classification", image_size=32)
    assert student(pixels(2)).logits.shape == (2, 2) and source["id"] == "MONAI ResNet from scratch"
    with pytest.raises(StudentError, match="no field `networks`"):
        load_student({"model_type": "monai", "networks": "ResNet"}, ["a"], "single_label_classification")


@pytest.mark.parametrize("method", ["rd", "drd"])
def test_distilling_into_a_network_of_monai(method, teacher, blobs_npz, tmp_path):
    student = rd_hf.distill(
        teacher=str(teacher), dataset=str(blobs_npz), output_dir=str(tmp_path / "run"), method=method,
        student={"model_type": "monai", "network": "ResNet", "spatial_dims": 2, "arguments": RESNET},
        student_image_size=32, max_steps=2, shots=4, per_device_train_batch_size=8, eval_steps=2,
    )  # fmt: skip
    assert type(student.model) is MonaiNetForImageClassification
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= scores["test"]["auroc"] <= 1
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "student")
    torch.testing.assert_close(loaded.eval()(pixels(2)).logits, student.eval()(pixels(2)).logits)
    again, _, _ = load_student(str(tmp_path / "run" / "student"), ["x", "y"], "single_label_classification")
    assert again(pixels(2)).logits.shape == (2, 2)
