"""Models of timm from names to a published student: runs, exports, the Hub, comparisons, the list of students."""

import json

import numpy as np
import pytest
import timm
import torch
from conftest import blob_arrays
from huggingface_hub import ModelCard
from test_comparison import run_here
from test_hub import files_of, push
from timm_checkpoints import save_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, TimmWrapperForImageClassification
from without_rd_hf import BLOCKER

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.plan import Plan
from rd_hf.data.pixels import PixelTransform, load_processor
from rd_hf.exports.run import export, in_own_memory
from rd_hf.models.stages import find_stages
from rd_hf.students.loading import load_student
from rd_hf.students.zoo_timm import READY_TIMM_STUDENTS
from rd_hf.training.compilation import compiled

STUDENT = {"model_type": "timm_wrapper", "architecture": "test_efficientnet"}
SMALL = {
    "student_image_size": 64, "max_steps": 2, "eval_steps": 2, "num_views": 1, "shots": 5,
    "per_device_train_batch_size": 8, "verbose": False,
}  # fmt: skip
PIXELS = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
LOAD = """
import os, sys
torch.set_num_threads(1)
student = AutoModelForImageClassification.from_pretrained("student", trust_remote_code=True).eval()
plain = AutoModelForImageClassification.from_pretrained("plain").eval()
pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
assert torch.allclose(plain(pixels).logits, student(pixels).logits, atol=1e-6)
for folder in ("student", "plain"):
    options = {"trust_remote_code": True} if folder == "student" else {}
    assert [answer["label"] for answer in pipeline("image-classification", folder, **options)("image.png")]
print(json.dumps(plain(pixels).logits.tolist()))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of DRD between two models of timm."""
    folder = tmp_path_factory.mktemp("timm")
    np.savez(folder / "blobs.npz", **blob_arrays())
    save_model(folder / "teacher", side=64)
    rd_hf.distill(
        str(folder / "teacher"),
        STUDENT,
        str(folder / "blobs.npz"),
        method="drd",
        output_dir=str(folder / "run"),
        **SMALL,
    )
    return folder / "run"


def test_student_and_teacher_of_a_run_load_again_and_score_the_same(run):
    scores = json.loads((run / "metrics.json").read_text())
    assert rd_hf.evaluate(str(run / "student"), str(run.parent / "blobs.npz"))["auroc"] == pytest.approx(
        scores["test"]["auroc"], abs=1e-6
    )
    teacher = AutoModelForImageClassification.from_pretrained(run / "teacher", backbone=run.parent / "teacher")
    assert type(teacher.backbone).__name__ == "TimmWrapperModel"
    assert [stage.name for stage in teacher.student_stages] == [
        f"timm_model.blocks.{number}" for number in (1, 2, 3, 4)
    ]
    card = (run / "student" / "README.md").read_text()
    assert "pip install timm" in card and "timm test_efficientnet from scratch" in card


def test_the_plain_form_is_a_checkpoint_of_timm_too(run, tmp_path):
    report = export(str(run / "student"), str(tmp_path / "plain"))
    assert report["max_abs_difference"] == 0 and report["model_type"] == "timm_wrapper"
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "plain").eval()
    assert type(plain) is TimmWrapperForImageClassification
    assert list(plain.config.id2label.values()) == ["benign", "malignant", "normal"]
    own = timm.create_model(f"local-dir:{tmp_path / 'plain'}", pretrained=True).eval()
    assert tuple(own.pretrained_cfg["input_size"]) == (3, 64, 64) and own.pretrained_cfg["crop_mode"] == "squash"
    in_own_memory(plain)
    in_own_memory(own)
    assert torch.equal(own(PIXELS), plain(PIXELS).logits)
    assert "pip install timm" in (tmp_path / "plain" / "README.md").read_text()
    again = PixelTransform(load_processor(str(tmp_path / "plain")))
    assert torch.equal(again.scale, PixelTransform(load_processor(str(run / "student"))).scale)


def test_the_onnx_form_answers_the_same(run, tmp_path):
    report = export(str(run / "student"), str(tmp_path / "onnx"), "onnx")
    assert report["max_abs_difference"] < 1e-4
    scores = json.loads((run / "metrics.json").read_text())
    assert rd_hf.evaluate(str(tmp_path / "onnx"), str(run.parent / "blobs.npz"))["accuracy"] == pytest.approx(
        scores["test"]["accuracy"], abs=1e-6
    )


def test_it_loads_where_rd_hf_is_not(run, tmp_path, python):
    from PIL import Image

    export(str(run / "student"), str(tmp_path / "plain"))
    (tmp_path / "student").symlink_to(run / "student")
    Image.new("RGB", (50, 40), (200, 100, 50)).save(tmp_path / "image.png")
    done = python("-c", BLOCKER + LOAD)
    assert done.returncode == 0, done.stderr
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "plain").eval()
    assert torch.allclose(torch.tensor(json.loads(done.stdout.splitlines()[-1])), model(PIXELS).logits, atol=1e-5)


def test_it_is_pushed_as_a_model_of_timm(run, server, client):
    done = push(client, run / "student")
    assert done.returncode == 0, done.stderr
    files = files_of(server)
    config = json.loads(files["config.json"][0])
    assert config["model_type"] == "timm_wrapper" and config["architecture"] == "test_efficientnet"
    assert config["num_classes"] == 3 and config["label_names"] == ["benign", "malignant", "normal"]
    assert not [name for name in files if name.endswith(".py")]
    assert "pip install timm" in files["README.md"][0].decode()
    assert ModelCard(files["README.md"][0].decode()).data.library_name == "transformers"


def test_a_repo_of_timm_on_the_hub_is_teacher_and_student(server, client, tmp_path):
    save_model(tmp_path / "model", side=64)
    code = (
        "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('me/timm');"
        "api.upload_folder(repo_id='me/timm', folder_path='model', allow_patterns=['*.json', '*.safetensors'])"
    )
    done = client("-c", code)
    assert done.returncode == 0, done.stderr
    np.savez(tmp_path / "blobs.npz", **blob_arrays())
    arguments = """--teacher hf-hub:me/timm --student me/timm --dataset blobs.npz --max_steps 1 --num_views 1 --shots 5
        --per_device_train_batch_size 8 --output_dir run"""
    done = client("-m", "rd_hf", "distill", *arguments.split())
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "teacher" / "config.json").read_text())
    assert config["backbone_source"]["id"] == "me/timm" and len(config["backbone_source"]["revision"]) == 40
    card = ModelCard((tmp_path / "run" / "student" / "README.md").read_text())
    assert card.data.base_model in ("me/timm", ["me/timm"], ["me/timm", "me/timm"])


def test_models_in_hand_with_the_processor_of_transformers(run, tmp_path):
    folder = run.parent / "teacher"
    names = ["benign", "malignant", "normal"]
    classifier = load_student(str(folder), names, "single_label_classification")[0].model
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor).__name__ == "TimmWrapperImageProcessor"
    network = rd_hf.TeacherNetwork(timm.create_model("test_vit", img_size=64, num_classes=0))
    values = {name: value for name, value in SMALL.items() if name not in ("student_image_size", "verbose")}
    student = rd_hf.distill_from_models(
        (classifier, processor),
        (network, processor),
        str(run.parent / "blobs.npz"),
        values | {"output_dir": str(tmp_path / "run")},
        verbose=False,
    )
    assert student.config.image_size == [64, 64]
    assert list(load_processor(str(tmp_path / "run" / "student")).image_mean) == [0.6, 0.5, 0.4]


def test_methods_are_compared_on_models_of_timm(run, tmp_path):
    arguments = {"student": STUDENT, **{n: v for n, v in SMALL.items() if n not in ("shots", "verbose")}}
    values = {
        "data": {"blobs": {"dataset": str(run.parent / "blobs.npz")}}, "arguments": arguments, "shots": [5],
        "teachers": {"timm": {"teacher": str(run.parent / "teacher")}}, "methods": ["lora", "lp_kd", "rd"],
        "seeds": [0], "output_dir": str(tmp_path / "compared"),
    }  # fmt: skip
    assert run_here(Plan(ComparisonArguments(**values))) == []


@pytest.mark.parametrize("student", READY_TIMM_STUDENTS, ids=lambda student: student.name)
def test_every_small_student_has_stages_and_gives_logits(student):
    torch.manual_seed(0)
    side = max(64, student.smallest_side)
    model = load_student(student.config, ["a", "b", "c"], "single_label_classification", side)[0]
    stages = find_stages(model.model, (side, side)).stages
    with torch.no_grad():
        logits = model.train()(pixel_values=torch.rand(3, 3, side, side)).logits
    assert len(stages) >= 3 and stages[0].grid[0] >= stages[-1].grid[0] >= 1
    assert logits.isfinite().all() and logits.std(0).max() > 1e-3  # the first weights tell images apart
    assert student.pretrained is None or timm.is_model(student.pretrained.removeprefix("timm/"))


def test_small_students_of_timm_are_listed(monkeypatch):
    chosen = [student for student in READY_TIMM_STUDENTS if student.name == "timm_lcnet_050"]
    monkeypatch.setattr("rd_hf.students.budget.INSTALLED_STUDENTS", chosen)
    (listed,) = rd_hf.students_within(image_size=64)
    assert listed.pretrained == "timm/lcnet_050.ra2_in1k" and 0.5e6 < listed.parameters < 2e6
    assert listed.student == {"model_type": "timm_wrapper", "architecture": "lcnet_050"}


def test_gradient_checkpointing_is_refused(run, tmp_path):
    with pytest.raises(ArgumentError, match="gradient_checkpointing"):
        rd_hf.distill(
            None, STUDENT, str(run.parent / "blobs.npz"), method="ce", gradient_checkpointing=True,
            output_dir=str(tmp_path / "run"), **SMALL,
        )  # fmt: skip


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_the_blocks_that_a_model_names_are_compiled(architecture):
    model = timm.create_model(architecture)
    with compiled(model) as names:
        assert names[0] in ("layer1", "blocks.0") and len(names) >= 4
