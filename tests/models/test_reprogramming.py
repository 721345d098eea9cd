"""The projector: shapes, what its outputs depend on, its start, its errors."""

from __future__ import annotations

import pytest
import torch

from rd_hf.models.features import Stage, StageFeature
from rd_hf.models.reprogramming import Projector, common_grid, resample


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random numbers."""
    torch.manual_seed(0)


def stage(channels: int, grid: tuple[int, int], prefix_tokens: int = 0) -> Stage:
    """A stage of the given sizes."""
    return Stage(name="encoder.stages.1", channels=channels, grid=grid, prefix_tokens=prefix_tokens)


def feature(stage: Stage, grid: tuple[int, int], batch: int = 6) -> StageFeature:
    """Random features of a stage, its map at `grid`."""
    prefix = torch.randn(batch, stage.prefix_tokens, stage.channels) if stage.prefix_tokens else None
    return StageFeature(torch.randn(batch, stage.channels, *grid), prefix)


def test_common_grid_is_the_smaller_per_side():
    assert common_grid((16, 12), (7, 14)) == (7, 12)


def test_resample_averages_the_map_and_keeps_the_prefix():
    whole = feature(stage(3, (4, 6), 2), (4, 6))
    small = resample(whole, (2, 3))
    blocks = whole.map.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5))
    torch.testing.assert_close(small.map, blocks)
    assert small.prefix is whole.prefix
    assert resample(small, (2, 3)) is small


@pytest.mark.parametrize("teacher_prefix", [0, 1, 5])
@pytest.mark.parametrize("student_prefix", [0, 1, 3])
@pytest.mark.parametrize(
    ("teacher_grid", "student_grid"), [((5, 5), (3, 3)), ((2, 3), (7, 8)), ((6, 2), (3, 4)), ((1, 1), (1, 1))]
)
def test_output_has_the_students_shape(teacher_prefix, student_prefix, teacher_grid, student_grid):
    teacher, student = stage(10, teacher_grid, teacher_prefix), stage(6, student_grid, student_prefix)
    for layers in (1, 2, 3, 4):
        projector = Projector(teacher, student, hidden_channels=8, layers=layers)
        output = projector(feature(teacher, common_grid(teacher_grid, student_grid)))
        assert output.map.shape == (6, 6, *student_grid)
        assert output.prefix is None if not student_prefix else output.prefix.shape == (6, student_prefix, 6)
        assert output.map.isfinite().all()
        assert sum(isinstance(module, torch.nn.Conv2d) for module in projector.bottleneck) == layers


def test_a_projector_of_one_layer_is_linear_and_can_be_calibrated():
    teacher, student = stage(10, (4, 4)), stage(6, (4, 4))
    projector = Projector(teacher, student, layers=1)
    one, two, target = (feature(which, (4, 4), 40) for which in (teacher, teacher, student))
    mean = projector(StageFeature((one.map + two.map) / 2)).map
    torch.testing.assert_close(mean, (projector(one).map + projector(two).map) / 2)
    projector.calibrate(one, StageFeature(3 * target.map + 1))
    output = projector(one).map
    assert abs(output.std() - 3) < 0.3 and abs(output.mean() - 1) < 0.1


@pytest.mark.parametrize("teacher_prefix", [0, 2])
def test_every_parameter_gets_a_gradient(teacher_prefix):
    teacher, student = stage(10, (4, 4), teacher_prefix), stage(6, (8, 8), 2)
    projector = Projector(teacher, student, hidden_channels=8)
    output = projector(feature(teacher, (4, 4)))
    (output.map.square().sum() + output.prefix.square().sum()).backward()
    assert [name for name, parameter in projector.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("training", [True, False])
def test_a_sample_does_not_depend_on_its_batch(training):
    teacher, student = stage(10, (4, 4), 1), stage(6, (8, 8), 2)
    projector = Projector(teacher, student, hidden_channels=8).train(training)
    batch = feature(teacher, (4, 4))
    together = projector(batch)
    for row in range(6):
        alone = projector(StageFeature(batch.map[row : row + 1], batch.prefix[row : row + 1]))
        torch.testing.assert_close(alone.map[0], together.map[row])
        torch.testing.assert_close(alone.prefix[0], together.prefix[row])
    assert list(projector.buffers()) == []


def test_prefix_comes_from_the_class_token_or_else_from_the_pooled_map():
    student = stage(6, (4, 4), 2)
    for prefix_tokens in (0, 3):
        teacher = stage(10, (4, 4), prefix_tokens)
        projector = Projector(teacher, student, hidden_channels=8)
        given = feature(teacher, (4, 4))
        given.map.requires_grad_()
        if prefix_tokens:
            given.prefix.requires_grad_()
        projector(given).prefix.square().sum().backward()
        if prefix_tokens:
            assert given.map.grad is None
            assert given.prefix.grad[:, 0].any()
            assert not given.prefix.grad[:, 1:].any()
        else:
            # The same gradient everywhere on the grid, as of a mean.
            assert given.map.grad.any()
            torch.testing.assert_close(given.map.grad, given.map.grad[:, :, :1, :1].expand(-1, -1, 4, 4))


def test_starts_near_unit_variance_whatever_the_teachers_scale():
    teacher, student = stage(64, (5, 5), 1), stage(48, (5, 5), 1)
    projector = Projector(teacher, student, hidden_channels=96)
    for factor in (1e-2, 1.0, 1e3):
        given = feature(teacher, (5, 5))
        output = projector(StageFeature(given.map * factor, given.prefix * factor))
        assert 0.6 < output.map.std() < 1.4
        assert 0.6 < output.prefix.std() < 1.4


def test_reset_parameters_restores_a_start():
    teacher, student = stage(10, (4, 4)), stage(6, (4, 4), 1)
    projector = Projector(teacher, student, hidden_channels=8)
    torch.manual_seed(3)
    projector.reset_parameters()
    first = {name: value.clone() for name, value in projector.state_dict().items()}
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.fill_(5.0)
    torch.manual_seed(3)
    projector.reset_parameters()
    for name, value in projector.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=0)


@pytest.mark.parametrize("teacher_prefix", [0, 2])
def test_calibrate_gives_the_students_mean_and_variance(teacher_prefix):
    teacher, student = stage(10, (3, 3), teacher_prefix), stage(6, (6, 6), 2)
    projector = Projector(teacher, student, hidden_channels=8)
    given = feature(teacher, (3, 3), batch=16)
    own = feature(student, (6, 6), batch=16)
    own = StageFeature(own.map * 7 + torch.arange(6.0).view(6, 1, 1), own.prefix * 3 - torch.arange(6.0))
    projector.calibrate(given, own)
    output = projector(given)
    torch.testing.assert_close(output.map.mean(dim=(0, 2, 3)), own.map.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output.prefix.mean(dim=0), own.prefix.mean(dim=0), rtol=1e-3, atol=1e-3)
    for calibrated, target in (
        (output.map.movedim(1, -1).flatten(0, 2), own.map.movedim(1, -1).flatten(0, 2)),
        (output.prefix.flatten(1), own.prefix.flatten(1)),
    ):
        spread = (calibrated - calibrated.mean(dim=0)).square().mean().sqrt()
        target_spread = (target - target.mean(dim=0)).square().mean().sqrt()
        assert spread.item() == pytest.approx(target_spread.item(), rel=1e-3)
    assert all(parameter.requires_grad for parameter in projector.parameters())


def test_calibrate_keeps_an_outlying_channel_from_drowning_the_others():
    teacher, student = stage(10, (3, 3), 1), stage(6, (3, 3), 1)
    given = feature(teacher, (3, 3), batch=16)
    given.map[:, 4] = 100 * given.map[:, 4] + 500
    given.prefix[:, :, 4] = 100 * given.prefix[:, :, 4] + 500

    def response_to_ordinary_channels(projector: Projector) -> tuple[float, float]:
        """How far the outputs move, in their own spread, when the ordinary channels belong to other samples."""
        mixed = StageFeature(given.map.roll(1, dims=0), given.prefix.roll(1, dims=0))
        mixed.map[:, 4], mixed.prefix[:, :, 4] = given.map[:, 4], given.prefix[:, :, 4]
        before, after = projector(given), projector(mixed)
        return tuple(((b - a).std() / b.std()).item() for b, a in zip(before, after, strict=True))

    projector = Projector(teacher, student, hidden_channels=32)
    plain = response_to_ordinary_channels(projector)
    projector.calibrate(given, feature(student, (3, 3), batch=16))
    calibrated = response_to_ordinary_channels(projector)
    assert max(plain) < 0.3
    assert min(calibrated) > 0.8


def test_calibrate_survives_features_that_do_not_vary():
    teacher, student = stage(10, (3, 3), 1), stage(6, (3, 3), 1)
    projector = Projector(teacher, student, hidden_channels=8)
    silent = StageFeature(torch.zeros(4, 10, 3, 3), torch.zeros(4, 1, 10))
    projector.calibrate(silent, StageFeature(torch.zeros(4, 6, 3, 3), torch.zeros(4, 1, 6)))
    given = feature(teacher, (3, 3))
    # A student's token that is the same for all images: its mean is met, but some variance is left to learn from.
    token = torch.full((6, 1, 6), 2.0)
    projector.calibrate(given, StageFeature(torch.randn(6, 6, 3, 3), token))
    output = projector(given)
    assert output.map.isfinite().all()
    torch.testing.assert_close(output.prefix.mean(dim=0), token[0], rtol=1e-3, atol=1e-3)
    assert output.prefix.std(dim=0).mean() > 0.05


def test_half_precision_features_from_a_cache():
    teacher, student = stage(10, (3, 3), 1), stage(6, (3, 3), 1)
    projector = Projector(teacher, student, hidden_channels=8)
    given = feature(teacher, (3, 3))
    output = projector(StageFeature(given.map.half(), given.prefix.half()))
    torch.testing.assert_close(output.map, projector(given).map, rtol=0.02, atol=0.02)
    assert output.prefix.dtype == torch.float32


def test_wrong_features_are_refused_by_name():
    teacher, student = stage(10, (6, 6), 1), stage(6, (3, 3), 1)
    projector = Projector(teacher, student, hidden_channels=8)
    with pytest.raises(ValueError, match=r"encoder\.stages\.1.*resample the feature to \(3, 3\)"):
        projector(feature(teacher, (6, 6)))
    with pytest.raises(ValueError, match=r"reads \(10, 3, 3\)"):
        projector(feature(stage(9, (3, 3), 1), (3, 3)))
    with pytest.raises(ValueError, match="no prefix tokens"):
        projector(StageFeature(torch.randn(2, 10, 3, 3), None))
