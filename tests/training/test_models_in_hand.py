"""`distill_from_models`: what `distill` does once its models are loaded."""

import numpy as np
import pytest
import torch
from conftest import blob_arrays, read_settings
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Picture
from safetensors.torch import load_file
from test_distillation import TINY_RESNET, settings
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, ResNetConfig

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.pixels import default_processor
from rd_hf.students.loading import StudentError

NAMES = ["benign", "malignant", "normal"]


def blobs() -> DatasetDict:
    arrays = blob_arrays()
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "image": [Picture.fromarray(image) for image in arrays[f"{key}_images"]],
                    "label": arrays[f"{key}_labels"].ravel().tolist(),
                },
                features=features,
            )
            for split, key in (("train", "train"), ("validation", "val"), ("test", "test"))
        }
    )


@pytest.fixture
def student_folder(tmp_path):
    torch.manual_seed(3)
    fields = {name: value for name, value in TINY_RESNET.items() if name != "model_type"}
    config = ResNetConfig(**fields, id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)})
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "student")
    default_processor(32).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def in_hand(folder, kind):
    return kind.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")


def options(teacher, folder) -> dict:
    values = settings(teacher, "", folder, max_steps=3)
    return {n: v for n, v in values.items() if n not in ("teacher", "student", "dataset", "student_image_size")}


def test_models_in_hand_give_the_weights_that_their_names_give(teacher, student_folder, tmp_path):
    data = blobs()
    values = settings(teacher, "", tmp_path / "names", max_steps=3)
    rd_hf.distill(**(values | {"student": str(student_folder), "dataset": data, "student_image_size": None}))
    classifier, processor = in_hand(student_folder, AutoModelForImageClassification)
    student = rd_hf.distill_from_models(
        (classifier, processor), in_hand(teacher, AutoModel), data, options(teacher, tmp_path / "hand")
    )
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("names", "hand"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert student.model is classifier and student.config.provenance["teacher"]["id"] == "local"
    assert "(a model in memory)" in (tmp_path / "hand" / "config.yaml").read_text()


def test_a_student_alone_in_a_new_folder(student_folder, tmp_path, monkeypatch):
    classifier = AutoModelForImageClassification.from_config(ResNetConfig(num_labels=3, depths=[1], hidden_sizes=[8]))
    monkeypatch.chdir(tmp_path)
    arguments = read_settings(options("", None) | {"method": "ce", "max_steps": 1, "output_dir": None})
    student = rd_hf.distill_from_models((classifier, default_processor(32)), None, blobs(), arguments, verbose=False)
    assert list(student.config.id2label.values()) == NAMES
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "metrics.json").is_file() and f"output_dir: runs/{run.name}" in (run / "config.yaml").read_text()
    with torch.no_grad():
        assert np.isfinite(student(pixel_values=torch.zeros(1, 3, 32, 32)).logits.numpy()).all()


def test_what_does_not_fit_is_named(teacher, student_folder, tmp_path):
    backbone = in_hand(teacher, AutoModel)
    two = AutoModelForImageClassification.from_config(ResNetConfig(num_labels=2, depths=[1], hidden_sizes=[8]))
    with pytest.raises(StudentError, match="those of the data are benign, malignant, normal.*num_labels=3"):
        rd_hf.distill_from_models((two, default_processor(32)), backbone, blobs(), options("", tmp_path / "a"))
    student = in_hand(student_folder, AutoModelForImageClassification)
    with pytest.raises(ArgumentError, match="`teacher_dtype` is only for models and data that are loaded by name"):
        rd_hf.distill_from_models(student, backbone, blobs(), {"teacher_dtype": "float16"})
    with pytest.raises(ArgumentError, match="`teacher` is missing"):
        rd_hf.distill_from_models(student, None, blobs(), options("", tmp_path / "b"))
    headless = AutoModel.from_config(two.config), default_processor(32)
    with pytest.raises(StudentError, match="The student is a ResNetModel, which gives neither classes nor masks: give"):
        rd_hf.distill_from_models(headless, backbone, blobs(), options("", tmp_path / "d"))
    two.config.num_labels, two.config.model_type = 3, "mine"
    with pytest.raises(StudentError, match=r"does not know ResNet.*AutoConfig.register\('mine', ResNetConfig\)"):
        rd_hf.distill_from_models((two, default_processor(32)), backbone, blobs(), options("", tmp_path / "c"))
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    for given in (None, rd_hf.DistillationArguments(student="s", teacher="t", dataset="d"), "method: ce"):
        with pytest.raises(ArgumentError, match=r"`arguments` is of type \w+; it must be a mapping of names to values"):
            rd_hf.distill_from_models(student, backbone, blobs(), given)
    for pair, backbone_of, message in (
        (student[0], backbone, r"The student is a \w+: give a pair .* \(student, processor\)"),
        (student, backbone[0], r"The teacher is a \w+: give a pair .* \(teacher, processor\)"),
        ((network, student[1]), backbone, "The student is a Sequential, not a model of transformers: give one"),
        (student, (network, backbone[1]), r"The teacher is a Sequential.*wrap it, as rd_hf.TeacherNetwork\(model"),
    ):
        with pytest.raises(ArgumentError, match=message):
            rd_hf.distill_from_models(pair, backbone_of, "not read", {})
