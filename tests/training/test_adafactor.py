"""Adafactor: against the paper in float64, and PyTorch's own where both say the same."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paragone.training import Adafactor


def paper(gradients, x, lr=1e-2, eps=(1e-30, 1e-3), d=1.0, decay=0.0, clip=True):
    """Algorithms 4 and 5 with the schedules of algorithm 6, in NumPy."""
    x = x.copy()
    row, column = np.zeros(x.shape[0]), np.zeros(x.shape[1])
    for t, g in enumerate(gradients, start=1):
        rho = min(lr, 1 / math.sqrt(t))
        alpha = max(eps[1], np.sqrt(np.mean(x * x))) * rho
        beta = 1 - t**-0.8
        squared = g * g + eps[0]
        row = beta * row + (1 - beta) * squared.sum(1)
        column = beta * column + (1 - beta) * squared.sum(0)
        u = g / np.sqrt(np.outer(row, column) / row.sum())
        if clip:
            u = u / max(1.0, np.sqrt(np.mean(u * u)) / d)
        x = x * (1 - lr * decay) - alpha * u
    return x


def walked(make, gradients, x, **options):
    p = nn.Parameter(torch.tensor(x))
    optimizer = make([p], **options)
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy()


def test_the_papers_algorithm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4))
    gradients = rng.normal(size=(150, 6, 4)) * np.exp(rng.normal(size=(150, 1, 1)))
    for lr in (1e-2, 0.3):
        expected = paper(gradients, x, lr, decay=0.01)
        found = walked(Adafactor, gradients, x, lr=lr, weight_decay=0.01)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        unclipped = paper(gradients, x, lr, decay=0.01, clip=False)
        assert np.abs(unclipped - expected).max() > 1e-3


def test_a_second_moment_of_rank_one_is_kept_exactly():
    rng = np.random.default_rng(1)
    a, b = rng.uniform(1, 3, (5, 1)), rng.uniform(1, 3, (1, 7))
    p = nn.Parameter(torch.zeros(5, 7, dtype=torch.float64))
    optimizer = Adafactor([p])
    p.grad = torch.tensor(a @ b)
    optimizer.step()
    state = optimizer.state[p]
    row, column = state["row_var"], state["col_var"]
    np.testing.assert_allclose(row / row.mean() * column, (a @ b) ** 2, rtol=1e-12)
    assert sum(v.numel() for v in state.values()) == 1 + 5 + 7


@pytest.mark.parametrize("shape", [(), (5,), (6, 4), (4, 6), (2, 5, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize("lr", [1e-2, 0.5])
def test_equals_torch_on_plain_gradients(shape, lr):
    rng = np.random.default_rng(2)
    x, gradients = rng.normal(size=shape), list(rng.normal(size=(12, *shape)))
    options = {"lr": lr, "weight_decay": 0.1}
    mine = walked(Adafactor, gradients, x, **options)
    theirs = walked(torch.optim.Adafactor, gradients, x, **options)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_the_two_largest_dimensions_are_factored():
    p = nn.Parameter(torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)))
    optimizer = Adafactor([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    shapes = [tuple(v.shape) for v in optimizer.state[p].values()]
    assert shapes == [(), (16, 1, 3, 3), (1, 8, 3, 3)]
    each = nn.Parameter(torch.zeros(16, 8))
    part = Adafactor([each], scale=False)
    each.grad = torch.ones(16, 8)
    part.step()
    torch.testing.assert_close(part.state[each]["row_var"].flatten(), torch.ones(16))


def test_dead_rows_and_columns_stay_where_they_are():
    p = nn.Parameter(torch.ones(8, 6))
    optimizer = Adafactor([p])
    for _ in range(3):
        p.grad = torch.full((8, 6), 1e-2)
        p.grad[2] = p.grad[:, 3] = 0.0
        optimizer.step()
    assert torch.isfinite(p).all()
    assert (p[2] == 1).all()
    assert (p[:, 3] == 1).all()
    assert p[0, 0] < 1
    p.grad = torch.zeros(8, 6)
    optimizer.step()
    assert torch.isfinite(p).all()


def test_steps_that_the_caller_schedules():
    p = nn.Parameter(torch.full((2, 2), 10.0))
    optimizer = Adafactor([p], lr=0.5, relative=False, scale=False)
    p.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((2, 2), 9.5))
    q = nn.Parameter(torch.full((2, 2), 10.0))
    first = Adafactor([q], lr=0.5, relative=False, scale=False, beta1=0.9)
    for expected in (9.95, 9.95 - 0.095):
        q.grad = torch.full((2, 2), 3.0)
        first.step()
        torch.testing.assert_close(q.detach(), torch.full((2, 2), expected))


def test_what_cannot_be_is_said():
    w = [nn.Parameter(torch.zeros(2, 2))]
    for options, word in [({"beta2_decay": 0.8}, "beta2_decay"), ({"d": 0.0}, "d="),
                          ({"eps": (-1.0, 0.1)}, "eps"), ({"beta1": 1.0}, "beta1")]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            Adafactor(w, **options)
    with pytest.raises(ValueError, match="view_as_real"):
        Adafactor([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
