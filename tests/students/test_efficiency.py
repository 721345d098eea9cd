"""Cost of a forward pass."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from rd_hf.students.cost import measure_cost


def test_operations_parameters_and_time_of_a_known_module(monkeypatch):
    monkeypatch.setattr("rd_hf.students.cost.MAX_RUNS", 4)
    calls = []
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 6 * 8, 5))

    def forward(pixels):
        calls.append((tuple(pixels.shape), torch.is_grad_enabled()))
        return module(pixels)

    cost = measure_cost(forward, module, (6, 8))
    assert cost.parameters == 3 * 4 * 9 + 192 * 5 + 5
    assert cost.gflop * 1e9 == pytest.approx(2 * (6 * 8 * 4 * 3 * 9 + 192 * 5))
    assert cost.milliseconds > 0
    assert calls == [((1, 3, 6, 8), False)] * (1 + 4)


def test_operations_of_attention_are_counted():
    module = nn.Conv2d(3, 8, 2, stride=2, bias=False)

    def forward(pixels):
        tokens = module(pixels).flatten(2).transpose(1, 2)[:, None]  # one head of 12 tokens, 8 wide
        return scaled_dot_product_attention(tokens, tokens, tokens)

    products = 12 * 12 * 8 + 12 * 12 * 8
    assert measure_cost(forward, module, (6, 8)).gflop * 1e9 == pytest.approx(2 * (12 * 8 * 3 * 4 + products))
