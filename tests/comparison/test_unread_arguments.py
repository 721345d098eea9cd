"""What a comparison's file gives that no run reads is refused; what one of the runs reads is not."""

import logging

import pytest
import yaml

from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import parse_comparison
from rd_hf.comparison.arguments import ComparisonArguments
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.plan import Plan


@pytest.fixture
def values(tmp_path):
    """A comparison whose names are not looked up."""
    return {
        "data": {"xrays": {"dataset": "d"}, "scans": {"dataset": "e"}}, "teachers": {"vit": {"teacher": "t"}},
        "arguments": {"student": "s", "max_steps": 5}, "methods": ["ce", "rd"], "shots": [5], "seeds": [0],
        "output_dir": str(tmp_path / "compared"),
    }  # fmt: skip


def entry(method, **own):
    return {"methods": ["rd", {"name": "own", "method": method, **own}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (entry("ce", teacher_dtype="bfloat16"), "`teacher_dtype` has no effect on the method 'own', because it has no"),
        (entry("ce", cache_dtype="int8"), "`cache_dtype` has no effect on the method 'own', because it caches no"),
        (entry("lora", cache_dtype="int8"), "`cache_dtype` has no effect on the method 'own', because it caches no"),
        (entry("full", per_device_unlabeled_batch_size=5), "because it learns from labels only"),
        (entry("cka", temperature=2), "`temperature` has no effect on the method 'own', because it divides no logits"),
        (entry("lp_kd", divergence="dist"), "`divergence` has no effect on the method 'own', because it does not repr"),
        (entry("rd", kl_weight=0, temperature=2), "on the method 'own', because `kl_weight` and `kl_weight_end` are 0"),
        (entry("fitnet", teacher_features="all"), "because it reads the maps of the teacher's stages"),
        (entry("rkd", target_views="mean", teacher_features="all"), "its student does not learn logits of the teacher"),
        (
            entry("linear_probe", learning_rate=0.1),
            "`learning_rate` has no effect on the method 'own', because it is n",
        ),
        (entry("rd", stage_schedule="last"), "on the method 'own', because it has one hybrid pass at most"),
        (entry("rd", cka_weight=0, cka_estimator="biased"), "on the method 'own', because `cka_weight` is 0"),
        (entry("rd", cka_features="pooled", cka_positions=4), "'own', because CKA compares pooled features"),
        (entry("rd", augment=False, gamma=0.5), "`gamma` has no effect on the method 'own', because `augment` is"),
        (entry("rd", sync_batch_norm=True), "because each run of a comparison has one process"),
        (
            {"arguments": {"student": "s", "temperature": 2}, "methods": ["ce", "lp_kd"]},
            "`temperature` under `arguments` has no effect on any run. It has none on the method 'ce', because it has",
        ),
        ({"arguments": {"student": "s", "cka_batch": "local"}}, "`cka_batch` under `arguments` has no effect on any"),
        ({"arguments": {"student": "s", "max_steps": 5, "num_train_epochs": 2}}, "`num_train_epochs` under `argum"),
        (
            {"data": {"xrays": {"dataset": "d", "task": "segmentation", "uncertain": "ignore"}}},
            "`uncertain` under `data: xrays` has no effect on any run.",
        ),
        ({"teachers": {"vit": {"teacher": ".", "teacher_revision": "main"}}}, "under `teachers: vit` has no effect on"),
        (
            {"arguments": {"student": "s", "per_device_unlabeled_batch_size": 8}, "shots": ["all"]},
            "`per_device_unlabeled_batch_size` under `arguments` has no effect on any run",
        ),
    ],
)
def test_what_no_run_reads_is_refused(values, changes, message):
    with pytest.raises(ArgumentError) as error:
        Plan(ComparisonArguments(**values | changes))
    assert message in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": {"student": "s", "temperature": 2, "stage_schedule": "last"}, "methods": ["ce", "rd", "drd"]},
        {"arguments": {"student": "s", "cache_dtype": "int8", "target_views": "one", "teacher_dtype": "bfloat16"}},
        {"arguments": {"student": "s", "per_device_unlabeled_batch_size": 8}, "shots": [5, "all"]},
        {"arguments": {"student": "s", "augment": False, "gamma": 0.5}, **entry("rd", augment=True)},
        {"methods": ["linear_probe", "rd"]},
        {"data": {"xrays": {"dataset": "d", "uncertain": "ignore"}}},
        entry("linear_probe", teacher_features="all"),
        entry("lp_kd", target_views="mean", teacher_features="all", temperature=4.0),
        entry("rd", cka_positions=4),  # the data is not known yet
        entry("lora", learning_rate=0.1),
        entry("drd", stage_schedule="last"),
        entry("fitnet", teacher_features="stage"),
        {"arguments": {"student": "s", "per_device_unlabeled_batch_size": 8}, "shots": ["all"],
         "tuning": {"weight": [1.0, 3.0], "shots": 5}},
    ],
)  # fmt: skip
def test_what_a_run_reads_is_accepted(values, changes):
    assert Plan(ComparisonArguments(**values | changes)).entries


def test_flags_over_a_file_and_comparisons_that_are_begun_are_only_logged(values, tmp_path, caplog):
    values |= {"arguments": values["arguments"] | {"temperature": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(values))
    line = "`temperature` under `arguments` has no effect on any run. It has none on the method 'ce', because it has "
    line += "no teacher: leave it out."
    alone = values | {"methods": ["ce"]}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(alone))
    with caplog.at_level(logging.INFO, logger="rd_hf"):
        assert parse_comparison(["--config", str(tmp_path / "job.yaml"), "--methods", "ce"]).entries
        assert Plan(ComparisonArguments(**alone | {"table_only": True})).entries
    assert caplog.messages == [line, line]
    for refused in (
        lambda: Plan(ComparisonArguments(**alone)),
        lambda: parse_comparison(["--config", str(tmp_path / "alone.yaml"), "--workers", "2"]),
    ):
        with pytest.raises(ArgumentError, match="`temperature` under `arguments` has no effect on any run"):
            refused()
    assert Plan(ComparisonArguments(**alone), is_checked=True).entries  # as in a worker
    (tmp_path / "compared" / "runs").mkdir(parents=True)
    assert Plan(ComparisonArguments(**alone)).entries


def test_what_methods_make_use_of():
    of = {name: method.uses() for name, method in METHODS.items()}
    assert [name for name, uses in of.items() if not uses.teacher] == ["ce"]
    assert {name for name, uses in of.items() if uses.reprogramming} == {
        "rd", "rd_plus", "drd", "rd_separate", "rd_first",
    }  # fmt: skip
    assert [name for name, uses in of.items() if not uses.steps] == ["linear_probe"]
    assert [name for name, uses in of.items() if not uses.cache] == ["ce", "lora", "full"]
    assert [name for name, uses in of.items() if not uses.unlabelled] == ["ce", "linear_probe", "lora", "full"]
