"""RD+: its targets, the student's ensemble, the start at the probe, DIST over parts of a batch, and resuming."""

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import blob_arrays
from safetensors.torch import load_file
from stopped_runs import interrupted, losses
from test_distillation import settings
from test_objective import LABELS, MULTI, SINGLE, make_output, rows_of
from torch import nn

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments, defaults_of
from rd_hf.arguments.options import preset_in_words
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.backbone import Backbone
from rd_hf.models.features import StageFeature
from rd_hf.models.modeling_rd_teacher import RDTeacherForImageClassification
from rd_hf.runtime.checkpoint import list_checkpoints
from rd_hf.students.loading import load_student
from rd_hf.tasks.dist import dist, dist_of_labels
from rd_hf.training import linear_probe, target_start
from rd_hf.training.ensemble import DECAY, Ensemble
from rd_hf.training.linear_probe import fit_probe
from rd_hf.training.objective import Compared, Objective, ObjectiveWeights
from rd_hf.training.passes import Passes, Targets
from rd_hf.training.run_folder import read_history
from rd_hf.training.schedules import Rise
from rd_hf.training.step import Update
from rd_hf.training.targets import TargetMaker, targets_in_words

BASE = {"dataset": "d", "student": "s", "teacher": "t", "output_dir": "o"}


def root_mean_square(values):
    return float(values.detach().square().mean().sqrt())


@pytest.fixture
def short_start(monkeypatch):
    """A start at the probe that takes less time than a useful one."""
    monkeypatch.setattr(target_start, "FIT_STEPS", 10)


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory):
    """The images of `blob_arrays` with two labels each: whether the blob is to the right, and whether it is above."""
    arrays = blob_arrays()
    for split in ("train", "val", "test"):
        labels = arrays[f"{split}_labels"][:, 0]
        arrays[f"{split}_labels"] = np.stack([labels == 1, labels < 2], axis=1).astype(np.uint8)
    arrays["classes"] = np.array(["right", "above"])
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    np.savez(path, **arrays)
    return path


def test_the_ensemble_is_the_corrected_moving_average_of_what_each_step_said():
    ensemble, plain, visits = Ensemble(4, 2, torch.zeros(1, dtype=torch.float64)), {}, {}
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    for rows in ([0, 1, 1], [1, 3, 0], [1, 1, 0]):
        said = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        ensemble.update(torch.tensor(rows), said, others)
        for row in set(rows):
            mean = said[[place for place, own in enumerate(rows) if own == row]].mean(dim=0)
            plain[row] = DECAY * plain.get(row, 0.0) + (1 - DECAY) * mean
            visits[row] = visits.get(row, 0) + 1
    averages = torch.stack([plain[row] / (1 - DECAY ** visits[row]) for row in (1, 1, 0)])
    scale = root_mean_square(others) / root_mean_square(averages)
    expected = 0.75 * others + 0.25 * scale * averages
    assert torch.allclose(ensemble.mix([1, 1, 0], others, 0.25), expected)
    assert torch.equal(ensemble.mix([2], others[:1], 0.25), others[:1])  # no step has seen this row
    kept = Ensemble(4, 2, torch.zeros(1, dtype=torch.float64))
    kept.load(ensemble.tensors())
    assert torch.equal(kept.mix([3, 0, 1], others, 0.5), ensemble.mix([3, 0, 1], others, 0.5))


def test_targets_mix_probe_hybrid_and_ensemble():
    torch.manual_seed(0)
    probe, ensemble = nn.Linear(4, 3), Ensemble(5, 3, torch.zeros(1))
    maker = TargetMaker(SINGLE, Rise(0.5, 8), probe, 0.25, ensemble=ensemble)
    own, means = (StageFeature(torch.randn(2, 4, 1, 1)) for _ in range(2))
    student, hybrid, of_means = torch.randn(3, 2, 3)
    ensemble.update(torch.tensor([3, 4]), student, student)
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (probe(means.map[:, :, 0, 0]), of_means)]
    found = maker([3, 4], [means], Passes(student, (hybrid,), target=of_means), 3)  # an eighth above a quarter
    assert torch.allclose(found.probe, centred[0]) and not found.student.requires_grad
    assert torch.allclose(found.teacher, 0.25 * centred[0] + 0.75 * centred[1])
    assert found.share == pytest.approx(0.25)
    assert torch.allclose(found.student, 0.75 * found.teacher + 0.25 * student)
    early = maker([3, 4], [own], Passes(student, (hybrid,)), 2)
    assert torch.equal(early.student, early.teacher)  # and the hybrid logits are those of the view at hand
    assert torch.allclose(early.teacher, 0.25 * early.probe + 0.75 * (hybrid - hybrid.mean(dim=1, keepdim=True)))


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_the_hybrid_logits_learn_from_the_probe_and_on_unlabelled_rows_from_the_targets(task):
    output = make_output(stages=1)
    targets = Targets(*(torch.randn(8, 3, dtype=torch.float64) for _ in range(3)), share=0.4)
    weights = ObjectiveWeights(total_steps=10, hybrid_weight=0, cka_weight=0, probe_weight=2.0, kl_weight_end=1.0)
    labels = LABELS if task is SINGLE else torch.zeros(5, 3)
    terms = Objective(weights, task)(output, labels, 5, labelled_count=10, total_count=16, targets=targets)
    hybrid, student = output.hybrids[0], output.student
    assert terms["kl"].item() == pytest.approx(task.divergence(targets.student, student, 1.0).item() / 16)
    assert terms["probe"].item() == pytest.approx(task.divergence(targets.probe, hybrid, 4.0).item() / 16)
    of_unlabelled = task.divergence(targets.student[5:], hybrid[5:], 4.0)
    assert terms["mutual"].item() == pytest.approx(of_unlabelled.item() / 6)
    expected = terms["supervised"] + terms["kl"] + 1.0 * terms["probe"] + 0.4 * terms["mutual"]
    assert terms["loss"].item() == pytest.approx(expected.item())
    terms["kl"].backward()
    assert hybrid.grad is None and student.grad.any()


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_dist_of_parts_adds_up_to_that_of_one_batch(task):
    targets = Targets(*(torch.randn(8, 3, dtype=torch.float64) for _ in range(3)))
    objective = Objective(ObjectiveWeights(10, divergence="dist", cka_weight=0, hybrid_weight=0), task)
    outputs = [make_output(stages=1) for _ in range(2)]
    counts = {"labelled_count": 0, "total_count": 8}
    together = objective(outputs[0], None, 0, **counts, targets=targets)
    loss = dist if task is SINGLE else dist_of_labels
    assert together["dist"].item() == pytest.approx(loss(outputs[0].student, targets.student).item())
    whole = [Compared(*(side.detach() for side in pair)) for pair in objective.statistics(outputs[1], None, targets)]
    parts, found = [slice(0, 3), slice(3, 8)], 0.0
    for part in parts:
        own = Targets(*(logits[part] for logits in targets[:3]))
        found += objective(
            rows_of(outputs[1], part), None, 0, **counts, whole=whole, start=part.start, targets=own
        )["loss"]  # fmt: skip
    found.backward(), together["loss"].backward()
    assert found.item() == pytest.approx(together["loss"].item(), abs=1e-12)
    assert torch.allclose(outputs[1].student.grad, outputs[0].student.grad, atol=1e-12)


def test_dist_of_labels_correlates_the_probabilities_of_each_label():
    student, teacher = torch.randn(2, 9, 3, dtype=torch.float64)
    pairs = zip(student.sigmoid().T.numpy(), teacher.sigmoid().T.numpy(), strict=True)
    expected = 2.0 * np.mean([1 - np.corrcoef(*pair)[0, 1] for pair in pairs])
    assert dist_of_labels(student, teacher).item() == pytest.approx(expected)


@pytest.fixture
def reprogrammed(teacher):
    """A reprogrammed teacher with a student of batch norms, and features of 40 images."""
    names = ["a", "b", "c"]
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    student, *_ = load_student(config, names, "single_label_classification", image_size=32)
    student.config.image_size = [32, 32]
    backbone = Backbone.from_pretrained(str(teacher))
    model = RDTeacherForImageClassification.from_parts(student, backbone, 40, teacher_features="all")
    stage = model.teacher_stages[-1]
    generator = torch.Generator().manual_seed(1)
    return model, [StageFeature(torch.randn(40, stage.channels, 1, 1, generator=generator))]


def test_projectors_start_at_the_probe_and_the_student_stays_as_it_is(reprogrammed):
    model, features = reprogrammed
    torch.manual_seed(0)
    probe = nn.Linear(features[0].map.shape[1], 3).requires_grad_(False)
    before = copy.deepcopy(model.student.state_dict())
    left = target_start.start_at_probe(model, probe, features, SINGLE, seed=0)
    assert left < 0.25  # of the size of the probe's logits; a projector that knows nothing of the probe has about 1
    assert all(torch.equal(value, before[name]) for name, value in model.student.state_dict().items())
    pixels = torch.zeros(40, 3, 32, 32)
    hybrid = model(student_pixel_values=pixels, teacher_features=features).hybrid_logits[0]
    difference = SINGLE.centred(hybrid) - SINGLE.centred(probe(features[0].map[:, :, 0, 0]))
    assert root_mean_square(difference) < 0.3 * root_mean_square(probe(features[0].map[:, :, 0, 0]))


def test_a_probe_of_several_labels_reads_each_from_the_rows_that_know_it():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 4)).astype(np.float32)
    labels = (features[:, :3] > 0).astype(np.float32)
    labels[:20, 0] = np.nan
    labels[:, 2] = 1  # of one kind: nothing can be told from the features
    head, _ = fit_probe(MULTI, features, labels, features, labels, "likelihood", balanced=False)
    logits = head(torch.from_numpy(features)).detach().numpy()
    assert ((logits[:, :2] > 0) == (features[:, :2] > 0)).mean() > 0.9
    assert np.allclose(logits[:, 2], np.log(60.5 / 0.5), atol=1e-4)


@pytest.mark.usefixtures("no_report", "short_start")
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_run_goes_on_to_the_bit(teacher, blobs_npz, several_labels, tmp_path, monkeypatch, kind):
    data = blobs_npz if kind == "single" else several_labels
    values = settings(teacher, data, tmp_path / "whole", method="rd_plus", num_views=2, max_steps=8, eval_steps=4)
    rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 6)
    kept = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    ensemble = load_file(kept / "ensemble.safetensors")
    assert ensemble["visits"].sum() > 60 and (kept / "probe.safetensors").is_file()
    student = rd_hf.distill(**values, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    ends = [
        load_file(list_checkpoints(tmp_path / name / "checkpoints")[-1] / f"{group}.safetensors")
        for group in ("model", "ensemble")
        for name in ("whole", "cut")
    ]
    for whole, cut in (ends[:2], ends[2:]):
        assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert student.config.provenance["method"] == "rd_plus"


@pytest.mark.usefixtures("no_report", "short_start")
def test_without_a_term_of_the_batch_no_pass_runs_twice(teacher, blobs_npz, tmp_path, caplog):
    caplog.set_level("INFO")
    values = settings(teacher, blobs_npz, tmp_path / "run", method="rd_plus", num_views=2, max_steps=2, cka_weight=0)
    rd_hf.distill(**values, gradient_accumulation_steps=2)
    assert "DIST uses all" in caplog.text
    caplog.clear()
    values |= {"kl_weight": 0, "output_dir": str(tmp_path / "no_kl")}
    rd_hf.distill(**values, gradient_accumulation_steps=2)
    assert "uses all" not in caplog.text and "dist" not in read_history(tmp_path / "no_kl")[0]


def test_what_is_given_takes_the_place_of_what_the_method_sets():
    arguments = DistillationArguments(**BASE, method="rd_plus", divergence="kl", ensemble_share=0)
    assert (arguments.divergence, arguments.temperature, arguments.ensemble_share) == ("kl", 4.0, 0)
    assert (arguments.target_views, arguments.teacher_features, arguments.kl_weight_end) == ("mean", "all", 1.0)
    assert preset_in_words(arguments).endswith(". Given in its place: divergence kl, ensemble_share 0.0.")
    assert targets_in_words(arguments) == (
        "0.5 hybrid logits + 0.5 linear probe, of the mean over 16 views; KL with weight 1 and temperature 4"
    )
    plain = DistillationArguments(**BASE)
    assert (plain.divergence, plain.target_views, plain.kl_weight_end, plain.temperature) == ("kl", "one", 1.0, 4.0)
    assert preset_in_words(plain) is None
    assert targets_in_words(plain) == "hybrid logits, of the view at hand; KL with weight 1 and temperature 4"
    of_masks = plain.with_defaults(of_volumes=False, of_masks=True)
    assert (of_masks.kl_weight_end, of_masks.temperature) == (1.0, 4.0)
    for method, of_volumes, masks in (("rd", False, True), ("rd", True, False), ("rd_plus", False, True)):
        correlated = DistillationArguments(**BASE, method=method, divergence="dist").with_defaults(of_volumes, masks)
        assert (correlated.divergence, correlated.temperature) == ("dist", 1.0)  # which DIST is multiplied by, squared
        warm = DistillationArguments(**BASE, method=method, divergence="dist", temperature=2)
        assert warm.with_defaults(of_volumes, masks).temperature == 2
    plus = DistillationArguments(**BASE, method="rd_plus").with_defaults(of_volumes=False, of_masks=True)
    words = preset_in_words(plus, defaults_of("rd_plus", False, True))
    assert words == "Method rd_plus sets projector_start probe, probe_weight 1.0, probe_share 0.5."
    without = DistillationArguments(**BASE, kl_weight=0)
    assert without.kl_weight_end == 0 and without.with_values(seed=3).kl_weight_end == 0
    deep = DistillationArguments(**BASE, method="drd", kl_weight=2)
    assert (deep.kl_weight_end, deep.temperature) == (2.0, 4.0) and preset_in_words(deep) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_views": "endless"}, "`target_views` mean is for classes, and needs a number of views"),
        ({"teacher_features": "stage"}, "set `teacher_features` to all or last"),
        ({"detach_hybrid_in_kl": False}, "`detach_hybrid_in_kl` false needs the hybrid logits themselves"),
    ],
)
def test_targets_that_are_not_there_are_refused(teacher, blobs_npz, tmp_path, changes, named):
    with pytest.raises(ArgumentError, match=named):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run", method="rd_plus"), **changes)


def test_more_labelled_rows_than_a_probe_holds_are_drawn(
    teacher, blobs_npz, tmp_path, monkeypatch, caplog, no_report, short_start
):
    monkeypatch.setattr(linear_probe, "MOST_FEATURES", 6)
    caplog.set_level("INFO", "rd_hf")
    values = settings(teacher, blobs_npz, tmp_path / "run", method="rd_plus", max_steps=1, eval_steps=1, num_views=1)
    rd_hf.distill(**values)
    assert "fitted to 6 features of the 15 labelled rows" in caplog.text


def test_a_step_without_anything_to_compare_gathers_nothing():
    assert Update.gather(Mock(), [[]]) == []  # as before a KL term that rises is on
