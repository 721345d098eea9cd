"""`rd-hf compare`, called again: what holds from before, what is refused, and who may write."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from filelock import FileLock
from safetensors.torch import load_file, save_file
from test_comparison import grid, make_plan, run_here  # noqa: F401

from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison import trainings, workers
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.cell import cell_settings
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Plan
from rd_hf.comparison.run import run_comparison
from rd_hf.comparison.transfers import GuidedObjective, Setting
from rd_hf.comparison.workers import ComparisonError, check_finished
from rd_hf.tasks.classification import SingleLabel
from rd_hf.tasks.make import make_task
from rd_hf.tasks.segmentation import Segmentation

SINGLE, MASKS = SingleLabel.problem_type, Segmentation.problem_type


def test_what_was_tuned_on_all_labels_holds_for_few(grid):  # noqa: F811
    plan = make_plan(grid, methods=["ce", "rd"], tuning={"weight": [1.0, 3.0], "shots": "all"})
    assert {cell.setting for cell in plan.tuning_cells()} == {(None, "ce", False), ("tiny", "rd", False)}
    plan.tuned = {cell.setting: (None, 3.0) for cell in plan.tuning_cells()}
    cells = [plan.as_tuned(cell) for cell in plan.cells()]
    assert [(cell.entry.name, cell.unlabelled, cell.weight) for cell in cells] == [("ce", False, 3), ("rd", True, 3)]


def test_two_stages_start_from_lora_as_the_comparison_has_it(grid):  # noqa: F811
    own = {"method": "lora", "max_steps": 8, "learning_rate": 1e-4}
    plan = make_plan(grid, methods=[own, "lora_kd"], tuning={"weight": [1.0, 3.0], "shots": 5})
    adapting = plan.adapting(next(cell for cell in plan.cells() if cell.entry.name == "lora_kd"))
    arguments = plan.cell_arguments(adapting, "x")
    assert (arguments.max_steps, arguments.learning_rate) == (8, 1e-4)
    cell = plan.cells()[-1]
    settings = [
        cell_settings(p, cell, p.cell_arguments(cell, "x")) for p in (plan, make_plan(grid, methods=["lora_kd"]))
    ]
    assert settings[0]["adaptation"] != settings[1]["adaptation"]
    paths = [cell.path for cell in plan.tuning_cells()]
    assert len(paths) == len(set(paths)) == 4


@pytest.mark.parametrize(
    ("method", "problem_type", "end", "temperature"),
    [("rd", SINGLE, 1.0, 4.0), ("rd", MASKS, 1.0, 4.0), ("rd_plus", MASKS, 1.0, 4.0), ("rd_plus", SINGLE, 1.0, 1.0)],
)
def test_a_weight_scales_what_the_data_has_by_default(grid, method, problem_type, end, temperature):  # noqa: F811
    plan, task = make_plan(grid, methods=[method]), make_task(problem_type, ["a", "b"])
    for weight in (1.0, 3.0):
        arguments = plan.cell_arguments(replace(plan.cells()[0], weight=weight), Path("x"), task)
        found = arguments.kl_weight, arguments.kl_weight_end, arguments.temperature
        assert found == (weight, weight * end, temperature)
    named = make_plan(grid, methods=[{"name": "half", "method": method, "kl_weight": 0.5}])
    arguments = named.cell_arguments(replace(named.cells()[0], weight=3.0), Path("x"), task)
    assert (arguments.kl_weight, arguments.kl_weight_end) == (0.5, 0.5 * end)


@pytest.mark.parametrize(("method", "of_paper"), [("lp_kd", 4.0), ("lp_dkd", 4.0), ("lp_dist", 1.0)])
def test_a_loss_of_logits_has_its_papers_temperature_unless_its_entry_has_one(
    grid, monkeypatch, method, of_paper  # noqa: F811
):  # fmt: skip
    """The temperature under `arguments` is for reprogramming."""
    seen = []
    monkeypatch.setattr(trainings, "Setting", lambda *values: seen.append(values[-1]) or Setting(*values))
    own = {"name": "own", "method": method, "temperature": 3.0}
    arguments = grid["arguments"] | {"max_steps": 1, "eval_steps": 1}
    assert run_here(make_plan(grid, methods=[method, own], arguments=arguments)) == []
    assert seen == [of_paper, 3.0]
    plan = make_plan(grid, methods=[method, own, "rd"], arguments=arguments | {"temperature": 2.0})
    check = [cell for cell in plan.cells() if cell.entry.name == "own"]
    check_finished(plan, check, Path(grid["output_dir"]))
    of_papers = make_plan(grid, methods=[{"name": "own", "method": method}], arguments=arguments)
    with pytest.raises(ComparisonError, match="comparison_temperature"):
        check_finished(of_papers, of_papers.cells(), Path(grid["output_dir"]))


def test_the_tuned_weight_scales_that_of_the_paper(grid, monkeypatch):  # noqa: F811
    made, call = [], GuidedObjective.__call__

    def watched(self, *arguments, **options):
        terms = call(self, *arguments, **options)
        made.append((self.weight, *(terms[name].item() for name in ("supervised", "transfer", "loss"))))
        return terms

    monkeypatch.setattr(GuidedObjective, "__call__", watched)
    plan = make_plan(grid, methods=["fitnet"], tuning={"weight": [1.0, 3.0], "shots": 5})
    plan.tuned = {("tiny", "fitnet", True): (None, 3.0)}
    assert run_here(plan) == []
    assert {weight for weight, *_ in made} == {3 * METHODS["fitnet"].weight} == {300.0}
    assert all(loss == pytest.approx(own + 300 * transfer, rel=1e-5) for _, own, transfer, loss in made)


def test_runs_that_all_failed_promise_no_table(grid, monkeypatch):  # noqa: F811
    monkeypatch.setattr("rd_hf.comparison.run.run_cells", lambda *_: ["ce/seed_0: no data"])
    with pytest.raises(ComparisonError, match=r"^1 of 1 runs failed, so there is no table:\nce/seed_0: no data$"):
        run_comparison(make_plan(grid, methods=["ce"], seeds=[0]))


def test_runs_that_fail_for_one_reason_are_told_in_one_line(grid, monkeypatch):  # noqa: F811
    lines = ["ce/seed_0: no data", "ce/seed_1: no data", "rd/seed_0: no: memory", "rd/seed_1: no data"]
    monkeypatch.setattr("rd_hf.comparison.run.run_cells", lambda *_, **__: lines)
    with pytest.raises(ComparisonError, match="table:\nce/seed_0 and 2 more: no data\nrd/seed_0: no: memory$"):
        run_comparison(make_plan(grid, methods=["ce"], seeds=[0]))
    with pytest.raises(ComparisonError, match="^A run of the tuning failed, so it stopped, and nothing was compared"):
        run_comparison(make_plan(grid, methods=["ce"], seeds=[0], tuning={"weight": [1.0, 3.0], "shots": 5}))


def test_a_tuning_stops_at_its_first_failure(grid, monkeypatch):  # noqa: F811
    plan = make_plan(grid, methods=["ce"], tuning={"learning_rate": [0.1, 0.2, 0.3], "shots": 5})
    paths = [str(cell.path) for cell in plan.tuning_cells()]
    tried = []

    def fails(plan, cell, bench, root):
        tried.append(str(cell.path))
        raise ArgumentError("no such folder")

    monkeypatch.setattr(workers, "run_cell", fails)
    for stops, own, count in ((False, paths, 3), (True, paths, 1), (True, paths[:1], 1)):
        monkeypatch.setattr(workers, "_stop", threading.Event())
        tried.clear()
        assert len(workers.run_job(vars(plan.comparison), {}, own, stops)) == len(tried) == count
        assert workers._stop.is_set() == stops  # also where no other run of the job is left


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_checkpoint_trained_again_under_the_same_name_is_noticed(grid, teacher, tmp_path, name):  # noqa: F811
    folder = tmp_path / "own"
    folder.mkdir()
    for file in Path(teacher).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    teachers = {"tiny": {"teacher": str(folder if name == "teacher" else teacher)}}
    students = {"student": str(folder)} if name == "student" else {}
    plan = make_plan(grid, methods=["rd"], teachers=teachers, arguments=grid["arguments"] | students)
    assert run_here(plan) == []
    check_finished(plan, plan.cells(), Path(plan.comparison.output_dir))
    weights = load_file(folder / "model.safetensors")
    save_file({key: tensor + 1 for key, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ComparisonError, match=f"{name}_weights was "):
        check_finished(plan, plan.cells(), Path(plan.comparison.output_dir))


def test_what_is_read_and_a_changed_choice_of_the_tuning_are_told_from_what_nothing_reads(grid):  # noqa: F811
    plan = make_plan(grid, methods=["ce"], tuning={"weight": [1.0, 3.0], "shots": 5})
    assert run_here(plan) == []
    root = Path(plan.comparison.output_dir)
    for cell in plan.cells():  # as a version with another default had it, which ce does not read
        result = json.loads((root / cell.path / "result.json").read_text())
        result["settings"]["temperature"] += 1
        result["settings"] |= {"num_train_epochs": 60.0, "cka_weight": 3.0}  # beside max_steps, and without a teacher
        (root / cell.path / "result.json").write_text(json.dumps(result))
    check_finished(plan, plan.cells(), root)
    result["settings"]["learning_rate"] *= 2
    (root / cell.path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ComparisonError, match=r"other settings \(learning_rate was [0-9.]*, is [0-9.]*\)"):
        check_finished(plan, plan.cells(), root)
    result["settings"]["learning_rate"] /= 2
    (root / cell.path / "result.json").write_text(json.dumps(result))
    plan.tuned = {(None, "ce", False): (None, 3.0)}
    with pytest.raises(
        ComparisonError, match=r"comparison_weight was 1.0, is 3.0.*`tuning` may now choose other values"
    ):
        check_finished(plan, [plan.as_tuned(cell) for cell in plan.cells()], Path(plan.comparison.output_dir))


def test_a_second_comparison_does_not_touch_the_first_ones_folder(grid):  # noqa: F811
    root = Path(grid["output_dir"])
    root.mkdir()
    with FileLock(root / ".lock"), pytest.raises(ComparisonError, match=f"Another comparison is running in {root}"):
        run_comparison(make_plan(grid))
    assert [path.name for path in root.iterdir()] == [".lock"]


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("examples/compare/*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_comparisons(path):
    plan = Plan(ComparisonArguments(**yaml.safe_load(path.read_text())))
    cells = [*plan.tuning_cells(), *(cell for cell in plan.cells() if cell.seed == plan.comparison.seeds[0])]
    assert len(plan.cells()) >= 10 and all(plan.cell_arguments(cell, "x").max_steps >= 200 for cell in cells)


def test_arguments_are_checked_before_anything_is_run(grid):  # noqa: F811
    with pytest.raises(ArgumentError, match=r"tiny/5_shots/rd\+unlabelled/seed_0: .*teacher"):
        run_comparison(make_plan(grid, teachers={"tiny": {}}))
    assert not Path(grid["output_dir"]).exists()


def test_a_script_without_a_guard_is_told_of_it(grid, tmp_path, python):  # noqa: F811
    arguments = {**grid, "methods": ["rd"], "workers": 1}
    (tmp_path / "script.py").write_text(f"import rd_hf\nrd_hf.compare(**{arguments!r})\n")
    done = python("-c", "import runpy; runpy.run_path('script.py', run_name='__main__')")
    assert done.returncode != 0 and 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert "Another comparison" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity of processes")
def test_no_more_workers_than_cores_that_may_be_used():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert workers._cores() == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_a_home_folder_is_found(grid, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_plan(grid, output_dir="~/compared").comparison.output_dir == str(tmp_path / "compared")
