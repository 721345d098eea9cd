"""Positions as the rows of CKA: which are drawn, who shares them, and what CKA of them is."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import rd_hf
from rd_hf.models.features import StageFeature
from rd_hf.tasks.classification import SingleLabel
from rd_hf.training import step
from rd_hf.training.cka import cka
from rd_hf.training.objective import Compared, Objective, ObjectiveWeights
from rd_hf.training.passes import Passes
from rd_hf.training.positions import at_positions, choose, draw, fewest
from rd_hf.training.run_folder import read_history

LABELS = torch.tensor([0, 2, 1])
ROWS, VIEWS = [7, 3, 3, 20, 5, 11], [0, 1, 2, 0, 5, 1]
GRIDS = [(4, 5), (2, 3), (2, 3, 4), (1, 1)]


def make_passes(images: int = 6, grids=GRIDS, seed: int = 0, prefix: bool = False) -> Passes:
    """Random logits and features, all of which record gradients; 5 student and 5 reprogrammed channels."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    def features() -> tuple[StageFeature, ...]:
        return tuple(StageFeature(leaf(images, 5, *grid), leaf(images, 1, 5) if prefix else None) for grid in grids)

    return Passes(leaf(images, 3), tuple(leaf(images, 3) for _ in grids), features(), features())


def make_objective(**settings) -> Objective:
    return Objective(
        ObjectiveWeights(total_steps=10, cka_features="positions", **settings), SingleLabel(["a", "b", "c"])
    )


def maps(features: tuple[StageFeature, ...]) -> list[torch.Tensor]:
    return [feature.map for feature in features]


def test_every_subset_of_a_grid_is_equally_likely():
    draws = draw(0, 0, range(6000), [0] * 6000, 3)
    chosen = choose(draws, 5)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    counts = Counter(tuple(sorted(row)) for row in chosen.tolist())
    assert set(counts) == set(combinations(range(5), 3))
    # Ten subsets: 600 are expected of each, with a deviation of 23.
    assert max(abs(count - 600) for count in counts.values()) < 5 * 23


def test_a_grid_smaller_than_the_number_of_positions_gives_all_of_them():
    draws = draw(0, 0, ROWS, VIEWS, 16)
    assert [sorted(row) for row in choose(draws, 6).tolist()] == [list(range(6))] * 6
    assert choose(draws, 1).tolist() == [[0]] * 6
    assert choose(draws, 17).shape == (6, 16)
    assert (fewest(16, [(4, 5), (2, 3)]), fewest(16, [(4, 5)]), fewest(30, [(2, 3, 4)])) == (6, 16, 24)


def test_positions_depend_on_seed_step_row_and_view_and_not_on_the_batch():
    def positions(seed=1, step=2, row=3, view=4):
        return choose(draw(seed, step, [row], [view], 8), 400).tolist()[0]

    others = [positions(seed=0), positions(step=0), positions(row=0), positions(view=0), positions(row=4, view=3)]
    assert positions() not in others
    assert len({tuple(other) for other in others}) == len(others)
    whole = choose(draw(1, 2, ROWS, VIEWS, 8), 400)
    for index in ([0], [4, 1], [5, 2, 3]):
        part = draw(1, 2, [ROWS[i] for i in index], [VIEWS[i] for i in index], 8)
        torch.testing.assert_close(choose(part, 400), whole[index])


@pytest.mark.parametrize("grid", [(4, 5), (3, 2, 4)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_both_sides_are_read_at_the_same_positions(grid, channels_last):
    cells = torch.arange(int(np.prod(grid)), dtype=torch.float64).view(grid)
    image = torch.arange(6, dtype=torch.float64).view(6, 1, *[1] * len(grid))
    student = (cells + 100 * image).repeat(1, 2, *[1] * len(grid))
    other = (-cells - 100 * image).repeat(1, 3, *[1] * len(grid))
    if channels_last:
        student = student.contiguous(memory_format=torch.channels_last if len(grid) == 2 else torch.channels_last_3d)
    draws = draw(0, 0, ROWS, VIEWS, 7)
    own, reprogrammed = at_positions((student, other), draws)
    assert (own.shape, reprogrammed.shape) == ((6, 7, 2), (6, 7, 3))
    torch.testing.assert_close(own[:, :, 0], -reprogrammed[:, :, 2])
    torch.testing.assert_close(own[:, :, 1], (choose(draws, cells.numel()) + 100 * torch.arange(6)[:, None]).double())


def test_maps_of_different_grids_are_refused():
    with pytest.raises(ValueError, match="4x5 and 5x4"):
        at_positions((torch.zeros(6, 2, 4, 5), torch.zeros(6, 2, 5, 4)), draw(0, 0, ROWS, VIEWS, 7))
    with pytest.raises(ValueError, match="needs the draws"):
        make_objective()(make_passes(), LABELS, 0, labelled_count=3, total_count=6)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_value_is_cka_of_an_explicit_loop(estimator):
    passes, draws = make_passes(prefix=True), draw(0, 3, ROWS, VIEWS, 9)
    terms = make_objective(cka_estimator=estimator)(passes, LABELS, 3, labelled_count=3, total_count=12, draws=draws)
    values = []
    for grid, own, other in zip(GRIDS, maps(passes.features), maps(passes.reprogrammed), strict=True):
        chosen = choose(draws, int(np.prod(grid))).tolist()
        rows = [(image, np.unravel_index(cell, grid)) for image in range(6) for cell in chosen[image]]
        assert len(rows) == 6 * min(9, int(np.prod(grid)))
        sides = [torch.stack([side[(image, slice(None), *place)] for image, place in rows]) for side in (own, other)]
        values.append(cka(*sides, estimator).item())
    assert [terms[f"cka/{stage}"].item() for stage in (1, 2, 3, 4)] == pytest.approx(values)
    assert len({round(value, 6) for value in values}) == 4
    assert terms["cka_loss"].item() == pytest.approx((4 - sum(values)) / 2)  # half of a step of 12 images


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_reaches_the_drawn_positions_of_both_sides_unless_detached(detach):
    passes, draws = make_passes(prefix=True), draw(0, 0, ROWS, VIEWS, 9)
    objective = make_objective(detach_reprogrammed_in_cka=detach)
    objective(passes, LABELS, 0, labelled_count=3, total_count=6, draws=draws)["cka_loss"].backward()
    drawn = [torch.zeros(6, int(np.prod(grid))).scatter(1, choose(draws, int(np.prod(grid))), 1) for grid in GRIDS]
    for side in [passes.features] if detach else [passes.features, passes.reprogrammed]:
        for feature, expected in zip(side, drawn, strict=True):
            assert torch.equal(feature.map.grad.flatten(2).any(dim=1), expected.bool())
            assert feature.prefix.grad is None
    assert all((feature.grad is None) == detach for feature in maps(passes.reprogrammed))


def cut(passes: Passes, rows: list[int]) -> Passes:
    """The same passes for some of the images."""
    features, reprogrammed = (
        tuple(StageFeature(feature.map[rows]) for feature in side) for side in (passes.features, passes.reprogrammed)
    )
    return Passes(passes.student[rows], tuple(logits[rows] for logits in passes.hybrids), features, reprogrammed)


@pytest.mark.parametrize("parts", [[[0, 1], [2, 3], [4, 5]], [[0], [5, 4, 3, 2, 1]]])
def test_micro_batches_add_up_to_one_large_batch(parts):
    """Without labels, because they would have to come first; the images come in another order, and unequal parts."""
    passes, objective = make_passes(), make_objective()
    draws = draw(0, 0, ROWS, VIEWS, 9)
    together = objective(passes, None, 0, labelled_count=0, total_count=6, draws=draws)
    order = [image for part in parts for image in part]
    rearranged = objective.statistics(cut(passes, order), draws[order])
    whole = [Compared(*(side.detach() for side in pair)) for pair in rearranged]
    terms, start = [], 0
    for part in parts:
        own = draw(0, 0, [ROWS[i] for i in part], [VIEWS[i] for i in part], 9)
        terms.append(
            objective(cut(passes, part), None, 0, labelled_count=0, total_count=6, whole=whole, start=start, draws=own)
        )
        start += len(part)
    inputs = [*maps(passes.features), *maps(passes.reprogrammed)]
    assert sum(part["cka_loss"].item() for part in terms) == pytest.approx(together["cka_loss"].item(), abs=1e-12)
    expected = torch.autograd.grad(together["cka_loss"], inputs)
    found = torch.autograd.grad(sum(part["cka_loss"] for part in terms), inputs)
    for one, other in zip(expected, found, strict=True):
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)


def test_positions_of_one_image_raise_the_estimate_for_independent_features():
    """What `Objective.compared` warns of: with a row an image the truth is 0 and the debiased estimate is around it."""
    generator = torch.Generator().manual_seed(0)
    pooled, positions = [], []
    for _ in range(40):
        sides = [
            torch.randn(8, 1, 20, generator=generator) + 0.5 * torch.randn(8, 16, 20, generator=generator)
            for _ in range(2)
        ]
        pooled.append(cka(*(side.mean(dim=1) for side in sides)).item())
        positions.append(cka(*(side.flatten(0, 1) for side in sides)).item())
    assert abs(np.mean(pooled)) < 4 * np.std(pooled) / np.sqrt(40)
    assert np.mean(positions) > 0.3


@pytest.mark.usefixtures("no_report")
def test_a_run_draws_positions_at_each_step_also_where_images_are_too_few_for_cka(
    teacher, blobs_npz, tmp_path, monkeypatch
):
    student = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    }  # fmt: skip
    values = {
        "teacher": str(teacher), "student": student, "dataset": str(blobs_npz), "student_image_size": 32, "seed": 3,
        "method": "drd", "max_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 3, "shots": 5,
    }  # fmt: skip
    one = {"cka_features": "positions", "cka_positions": 1}
    for name, changes in (("pooled", {}), ("one", one)):
        with pytest.raises(ValueError, match="at least 4 samples in a batch, but got 3"):
            rd_hf.distill(**values, **changes, output_dir=str(tmp_path / name))
    drawn = Mock(side_effect=draw)
    monkeypatch.setattr(step, "draw", drawn)
    rd_hf.distill(**values, cka_features="positions", output_dir=str(tmp_path / "run"))
    assert [(seed, number, len(rows), count) for (seed, number, rows, _, count), _ in drawn.call_args_list] == [
        (3, 0, 3, 16), (3, 1, 3, 16),
    ]  # fmt: skip
    rows = [row for row in read_history(tmp_path / "run") if "loss" in row]
    assert len(rows) == 2 and np.isfinite([(row["cka/1"], row["cka/2"], row["loss"]) for row in rows]).all()
