"""Every term of the loss against its formula in numpy, the schedules, who gets a gradient, and splitting a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rd_hf.models.features import StageFeature
from rd_hf.tasks.classification import MultiLabel, SingleLabel, balanced_class_weights, balanced_pos_weight
from rd_hf.tasks.make import make_task
from rd_hf.training.cka import cka
from rd_hf.training.objective import Objective, ObjectiveWeights, comparable, find_non_finite
from rd_hf.training.passes import Passes

NUM_LABELS = 3
NAMES = ["a", "b", "c"]
SINGLE, MULTI = SingleLabel(NAMES), MultiLabel(NAMES)


def make_output(batch: int = 8, stages: int = 2, prefix: int = 0, seed: int = 0) -> Passes:
    """Random logits and features, all of which record gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def stage_feature() -> StageFeature:
        return StageFeature(leaf(batch, 5, 2, 3), leaf(batch, prefix, 5) if prefix else None)

    return Passes(
        student=leaf(batch, NUM_LABELS),
        hybrids=tuple(leaf(batch, NUM_LABELS) for _ in range(stages)),
        features=tuple(stage_feature() for _ in range(stages)),
        reprogrammed=tuple(stage_feature() for _ in range(stages)),
    )


def rows_of(output: Passes, rows: slice | list[int]) -> Passes:
    """The same output for some of its samples."""

    def cut(features: tuple[StageFeature, ...]) -> tuple[StageFeature, ...]:
        return tuple(StageFeature(f.map[rows], None if f.prefix is None else f.prefix[rows]) for f in features)

    return Passes(
        student=output.student[rows],
        hybrids=tuple(logits[rows] for logits in output.hybrids),
        features=cut(output.features),
        reprogrammed=cut(output.reprogrammed),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise softmax."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function."""
    return 1 / (1 + np.exp(-logits))


def array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values."""
    return tensor.detach().numpy()


LABELS = torch.tensor([0, 2, 1, 1, 0])
MULTI_LABELS = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_single_label_cross_entropies(smoothing, weights):
    output = make_output()
    objective = Objective(
        ObjectiveWeights(total_steps=10),
        SingleLabel(NAMES, None if weights is None else torch.tensor(weights), smoothing),
    )
    terms = objective(output, LABELS, 0, labelled_count=7, total_count=12)

    def expected(logits: torch.Tensor) -> float:
        w = np.ones(NUM_LABELS) if weights is None else np.array(weights)
        total = 0.0
        for row, label in enumerate(LABELS.tolist()):
            target = np.full(NUM_LABELS, smoothing / NUM_LABELS)
            target[label] += 1 - smoothing
            total -= (target * w * np.log(softmax(array(logits))[row])).sum()
        return total / 7

    assert terms["supervised"].item() == pytest.approx(expected(output.student))
    assert terms["hybrid"].item() == pytest.approx(sum(expected(logits) for logits in output.hybrids))


@pytest.mark.parametrize("pos_weight", [None, [0.5, 2.0, 1.0]])
def test_multi_label_cross_entropies(pos_weight):
    output = make_output()
    objective = Objective(
        ObjectiveWeights(total_steps=10),
        MultiLabel(NAMES, None if pos_weight is None else torch.tensor(pos_weight)),
    )
    terms = objective(output, MULTI_LABELS, 0, labelled_count=7, total_count=12)

    def expected(logits: torch.Tensor) -> float:
        w = np.ones(NUM_LABELS) if pos_weight is None else np.array(pos_weight)
        p, y = sigmoid(array(logits))[:5], MULTI_LABELS.numpy()
        return -(w * y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=1).sum() / 7

    assert terms["supervised"].item() == pytest.approx(expected(output.student))
    assert terms["hybrid"].item() == pytest.approx(sum(expected(logits) for logits in output.hybrids))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_divergence_is_of_the_hybrid_from_the_student_over_all_samples(temperature):
    output = make_output()
    config = ObjectiveWeights(total_steps=10, temperature=temperature)
    single = Objective(config, SINGLE)(output, LABELS, 0, labelled_count=7, total_count=12)
    multi = Objective(config, MULTI)(output, MULTI_LABELS, 0, labelled_count=7, total_count=12)
    expected_single = expected_multi = 0.0
    for hybrid in output.hybrids:
        p, q = softmax(array(hybrid) / temperature), softmax(array(output.student) / temperature)
        expected_single += (p * np.log(p / q)).sum() * temperature**2 / 12
        p, q = sigmoid(array(hybrid) / temperature), sigmoid(array(output.student) / temperature)
        bernoulli = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        expected_multi += bernoulli.mean(axis=1).sum() * temperature**2 / 12
    assert single["kl"].item() == pytest.approx(expected_single)
    assert multi["kl"].item() == pytest.approx(expected_multi)


@pytest.mark.parametrize("features", ["pooled", "flattened"])
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_cka_terms(features, estimator):
    output = make_output()
    config = ObjectiveWeights(total_steps=10, cka_features=features, cka_estimator=estimator)
    terms = Objective(config, SINGLE)(output, LABELS, 0, labelled_count=5, total_count=8)
    values = [
        cka(a.map.mean(dim=(2, 3)), b.map.mean(dim=(2, 3)), estimator)
        if features == "pooled"
        else cka(a.map, b.map, estimator)
        for a, b in zip(output.features, output.reprogrammed, strict=True)
    ]
    assert [terms["cka/1"].item(), terms["cka/2"].item()] == pytest.approx([value.item() for value in values])
    assert values[0].item() != pytest.approx(values[1].item())
    assert terms["cka_loss"].item() == pytest.approx(sum(1 - value.item() for value in values))
    assert not terms["cka/1"].requires_grad
    # A micro-batch of half of the samples of a step counts half.
    half = Objective(config, SINGLE)(output, LABELS, 0, labelled_count=10, total_count=16)
    assert half["cka_loss"].item() == pytest.approx(terms["cka_loss"].item() / 2)
    assert half["cka/1"].item() == pytest.approx(terms["cka/1"].item())


def test_comparable_features():
    feature = make_output(prefix=2).features[0]
    pooled, flattened = comparable(feature, "pooled"), comparable(feature, "flattened")
    torch.testing.assert_close(pooled[:, :5], feature.map.flatten(2).mean(dim=2))
    torch.testing.assert_close(pooled[:, 5:], feature.prefix[:, 0])
    assert pooled.shape == (8, 10)
    torch.testing.assert_close(flattened, torch.cat([feature.map.flatten(1), feature.prefix.flatten(1)], dim=1))
    assert comparable(StageFeature(feature.map, None), "pooled").shape == (8, 5)


@pytest.mark.parametrize(("step", "alpha", "beta"), [(0, 2.0, 1.0), (5, 1.25, 0.5), (10, 0.5, 0.0), (15, 0.5, 0.0)])
def test_schedules_and_the_weighted_sum(step, alpha, beta):
    config = ObjectiveWeights(total_steps=10, hybrid_weight=2.0, hybrid_weight_end=0.5, cka_weight=0.7)
    objective = Objective(config, SINGLE)
    assert objective.hybrid.weight(step) == pytest.approx(alpha)
    assert objective.kl.weight(step) == pytest.approx(beta)
    terms = objective(make_output(), LABELS, step, labelled_count=5, total_count=8)
    expected = terms["supervised"] + alpha * terms["hybrid"] + beta * terms["kl"] + 0.7 * terms["cka_loss"]
    assert terms["loss"].item() == pytest.approx(expected.item())


def test_defaults_are_the_papers():
    config = ObjectiveWeights(total_steps=4)
    objective = Objective(config, SINGLE)
    assert [objective.hybrid.weight(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [objective.kl.weight(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert config.cka_weight == 1.0


def leaves(features: tuple[StageFeature, ...]) -> list[torch.Tensor]:
    """The tensors of stage features."""
    return [part for feature in features for part in feature if part is not None]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_kl_trains_the_hybrid_side_only_if_asked(detach, task):
    output = make_output()
    labels = LABELS if task == SINGLE else MULTI_LABELS
    objective = Objective(ObjectiveWeights(total_steps=10, detach_hybrid_in_kl=detach), task)
    objective(output, labels, 0, labelled_count=5, total_count=8)["kl"].backward()
    assert output.student.grad.any()
    assert all((logits.grad is None) == detach for logits in output.hybrids)
    assert detach or all(logits.grad.any() for logits in output.hybrids)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("features", ["pooled", "flattened"])
def test_cka_trains_the_projector_unless_detached(detach, features):
    output = make_output(prefix=1)
    config = ObjectiveWeights(total_steps=10, detach_reprogrammed_in_cka=detach, cka_features=features)
    Objective(config, SINGLE)(output, LABELS, 0, labelled_count=5, total_count=8)["cka_loss"].backward()
    assert all(tensor.grad.any() for tensor in leaves(output.features))
    assert all((tensor.grad is None) == detach for tensor in leaves(output.reprogrammed))
    assert detach or all(tensor.grad.any() for tensor in leaves(output.reprogrammed))


def test_gradients_go_where_each_term_says():
    output = make_output()
    terms = Objective(ObjectiveWeights(total_steps=10), SINGLE)(output, LABELS, 0, labelled_count=5, total_count=8)
    supervised = torch.autograd.grad(terms["supervised"], output.student, retain_graph=True)[0]
    assert supervised[:5].any(dim=1).all()
    assert not supervised[5:].any()
    for logits in output.hybrids:
        hybrid = torch.autograd.grad(terms["hybrid"], logits, retain_graph=True)[0]
        assert hybrid[:5].any(dim=1).all()
        assert not hybrid[5:].any()
    divergence = torch.autograd.grad(terms["kl"], output.student)[0]
    assert divergence.any(dim=1).all()


def test_rd_is_drd_with_one_stage():
    """DRD's sums over stages are sums of one-stage losses, and one stage is RD's loss as its paper prints it."""
    config = ObjectiveWeights(total_steps=10, kl_weight=0.0)
    objective = Objective(config, SINGLE)
    deep = make_output(stages=3)
    alone = []
    for stage in range(3):
        one = Passes(
            student=deep.student,
            hybrids=deep.hybrids[stage : stage + 1],
            features=deep.features[stage : stage + 1],
            reprogrammed=deep.reprogrammed[stage : stage + 1],
        )
        terms = objective(one, LABELS, 0, labelled_count=5, total_count=8)
        assert "kl" not in terms
        own, reprogrammed = (f[0].map.mean(dim=(2, 3)) for f in (one.features, one.reprogrammed))
        rows = np.arange(5)
        paper = (
            -np.log(softmax(array(one.student))[rows, LABELS]).mean()
            - np.log(softmax(array(one.hybrids[0]))[rows, LABELS]).mean()
            + 1
            - cka(own, reprogrammed).item()
        )
        assert terms["loss"].item() == pytest.approx(paper)
        alone.append(terms)
    together = objective(deep, LABELS, 0, labelled_count=5, total_count=8)
    for name in ("hybrid", "cka_loss"):
        assert together[name].item() == pytest.approx(sum(terms[name].item() for terms in alone))
    assert together["cka/3"].item() == pytest.approx(alone[2]["cka/1"].item())


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
@pytest.mark.parametrize("first_labelled", [3, 5, 0])
def test_micro_batches_add_up(task, first_labelled):
    """Labelled samples spread over two micro-batches in any way, one of them possibly without any."""
    output = make_output(batch=13)
    labels = LABELS if task == SINGLE else MULTI_LABELS
    weights = torch.tensor([0.3, 1.0, 2.0])
    objective = Objective(
        ObjectiveWeights(total_steps=10, temperature=2.0),
        SingleLabel(NAMES, class_weights=weights) if task == SINGLE else MultiLabel(NAMES, pos_weight=weights),
    )
    names = ("supervised", "hybrid", "kl")
    whole = objective(output, labels, 3, labelled_count=5, total_count=13)
    first = [*range(first_labelled), 5, 6, 7, 8]
    second = [*range(first_labelled, 5), 9, 10, 11, 12]
    parts = [
        objective(rows_of(output, rows), part_labels, 3, labelled_count=5, total_count=13)
        for rows, part_labels in ((first, labels[:first_labelled]), (second, labels[first_labelled:]))
    ]
    for name in names:
        assert sum(part[name].item() for part in parts) == pytest.approx(whole[name].item())
        assert all(part[name].requires_grad for part in parts)
    gradient = torch.autograd.grad(sum(whole[name] for name in names), output.student)[0]
    in_parts = torch.autograd.grad(sum(part[name] for part in parts for name in names), output.student)[0]
    torch.testing.assert_close(in_parts, gradient)


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_no_labelled_sample_gives_zero_with_a_graph(task):
    output = make_output()
    empty = torch.zeros(0, dtype=torch.long) if task == SINGLE else torch.zeros(0, NUM_LABELS)
    for labels in (None, empty):
        objective = Objective(ObjectiveWeights(total_steps=10), task)
        terms = objective(output, labels, 0, labelled_count=0, total_count=8)
        for name in ("supervised", "hybrid"):
            assert terms[name].item() == 0.0
            assert terms[name].requires_grad
        assert terms["loss"].item() == pytest.approx((terms["kl"] + terms["cka_loss"]).item())
        terms["loss"].backward()
        assert output.student.grad.isfinite().all()


def test_a_student_alone_has_only_the_supervised_term():
    alone = Passes(make_output(batch=2).student)
    terms = Objective(ObjectiveWeights(total_steps=10), SINGLE)(alone, LABELS[:2], 0, 2, 2)
    assert set(terms) == {"supervised", "loss"}
    assert terms["loss"].item() == terms["supervised"].item() > 0


def test_terms_without_weight_are_not_computed():
    output = make_output(batch=3)  # too few for CKA: computing it would raise
    config = ObjectiveWeights(total_steps=10, hybrid_weight=0.0, kl_weight=0.0, kl_weight_end=1.0, cka_weight=0.0)
    terms = Objective(config, SINGLE)(output, LABELS[:2], 0, 2, 3)
    assert set(terms) == {"supervised", "kl", "loss"}
    assert terms["loss"].item() == terms["supervised"].item()


def test_too_small_a_batch_for_cka_says_what_to_raise():
    output = make_output(batch=3)
    with pytest.raises(ValueError, match=r"needs at least 4 samples.*got 3.*per_device_train_batch_size"):
        Objective(ObjectiveWeights(total_steps=10), SINGLE)(output, LABELS[:2], 0, 2, 3)


def test_counts_that_do_not_fit_are_refused():
    objective = Objective(ObjectiveWeights(total_steps=10), SINGLE)
    for labels, labelled, total in ((LABELS, 0, 8), (LABELS, 5, 0), (torch.zeros(9, dtype=torch.long), 9, 9)):
        with pytest.raises(ValueError, match=f"a micro-batch of 8 samples, {len(labels)} of them labelled"):
            objective(make_output(), labels, 0, labelled, total)


def test_averaging_over_processes_with_divided_counts_gives_the_global_mean():
    """What DDP does: here all labels are on one of four processes, so its share is below what it holds."""
    output = make_output()
    objective = Objective(ObjectiveWeights(total_steps=10), SINGLE)
    whole = objective(output, LABELS[:2], 0, labelled_count=2, total_count=16)
    labelled = objective(rows_of(output, slice(0, 4)), LABELS[:2], 0, labelled_count=2 / 4, total_count=16 / 4)
    unlabelled = objective(rows_of(output, slice(4, 8)), None, 0, labelled_count=2 / 4, total_count=16 / 4)
    for name in ("supervised", "hybrid", "kl"):
        assert (labelled[name] + unlabelled[name]).item() / 4 == pytest.approx(whole[name].item())


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_half_precision_under_autocast_is_computed_in_float32(task):
    output = make_output(prefix=1)
    half = Passes(
        student=output.student.bfloat16(),
        hybrids=tuple(logits.bfloat16() for logits in output.hybrids),
        features=tuple(StageFeature(*(part.bfloat16() for part in f)) for f in output.features),
        reprogrammed=tuple(StageFeature(*(part.bfloat16() for part in f)) for f in output.reprogrammed),
    )
    wide = Passes(
        student=half.student.double(),
        hybrids=tuple(logits.double() for logits in half.hybrids),
        features=tuple(StageFeature(*(part.double() for part in f)) for f in half.features),
        reprogrammed=tuple(StageFeature(*(part.double() for part in f)) for f in half.reprogrammed),
    )
    labels = LABELS if task == SINGLE else MULTI_LABELS
    objective = Objective(ObjectiveWeights(total_steps=10, temperature=2.0), task)
    expected = objective(wide, labels, 1, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(half, labels, 1, 5, 8)
    assert set(terms) == set(expected)
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)


@pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])
def test_confident_logits_stay_finite(task):
    output = make_output()
    output = output._replace(
        student=(output.student.detach().float() * 1e4).requires_grad_(),
        hybrids=tuple(logits.float() * -1e4 for logits in output.hybrids),
    )
    labels = LABELS if task == SINGLE else MULTI_LABELS
    terms = Objective(ObjectiveWeights(total_steps=10), task)(output, labels, 0, 5, 8)
    assert find_non_finite({name: value.item() for name, value in terms.items()}) is None
    terms["loss"].backward()
    assert output.student.grad.isfinite().all()


def test_find_non_finite_names_the_term_and_not_its_sum():
    objective = Objective(ObjectiveWeights(total_steps=10), SINGLE)
    output = make_output()

    def values():
        return {name: term.item() for name, term in objective(output, LABELS, 0, 5, 8).items()}

    assert find_non_finite(values()) is None
    with torch.no_grad():
        output.hybrids[1][7, 0] = float("inf")  # an unlabelled row: only KL reads it
    assert find_non_finite(values()) == "kl"
    output = make_output()
    with torch.no_grad():
        output.reprogrammed[1].map[0, 0, 0, 0] = float("nan")
    assert find_non_finite(values()) == "cka/2"
    assert find_non_finite({"loss": float("inf"), "kl": 1.0}) == "loss"


def test_balanced_class_weights():
    weights = balanced_class_weights(torch.tensor([10, 30, 0, 60]))
    torch.testing.assert_close(weights, torch.tensor([100 / 30, 100 / 90, 0.0, 100 / 180]))
    # They average 1 over the samples.
    assert (weights * torch.tensor([10, 30, 0, 60])).sum().item() == pytest.approx(100)


def test_balanced_pos_weight():
    torch.testing.assert_close(
        balanced_pos_weight(torch.tensor([10, 50, 0, 100]), total=100), torch.tensor([9.0, 1.0, 1.0, 1.0])
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"kl_weight": -1.0},
        {"hybrid_weight_end": float("nan")},
        {"cka_weight": float("inf")},
        {"temperature": 0.0},
        {"cka_estimator": "unbiased"},
        {"cka_features": "mean"},
        {"total_steps": 0},
    ],
)
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ObjectiveWeights(**{"total_steps": 10} | setting)


def test_settings_of_the_task_are_checked():
    with pytest.raises(ValueError, match="label_smoothing"):
        SingleLabel(NAMES, label_smoothing=1.0)
    with pytest.raises(ValueError, match="`label_smoothing` is for single-label tasks only"):
        MULTI.for_training(MULTI_LABELS, balanced=False, label_smoothing=0.1)
    with pytest.raises(ValueError, match="'regression'"):
        make_task("regression", NAMES)
