"""A model that cannot be loaded is named, with its role and the reason in one sentence."""

import json
import re
import shutil
from importlib.util import find_spec

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from requests import Response
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.pixels import load_processor
from rd_hf.exports.run import export
from rd_hf.inference.images import find_images
from rd_hf.inference.loading import load_model
from rd_hf.inference.model_files import how_to_convert
from rd_hf.inference.model_names import ModelNameError, check_backbone, loading, name_of_model
from rd_hf.models.backbone import Backbone, BackboneError
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.students.loading import StudentError, load_student

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d4d\nsize 346293852\n"
AGAIN = "Download it again"


@pytest.fixture
def folder(teacher, tmp_path):
    """A teacher of one's own, to be damaged."""
    return shutil.copytree(teacher, tmp_path / "cloned_model")


def refusal(folder) -> str:
    """What loading the folder as a teacher ends in."""
    with pytest.raises(ModelNameError) as caught, loading("teacher", str(folder)):
        Backbone.from_pretrained(folder)
        load_processor(str(folder))
    said = str(caught.value)
    assert said.startswith(f"The teacher '{folder}' cannot be ") and "\n" not in said
    return said


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (POINTER, "model.safetensors cannot be read: it is a Git LFS pointer.*git lfs pull"),
        (
            b"<!DOCTYPE html><html>404</html>",
            "model.safetensors cannot be read: it is a web page.*download the file again",
        ),
        (b"\n<html>", "it is a web page"),
        (b"", "is empty"),
        (b"PK\x03\x04 and so on", "PyTorch's own format under another name"),
        (b"\xff" * 100, "damaged or incomplete"),
        (bytes([5, 0, 0, 0, 0, 0, 0, 0]) + b"{nope", "damaged or incomplete"),
    ],
)
def test_weights_that_are_not_what_they_are_named(folder, content, reason):
    (folder / "model.safetensors").write_bytes(content)
    assert re.search(reason, refusal(folder))


def test_a_download_that_stopped_says_how_much_is_there(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert f"it has {len(whole) // 2:,} of {len(whole):,} bytes. {AGAIN}" in refusal(folder)


def test_a_missing_shard_is_named(folder):
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    assert f"of its {len(shards)} files of weights, {shards[1].name} is missing. {AGAIN}" in refusal(folder)


def test_pytorch_weights_are_never_loaded_but_converting_is_explained(folder, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was loaded"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "safetensors only" in said and "can run code" in said and "use_safetensors=False" in said
    assert "safetensors/convert" in said
    (folder / "pytorch_model.bin").write_bytes(POINTER)
    assert "pytorch_model.bin cannot be read: it is a Git LFS pointer" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "has no weights (model.safetensors)" in refusal(folder)


def test_weights_of_timm_are_converted_without_transformers(folder):
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}}))
    assert "use_safetensors=False" not in how_to_convert(str(folder), "AutoModel")
    assert "save_file(torch.load('pytorch_model.bin', weights_only=True)" in how_to_convert(str(folder), "AutoModel")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"model_type": "resnet",', "config.json is not valid JSON"),
        (b"\xff\xfe\x00{", "config.json is not valid JSON"),
        (POINTER, "config.json cannot be read: it is a Git LFS pointer"),
        (b'{"a": 1}', "config.json has no model_type"),
        (b"[1]", "config.json has no model_type"),
        (b'{"model_type": "no_such_model"}', "no_such_model"),
        (b'{"model_type": "resnet", "hidden_sizes": "wide"}', "hidden_sizes"),
        pytest.param(
            b'{"architecture": "resnet18", "pretrained_cfg": {}}',
            "needs the package timm.*pip install timm",
            marks=pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed"),
        ),
    ],
)
def test_a_config_that_cannot_be_used(folder, content, reason):
    (folder / "config.json").write_bytes(content)
    assert re.search(reason, refusal(folder))


def test_the_models_of_other_libraries_are_named(folder):
    (folder / "config.json").rename(folder / "pytorch_lightning.ckpt")
    assert "has no config.json" in refusal(folder) and "those of PyTorch Lightning" in refusal(folder)
    (folder / "pytorch_lightning.ckpt").rename(folder / "open_clip_config.json")
    assert "open_clip_config.json has no model_cfg" in refusal(folder)


def test_a_student_is_no_teacher_before_it_is_exported(folder):
    RDStudentForImageClassification.from_classifier(
        AutoModelForImageClassification.from_pretrained(folder)
    ).save_pretrained(folder)
    assert "it is a student of rd_hf. Write it as a plain checkpoint with `rd-hf export" in refusal(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "rd_teacher"}))
    assert "it is a reprogrammed teacher of rd_hf. Give the foundation model that it was made" in refusal(folder)


def test_weights_of_another_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_sizes": [8, 16, 40]}))
    assert "do not have the shapes that its config.json describes" in refusal(folder)


def test_a_processor_that_is_not_what_it_is_named(folder):
    (folder / "preprocessor_config.json").write_bytes(POINTER)
    assert "preprocessor_config.json cannot be read: it is a Git LFS pointer" in refusal(folder)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refusal(folder)


def test_the_foundation_model_of_a_reprogrammed_teacher_is_named_too(folder):
    (folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(ModelNameError, match="The backbone '.*cloned_model' cannot be loaded: .*Git LFS pointer"):
        check_backbone(str(folder))


def test_a_file_is_no_folder(folder):
    with pytest.raises(ModelNameError, match="is a file. Give the folder"), loading("teacher", f"{folder}/config.json"):
        pass


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (GatedRepoError("401", response=Response()), "repo is gated. Ask for access at .*org/model.*hf auth login"),
        (RepositoryNotFoundError("404", response=Response()), "no such repo, or it is private.*hf auth login"),
        (ImportError("This needs: einops. Run `pip install einops`"), "needs the package einops.*pip install einops"),
        (ModuleNotFoundError("No module named 'xformers'", name="xformers"), "pip install xformers"),
        (KeyError("stem.weight"), "KeyError: 'stem.weight'"),
        (OSError("no file named model.safetensors. Do not set use_safetensors=True."), "safetensors only"),
    ],
)
def test_what_a_library_says_names_the_model_and_the_way_out(cause, reason):
    with pytest.raises(ModelNameError, match=f"The student 'org/model' cannot be loaded: .*{reason}"):  # noqa: SIM117
        with loading("student", "org/model"):
            try:
                raise cause
            except OSError as error:
                raise OSError(f"{error}\nand much more") from error


@pytest.mark.parametrize(("offline", "reason"), [(True, "HF_HUB_OFFLINE prevents"), (False, "cannot be reached")])
def test_a_repo_out_of_reach_says_what_keeps_it_there(offline, reason, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelNameError, match=f"'org/model' cannot be loaded: it is not in the cache, and .*{reason}"):  # noqa: SIM117
        with loading("teacher", "org/model"):
            try:
                raise LocalEntryNotFoundError("no connection")
            except LocalEntryNotFoundError as error:
                raise OSError("We couldn't connect to 'https://huggingface.co'") from error


def test_an_address_is_no_name():
    for address, way_out in (
        ("https://huggingface.co/org/model/tree/main", "Give the name of the repo, 'org/model'"),
        ("s3://bucket/model", "Give a Hub id or a folder"),
    ):
        with pytest.raises(ModelNameError, match=f"is an address. {way_out}"), loading("teacher", address):
            pass


def test_own_sentences_and_interrupts_pass_as_they_are():
    for error in (BackboneError("as it is"), StudentError("as it is"), KeyboardInterrupt("as it is")):
        with pytest.raises(type(error), match="^as it is$"), loading("teacher", "org/model"):
            raise error


@pytest.mark.parametrize("channels", [1, 4])
def test_a_student_of_other_channels_is_refused(channels, teacher, tmp_path):
    config = AutoConfig.from_pretrained(teacher, num_channels=channels)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    shutil.copy(teacher / "preprocessor_config.json", tmp_path)
    inline = {"model_type": "resnet", "num_channels": channels}
    for student in (str(tmp_path), inline):
        with pytest.raises(StudentError, match=f"reads images of {channels} channels?, .*num_channels"):
            load_student(student, ["a", "b"], "single_label_classification")


def test_a_name_is_given_and_not_the_thing_itself(teacher, tmp_path, monkeypatch):
    model = AutoModel.from_pretrained(teacher)
    with pytest.raises(ArgumentError, match=f"`model` is a ResNetModel: give the folder .*, '{teacher}'"):
        rd_hf.evaluate(model, "data")
    with pytest.raises(ArgumentError, match="`backbone` is a ResNetModel"):
        load_model("x", backbone=model)
    with pytest.raises(ArgumentError, match="`model` is empty"):
        rd_hf.info("")
    for images, message in (
        ([tmp_path, 3], "One of the images is a int: give paths of files, folders or globs, or Pillow images or arr"),
        ("", "The name of the images is empty: give a path, or . for the working folder"),
        (["a.png", ""], "One of the images is empty"),
    ):
        with pytest.raises(ArgumentError, match=message):
            find_images(images)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert name_of_model("~/x") == str(tmp_path / "x") and name_of_model("me/x~") == "me/x~"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_classifier_stored_in_half_precision_is_run_in_float32(dtype, tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=2)
    ResNetForImageClassification(config).to(dtype).save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    Image.new("L", (24, 24), 90).save(tmp_path / "x.png")
    (row,) = rd_hf.predict(str(tmp_path / "model"), tmp_path / "x.png")
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert load_model(str(tmp_path / "model")).model.dtype == torch.float32


@pytest.mark.parametrize("command", ["predict", "export"])
def test_a_model_without_a_head_gives_no_answers_of_random_weights(command, teacher, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(ArgumentError, match="has no weights for classifier.*answers would be random. Give a student"):
        if command == "predict":
            rd_hf.predict(str(teacher), str(tmp_path / "a.png"))
        else:
            export(str(teacher), str(tmp_path / "out"), "onnx")
    assert not (tmp_path / "out").exists()
