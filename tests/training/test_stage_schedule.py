"""Which stages are on: the sampler against its equations, the schedules, and runs with one stage at a time."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stopped_runs import interrupted
from test_distillation import TINY_RESNET, settings

import rd_hf
from rd_hf.training import stage_schedule
from rd_hf.training.run_folder import read_history
from rd_hf.training.stage_schedule import DISCOUNT, STEPS_PER_PULL, StageSampler, StageSchedule

pytestmark = pytest.mark.usefixtures("no_report")
ONE_AT_A_TIME = ("last", "round_robin", "random", "optima")


def test_the_sampler_follows_its_equations():
    sampler = StageSampler.new(3)
    sampler.observe(1, 0.5)
    sampler.observe(2, -0.2)
    scale = math.sqrt((DISCOUNT * 0.5**2 + 0.2**2) / (DISCOUNT + 1))
    assert sampler.pulls == [0.0, DISCOUNT, 1.0]
    assert sampler.rewards == pytest.approx([0.0, DISCOUNT * 1.0, -0.2 / scale])
    assert sampler.means() == pytest.approx([0.0, DISCOUNT / (DISCOUNT + 1), -0.2 / scale / 2])
    draws = [sampler.draw(np.random.default_rng(seed)) for seed in range(2000)]
    # P(theta_1 is the largest) of three independent normals, by sampling them apart from the code
    means, deviations = [0.0, DISCOUNT / (1 + DISCOUNT), -0.1 / scale], [1.0, (1 + DISCOUNT) ** -0.5, 0.5**0.5]
    thetas = np.random.default_rng(9).normal(means, deviations, (20_000, 3))
    assert np.mean(np.array(draws) == 1) == pytest.approx(np.mean(thetas.argmax(axis=1) == 1), abs=0.03)


def test_the_sampler_finds_the_best_stage_and_leaves_it_when_another_is_better():
    sampler, generator = StageSampler.new(4), np.random.default_rng(0)
    chosen = []
    for pull in range(300):
        stage = sampler.draw(generator)
        best = 2 if pull < 150 else 0
        sampler.observe(stage, 1e-3 * (generator.normal(1.0 if stage == best else -0.5, 0.3)))
        chosen.append(stage)
    first, second = np.array(chosen[50:150]), np.array(chosen[200:])
    assert np.mean(first == 2) > 0.6 and np.mean(second == 0) > 0.6


def test_a_sampler_without_any_change_of_the_loss_goes_on():
    sampler = StageSampler.new(2)
    sampler.observe(0, 0.0)
    assert sampler.means() == [0.0, 0.0]


def stages(schedule, steps):
    return [schedule.begin(step)["stages"][0] for step in range(steps)]


def test_one_stage_is_on_for_as_many_steps_as_a_pull_has():
    pulls = stages(StageSchedule("round_robin", 3), 4 * STEPS_PER_PULL)
    assert pulls == [stage for stage in (0, 1, 2, 0) for _ in range(STEPS_PER_PULL)]
    assert set(stages(StageSchedule("last", 3), 7)) == {2}
    drawn = stages(StageSchedule("random", 3, seed=1), 200 * STEPS_PER_PULL)[::STEPS_PER_PULL]
    assert min(np.bincount(drawn, minlength=3)) > 40
    assert drawn != stages(StageSchedule("random", 3, seed=2), 200 * STEPS_PER_PULL)[::STEPS_PER_PULL]


def test_everything_is_run_by_default_and_no_hybrid_pass_where_it_has_no_weight():
    schedule = StageSchedule("all", 3, needs_hybrids=lambda step: step > 0)
    assert [schedule.begin(step) for step in range(2)] == [{"hybrids": False}, {}]
    assert schedule.row() == {} == schedule.state()


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
@pytest.mark.parametrize("cut", [STEPS_PER_PULL, 2 * STEPS_PER_PULL + 2])
def test_a_schedule_goes_on_from_its_state_in_json(name, cut):
    def make():
        values = iter(np.random.default_rng(3).normal(size=100).tolist())
        return StageSchedule(name, 4, seed=5, loss=lambda: next(values)), values

    whole, _ = make()
    expected = stages(whole, 60)
    first, values = make()
    begun = stages(first, cut)
    second, _ = make()
    second.loss = lambda: next(values)
    second.load_state(json.loads(json.dumps(first.state())))
    assert begun + [second.begin(step)["stages"][0] for step in range(cut, 60)] == expected
    assert second.row() == whole.row() and sum(v for k, v in whole.row().items() if k.startswith("stages/")) == 0


def test_only_the_projectors_of_chosen_stages_are_trained(teacher, blobs_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_schedule, "STEPS_PER_PULL", 2)
    values = settings(
        teacher, blobs_npz, tmp_path / "run", method="drd", student=TINY_RESNET, max_steps=2, save_steps=1
    )
    rd_hf.distill(**values, stage_schedule="round_robin")
    before, after = (
        load_file(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "model.safetensors") for step in (1, 2)
    )
    changed = {
        name.split(".")[1] for name in before if name.startswith("projectors.") and (before[name] != after[name]).any()
    }
    assert changed == {"0"}
    rows = [row for row in read_history(tmp_path / "run") if "loss" in row]
    assert all("cka/1" in row and "cka/2" not in row and row["stages/1"] == 1.0 for row in rows)


def test_a_run_whose_stages_are_drawn_is_resumed_to_the_bit(teacher, blobs_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_schedule, "STEPS_PER_PULL", 2)
    values = settings(
        teacher, blobs_npz, tmp_path / "whole", method="drd", student=TINY_RESNET, stage_schedule="optima",
        logging_steps=3, max_steps=8,
    )  # fmt: skip
    student = rd_hf.distill(**values)
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 5)
    resumed = rd_hf.distill(**values, resume=True)
    measured = ("images_per_second", "data_wait", "memory_gib")
    rows, again = (
        [{name: value for name, value in row.items() if name not in measured} for row in read_history(tmp_path / name)]
        for name in ("whole", "cut")
    )
    assert rows == again
    assert {"stages/1", "stages/2", "rewards/1", "rewards/2"} <= rows[0].keys()
    for name, value in student.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
