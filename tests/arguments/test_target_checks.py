"""Targets that the arguments alone contradict are refused before any data is read."""

import pytest

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.effect_rules import Uses
from rd_hf.arguments.target_checks import check_targets
from rd_hf.arguments.values import ArgumentError
from rd_hf.training import distillation

NEEDED = {"teacher": "t", "student": "s", "dataset": "d", "output_dir": "o"}
DRD = {"method": "drd", "stage_schedule": "round_robin"}
VIEWS = {"target_views": "mean", "teacher_features": "all"}
NO_KL = {"kl_weight": 0, "kl_weight_end": 0}
STREAM = {"unlabeled_dataset": "u", "unlabeled_streaming": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (DRD | {"probe_share": 0.5}, "`stage_schedule` round_robin has .*`probe_share` makes.* all or last"),
        (DRD | {"stage_schedule": "optima", "probe_weight": 1}, "`stage_schedule` optima .*`probe_weight` to 0"),
        (DRD | {"ensemble_share": 0.5, "probe_weight": 1}, "`probe_weight` and `ensemble_share` to 0"),
        (DRD | {"target_views": "mean"}, "give `num_views` a number and set `teacher_features`"),
        (
            {"method": "rd_plus", "num_views": "endless", "task": "classification"},
            "`target_views` mean is for classes, and needs a number",
        ),
        ({"target_views": "mean"}, "set `teacher_features` to all or last"),
        ({"method": "rd_plus", "detach_hybrid_in_kl": False}, "`detach_hybrid_in_kl` false needs the hybrid logits"),
        (STREAM | {"ensemble_share": 0.1}, "`ensemble_share` needs what the student said .*`unlabeled_streaming` out"),
        ({"method": "rd_plus", "task": "classification"} | STREAM | {"target_views": "one"}, "`ensemble_share` needs"),
        ({"task": "segmentation", "ensemble_share": 0.5}, "`ensemble_share` and `target_views` mean are for classes"),
    ],
)
def test_they_are_refused_before_data_is_read(changes, message, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "load_run_data", lambda *_: pytest.fail("reads data"))
    with pytest.raises(ArgumentError, match=message):
        rd_hf.distill(**NEEDED | {"output_dir": str(tmp_path / "run")} | changes)


@pytest.mark.parametrize(
    ("changes", "uses"),
    [
        ({"method": "rd_plus"}, None),
        (DRD, None),
        (DRD | {"probe_share": 0.5, "stage_schedule": "last"}, None),
        (DRD | {"probe_share": 0.5, "stage_schedule": "all"}, None),
        (DRD | VIEWS | {"probe_share": 0.5}, None),  # the last hybrid pass runs for them at every step
        (DRD | NO_KL | {"probe_weight": 1}, None),  # which the hybrid logits of any stage learn from
        (DRD | {"probe_share": 0.5, "resume": True}, None),
        ({"method": "rd_plus", "num_views": "endless"}, None),  # of masks it is of one view
        ({"method": "rd_plus"} | STREAM, None),
        ({"target_views": "mean"}, Uses(logits=False)),
        ({"ensemble_share": 0.5} | STREAM, Uses(reprogramming=False)),
    ],
)
def test_what_can_be_made_or_is_not_known_yet_is_not_refused(changes, uses):
    check_targets(DistillationArguments(**NEEDED | changes), uses)


def test_once_the_data_is_known_defaults_count_too():
    arguments = DistillationArguments(**NEEDED, method="rd_plus", num_views="endless")
    check_targets(arguments)
    with pytest.raises(ArgumentError, match="`target_views` mean is for classes, and needs a number"):
        check_targets(arguments, of_masks=False)
    with pytest.raises(ArgumentError, match="`ensemble_share` needs what the student said"):
        check_targets(arguments.with_values(target_views="one"), of_masks=False, of_stream=True)
