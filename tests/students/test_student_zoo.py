"""Ready students: every entry works with rd_hf, and the budgets choose among them."""

import json

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main, parse_distillation
from rd_hf.models.stages import find_stages
from rd_hf.students import budget as student_budget
from rd_hf.students.budget import BudgetError, students_within
from rd_hf.students.cost import Cost
from rd_hf.students.loading import load_student
from rd_hf.students.zoo import READY_STUDENTS, config_text
from rd_hf.students.zoo_masks import READY_SEGMENTERS

EVERY = (*READY_STUDENTS, *READY_SEGMENTERS)
NAMES = [student.name for student in READY_STUDENTS]
FEW = ("resnet_10_0.25", "resnet_tiny", "mobilenet_v2_0.35", "vit_tiny")


@pytest.fixture
def few(monkeypatch):
    """Four students in place of all, so that a test is quick."""
    monkeypatch.setattr(student_budget, "INSTALLED_STUDENTS", [s for s in READY_STUDENTS if s.name in FEW])


@pytest.fixture
def stopwatch(monkeypatch):
    """Says 1 ms for each 100,000 parameters; :return: the parameters of the students timed, and the threads used."""
    timed = []

    def measure_cost(forward, module, size):
        if next(module.parameters()).is_meta:
            return counted(forward, module, size)
        timed.append((sum(p.numel() for p in module.parameters()), torch.get_num_threads()))
        return Cost(timed[-1][0], 0.0, timed[-1][0] / 1e5)

    counted = student_budget.measure_cost
    monkeypatch.setattr(student_budget, "measure_cost", measure_cost)
    return timed


@pytest.mark.parametrize("student", READY_STUDENTS, ids=NAMES)
def test_every_student_has_stages_and_gives_logits(student):
    model = None
    torch.manual_seed(0)
    for side in sorted({max(side, student.smallest_side) for side in (64, 96)}):
        if model is None or student.pretrained_side is not None:  # its weights depend on the side
            model = load_student(student.config, ["a", "b", "c"], "single_label_classification", side)[0]
        stages = find_stages(model.model, (side, side)).stages
        with torch.no_grad():
            logits = model.train()(pixel_values=torch.rand(2, 3, side, side)).logits
        assert len(stages) >= 3 and stages[0].grid[0] >= stages[-1].grid[0] >= 1
        assert logits.shape == (2, 3) and logits.isfinite().all()
        assert logits.std(0).max() > 1e-3  # the first weights tell images apart


@pytest.mark.parametrize("student", EVERY, ids=[f"{student.task}-{student.name}" for student in EVERY])
def test_a_config_is_as_short_as_it_can_be_and_survives_the_command_line(student):
    typed = parse_distillation(["--dataset", "d", "--method", "ce", "--student", config_text(student.config)]).student
    assert typed == student.config
    defaults = CONFIG_MAPPING[student.config["model_type"]]().to_dict()
    fields = {name: value for name, value in student.config.items() if name != "model_type"}
    assert not [name for name, value in fields.items() if defaults[name] == value]


def test_a_student_is_listed_only_at_sizes_that_it_runs_on(stopwatch, monkeypatch):
    def runs(student, side):
        try:
            student_budget._cost(student, side, 2, "meta")
        except RuntimeError:
            return False
        return True

    students = [student for student in READY_STUDENTS if student.name in ("levit_128s", "mobilevitv2_0.5", "swin_tiny")]
    sides = (32, 48, 100, 224)
    taken = {(student.name, side): student.takes(side) for student in students for side in sides}
    assert taken == {(student.name, side): runs(student, side) for student in students for side in sides}
    monkeypatch.setattr(student_budget, "INSTALLED_STUDENTS", students)
    assert [student.name for student in students_within(image_size=100)] == ["mobilevitv2_0.5"]


@pytest.mark.parametrize("students", [READY_STUDENTS, READY_SEGMENTERS])
def test_names_and_configs_are_different(students):
    names = {student.name for student in students}
    assert len(names) == len({config_text(student.config) for student in students}) == len(students)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet_18", 11.69), ("resnet_34", 21.80), ("mobilenet_v1_0.25", 0.47), ("mobilenet_v2_1.0", 3.50),
        ("convnextv2_atto", 3.71), ("convnextv2_nano", 15.62), ("regnet_y_004", 4.34),
        ("efficientnet_b0", 5.29), ("mobilevit_xx_small", 1.27), ("mobilevit_x_small", 2.32), ("vit_tiny", 5.72),
        ("swiftformer_xs", 3.48), ("poolformer_s12", 11.92), ("swin_tiny", 28.29), ("cvt_13", 20.00),
    ],
)  # fmt: skip
def test_with_1000_classes_a_student_has_the_parameters_that_its_paper_says(name, millions):
    student = READY_STUDENTS[NAMES.index(name)]
    assert student_budget._parameters(student, 224, 1000) / 1e6 == pytest.approx(millions, abs=0.012)


def test_pretrained_weights_are_named_only_at_sizes_that_they_fit():
    def shapes(student, side):
        fields = {"image_size": side} | student.config
        if student.config["model_type"] == "levit":  # there are two classifiers of the type
            fields["architectures"] = ["LevitForImageClassification"]
        with torch.device("meta"):
            model = AutoModelForImageClassification.from_config(AutoConfig.for_model(**fields))
        return {name: value.shape for name, value in model.state_dict().items()}

    students = [student for student in READY_STUDENTS if student.pretrained]
    bound = {student.name for student in students if shapes(student, 224) != shapes(student, 256)}
    assert bound == {student.name for student in students if student.pretrained_side is not None}
    assert all(student.pretrained_for(256) is None for student in students if student.name in bound)
    assert {student.pretrained_for(224) for student in students} == {student.pretrained for student in students}


def test_the_largest_that_fits_comes_first_and_only_what_fits_is_timed(few, stopwatch):
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    students = rd_hf.students_within(max_params="0.5M", max_latency_ms=3.5, image_size=64, threads=threads + 1)
    assert [student.name for student in students] == ["resnet_10_0.25"]
    timed = sorted(stopwatch)
    everything = students_within(image_size=64)
    assert [s.name for s in everything] == ["vit_tiny", "resnet_tiny", "mobilenet_v2_0.35", "resnet_10_0.25"]
    assert students == everything[-1:]
    assert timed == [(everything[-1].parameters, threads + 1), (everything[-2].parameters, threads + 1)]
    assert [s.name for s in students_within(max_gflop=0.015, image_size=64)] == ["mobilenet_v2_0.35", "resnet_10_0.25"]
    assert torch.equal(random_state, torch.get_rng_state()) and torch.get_num_threads() == threads


def test_numbers_are_those_of_the_student_that_distill_builds(few):
    measured = students_within(image_size=48, num_labels=7)[1]
    model = load_student(measured.student, list("abcdefg"), "single_label_classification", 48)[0]
    assert measured.name == "resnet_tiny"
    assert measured.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert measured.milliseconds > 0 and 0.01 < measured.gflop < 0.02


@pytest.mark.parametrize("budget", ["500k", "500K", " 0.5 M", "5e5", "500000", 500_000, 5e5])
def test_a_number_of_parameters_is_written_in_many_ways(budget):
    assert student_budget._count("max_params", budget) == 500_000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_params": "1X"}, "max_params.*'1X'.*1M, 500k"),
        ({"max_params": "M"}, "max_params"),
        ({"max_params": "nan"}, "max_params"),
        ({"max_params": -1}, "max_params.*above 0"),
        ({"max_latency_ms": 0}, "max_latency_ms.*above 0"),
        ({"max_gflop": "1M"}, "max_gflop"),
        ({"image_size": 28}, "image_size.*28.*32"),
        ({"num_labels": 0}, "num_labels"),
        ({"threads": 0}, "threads"),
    ],
)
def test_a_wrong_value_names_its_argument(changes, named):
    with pytest.raises(ArgumentError, match=named):
        students_within(**changes)


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        ({"max_params": "100k"}, "100,000 parameters at 64 px. The nearest is .*, with 309,714 parameters."),
        ({"max_gflop": 0.001}, "0.001 GFLOP.*nearest.* is mobilenet_v2_0.35, with 0.00948 GFLOP per image."),
        ({"max_latency_ms": 2, "max_params": 1e6}, "2 ms.*among the 3 that.* is resnet_10_0.25, with 3.1 ms per"),
    ],
)
def test_where_nothing_fits_the_smallest_is_named(few, stopwatch, budget, named):
    with pytest.raises(BudgetError, match=named):
        students_within(**budget, image_size=64)


def test_the_command_prints_a_table_or_json(few, capsys):
    options = ["--max_params", "0.5M", "--image_size", "64"]
    assert main(["students", *options]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "parameters", "GFLOP", "ms", "pretrained", "--student"]
    assert [row.split()[0] for row in rows] == ["mobilenet_v2_0.35", "resnet_10_0.25"]
    assert "google/mobilenet_v2_0.35_96" in rows[0] and rows[1].split()[4] == "-"
    assert main(["students", *options, "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pasted = [yaml.safe_load(row[row.index("'{") + 1 : -1]) for row in rows]
    assert pasted == [answer["student"] for answer in answers]
    load_student(pasted[0], ["a", "b"], "single_label_classification", 64)


def test_the_command_ends_with_an_error_where_nothing_fits(few, capsys):
    assert main(["students", "--max_params", "1k", "--image_size", "64"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "resnet_10_0.25" in printed.err
    assert main(["students", "--max_params", "small"]) == 2
    assert "max_params" in capsys.readouterr().err
