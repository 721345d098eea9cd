"""`rd-hf compare`: its grid, one training of each method, what they share, tuning, resuming, failures."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import blob_arrays
from PIL import Image
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from transformers import AutoConfig, AutoModel

import rd_hf
from rd_hf.arguments.effect_rules import OF_STEPS
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.comparison import run, workers
from rd_hf.comparison.adaptation import AdaptedTeacher, with_lora
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.bench import Bench
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Plan
from rd_hf.comparison.run import run_comparison
from rd_hf.comparison.tuning import choose_settings
from rd_hf.comparison.workers import ComparisonError, run_job
from rd_hf.data.order import StepPlan
from rd_hf.data.pixel_store import Visits, collate
from rd_hf.data.sources import fingerprint
from rd_hf.inference.model_names import ModelNameError
from rd_hf.models.stages import find_stages
from rd_hf.runtime.memory import PEAK_RESET, PeakMemory
from rd_hf.runtime.processes import start_accelerator
from rd_hf.training import target_start
from rd_hf.training.assembly import build_inputs
from rd_hf.training.linear_probe import INVERSE_PENALTIES, labelled_features, linear_probe
from rd_hf.training.objective import comparable
from rd_hf.training.run_data import load_run_data
from rd_hf.training.step import NonFiniteLossError
from rd_hf.training.trainer import Trainer

STUDENT = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
}  # fmt: skip

ALONE = {"ce", "linear_probe", "lora", "full"}  # methods that learn from labels only


@pytest.fixture
def grid(teacher, blobs_npz, tmp_path):
    """The values of a small comparison."""
    return {
        "data": {"blobs": {"dataset": str(blobs_npz)}},
        "teachers": {"tiny": {"teacher": str(teacher)}},
        "arguments": {
            "student": STUDENT, "student_image_size": 32, "max_steps": 4, "eval_steps": 2, "num_views": 2,
            "per_device_train_batch_size": 8, "per_device_unlabeled_batch_size": 8, "learning_rate": 5e-3,
        },
        "methods": ["ce", "rd"], "shots": [5], "seeds": [0], "output_dir": str(tmp_path / "compared"),
    }  # fmt: skip


def make_plan(grid, **changes) -> Plan:
    values = grid | changes
    names = {method if isinstance(method, str) else method["method"] for method in values["methods"]}
    without = (
        {"per_device_unlabeled_batch_size"}
        if names <= ALONE or changes.get("use_unlabeled") in ("false", [False])
        else set()
    )
    without |= set(OF_STEPS) if names == {"linear_probe"} else set()
    read = {name: value for name, value in values["arguments"].items() if name not in without}
    return Plan(ComparisonArguments(**values | {"arguments": read}))


def run_here(plan: Plan) -> list[str]:
    """Run all cells in this process; what failed."""
    cells = [plan.as_tuned(cell) for cell in plan.cells()]
    jobs = workers.split_into_jobs(cells, 1)
    return [line for job in jobs for line in run_job(vars(plan.comparison), plan.tuned, [str(c.path) for c in job])]


def results(plan: Plan, tmp_path) -> dict[str, dict]:
    return {
        cell.path.parent.name: json.loads((tmp_path / "compared" / cell.path / "result.json").read_text())
        for cell in plan.cells()
    }


def test_the_grid_has_each_run_once(grid):
    methods = ["ce", "linear_probe", "rd", {"name": "rd, biased", "method": "rd", "cka_estimator": "biased"}]
    plan = make_plan(grid, methods=methods, shots=[5, "all"], seeds=[0, 1], use_unlabeled=[True, False])
    paths = [str(cell.path) for cell in plan.cells()]
    of_one_seed = [path.removesuffix("/seed_0") for path in paths if path.endswith("seed_0")]
    assert of_one_seed == [
        "runs/blobs/no_teacher/5_shots/ce",
        "runs/blobs/tiny/5_shots/linear_probe",
        "runs/blobs/tiny/5_shots/rd+unlabelled",
        "runs/blobs/tiny/5_shots/rd",
        "runs/blobs/tiny/5_shots/rd,_biased+unlabelled",
        "runs/blobs/tiny/5_shots/rd,_biased",
        # with every label there are no unlabelled rows
        "runs/blobs/no_teacher/all/ce",
        "runs/blobs/tiny/all/linear_probe",
        "runs/blobs/tiny/all/rd",
        "runs/blobs/tiny/all/rd,_biased",
    ]
    assert len(paths) == 20 == len(set(paths))
    biased = next(cell for cell in plan.cells() if "biased" in str(cell.path) and cell.unlabelled and cell.seed == 1)
    arguments = plan.cell_arguments(biased, "folder")
    assert (arguments.method, arguments.cka_estimator, arguments.seed, arguments.shots) == ("rd", "biased", 1, 5)
    assert arguments.use_unlabeled and arguments.view_seed == 0  # all seeds share the cache


def test_methods_differ_in_the_positions_that_cka_compares(grid):
    positions = {"name": "positions", "method": "rd", "cka_features": "positions", "cka_positions": 4}
    plan = make_plan(grid, methods=["rd", positions], shots=5, seeds=[0])
    of = {cell.entry.name: plan.cell_arguments(cell, "folder").with_defaults(False, False) for cell in plan.cells()}
    assert {name: (arguments.cka_features, arguments.cka_positions) for name, arguments in of.items()} == {
        "rd": ("pooled", 16), "positions": ("positions", 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["rkdd"]}, "which is not the name of a method. Did you mean `rkd`?"),
        ({"methods": [{"method": "rd", "cka_estimatr": "biased"}]}, "of the method 'rd'. Did you mean `cka_estimator`"),
        ({"methods": ["rd", "rd"]}, "Two methods are named 'rd'"),
        (
            {"methods": [{"name": "a b", "method": "rd"}, {"name": "a_b", "method": "rd"}]},
            "or have names too similar to tell apart",
        ),
        ({"methods": [{"name": "rd", "method": "drd"}]}, "'rd' is the name of another method than drd"),
        ({"methods": [{"name": "x", "method": "cka", "cka_estimator": "biased"}]}, "has no effect on the method 'x'"),
        ({"methods": [{"name": "x", "method": "cka", "cka_positions": 4}]}, "has no effect on the method 'x'"),
        ({"methods": [{"name": "x", "method": "rd", "bf16": True}]}, "put it under `data`"),
        ({"methods": [{"name": "x", "method": "rd", "teacher": "y"}]}, "belongs under `teachers`"),
        ({"teachers": {"tiny": {"teacher": "x", "shots": 3}}}, "`shots` cannot be given for the runs"),
        ({"teachers": {"no_teacher": {"teacher": "x"}}}, "cannot be the name of a folder"),
        ({"arguments": {"gradient_accumulation_steps": 2}}, "is not supported in a comparison"),
        (
            {"arguments": {"unlabeled_dataset": "x", "unlabeled_streaming": True}, "shots": ["all"]},
            "`unlabeled_dataset` cannot be a stream: download it, and leave `unlabeled_streaming` out",
        ),
        ({"arguments": {"stream_buffer_size": 9}}, "`stream_buffer_size` is not supported in a comparison"),
        ({"arguments": {"max_step": 3}}, "under `arguments`. Did you mean `max_steps`"),
        ({"arguments": {"seed": 3}}, "`seed` cannot be given for the runs"),
        ({"data": {"a/b": {"dataset": "x"}}}, "cannot be the name of a folder"),
        ({"data": {"..": {"dataset": "x"}}}, "'..' cannot be the name of a folder"),
        ({"data": {"blobs": {"dataset": "x", "shots": 3}}}, "`shots` cannot be given for the runs"),
        ({"data": {}}, "`data` is missing"),
        ({"teachers": {}}, "`teachers` is missing"),
        ({"shots": ["some"]}, "`shots` contains 'some'"),
        ({"seeds": [-1]}, "`seeds` contains -1"),
        ({"use_unlabeled": ["yes"]}, "`use_unlabeled` contains 'yes'"),
        ({"workers": 0}, "`workers` is 0"),
        ({"workers": "auto"}, "`workers` is 'auto'"),
        ({"shots": [[10]]}, "`shots` contains [10]"),
        ({"seeds": [[0]]}, "`seeds` contains [0]"),
        ({"workers": 1.5}, "must be a whole number"),
        ({"output_dir": True}, "`output_dir` is true, but it must be text"),
        ({"output_dir": [2024]}, "`output_dir` is [2024]; it must be one text"),
        ({"tuning": {"weight": None}}, "`tuning: weight` contains None"),
        ({"tuning": {"weight": [True]}}, "`tuning: weight` contains True"),
        ({"tuning": {"learning_rate": [float("inf")]}}, "`tuning: learning_rate` contains inf"),
        ({"reference": "rdd"}, "`reference` is 'rdd', which is not one of the compared methods ce, rd"),
        ({"tuning": {"seeds": [0]}}, "have a seed in common"),
        ({"tuning": {"rate": [1]}}, "Unknown name `rate` under `tuning`"),
        ({"tuning": {"data": ["blob"]}}, "Did you mean `blobs`"),
        ({"tuning": {"weight": [0]}}, "`tuning: weight` contains 0"),
        ({"tuning": {"shots": "few"}}, "`tuning: shots` contains 'few'"),
        ({"tuning": {}}, "`tuning` has nothing to choose from: give values of `learning_rate` or `weight` there"),
        ({"tuning": {"seeds": [100], "shots": 5}}, "`tuning` has nothing to choose from"),
        ({"tuning": {"weight": []}}, "`tuning: weight` is empty"),
        ({"tuning": {"learning_rate": [0.001, 0.0010000001]}}, "`tuning: learning_rate` has two values that are the"),
    ],
)
def test_what_cannot_be_compared_is_named(grid, changes, message):
    with pytest.raises(ArgumentError) as error:
        make_plan(grid, **changes).cells()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"method": "rd_plus", "detach_hybrid_in_kl": False}, "`detach_hybrid_in_kl` false needs"),
        ({"method": "drd", "stage_schedule": "random", "probe_share": 0.5}, "`stage_schedule` random has one stage on"),
        ({"method": "lp_kd", "target_views": "mean"}, "set `teacher_features` to all or last"),
    ],
)
def test_an_entry_that_can_never_run_is_refused_before_the_first_run(grid, entry, message, monkeypatch):
    monkeypatch.setattr(run, "run_cells", lambda *_, **__: pytest.fail("a run began"))
    with pytest.raises(ArgumentError, match=f"runs/blobs/tiny/5_shots/mine.*{message}"):
        run_comparison(make_plan(grid, methods=["ce", {"name": "mine"} | entry]))


def test_values_may_be_typed_as_text(grid):
    plan = make_plan(
        grid, shots="20", seeds="[3, 4]", use_unlabeled="false", tuning="{learning_rate: 1e-3, shots: all}"
    )
    assert {(cell.shots, cell.seed, cell.unlabelled) for cell in plan.cells()} == {(20, 3, False), (20, 4, False)}
    assert {(cell.learning_rate, cell.shots) for cell in plan.tuning_cells()} == {(0.001, None)}


def test_a_weight_that_an_entry_names_is_not_tuned(grid):
    entry = {"name": "weak", "method": "rd", "cka_weight": 0.3}
    plan = make_plan(grid, methods=["rd", entry], tuning={"weight": [1.0, 3.0]})
    plan.tuned = {("tiny", "rd", True): (None, 3.0)}
    weights = {c.entry.name: plan.cell_arguments(c, "x").cka_weight for c in map(plan.as_tuned, plan.cells())}
    assert weights == {"rd": 3.0, "weak": 0.3}
    fixed = {"name": "fixed", "method": "rd", "cka_weight": 0.3, "kl_weight": 1, "kl_weight_end": 1}
    tuning = {"weight": [1.0, 3.0], "learning_rate": [1e-3, 2e-3], "seeds": [100]}
    tries = [
        (cell.entry.name, cell.learning_rate, cell.weight)
        for cell in make_plan(grid, methods=[entry, fixed], tuning=tuning).tuning_cells()
    ]
    assert tries == [
        *(("weak", rate, weight) for rate in (1e-3, 2e-3) for weight in (1.0, 3.0)),
        *(("fixed", rate, 1.0) for rate in (1e-3, 2e-3)),
    ]
    nothing = make_plan(grid, methods=[fixed | {"learning_rate": 1e-3}], tuning=tuning)
    assert nothing.tuning_cells() == []


def test_seeds_share_made_splits_and_views_but_not_labels(grid, tmp_path):
    arrays = blob_arrays()
    unsplit = {name: values for name, values in arrays.items() if name == "classes" or name.startswith("train")}
    np.savez(tmp_path / "unsplit.npz", **unsplit)
    plan = make_plan(grid, data={"blobs": {"dataset": str(tmp_path / "unsplit.npz")}}, methods=["rd"], seeds=[0, 5])
    arguments = [plan.cell_arguments(cell, "x") for cell in plan.cells()]
    assert [one.seed for one in arguments] == [0, 5] and {one.seed_of_views for one in arguments} == {0}
    opened = [load_run_data(one) for one in arguments]
    assert opened[0].source["made_splits"]["seed"] == opened[1].source["made_splits"]["seed"] == 0
    tests = [fingerprint(run_data.test.images) for run_data in opened]
    assert tests[0] == tests[1]
    assert opened[0].labelled_rows.tolist() != opened[1].labelled_rows.tolist()
    other = load_run_data(replace(arguments[1], split_seed=None))
    assert other.source["made_splits"]["seed"] == 5 and fingerprint(other.test.images) != tests[0]


def test_further_images_without_label_are_used_only_where_the_table_says_so(grid, tmp_path):
    more = tmp_path / "more.npz"
    np.savez(more, **(blob_arrays() | {"train_images": blob_arrays()["train_images"][:, ::-1]}))
    data = {"blobs": grid["data"]["blobs"] | {"unlabeled_dataset": str(more)}}
    plan = make_plan(grid, data=data, methods=["rd"], shots=[5, "all"], use_unlabeled=[True, False])
    assert [(cell.shots, cell.unlabelled) for cell in plan.cells()] == [
        (s, u) for s in (5, None) for u in (True, False)
    ]
    assert run_here(plan) == []
    kept = {
        str(cell.path): load_file(tmp_path / "compared" / cell.path / "predictions.safetensors")["test/probabilities"]
        for cell in plan.cells()
    }
    assert len({values.tobytes() for values in kept.values()}) == 4
    without = make_plan(grid, methods=["rd"], use_unlabeled=[False], output_dir=str(tmp_path / "without"))
    assert run_here(without) == []
    (cell,) = without.cells()
    alone = load_file(tmp_path / "without" / cell.path / "predictions.safetensors")["test/probabilities"]
    assert np.array_equal(kept[str(cell.path)], alone)
    rows = run_comparison(plan)
    text = (tmp_path / "compared" / "results.md").read_text()
    for unlabelled, kind in ((True, "with the unlabelled rest"), (False, "labelled images only")):
        scores = [f"{row['test_auroc']:.3f}" for row in rows if row["unlabelled"] == unlabelled]
        _, table = text.split(f"## blobs, teacher tiny, {kind}\n")
        assert f"| RD | **{scores[0]}** | **{scores[1]}** |" in table.split("\n## ")[0]
        teachers = [f"{row['teacher_test_auroc']:.3f}" for row in rows if row["unlabelled"] == unlabelled]
        assert f"| teacher of RD | {teachers[0]} | {teachers[1]} |" in table.split("\n## ")[0]


def test_rows_without_a_label_that_all_labels_leave_out_are_told(grid, tmp_path, caplog):
    arrays = blob_arrays()
    lines = ["image,label"]
    for number, (image, (label,)) in enumerate(zip(arrays["train_images"], arrays["train_labels"], strict=True)):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'' if number >= 54 else 'abc'[label]}")
    (tmp_path / "some.csv").write_text("\n".join(lines))
    data = {"blobs": {"dataset": str(tmp_path / "some.csv")}}
    plan = make_plan(grid, data=data, methods=["rd"], shots=[5, "all"])
    with caplog.at_level("WARNING", logger="rd_hf"):
        assert run_here(plan) == []
    (told,) = {record.message for record in caplog.records if "left out" in record.message}
    assert "The 6 rows of train of blobs that have no label are left out, because `shots` is all" in told
    run_comparison(plan)
    text = (tmp_path / "compared" / "results.md").read_text()
    assert "with the unlabelled rest\n\nThe runs with all labels leave out the 6 images of train that" in text


def test_a_table_of_runs_on_labelled_images_only_says_so(grid, tmp_path):
    assert run_here(make_plan(grid, methods=["ce"], shots=["all"])) == []
    titles = {}
    for name, values in (("default", {}), ("both", {"use_unlabeled": [True, False]})):
        run_comparison(make_plan(grid, methods=["ce"], shots=["all"], **values))
        text = (tmp_path / "compared" / "results.md").read_text()
        titles[name] = [line for line in text.splitlines() if line.startswith("## blobs")]
    assert titles["default"] == titles["both"] and len(titles["both"]) == 1
    assert titles["both"][0].endswith(", labelled images only")


def test_every_method_trains_from_the_same_start_on_the_same_views(grid, tmp_path, monkeypatch):
    """All methods, with and without unlabelled rows: scores are left, and nothing but the method differs."""
    starts, visits, rest = [], [], []
    train, batch = Trainer.train, StepPlan.batch

    def watched(self, deadline=None):
        student = getattr(self.module, "student", None) or self.module
        if not isinstance(student, AdaptedTeacher):
            starts.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
        return train(self, deadline)

    def seen(self, step, part):
        shown = batch(self, step, part)
        visits.append((step, tuple(v for v in shown if v.labelled)))
        rest.append((step, tuple(v for v in shown if not v.labelled)))
        return shown

    monkeypatch.setattr(Trainer, "train", watched)
    monkeypatch.setattr(StepPlan, "batch", seen)
    monkeypatch.setattr(target_start, "FIT_STEPS", 2)
    grid["arguments"] |= {"max_steps": 3, "eval_steps": 3}
    of_classes = [name for name, method in METHODS.items() if "classes" in method.targets]
    plan = make_plan(grid, methods=of_classes, use_unlabeled=[True, False])
    assert run_here(plan) == []
    assert len(starts) > 20 and all(torch.equal(starts[0], start) for start in starts[1:])
    for step in range(3):
        assert len({rows for number, rows in visits if number == step}) == 1
        assert len({rows for number, rows in rest if number == step and rows}) == 1  # none where they are not used
    found = results(plan, tmp_path)
    assert len(found) == 2 * len(of_classes) - 4  # ce, linear_probe, lora and full cannot use unlabelled rows
    for name, result in found.items():
        assert 0 <= result["test"]["auroc"] <= 1 and 0 <= result["validation"]["auroc"] <= 1, name
        assert result["trained_parameters"] > 0 and result.get("steps", 3) == 3, name
    students = {result["deployed_parameters"] for name, result in found.items() if "linear" not in name}
    students -= {found[name]["deployed_parameters"] for name in ("lora", "full")}
    assert len(students) == 1 and found["full"]["deployed_parameters"] == found["lora"]["deployed_parameters"]
    assert found["lora"]["trained_parameters"] < found["full"]["trained_parameters"]
    # the losses differ, so do the students
    folder = tmp_path / "compared" / "runs" / "blobs" / "tiny" / "5_shots"
    kept = [
        load_file(path)["test/probabilities"] for path in folder.glob("*+unlabelled/seed_0/predictions.safetensors")
    ]
    assert len({values.tobytes() for values in kept}) == len(kept) == len(of_classes) - 4


def test_a_training_with_transfer_moves_the_student_and_what_it_needs_but_no_frozen_head(grid, monkeypatch):
    seen = {}
    train = Trainer.train

    def watched(self, deadline=None):
        before = {name: value.clone() for name, value in self.module.state_dict().items()}
        train(self, deadline)
        after = self.module.state_dict()
        seen["moved"] = {name for name in before if not torch.equal(before[name], after[name])}
        seen["all"] = set(before)

    monkeypatch.setattr(Trainer, "train", watched)
    for method, prefix, moves in (("fitnet", "transfer.regressor", True), ("lp_kd", "transfer.head", False)):
        plan = make_plan(grid, methods=[method])
        assert run_here(plan) == []
        own = {name for name in seen["all"] if name.startswith(prefix)}
        assert own and (own <= seen["moved"]) == moves and bool(own & seen["moved"]) == moves
        assert any(name.startswith("student.") for name in seen["moved"])


def open_bench(grid, **changes):
    plan = make_plan(grid, methods=["linear_probe"], **changes)
    arguments = plan.cell_arguments(plan.cells()[0], "unused")
    bench = Bench(arguments, start_accelerator(arguments))
    models = bench.models(arguments)
    run_data = bench.open(arguments, models.transforms)
    return arguments, bench, models, run_data


@pytest.mark.parametrize(("classes", "metric"), [(2, "likelihood"), (3, "auroc"), (3, "likelihood")])
def test_the_probe_as_a_layer_is_the_fitted_regression(grid, tmp_path, classes, metric):
    arrays = {name: values % classes if "labels" in name else values for name, values in blob_arrays().items()}
    arrays["classes"] = arrays["classes"][:classes]
    np.savez(tmp_path / "few.npz", **arrays)
    arguments, bench, models, run_data = open_bench(grid, data={"few": {"dataset": str(tmp_path / "few.npz")}})
    inputs = build_inputs(arguments, run_data, models, bench.accelerator)
    of_validation = bench.pooled_features(arguments, models, run_data.validation)
    head, penalty = linear_probe(
        arguments, run_data, labelled_features(arguments, run_data, inputs, bench.accelerator), of_validation, metric
    )
    rows = [visit for view in (0, 1) for visit in [(int(row), view) for row in run_data.labelled_rows]]
    batch = [Visits(run_data.store, run_data.labels, lambda _: True)[_visit(*row)] for row in rows]
    features = comparable(inputs.teacher_features(collate(batch))[-1], "pooled").numpy()
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    labels = run_data.labels[[row for row, _ in rows]].numpy()
    validated = (of_validation - mean) / scale
    fitted = {
        C: LogisticRegression(C=C, max_iter=1000).fit((features - mean) / scale, labels) for C in INVERSE_PENALTIES
    }
    expected = fitted[penalty].predict_proba(validated)
    if metric == "likelihood":
        truth = run_data.validation.labels[run_data.validation.rows]
        own = {
            C: -np.log(probe.predict_proba(validated))[range(len(truth)), truth].mean() for C, probe in fitted.items()
        }
        assert penalty == min(own, key=own.get)
    with torch.no_grad():
        given = torch.softmax(head(torch.from_numpy(of_validation)), dim=1).numpy()
    np.testing.assert_allclose(given, expected, atol=1e-4)


def _visit(row, view):
    from rd_hf.data.order import Visit

    return Visit(row, view, True)


@pytest.mark.parametrize("architecture", ["vit", "mobilenet_v2", "resnet"])
def test_lora_trains_little_and_merges_into_the_same_function(architecture):
    small = {
        "vit": {
            "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 40, "patch_size": 8,
        },
        "mobilenet_v2": {"depth_multiplier": 0.1, "depth_divisible_by": 2, "min_depth": 2, "image_size": 40},
        "resnet": {name: value for name, value in STUDENT.items() if name != "model_type"},
    }[architecture]  # fmt: skip
    torch.manual_seed(0)
    tower = AutoModel.from_config(AutoConfig.for_model(architecture, **small)).eval().requires_grad_(False)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    merge = with_lora(tower)
    last = find_stages(tower, (40, 40), must_reach_output=False).stages[-1]
    adapted = AdaptedTeacher(tower, (40, 40), 3, last)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trained) and len(trained) > 2
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        adapted.eval()
        trained_logits = adapted(pixel_values=pixels).logits
        merge()
        torch.testing.assert_close(adapted(pixel_values=pixels).logits, trained_logits, atol=1e-4, rtol=1e-4)
    after = tower.state_dict()
    assert after.keys() == before.keys() and any(not torch.equal(after[name], before[name]) for name in before)


def test_a_separate_classifier_shares_no_weight_with_the_student(grid, monkeypatch):
    seen = {}
    train = Trainer.train

    def watched(self, deadline=None):
        before = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        counted = [value for name, value in self.module.student.named_buffers() if "num_batches" in name]
        seen["passes before"] = {int(value) for value in counted}
        train(self, deadline)
        moved = [name for name, value in self.module.named_parameters() if not torch.equal(before[name], value)]
        seen["moved"] = {name.split(".")[0] for name in moved}
        copies = {name: f"student.model.{name.removeprefix('classifier.')}" for name in before if name[:1] == "c"}
        seen["a copy"] = all(torch.equal(before[name], before[original]) for name, original in copies.items())

    monkeypatch.setattr(Trainer, "train", watched)
    for method, moved, is_copy in (
        ("rd_separate", {"student", "projectors", "classifier"}, True),
        ("rd_first", {"student"}, False),  # the other parts were trained before, and are frozen
    ):
        assert run_here(make_plan(grid, methods=[method])) == []
        assert seen == {"moved": moved, "a copy": is_copy, "passes before": {0}}


def test_ablations_have_targets_of_all_views_too(grid):
    methods = ["rd_separate", "rd_first"]
    of_views = {"target_views": "mean", "teacher_features": "all"}
    assert run_here(make_plan(grid, methods=methods, arguments=grid["arguments"] | of_views)) == []


def test_one_teacher_of_two_image_sizes_and_two_features_is_two_teachers(grid, tmp_path):
    teacher = grid["teachers"]["tiny"]
    grid["teachers"] = {f"of {size}": teacher | {"teacher_image_size": size} for size in (40, 80)}
    methods = [{"name": of, "method": "linear_probe", "teacher_features": of} for of in ("stage", "last", "all")]
    plan = make_plan(grid, methods=methods)
    assert run_here(plan) == []
    folders = [tmp_path / "compared" / cell.path for cell in plan.cells()]
    found = [load_file(folder / "predictions.safetensors")["test/probabilities"] for folder in folders]
    assert len({array.tobytes() for array in found}) == len(found) == 6
    run_comparison(make_plan(grid, methods=methods, table_only=True))
    costs = json.loads((tmp_path / "compared" / "costs.json").read_text())
    flops = [cost["gflop"] for name, cost in costs.items() if name.startswith("teacher")]
    assert len(flops) == 6 and max(flops) > 3 * min(flops)


def test_a_missing_model_is_told_before_the_first_run(grid, tmp_path):
    grid["teachers"]["other"] = {"teacher": str(tmp_path / "nowhere")}
    with pytest.raises(ModelNameError, match="The teacher '.*nowhere' is not a folder"):
        run_comparison(make_plan(grid))
    assert not list((tmp_path / "compared").rglob("result.json"))


def test_finished_runs_are_kept_and_other_settings_are_refused(grid, tmp_path):
    plan = make_plan(grid)
    with pytest.raises(ComparisonError, match="no finished run"):
        run_comparison(make_plan(grid, table_only=True))
    assert run_here(plan) == []
    rows = run_comparison(make_plan(grid, table_only=True))
    paths = sorted((tmp_path / "compared").rglob("result.json"))
    times = [path.stat().st_mtime_ns for path in paths]
    assert run_comparison(plan) == rows and len(rows) == 2  # starts no worker, since nothing is left
    assert [path.stat().st_mtime_ns for path in paths] == times
    changed = make_plan(grid, arguments=grid["arguments"] | {"max_steps": 5})
    with pytest.raises(ComparisonError, match=r"no_teacher/5_shots/ce/seed_0 .*max_steps was 4, is 5"):
        run_comparison(changed)


def test_finished_runs_of_changed_data_are_not_mixed_with_new_ones(grid, tmp_path):
    assert run_here(make_plan(grid, methods=["ce"])) == []
    arrays = blob_arrays()
    arrays["train_labels"] = arrays["train_labels"][::-1]
    np.savez(grid["data"]["blobs"]["dataset"], **arrays)
    lines = run_here(make_plan(grid, methods=["ce", "rd"]))
    assert len(lines) == 2 and all("The images or labels of blobs have changed" in line for line in lines)


def test_models_do_not_pile_up_in_a_worker(grid, monkeypatch):
    kept, run = [], workers.run_cell

    def watched(plan, cell, bench, root):
        run(plan, cell, bench, root)
        kept.append(len(bench.accelerator._models) + len(bench.accelerator._optimizers) + len(bench.adapted))

    monkeypatch.setattr(workers, "run_cell", watched)
    assert run_here(make_plan(grid, methods=["ce", "rd", "full"])) == []
    assert kept == [0, 0, 0]

    def failing(plan, cell, bench, root):
        with pytest.raises(NonFiniteLossError):
            watched(plan, cell, bench, root)
        kept.append(len(bench.accelerator._models) + len(bench.accelerator._optimizers))

    monkeypatch.setattr(workers, "run_cell", failing)
    run_here(make_plan(grid, methods=[{"name": "broken", "method": "ce", "learning_rate": 1e30}]))
    assert kept == [0, 0, 0, 0]


def test_lora_under_other_arguments_is_not_the_teacher_of_two_stages(grid, tmp_path):
    longer = {"name": "longer", "method": "lora", "max_steps": 8}
    kept = []
    for number, methods in enumerate((["lora_kd"], [longer, "lora_kd"], ["lora", "lora_kd"])):
        plan = make_plan(grid, methods=methods, output_dir=str(tmp_path / str(number)))
        assert run_here(plan) == []
        (cell,) = [cell for cell in plan.cells() if cell.entry.name == "lora_kd"]
        kept.append(load_file(tmp_path / str(number) / cell.path / "predictions.safetensors")["test/probabilities"])
    assert np.array_equal(kept[0], kept[1]) and np.array_equal(kept[0], kept[2])


def test_a_run_that_fails_is_named_and_the_others_are_done(grid, tmp_path):
    methods = [{"name": "broken", "method": "rd", "learning_rate": 1e30}, "ce"]
    plan = make_plan(grid, methods=methods)
    (line,) = run_here(plan)
    assert "broken+unlabelled/seed_0" in line and "not finite" in line
    assert (tmp_path / "compared/runs/blobs/no_teacher/5_shots/ce/seed_0/result.json").exists()
    assert not list((tmp_path / "compared").glob("**/broken*/**/result.json"))


def test_tuning_chooses_on_validation_and_never_sees_the_test_split(grid, tmp_path):
    tuning = {"learning_rate": [1e-3, 5e-3], "weight": [0.5, 2.0], "shots": 5, "seeds": [100]}
    plan = make_plan(grid, methods=["ce", "rd"], tuning=tuning)
    cells = plan.tuning_cells()
    assert len(cells) == 8 and all(cell.tuning for cell in cells)
    of_lora = make_plan(grid, methods=["lora_kd", "linear_probe"], tuning=tuning).tuning_cells()
    assert {cell.entry.name for cell in of_lora} == {"lora", "lora_kd"}  # the probe chooses its own penalty
    rates = {(c.entry.name, c.weight): plan.cell_arguments(c, tmp_path) for c in cells if c.learning_rate == 1e-3}
    assert (rates["rd", 0.5].cka_weight, rates["rd", 0.5].kl_weight, rates["ce", 2.0].weight_decay) == (0.5, 0.5, 0.1)
    assert run_job(vars(plan.comparison), {}, [str(cell.path) for cell in cells]) == []
    root = tmp_path / "compared"
    for number, cell in enumerate(cells):
        path = root / cell.path / "result.json"
        result = json.loads(path.read_text())
        assert "test" not in result and set(load_file(path.with_name("predictions.safetensors"))) == {
            "validation/probabilities", "validation/labels", "validation/units",
        }  # fmt: skip
        path.write_text(json.dumps(result | {"validation": {"auroc": 0.9 if number in (2, 5) else 0.5}}))
    plan.tuned = choose_settings(plan, root)
    best = {c.entry.name: (c.learning_rate, c.weight) for number, c in enumerate(cells) if number in (2, 5)}
    assert {cell.entry.name: (cell.learning_rate, cell.weight) for cell in map(plan.as_tuned, plan.cells())} == best
    with pytest.raises(ComparisonError, match="no table to make"):  # of runs; the tuning is there
        run_comparison(make_plan(grid, methods=["ce", "rd"], tuning=tuning, table_only=True))
    tried = json.loads((root / "tuning.json").read_text())
    assert len(tried) == 8 and {t["method"]: (t["learning_rate"], t["weight"]) for t in tried if t["chosen"]} == best
    # where all labels are used, what was chosen with unlabelled rows holds
    everything = make_plan(grid, methods=["rd"], shots=["all"], tuning=tuning)
    everything.tuned = plan.tuned
    (cell,) = map(everything.as_tuned, everything.cells())
    assert not cell.unlabelled and (cell.learning_rate, cell.weight) == best["rd"]


def test_the_command_runs_workers_and_leaves_tables_and_plots(grid, tmp_path, python_alone):
    grid["arguments"]["max_steps"] = 2
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid | {"shots": [5, "all"], "seeds": [0, 1]}))
    line = ["compare", "--config", str(tmp_path / "grid.yaml"), "--workers", "2"]
    line += ["--methods", "[ce, linear_probe, lp_kd, rd]"]
    done = python_alone("-m", "rd_hf", *line)
    assert done.returncode == 0, done.stderr
    root = tmp_path / "compared"
    with (root / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and {row["shots"] for row in rows} == {"5", "all"}
    text = (root / "results.md").read_text()
    assert "## blobs, teacher tiny, with the unlabelled rest" in text and "from 16 runs." in text
    assert "| linear probe then KD | " in text and "Difference from RD" in text
    for image in ("scores", "frontier"):
        (path,) = root.glob(f"{image}_blobs*.png")
        assert path.name in text and path.stat().st_size > 5000
    assert (root / "costs.png").stat().st_size > 5000
    assert main([*line, "--table_only", "true"]) == 0 and (root / "results.md").read_text() == text
    methods = {"methods": ["ce", "lp_kd", "rd"], "reference": "lp_kd"}
    run_comparison(make_plan(grid, shots=[5, "all"], seeds=[0, 1], table_only=True, **methods))
    text = (root / "results.md").read_text()
    assert "Difference from linear probe then KD" in text and "Difference from RD" not in text


def test_a_multi_label_task_is_refused(grid, tmp_path):
    arrays = blob_arrays()
    for split in ("train", "val", "test"):
        arrays[f"{split}_labels"] = np.eye(3, dtype=np.uint8)[arrays[f"{split}_labels"][:, 0]]
        arrays[f"{split}_labels"][0] = 1
    np.savez(tmp_path / "several.npz", **arrays)
    plan = make_plan(grid, data={"several": {"dataset": str(tmp_path / "several.npz")}}, methods=["ce"])
    (line,) = run_here(plan)
    assert "single-label tasks only" in line


def test_compare_is_a_function_too(grid, tmp_path):
    plan = make_plan(grid, methods=["ce"])
    assert run_here(plan) == []
    (row,) = rd_hf.compare(**(vars(plan.comparison) | {"table_only": True}))
    assert row["method"] == "ce" and row["shots"] == 5 and 0 <= row["test_auroc"] <= 1
    with pytest.raises(ArgumentError, match="Did you mean `methods`"):
        rd_hf.compare(**grid, method=["ce"])


@pytest.mark.skipif(not PEAK_RESET.exists(), reason="only Linux tells a process's highest use of memory")
def test_the_memory_of_a_training_is_what_it_takes_at_most():
    def taken(mib: int) -> float:
        with PeakMemory(torch.device("cpu")) as memory:
            block = torch.ones(mib * 2**18)
            block.zero_()
        return memory.mib

    taken(1)
    assert 190 < taken(200) < 420 and taken(20) < 100  # freed again, and reset
