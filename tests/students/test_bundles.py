"""MONAI bundles become folders that rd_hf loads, and nothing of theirs is run."""

import json
import os

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet
from transformers import AutoModel

from rd_hf import convert_bundle
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.backbone import Backbone
from rd_hf.students.bundles import BundleError
from rd_hf.students.loading import load_student
from rd_hf.students.volumes import VolumeStudent

SEGRESNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "init_filters": 8, "blocks_down": [1, 1],
             "blocks_up": [1]}  # fmt: skip
DYNUNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "kernel_size": [3, 3, 3], "strides": [1, 2, 2],
           "upsample_kernel_size": [2, 2], "filters": [4, 6, 8], "deep_supervision": True,
           "deep_supr_num": 1}  # fmt: skip


def bundle(folder, network: str, arguments: dict, state: object, **configs):
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    values = {"network_def": {"_target_": network, **arguments}, "network": "$@network_def.to(@device)", **configs}
    (folder / "configs" / "inference.json").write_text(json.dumps(values))
    names = {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}}}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(names))
    torch.save(state, folder / "models" / "model.pt")
    return folder


def volumes() -> torch.Tensor:
    return torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("network", "target", "arguments"),
    [(SegResNet, "SegResNet", SEGRESNET), (DynUNet, "monai.networks.nets.DynUNet", DYNUNET)],
)
def test_a_bundle_is_a_teacher_and_a_student(network, target, arguments, tmp_path):
    torch.manual_seed(0)
    own = network(**arguments).eval()
    arguments = arguments | {"out_channels": "@classes#count"}
    folder = bundle(
        tmp_path / "bundle", target, arguments, {"model": own.state_dict(), "epoch": 3}, classes={"count": 2}
    )
    converted = convert_bundle(folder, tmp_path / "converted")
    student, _, _ = load_student(
        str(converted), ["background", "spleen"], "segmentation", volumes=VolumeStudent(1, (16, 16, 16))
    )
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(pixel_values=volumes()).logits, own(volumes()))
    with pytest.raises(ArgumentError, match="converted is not empty. Choose another"):
        convert_bundle(folder, converted)
    backbone = Backbone.from_pretrained(converted)
    assert not backbone.missing and len(backbone.find_stages((16, 16, 16))) >= 2


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_bundle_is_run(tmp_path):
    made = tmp_path / "made"
    folder = bundle(tmp_path / "weights", "SegResNet", SEGRESNET, {"model": Evil(made)})
    with pytest.raises(BundleError, match=r"model\.pt holds more than tensors"):
        convert_bundle(folder, tmp_path / "out")
    expression = f"$__import__('os').mkdir({str(made)!r})"
    folder = bundle(tmp_path / "config", "SegResNet", SEGRESNET | {"init_filters": expression}, {})
    with pytest.raises(BundleError, match="`network_def#init_filters` in .*only running the bundle's code"):
        convert_bundle(folder, tmp_path / "out")
    assert not made.exists()


def test_references_that_multiply_are_counted(tmp_path):
    folder = bundle(tmp_path / "deep", "SegResNet", SEGRESNET | {"init_filters": "@level0"}, {})
    path = next((folder / "configs").iterdir())
    values = json.loads(path.read_text())
    values |= {f"level{depth}": [f"@level{depth + 1}"] * 10 for depth in range(9)} | {"level9": 1}
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match="more than 10000 values with its references followed"):
        convert_bundle(folder, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_numbers_as_json_writes_them_are_numbers(tmp_path, suffix):
    arguments = SEGRESNET | {"norm": ["INSTANCE", {"eps": 1e-05}]}  # to YAML 1.1 a text
    folder = bundle(tmp_path / "bundle", "SegResNet", arguments, SegResNet(**arguments).state_dict())
    config = folder / "configs" / "inference.json"
    assert "1e-05" in config.read_text()
    config.rename(config.with_suffix(suffix))
    convert_bundle(folder, tmp_path / "out")
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model(volumes()).isfinite().all()


@pytest.mark.parametrize("text", ['{"a": 1', "\t{]", "[1, 2]"])
def test_a_config_that_is_no_config_is_named(tmp_path, text):
    folder = bundle(tmp_path / "bundle", "SegResNet", SEGRESNET, {})
    (folder / "configs" / "inference.json").write_text(text)
    with pytest.raises(BundleError, match=r"inference\.json (cannot be read|holds no mapping)"):
        convert_bundle(folder, tmp_path / "out")


def test_what_cannot_be_converted_is_said(tmp_path):
    state = SegResNet(**SEGRESNET).state_dict()
    with pytest.raises(BundleError, match="give the folder of a MONAI bundle"):
        convert_bundle(tmp_path, tmp_path / "out")
    with pytest.raises(BundleError, match="is os.system, but rd_hf knows only"):
        convert_bundle(bundle(tmp_path / "a", "os.system", SEGRESNET, state), tmp_path / "out")
    with pytest.raises(BundleError, match="SegResNet does not accept"):
        convert_bundle(bundle(tmp_path / "b", "SegResNet", SEGRESNET | {"width": 3}, state), tmp_path / "out")
    few = {name: value for name, value in state.items() if "conv_final" not in name}
    with pytest.raises(BundleError, match="are not those of its SegResNet: conv_final"):
        convert_bundle(bundle(tmp_path / "c", "SegResNet", SEGRESNET, few), tmp_path / "out")
    with pytest.raises(BundleError, match="are not those of its SegResNet: more"):
        convert_bundle(bundle(tmp_path / "d", "SegResNet", SEGRESNET, state | {"more": torch.ones(1)}), tmp_path / "o")
