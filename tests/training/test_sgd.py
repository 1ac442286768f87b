"""SGD: bit for bit PyTorch's, decoupled decay, what is refused."""

import copy
import itertools

import pytest
import torch
from torch import nn

from paragone.training import SGD

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4)]
OPTIONS = [
    {"momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov,
     "maximize": maximize}
    for momentum, dampening, decay, nesterov, maximize in itertools.product(
        (0.0, 0.9), (0.0, 0.3), (0.0, 0.1), (False, True), (False, True))
    if not nesterov or (momentum and not dampening)
]  # fmt: skip


def pair(ours, theirs, dtype, steps=5):
    rng = torch.Generator().manual_seed(1)
    start = [torch.randn(s, generator=rng, dtype=dtype) for s in SHAPES]
    mine, others = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a, b = ours(mine), theirs(others)
    for _ in range(steps):
        for p, q in zip(mine, others, strict=True):
            p.grad = torch.randn(p.shape, generator=rng, dtype=dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    return mine, others, a, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_every_bit_is_that_of_torch(dtype):
    assert len(OPTIONS) > 10
    for options in OPTIONS:
        mine, others, a, b = pair(
            lambda p, o=options: SGD(p, lr=0.1, **o),
            lambda p, o=options: torch.optim.SGD(p, lr=0.1, foreach=False, **o), dtype,
        )  # fmt: skip
        for p, q in zip(mine, others, strict=True):
            assert torch.equal(p, q), options
            if options["momentum"]:
                assert torch.equal(a.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"])


def test_states_go_to_torch_and_back():
    def same(p):
        return torch.optim.SGD(p, lr=0.1, momentum=0.9)

    mine, others, a, b = pair(lambda p: SGD(p, lr=0.1, momentum=0.9), same, torch.float32)
    state = copy.deepcopy(b.state_dict())
    a.load_state_dict({**state, "param_groups": a.state_dict()["param_groups"]})
    for p, q in zip(mine, others, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    a.step()
    b.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, others, strict=True))


def test_decoupled_decay_passes_by_the_momentum():
    w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = SGD([w], lr=0.1, momentum=0.9, weight_decay=0.5, decay="decoupled")
    expected, buffer = 2.0, 0.0
    for t in range(4):
        w.grad = torch.tensor([0.3 + t], dtype=torch.float64)
        optimizer.step()
        buffer = 0.9 * buffer + 0.3 + t
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * buffer
    assert w.item() == pytest.approx(expected, rel=1e-14)
    twin = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    l2 = SGD([twin], lr=0.1, momentum=0.9, weight_decay=0.5)
    for t in range(4):
        twin.grad = torch.tensor([0.3 + t], dtype=torch.float64)
        l2.step()
    assert abs(twin.item() - expected) > 0.1, "decay in the gradient must be told from this"


def test_heavy_ball_on_a_parabola_is_the_closed_recursion():
    w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = SGD([w], lr=0.1, momentum=0.5)
    path = [1.0]
    for _ in range(30):
        w.grad = w.detach().clone()
        optimizer.step()
        path.append(w.item())
    roots = torch.linalg.eigvals(torch.tensor([[1.4, -0.5], [1.0, 0.0]], dtype=torch.float64))
    a, b = roots.tolist()
    # w_t = p a^t + q b^t with w_0 = 1, w_1 = 0.9
    q = (0.9 - a) / (b - a)
    expected = ((1 - q) * a**30 + q * b**30).real
    assert path[-1] == pytest.approx(expected, rel=1e-10)


def test_what_cannot_be_is_said():
    w = [nn.Parameter(torch.zeros(2))]
    for options, word in [
        ({"lr": -0.1}, "lr"), ({"momentum": 1.0}, "momentum"), ({"decay": "paper"}, "decay"),
        ({"nesterov": True}, "nesterov"), ({"lr": float("nan")}, "lr"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            SGD(w, **options)
