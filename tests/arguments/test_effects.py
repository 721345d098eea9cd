"""Arguments of a run that nothing would read are refused, those of a file that others share are logged."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import yaml
from torch import nn

import rd_hf
from rd_hf.arguments.config import arguments_from, config_text, read_config
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.effect_rules import RULES, Known
from rd_hf.arguments.effects import check_effects, without_effect
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import parse_distillation
from rd_hf.training.run_data import RunData

NEEDED = {"teacher": "t", "student": "s", "dataset": "d", "output_dir": "o"}
ALONE = {"teacher": None, "method": "ce"}
NO_KL = {"kl_weight": 0, "kl_weight_end": 0}
CLASSES = Known(of_volumes=False, of_masks=False, made_splits=())
CROPS = Known(of_volumes=True, of_masks=True, made_splits=("validation", "test"))
REFUSED = [  # arguments, what is known, the name, and why
    ({"stage_schedule": "random"}, None, "stage_schedule", "method rd has one hybrid pass at most"),
    ({"method": "rd_plus", "stage_schedule": "last"}, None, "stage_schedule", "method rd_plus has one hybrid pass"),
    ({"cka_weight": 0, "cka_estimator": "biased"}, None, "cka_estimator", "`cka_weight` is 0"),
    ({"cka_weight": 0, "cka_features": "flattened"}, None, "cka_features", "`cka_weight` is 0"),
    ({"cka_weight": 0, "detach_reprogrammed_in_cka": True}, None, "detach_reprogrammed_in_cka", "`cka_weight` is 0"),
    ({"cka_weight": 0, "cka_batch": "local"}, None, "cka_batch", "neither CKA nor DIST"),
    ({"cka_features": "pooled", "cka_positions": 32}, None, "cka_positions", "CKA compares pooled features: set `cka"),
    ({"cka_features": "flattened", "cka_positions": 32}, None, "cka_positions", "CKA compares flattened features"),
    (NO_KL | {"divergence": "dist"}, None, "divergence", "`kl_weight` and `kl_weight_end` are 0"),
    (NO_KL | {"temperature": 2}, None, "temperature", "`kl_weight` and `kl_weight_end` are 0"),
    (NO_KL | {"detach_hybrid_in_kl": False}, None, "detach_hybrid_in_kl", "`kl_weight` and `kl_weight_end` are 0"),
    (NO_KL | {"probe_share": 0.5}, None, "probe_share", "and so is `ensemble_share`"),
    (NO_KL | {"target_views": "mean", "teacher_features": "all"}, None, "target_views", "`probe_weight`"),
    (NO_KL | {"ensemble_share": 0.5}, None, "ensemble_share", "no images without a label are used"),
    ({"target_views": "mean", "teacher_features": "all", "num_views": 1}, None, "target_views", "one view only"),
    ({"target_views": "mean", "augment": False}, CLASSES, "target_views", "one view only"),
    ({"projector_layers": 1, "projector_channels": 64}, None, "projector_channels", "no bottleneck"),
    ({"hybrid_norms": "student"}, Known(has_norms=False), "hybrid_norms", "the student has no batch norms"),
    ({"sync_batch_norm": True}, Known(has_norms=False), "sync_batch_norm", "the student has no batch norms"),
    ({"augment": False, "rotation_degrees": 5}, None, "rotation_degrees", "`augment` is false"),
    ({"augment": False, "horizontal_flip": False}, None, "horizontal_flip", "`augment` is false"),
    ({"augment": False, "gamma": 0.5}, None, "gamma", "`augment` is false: leave it out, or `augment` true"),
    ({"augment": False, "num_views": 4}, CLASSES, "num_views", "so that each image has one view"),
    ({"augment": False, "num_views": "endless"}, CLASSES, "num_views", "so that each image has one view"),
    ({"augment": False, "view_seed": 4}, CLASSES, "view_seed", "so that nothing is drawn"),
    ({"augment": False, "view_seed": 4, "dimensions": 2}, None, "view_seed", "so that nothing is drawn"),
    ({"shift": 0.5}, CROPS, "shift", "crops of volumes lie anywhere"),
    ({"shift": 0.5, "dimensions": 3, "task": "segmentation"}, None, "shift", "crops of volumes lie anywhere"),
    ({"cache": False, "cache_dir": "c"}, None, "cache_dir", "`cache` is false: leave it out, or `cache` true"),
    ({"cache": False, "cache_dtype": "int8"}, None, "cache_dtype", "`cache` is false"),
    ({"cache": False, "cache_limit": "1GB"}, CLASSES, "cache_limit", "no features of a teacher are cached"),
    ({"num_views": "endless", "cache_dtype": "int8"}, None, "cache_dtype", "`num_views` is endless"),
    ({"max_steps": 10, "num_train_epochs": 3}, None, "num_train_epochs", "`max_steps` is given.*only one of them"),
    ({"per_device_unlabeled_batch_size": 8}, None, "per_device_unlabeled_batch_size", "add `use_unlabeled` or"),
    ({"uncertain": "positive", "task": "segmentation"}, None, "uncertain", "the data has masks"),
    ({"label_kind": "multi"}, CROPS, "label_kind", "the data has masks"),
    ({"validation_fraction": 0.2}, CLASSES, "validation_fraction", "the data has a validation split"),
    ({"test_fraction": 0.2}, CLASSES, "test_fraction", "the data has a test split"),
    ({"split_seed": 3}, CLASSES, "split_seed", "so that none is drawn"),
    ({"student": {"model_type": "resnet"}, "student_revision": "main"}, None, "student_revision", "a new model"),
    ({"student": ".", "student_revision": "main"}, None, "student_revision", "the student is a folder"),
    ({"teacher": ".", "teacher_revision": "main"}, None, "teacher_revision", "the teacher is a folder"),
    ({"hub_private_repo": True, "hub_model_id": "a/b"}, None, "hub_private_repo", "nothing is pushed: add `push_to"),
]
IDLE_UNDER_CE = [  # arguments, what is known, and the name
    ({"method": "ce"}, None, "teacher"),
    (ALONE | {"teacher_dtype": "bfloat16"}, None, "teacher_dtype"),
    (ALONE | {"teacher_features": "all"}, None, "teacher_features"),
    (ALONE | {"teacher_image_size": 64}, None, "teacher_image_size"),
    (ALONE | {"slice_axis": "coronal"}, None, "slice_axis"),
    (ALONE | {"student_stages": "[a]"}, None, "student_stages"),
    (ALONE | {"target_views": "mean"}, None, "target_views"),
    (ALONE | {"projector_layers": 1}, None, "projector_layers"),
    (ALONE | {"skips": "own"}, None, "skips"),
    (ALONE | {"hybrid_weight": 2.0}, None, "hybrid_weight"),
    (ALONE | {"cka_weight": 0}, None, "cka_weight"),
    (ALONE | {"temperature": 2}, None, "temperature"),
    (ALONE | {"stage_schedule": "random"}, None, "stage_schedule"),
    (ALONE | {"cka_batch": "local"}, None, "cka_batch"),
    (ALONE | {"cache_dir": "c"}, None, "cache_dir"),
    (ALONE | {"cache_dtype": "int8"}, None, "cache_dtype"),
    (ALONE | {"cache_limit": "1GB"}, CLASSES, "cache_limit"),
    (ALONE | {"use_unlabeled": True}, None, "use_unlabeled"),
    (ALONE | {"unlabeled_dataset": "u"}, None, "unlabeled_dataset"),
]  # fmt: skip
ACCEPTED = [
    ({}, CLASSES),
    (ALONE, CLASSES),
    (ALONE | {"num_views": 4, "augment": True, "gamma": 0.5, "view_seed": 3}, CLASSES),
    (ALONE | {"cka_positions": 16, "temperature": 1.0, "cka_features": "pooled", "teacher_dtype": "float32"}, CLASSES),
    (ALONE | {"per_device_unlabeled_batch_size": 64}, CLASSES),  # what it is by default
    (ALONE | {"cache": False, "num_views": "endless"}, CLASSES),
    (ALONE | {"cache_limit": "1GB"}, CROPS),  # of which a half is for resampled volumes
    ({"method": "drd", "stage_schedule": "last"}, CLASSES),
    ({"method": "rd_plus"}, CROPS),
    ({"cka_positions": 32}, None),  # positions may be the default of the data
    ({"cka_features": "positions", "cka_positions": 32}, CLASSES),
    ({"cka_weight": 0, "cka_batch": "local", "divergence": "dist"}, CLASSES),
    ({"kl_weight": 0, "kl_weight_end": 1, "temperature": 4, "detach_hybrid_in_kl": False}, CLASSES),
    (NO_KL | {"probe_share": 0.5, "ensemble_share": 0.5, "use_unlabeled": True}, CLASSES),
    (NO_KL | {"target_views": "mean", "teacher_features": "all", "probe_weight": 1.0}, CLASSES),
    ({"projector_layers": 2, "projector_channels": 64}, CLASSES),
    ({"hybrid_norms": "student"}, Known(has_norms=True)),
    ({"augment": False, "num_views": 4, "view_seed": 2}, CROPS),  # crops differ all the same
    ({"augment": False, "num_views": 4, "view_seed": 2}, None),  # it is not known whether there are crops
    ({"augment": False, "gamma": 0.2, "horizontal_flip": True}, CLASSES),
    ({"augment": False, "num_views": 1}, CLASSES),  # as it is anyway
    ({"num_views": "endless", "cache_dir": "c", "cache_limit": "1GB"}, CLASSES),  # of validation and test
    ({"cache": False, "cache_limit": "1GB"}, CROPS),
    ({"max_steps": -1, "num_train_epochs": 3}, CLASSES),
    ({"unlabeled_dataset": "u", "per_device_unlabeled_batch_size": 8}, CLASSES),
    ({"validation_fraction": 0.2, "split_seed": 3}, Known(made_splits=("validation",))),
    ({"uncertain": "positive", "label_kind": "multi"}, CLASSES),
    ({"student_revision": "main", "teacher_revision": "main"}, CLASSES),
    ({"hub_private_repo": True, "push_to_hub": True, "hub_model_id": "a/b"}, CLASSES),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "known", "name", "why"), REFUSED)
def test_what_nothing_reads_is_refused_with_the_reason(changes, known, name, why):
    with pytest.raises(ArgumentError, match=rf"^`{name}` has no effect, because .*{why}.*\.$"):
        check_effects(DistillationArguments(**NEEDED | changes), known)


@pytest.mark.parametrize(("changes", "known", "name"), IDLE_UNDER_CE)
def test_the_same_command_with_method_ce_logs_what_it_does_not_read(changes, known, name, caplog):
    check_effects(DistillationArguments(**NEEDED | changes), known, tell=True)
    (message,) = caplog.messages
    assert message.startswith("Method ce trains the student alone, on labels. It does not read: ")
    assert name in message


@pytest.mark.parametrize(("changes", "known"), ACCEPTED)
def test_what_has_an_effect_or_is_the_default_is_accepted(changes, known):
    check_effects(DistillationArguments(**NEEDED | changes), known)


def test_every_rule_names_arguments_and_has_a_case_here():
    names = {field.name for field in fields(DistillationArguments)}
    for rule in RULES:
        assert set(rule.names) | set(rule.causes) <= names
    cases = [
        (DistillationArguments(**NEEDED | changes), known or Known()) for changes, known, *_ in REFUSED + IDLE_UNDER_CE
    ]
    found = {id(rule) for arguments, known in cases for _, _, rule in without_effect(arguments, known)}
    assert [rule.because for rule in RULES if id(rule) not in found] == [
        "{it} does not reprogram the teacher", "{it} divides no logits by it",
        "its student does not learn logits of the teacher", "{it} reads the maps of the teacher's stages",
        "{it} is not trained in steps",
        "each run of a comparison has one process, and accumulates no batches",
    ]  # fmt: skip


def test_a_file_that_runs_share_may_give_what_a_flag_leaves_without_effect(tmp_path, caplog):
    shared = NEEDED | {"teacher_dtype": "bfloat16", "cka_estimator": "biased", "num_train_epochs": 3}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(shared))

    def check(*flags):
        caplog.clear()
        with caplog.at_level("INFO", logger="rd_hf"):
            check_effects(parse_distillation(["--config", str(tmp_path / "job.yaml"), *flags]), tell=True)
        return caplog.messages

    assert check() == []
    assert check("--cka_weight", "0") == ["In the configuration file, `cka_estimator` has no effect, because "
                                          "`cka_weight` is 0: leave it out."]  # fmt: skip
    assert check("--method", "ce", "--temperature", "2")[0].endswith(
        " It does not read: teacher, teacher_dtype, temperature, cka_estimator."
    )
    assert "`num_train_epochs`" in check("--max_steps=5")[0]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(shared | {"cka_weight": 0}))
    with pytest.raises(ArgumentError, match="`cka_estimator` has no effect"):
        check("--max_steps", "5")


def test_saved_arguments_and_resumed_runs_stay_as_they_are(tmp_path):
    saved = DistillationArguments(**NEEDED, max_steps=10, num_train_epochs=3, cka_features="pooled", cka_positions=4)
    with pytest.raises(ArgumentError, match="has no effect"):
        check_effects(saved)
    (tmp_path / "config.yaml").write_text(config_text(saved))
    again = arguments_from(read_config(tmp_path / "config.yaml"))
    check_effects(again)
    check_effects(again.with_values(max_steps=20))  # which keeps where the values are from
    check_effects(parse_distillation(["--config", str(tmp_path / "config.yaml"), "--learning_rate", "0.1"]))
    check_effects(saved.with_values(resume=True))


def test_a_run_is_refused_before_it_trains(blobs_npz, tmp_path):
    student = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    values = {"method": "ce", "student": student, "dataset": str(blobs_npz), "output_dir": str(tmp_path / "run")}
    with pytest.raises(ArgumentError, match="`test_fraction` has no effect, because the data has a test split"):
        rd_hf.distill(**values, test_fraction=0.3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("norm", "counts"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.BatchNorm2d(2, track_running_stats=False), True),
        (nn.InstanceNorm2d(2), False),
        (nn.InstanceNorm2d(2, track_running_stats=True), True),
        (nn.LayerNorm(2), False),
    ],
)
def test_norms_with_statistics_of_batches_are_told_from_others(norm, counts):
    data = SimpleNamespace(volumes=None, masks=None, source={"made_splits": {"names": ["test"]}})
    known = RunData.known(data, nn.Sequential(nn.Conv2d(1, 2, 1), norm))
    assert known == Known(of_volumes=False, of_masks=False, made_splits=("test",), has_norms=counts)
    assert RunData.known(data).has_norms is None
