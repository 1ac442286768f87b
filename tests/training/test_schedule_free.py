"""Schedule-Free: against x, y, z written out, the schedulefree package, and what eval means."""

import numpy as np
import pytest
import torch
from torch import nn

from paragone.training import ScheduleFree


def written_out(gradient, start, steps, lr, beta=0.9, decay=0.0, warmup=0, r=0.0, power=2.0):
    """Equations 3 to 5 with all three sequences, in float64, for SGD."""
    x = z = np.array(start, np.float64)
    total = largest = 0.0
    for t in range(1, steps + 1):
        rate = lr * min(1.0, t / max(1, warmup))
        largest = max(largest, rate)
        weight = t**r * largest**power
        total += weight
        y = (1 - beta) * z + beta * x
        z = z - rate * (gradient(y) + decay * y)
        x = (1 - weight / total) * x + weight / total * z
    return x, (1 - beta) * z + beta * x, z


def slope(y):
    return np.array([1.0, 10.0]) * y + np.sin(y)


@pytest.mark.parametrize("options", [
    {}, {"decay": 0.1}, {"warmup": 7}, {"r": 1.0, "power": 0.0}, {"beta": 0.5, "warmup": 3},
])  # fmt: skip
def test_three_sequences_from_two(options):
    options = {"lr": 0.08, **options}
    x, y, z = written_out(slope, [2.0, -1.0], 25, **options)
    w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
    optimizer = ScheduleFree(
        [w], options["lr"], base="sgd", betas=(options.get("beta", 0.9), 0.999),
        weight_decay=options.get("decay", 0.0), warmup_steps=options.get("warmup", 0),
        r=options.get("r", 0.0), weight_lr_power=options.get("power", 2.0),
    )  # fmt: skip
    for _ in range(25):
        w.grad = torch.tensor(slope(w.detach().numpy()))
        optimizer.step()
    np.testing.assert_allclose(w.detach(), y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(optimizer.state[w]["z"], z, rtol=1e-10, atol=1e-12)
    optimizer.eval()
    np.testing.assert_allclose(w.detach(), x, rtol=1e-10, atol=1e-12)
    optimizer.eval()
    np.testing.assert_allclose(w.detach(), x, rtol=1e-10, atol=1e-12)
    optimizer.train()
    np.testing.assert_allclose(w.detach(), y, rtol=1e-10, atol=1e-12)


def test_the_average_is_nearer_than_the_newest_point():
    rng = np.random.default_rng(0)
    w = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    optimizer = ScheduleFree([w], 0.3, base="sgd")
    for _ in range(2000):
        w.grad = w.detach() + torch.tensor(rng.normal(size=20))
        optimizer.step()
    newest = float(optimizer.state[w]["z"].square().mean())
    optimizer.eval()
    average = float(w.detach().square().mean())
    assert average < newest / 20


def test_a_step_on_the_average_is_refused_and_the_switch_is_saved():
    w = nn.Parameter(torch.ones(3))
    optimizer = ScheduleFree([w])
    w.grad = torch.ones(3)
    optimizer.step()
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"optimizer.train\(\)"):
        optimizer.step()
    twin = ScheduleFree([nn.Parameter(w.detach().clone())])
    twin.load_state_dict(optimizer.state_dict())
    assert twin.param_groups[0]["train_mode"] is False
    optimizer.train()
    twin.train()
    assert torch.equal(twin.param_groups[0]["params"][0], w)


@pytest.mark.peers
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_equals_the_schedulefree_package(base, warmup):
    peer = pytest.importorskip("schedulefree", reason="pip install schedulefree")
    rng = torch.Generator().manual_seed(1)
    start = [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((), (5,), (3, 4))]
    mine, others = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    options = {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": warmup}
    a = ScheduleFree(mine, base=base, **options)
    if base == "sgd":
        b = peer.SGDScheduleFree(others, momentum=0.9, foreach=False, **options)
    else:
        b = peer.AdamWScheduleFree(others, foreach=False, **options)
    b.train()
    for _ in range(12):
        for p, q in zip(mine, others, strict=True):
            p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for turn in ("train", "eval", "train"):
        getattr(a, turn)()
        getattr(b, turn)()
        for p, q in zip(mine, others, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


def test_what_cannot_be_is_said():
    w = [nn.Parameter(torch.zeros(2, 2))]
    for options, word in [({"base": "adam"}, "base"), ({"betas": (0.0, 0.9)}, "betas"),
                          ({"warmup_steps": -1}, "warmup"), ({"lr": -1.0}, "lr")]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            ScheduleFree(w, **options)
    with pytest.raises(ValueError, match="view_as_real"):
        ScheduleFree([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
