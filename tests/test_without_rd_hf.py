"""What is saved loads in a process that cannot import rd_hf, with exactly the code files that it needs."""

import json
from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from test_student_model import pixels, student
from transformers import AutoModel, AutoModelForImageClassification, ViTConfig, ViTImageProcessorPil, pipeline

from rd_hf.exports.run import export
from rd_hf.models.backbone import Backbone
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.models.modeling_monai import MonaiNetForImageClassification
from rd_hf.models.modeling_rd_student import RDStudentForImageClassification
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.models.slices import SliceReading

STUDENT_CODE = {"configuration_rd.py", "modeling_rd_student.py"}
TEACHER_CODE = STUDENT_CODE | {
    "modeling_rd_teacher.py", "backbone.py", "features.py", "grids.py", "probe.py", "stages.py", "tape.py",
    "reprogramming.py", "hybrid_norms.py", "slices.py", "with_backbone.py", "stage_ends.py", "tower_loading.py",
    "timm_models.py", "open_clip_tower.py", "teacher_network.py", "pooled.py", "packed_tower.py", "token_order.py",
}  # fmt: skip
VOLUME_CODE = {"image_processing_rd_volume.py", "volume_grid.py", "volume_sources.py"}
MONAI_CODE = {"configuration_rd_monai.py", "configuration_monai.py", "modeling_monai.py"}
TOWER = ViTConfig(
    hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Student, teacher with and without its backbone, their logits on one batch, and an image file."""
    folder = tmp_path_factory.mktemp("workplace")
    model = student(provenance={"method": "drd"})
    model.save_pretrained(folder / "student")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "student")
    torch.manual_seed(0)
    AutoModel.from_config(TOWER).save_pretrained(folder / "tower")
    backbone = Backbone.from_pretrained(folder / "tower")
    teacher = RDTeacherForImageClassification.from_parts(model, backbone, 32, "all", hidden_channels=8).eval()
    teacher.save_pretrained(folder / "teacher")
    teacher.attach(backbone)
    teacher.save_pretrained(folder / "whole_teacher", save_backbone=True)
    # as loaded: the last bit depends on where weights start in memory
    model = AutoModelForImageClassification.from_pretrained(folder / "student")
    teacher = AutoModelForImageClassification.from_pretrained(folder / "teacher", backbone=folder / "tower")
    with torch.no_grad():
        logits = {"pixels": pixels(), "student": model(pixels()).logits, "teacher": teacher(pixels()).logits}
    torch.save(logits, folder / "logits.pt")
    Image.fromarray(np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def run(workplace, run_without_rd_hf):
    return partial(run_without_rd_hf, folder=workplace)


def test_exactly_the_code_that_is_needed_is_saved(workplace):
    for name, code in (("student", STUDENT_CODE), ("teacher", TEACHER_CODE)):
        assert {path.name for path in (workplace / name).glob("*.py")} == code
        kind = name.capitalize()
        config = json.loads((workplace / name / "config.json").read_text())
        assert config["auto_map"] == {
            "AutoConfig": f"configuration_rd.RD{kind}Config",
            "AutoModelForImageClassification": f"modeling_rd_{name}.RD{kind}ForImageClassification",
        }
        assert json.dumps(config).count('"auto_map"') == 1


def test_a_student_loads_and_saves_again(workplace, run):
    code = """
given = torch.load("logits.pt")
for folder in ("student", "again"):
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(model(given["pixels"]).logits, given["student"]), folder
    assert type(model).__module__.startswith("transformers_modules.")
    assert model.config.provenance == {"method": "drd"} and model.config.id2label[2] == "normal"
    if folder == "student":
        model.save_pretrained("again")
assert torch.equal(model.to_transformers()(given["pixels"]).logits, given["student"])
assert AutoConfig.from_pretrained("student", trust_remote_code=True).image_size == [32, 32]
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (workplace / "again").glob("*.py")} == STUDENT_CODE


def test_pipeline_and_processor(workplace, run):
    code = """
assert AutoImageProcessor.from_pretrained("student").size["height"] == 32
classify = pipeline("image-classification", model="student", trust_remote_code=True)
print(json.dumps(classify("image.png")))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.strip().splitlines()[-1])
    expected = pipeline("image-classification", model=str(workplace / "student"))(str(workplace / "image.png"))
    assert {score["label"] for score in expected} == {"benign", "malignant", "normal"}
    assert scores == expected


@pytest.mark.parametrize(("folder", "options"), [("teacher", ", backbone='tower'"), ("whole_teacher", "")])
def test_a_teacher_loads(folder, options, workplace, run):
    code = f"""
given = torch.load("logits.pt")
model = AutoModelForImageClassification.from_pretrained("{folder}", trust_remote_code=True{options})
assert torch.allclose(model(given["pixels"]).logits, given["teacher"], atol=1e-6)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dimensions", [2, 3])
def test_networks_of_monai_load_and_save_again(dimensions, workplace, run):
    """Of images and of volumes: the student, and its teacher that reads volumes slice by slice, as one vector."""
    torch.manual_seed(0)
    arguments = {"init_features": 4, "growth_rate": 2, "block_config": [1, 1]}
    config = MonaiNetConfig("DenseNet", dimensions, 3 if dimensions == 2 else 1, 32, arguments)
    of_monai = RDStudentForImageClassification.from_classifier(MonaiNetForImageClassification(config).eval())
    backbone = Backbone.from_pretrained(workplace / "tower")
    backbone.slices = None if dimensions == 2 else SliceReading("axial", (32, 32), (0.5,) * 3, (0.5,) * 3)
    sides = (32,) * dimensions
    teacher = RDTeacherForImageClassification.from_parts(
        of_monai, backbone, sides, "last", hidden_channels=4, teacher_features="all"
    ).eval()
    teacher.attach(backbone)
    names = [f"monai{dimensions}", f"monai{dimensions}_teacher"]
    of_monai.save_pretrained(workplace / names[0])
    teacher.save_pretrained(workplace / names[1], save_backbone=True)
    shown = torch.rand(1, config.in_channels, *sides)
    with torch.no_grad():
        logits = [model.eval()(shown).logits for model in (of_monai, teacher)]
    torch.save([shown, *logits], workplace / "monai.pt")
    code = f"""
shown, *given = torch.load("monai.pt")
for name, logits in zip({names}, given):
    for folder in (name, name + "_again"):
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), folder
        with torch.no_grad():
            torch.testing.assert_close(model(shown).logits, logits)
        if folder == name:
            model.save_pretrained(folder + "_again", **({{"save_backbone": True}} if "teacher" in name else {{}}))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    for name, needed in zip(names, (STUDENT_CODE, TEACHER_CODE), strict=True):
        for folder in (name, f"{name}_again"):
            assert {path.name for path in (workplace / folder).glob("*.py")} == needed | MONAI_CODE, folder


def test_code_runs_only_where_it_is_trusted(workplace, run):
    done = run('AutoModelForImageClassification.from_pretrained("student", trust_remote_code=False)')
    assert done.returncode != 0 and "trust_remote_code=True" in done.stderr


def test_a_plain_export_needs_no_trust(workplace, run):
    export(str(workplace / "student"), str(workplace / "native"))
    code = """
given = torch.load("logits.pt")
model = AutoModelForImageClassification.from_pretrained("native", trust_remote_code=False)
assert type(model).__name__ == "ResNetForImageClassification"
assert torch.allclose(model(given["pixels"]).logits, given["student"], atol=1e-6)
print(json.dumps(pipeline("image-classification", model="native")("image.png")))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    expected = pipeline("image-classification", model=str(workplace / "student"))(str(workplace / "image.png"))
    scores = json.loads(done.stdout.strip().splitlines()[-1])
    assert [score["label"] for score in scores] == [score["label"] for score in expected]
    for score, other in zip(scores, expected, strict=True):
        assert score["score"] == pytest.approx(other["score"], abs=1e-6)


@pytest.mark.parametrize("trust", [None, True])
def test_with_rd_hf_its_own_class_wins_and_nothing_asks(trust, workplace, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked for trust"))
    model = AutoModelForImageClassification.from_pretrained(workplace / "student", trust_remote_code=trust)
    assert type(model) is RDStudentForImageClassification
    options = {"trust_remote_code": trust, "backbone": workplace / "tower"}
    teacher = AutoModelForImageClassification.from_pretrained(workplace / "teacher", **options)
    assert type(teacher) is RDTeacherForImageClassification
    assert type(teacher.student) is RDStudentForImageClassification


def test_a_processor_of_volumes_loads_and_saves_again(workplace, run):
    values = np.random.default_rng(0).normal(0, 300, (12, 10, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.7, 1, 2.5, 1])), workplace / "ct.nii.gz")
    processor = RDVolumeProcessor(spacing=1.2, intensity="window", window=(-160, 240))
    processor.save_pretrained(workplace / "processor")
    done = run("""
from types import SimpleNamespace

for folder in ("processor", "processor_again"):
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules."), type(processor)
    pixels = processor("ct.nii.gz")["pixel_values"]
    output = SimpleNamespace(logits=torch.cat([-pixels, pixels], 1))
    maps = processor.post_process_semantic_segmentation(output, "ct.nii.gz")
    torch.save({"pixels": pixels, "mask": maps[0]}, folder + ".pt")
    if folder == "processor":
        processor.save_pretrained("processor_again")
""")
    assert done.returncode == 0, done.stderr
    expected = processor(workplace / "ct.nii.gz")["pixel_values"]
    for folder in ("processor", "processor_again"):
        files = {path.name for path in (workplace / folder).iterdir() if path.is_file()}
        assert files == VOLUME_CODE | {"preprocessor_config.json"}
        found = torch.load(workplace / f"{folder}.pt")
        assert torch.equal(found["pixels"], expected)
        assert found["mask"].shape == values.shape
