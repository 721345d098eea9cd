"""Ready students of volumes: every one runs where it is listed, and `rd-hf students --dimensions 3` measures them."""

import json

import pytest
import torch

from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.models.stages import find_stages
from rd_hf.runtime.memory import PEAK_RESET
from rd_hf.students import budget as student_budget
from rd_hf.students.budget import BudgetError, students_within
from rd_hf.students.loading import load_student
from rd_hf.students.volumes import VolumeStudent
from rd_hf.students.zoo_volumes import READY_VOLUME_CLASSIFIERS, READY_VOLUME_SEGMENTERS

EVERY = (*READY_VOLUME_CLASSIFIERS, *READY_VOLUME_SEGMENTERS)
PROBLEM = {"classification": "single_label_classification", "segmentation": "segmentation"}


@pytest.mark.parametrize("student", EVERY, ids=[student.name for student in EVERY])
def test_every_ready_student_has_stages_and_runs_where_it_is_listed(student):
    side = next(side for side in range(student.smallest_side, 65, 8) if student.takes(side))
    torch.manual_seed(0)
    model, _, _ = load_student(student.config, ["a", "b"], PROBLEM[student.task], volumes=VolumeStudent(1, (side,) * 3))
    assert 0.1e6 < sum(parameter.numel() for parameter in model.parameters()) < 5e6
    with torch.no_grad():
        logits = model.eval()(pixel_values=torch.rand(2, 1, side, side, side)).logits
    assert logits.shape == ((2, 2) if student.task == "classification" else (2, 2, *(side,) * 3))
    assert logits.isfinite().all()
    stages = find_stages(model.model, (side,) * 3).stages
    assert len(stages) >= 3 and stages[0].grid > stages[-1].grid


def test_the_command_lists_students_of_volumes(monkeypatch, capsys):
    few = [student for student in READY_VOLUME_SEGMENTERS if student.name in ("unet_8", "unet_16", "segresnet_8_3")]
    monkeypatch.setattr(student_budget, "READY_VOLUME_SEGMENTERS", few)
    given = ["--task", "segmentation", "--dimensions", "3", "--image_size", "24", "--max_params", "1M"]
    assert main(["students", *given, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["name"] for answer in answers] == ["unet_8", "segresnet_8_3"]
    for answer in answers:
        model, _, _ = load_student(answer["student"], ["a", "b"], "segmentation", volumes=VolumeStudent(1, (24,) * 3))
        weights = sum(parameter.numel() for parameter in model.parameters())
        assert answer["parameters"] == weights and answer["gflop"] > 0 and answer["milliseconds"] > 0
        if PEAK_RESET.exists():
            assert answer["peak_mib"] > 4 * weights / 2**20
    assert main(["students", *given]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == [
        "name", "parameters", "GFLOP", "ms", "MiB", "pretrained", "--student",
    ]  # fmt: skip


def test_budgets_and_sizes_of_volumes():
    with pytest.raises(BudgetError, match=r"at most 1,000 parameters at 32 voxels per side.*segresnet_8_3"):
        students_within(max_params=1000, image_size=32, task="segmentation", dimensions=3)
    with pytest.raises(BudgetError, match="No ready student runs on sides of 50: they run on multiples of 4, 8, 16"):
        students_within(image_size=50, task="segmentation", dimensions=3)
    with pytest.raises(ArgumentError, match="`dimensions` is 4"):
        students_within(dimensions=4)
    with pytest.raises(ArgumentError, match="`image_size` is 8; it must be a whole number, and at least 16"):
        students_within(image_size=8, dimensions=3)
