"""Students and teachers for masks load in a process that cannot import rd_hf, networks of MONAI too."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_segmentation_models import backbone, pixels, student
from transformers import AutoModelForSemanticSegmentation, SegformerImageProcessorPil, pipeline

from rd_hf.models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation

MASKS = "from transformers import AutoModelForSemanticSegmentation as Auto\n"
STUDENTS = ["UNet", "Segformer"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """For each student itself, its teacher with backbone, their logits on one batch; and an image file."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in STUDENTS:
        student(name).save_pretrained(folder / name)
        processor = SegformerImageProcessorPil(size={"height": 64, "width": 64}, do_reduce_labels=False)
        processor.save_pretrained(folder / name)
        teacher = RDTeacherForSemanticSegmentation.from_parts(
            student(name), backbone(), 32, "last", hidden_channels=8, skips="reprogrammed"
        ).eval()
        teacher.attach(backbone())
        teacher.save_pretrained(folder / f"{name}_teacher", save_backbone=True)
        logits = {}
        for kind, size in ((name, 64), (f"{name}_teacher", 32)):
            model = AutoModelForSemanticSegmentation.from_pretrained(folder / kind)
            with torch.no_grad():
                logits[kind] = pixels(1, size), model(pixels(1, size)).logits
        torch.save(logits, folder / f"{name}.pt")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def run(workplace, run_without_rd_hf):
    return lambda code: run_without_rd_hf(MASKS + code, workplace)


@pytest.mark.parametrize("name", STUDENTS)
def test_student_and_teacher_load_and_save_again(name, workplace, run):
    code = f"""
for kind, (pixels, expected) in torch.load("{name}.pt").items():
    for folder in (kind, kind + "_again"):
        model = Auto.from_pretrained(folder, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), folder
        with torch.no_grad():
            torch.testing.assert_close(model(pixels).logits, expected)
        if folder == kind:
            model.save_pretrained(folder + "_again", **({{"save_backbone": True}} if "teacher" in kind else {{}}))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    for folder in (name, f"{name}_teacher"):
        code_files = [{path.name for path in (workplace / f).glob("*.py")} for f in (folder, f"{folder}_again")]
        assert code_files[0] == code_files[1]
        assert ("configuration_rd_monai.py" in code_files[0]) == (name == "UNet")


@pytest.mark.parametrize("name", STUDENTS)
def test_pipeline_gives_masks_of_the_images_size(name, workplace, run):
    code = f"""
segment = pipeline("image-segmentation", model="{name}", trust_remote_code=True)
answers = segment("image.png")
print(json.dumps([[answer["label"], answer["mask"].size, sum(answer["mask"].getdata())] for answer in answers]))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    expected = pipeline("image-segmentation", model=str(workplace / name))(str(workplace / "image.png"))
    assert found == [[one["label"], [30, 40], sum(one["mask"].getdata())] for one in expected] and found
