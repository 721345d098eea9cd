"""CKA against its published numbers, an explicit double loop, its invariances and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rd_hf.training.cka import MINIMUM_ROWS, check_rows, cka


@pytest.fixture
def oracle() -> tuple[torch.Tensor, torch.Tensor]:
    """The features of google-research's representation_similarity demo (its values: 0.55761 biased, 0.51346 not)."""
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    y = random.randn(100, 10) + x
    return torch.from_numpy(x), torch.from_numpy(y)


def hsic1(k: np.ndarray, m: np.ndarray) -> float:
    """Unbiased HSIC as Song et al. 2012 print it, by loops."""
    n = len(k)
    k, m = k.copy(), m.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    trace = sum(k[i, j] * m[j, i] for i in range(n) for j in range(n))
    sums = sum(k[i, j] for i in range(n) for j in range(n)) * sum(m[i, j] for i in range(n) for j in range(n))
    chain = sum(k[i, j] * m[j, a] for i in range(n) for j in range(n) for a in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * chain / (n - 2)) / (n * (n - 3))


def debiased_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased CKA from the printed HSIC."""
    k, m = x @ x.T, y @ y.T
    return hsic1(k, m) / np.sqrt(hsic1(k, k) * hsic1(m, m))


def biased_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Biased CKA from tr(K H L H)."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = x @ x.T, y @ y.T
    return np.trace(k @ h @ m @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(m @ h @ m @ h))


@pytest.mark.parametrize(("estimator", "value"), [("biased", 0.55761), ("debiased", 0.51346)])
def test_published_values(oracle, estimator, value):
    x, y = oracle
    assert cka(x, y, estimator).item() == pytest.approx(value, abs=5e-6)
    assert cka(x.float(), y.float(), estimator).item() == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize("rows", [4, 5, 9])
@pytest.mark.parametrize("widths", [(2, 3), (30, 2), (30, 40)])
def test_explicit_formulas(rows, widths):
    random = np.random.RandomState(rows)
    x, y = random.randn(rows, widths[0]) + 3, random.randn(rows, widths[1]) - 2
    y[:, 0] += x[:, 0]
    assert cka(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(debiased_by_loops(x, y), abs=1e-10)
    biased = cka(torch.from_numpy(x), torch.from_numpy(y), "biased").item()
    assert biased == pytest.approx(biased_by_definition(x, y), abs=1e-10)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_invariant_to_rotation_scale_and_translation(oracle, estimator):
    x, y = oracle
    rotation, _ = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).double())
    moved = 7.0 * y @ rotation + torch.arange(10.0)
    assert cka(x, moved, estimator).item() == pytest.approx(cka(x, y, estimator).item(), abs=1e-10)
    assert cka(x, 3 * x @ rotation, estimator).item() == pytest.approx(1.0, abs=1e-10)
    # Not invariant to what it must see: another scale per direction.
    assert abs(cka(x, y * torch.arange(1.0, 11.0), estimator) - cka(x, y, estimator)) > 1e-3


def test_maps_are_flattened(oracle):
    x, y = oracle
    assert cka(x.view(100, 5, 2, 1), y.view(100, 2, 5)).item() == pytest.approx(cka(x, y).item(), abs=1e-12)
    assert cka(x[:, 0], y).item() == pytest.approx(cka(x[:, :1], y).item(), abs=1e-12)


def test_small_batches_of_independent_features():
    """The reason for the default: with independent features the truth is 0."""
    generator = torch.Generator().manual_seed(0)
    for rows, biased in ((8, 0.978), (32, 0.915)):
        pairs = [
            (torch.randn(rows, 512, generator=generator), torch.randn(rows, 256, generator=generator))
            for _ in range(100)
        ]
        assert np.mean([cka(x, y, "biased").item() for x, y in pairs]) == pytest.approx(biased, abs=3e-3)
        values = [cka(x, y).item() for x, y in pairs]
        # Four standard errors of the mean.
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("widths", [(3, 2), (9, 12)])
def test_gradient(estimator, widths):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, widths[0], generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, widths[1], generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: cka(a, b, estimator), (x, y))


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("scale", [0.0, 0.1, -1e4])
@pytest.mark.parametrize("width", [3, 20])
def test_constant_feature_has_value_and_gradient_zero(estimator, scale, width):
    generator = torch.Generator().manual_seed(0)
    # Another constant per channel, whose means over 7 samples have a rounding.
    x = (scale * torch.rand(width, generator=generator)).repeat(7, 1).requires_grad_()
    y = torch.randn(7, width, generator=generator).requires_grad_()
    for left, right in ((x, y), (y, x), (x, x)):
        value = cka(left, right, estimator)
        assert value.item() == 0.0
        x.grad = y.grad = None
        value.backward()
        assert not x.grad.any()
        assert y.grad is None or not y.grad.any()


def test_equidistant_samples_are_degenerate_only_when_debiased():
    x = (3 * torch.eye(6)).requires_grad_()
    y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    value = cka(x, y)
    value.backward()
    assert value.item() == 0.0
    assert not x.grad.any()
    assert cka(x, y, "biased").item() > 0.1


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("factor", [1e-12, 1e18, 1e30])
def test_extreme_scales(oracle, estimator, factor):
    x, y = (features.float() for features in oracle)
    scaled = (x * factor).requires_grad_()
    value = cka(scaled, y, estimator)
    value.backward()
    assert value.item() == pytest.approx(cka(x, y, estimator).item(), abs=1e-5)
    assert scaled.grad.isfinite().all()


def test_large_mean_does_not_drown_the_signal(oracle):
    x, y = oracle
    assert cka((x + 1e3).float(), y.float()).item() == pytest.approx(0.51346, abs=1e-4)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(oracle, estimator, dtype):
    x, y = (features.to(dtype) for features in oracle)
    expected = cka(x.double(), y.double(), estimator).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cka(x, y, estimator)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_not_a_number_is_not_hidden():
    x = torch.ones(5, 3)
    x[0, 0] = float("nan")
    assert cka(x, torch.randn(5, 3)).isnan()
    assert cka(x, torch.randn(5, 3), "biased").isnan()


@pytest.mark.parametrize(("estimator", "rows"), [("debiased", 3), ("biased", 1)])
def test_too_small_a_batch(estimator, rows):
    x = torch.randn(rows, 5)
    with pytest.raises(ValueError, match="per_device_train_batch_size.*gradient_accumulation_steps"):
        cka(x, x, estimator)
    check_rows(MINIMUM_ROWS[estimator], estimator)
    enough = torch.randn(rows + 1, 5, generator=torch.Generator().manual_seed(0))
    assert cka(enough, enough, estimator).item() == pytest.approx(1.0, abs=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="5 rows and y has 6"):
        cka(torch.randn(5, 2), torch.randn(6, 2))
    with pytest.raises(ValueError, match="'unbiased'"):
        cka(torch.randn(5, 2), torch.randn(5, 2), "unbiased")
