"""What every optimizer written in plain PyTorch must do, for all of them alike."""

import copy
import pickle

import pytest
import torch
from torch import nn

from paragone.training import SGD, Adafactor, Lion, Muon, ScheduleFree

MAKERS = {
    "sgd": lambda p, **k: SGD(p, lr=0.05, momentum=0.9, **{"weight_decay": 0.1, **k}),
    "lion": lambda p, **k: Lion(p, lr=0.01, **{"weight_decay": 0.1, **k}),
    "muon": lambda p, **k: Muon(p, lr=0.02, **{"weight_decay": 0.1, **k}),
    "adafactor": lambda p, **k: Adafactor(p, lr=0.05, beta1=0.9, **{"weight_decay": 0.1, **k}),
    "free": lambda p, **k: ScheduleFree(p, lr=0.01, **{"weight_decay": 0.1, **k}),
    "free_sgd": lambda p, **k: ScheduleFree(p, 0.05, base="sgd", **{"weight_decay": 0.1, **k}),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def matrices(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 7), (7, 5), (2, 3, 4), (4, 2, 3, 3), (1, 1), (6, 6), (6, 6)]
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def push(parameters, seed):
    generator = torch.Generator().manual_seed(100 + seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def walk(optimizer, parameters, steps, first=0):
    for seed in range(first, first + steps):
        push(parameters, seed)
        optimizer.step()
    return [p.detach().clone() for p in parameters]


def equal(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_takes_the_same_path(make, dtype, tmp_path):
    whole, first = matrices(dtype), matrices(dtype)
    expected = walk(make(whole), whole, 6)
    optimizer = make(first)
    walk(optimizer, first, 3)
    torch.save([[p.data for p in first], optimizer.state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = [nn.Parameter(w) for w in weights]
    resumed = make(second, weight_decay=0.7)
    resumed.load_state_dict(state)
    equal(expected, walk(resumed, second, 3, first=3))
    floats = [v for s in resumed.state.values() for v in s.values() if v.is_floating_point()]
    assert floats
    assert all(v.dtype == torch.float32 for v in floats)


@every
def test_copies_go_their_own_way(make):
    parameters = matrices()
    optimizer = make(parameters)
    walk(optimizer, parameters, 2)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        own = [p for group in twin.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        walk(twin, own, 2, first=2)
        equal(before, [p.detach() for p in parameters])


@every
def test_no_gradient_no_step_and_no_decay(make):
    parameters = matrices()
    optimizer = make(parameters)
    push(parameters, 0)
    parameters[1].grad = None
    before = parameters[1].detach().clone()
    optimizer.step()
    assert torch.equal(before, parameters[1])
    assert parameters[1] not in optimizer.state
    assert not torch.equal(parameters[0], matrices()[0])


@every
def test_maximize_is_the_other_sign(make):
    up, down = matrices(), matrices()
    for optimizer, parameters, sign in ((make(up, maximize=True), up, -1), (make(down), down, 1)):
        for seed in range(3):
            push(parameters, seed)
            for p in parameters:
                p.grad.mul_(sign)
            optimizer.step()
    equal([p.detach() for p in up], [p.detach() for p in down])


@every
def test_closure_gives_the_loss_with_gradients_on(make):
    parameters = matrices()
    optimizer, calls = make(parameters), []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(4)]
    assert calls == [True] * 4
    assert losses[-1] < losses[0]


@every
def test_sparse_gradients_are_refused(make):
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = make([table.weight])
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_stepped_in_fp32_and_rounded_once(make, dtype):
    short = matrices(dtype)
    long = [nn.Parameter(p.detach().float()) for p in short]
    push(short, 0)
    for p, q in zip(short, long, strict=True):
        q.grad = p.grad.float()
    make(short).step()
    make(long).step()
    equal([p.detach() for p in short], [q.detach().to(dtype) for q in long])


@every
def test_gradients_of_any_stride(make):
    parameters, others = matrices(), matrices()
    a, b = make(parameters), make(others)
    push(parameters, 0)
    push(others, 0)
    for p in parameters:
        p.grad = p.grad.transpose(0, -1).contiguous().transpose(0, -1)
        if p.ndim == 2:
            p.data = p.data.t().contiguous().t()
    a.step()
    b.step()
    for p, q in zip(parameters, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every
def test_schedulers_groups_and_tensor_rates(make):
    parameters, others = matrices(), matrices()
    optimizer = make(parameters[:3])
    optimizer.add_param_group({"params": parameters[3:], "lr": torch.tensor(0.03)})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 if t < 2 else 0.0)
    twin = make(others[:3])
    twin.add_param_group({"params": others[3:], "lr": 0.03})
    for seed in range(2):
        for o, ps in ((optimizer, parameters), (twin, others)):
            push(ps, seed)
            o.step()
        schedule.step()
    for p, q in zip(parameters, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert [float(g["lr"]) for g in optimizer.param_groups] == [0.0, 0.0]


@every
def test_a_scaler_skips_a_step_with_infinite_gradients(make):
    parameters = matrices()
    optimizer = make(parameters)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))
    push(parameters, 0)
    parameters[0].grad[0, 0] = float("inf")
    before = [p.detach().clone() for p in parameters]
    scaler.step(optimizer)
    scaler.update()
    equal(before, [p.detach() for p in parameters])
    assert scaler.get_scale() == 4.0
    push(parameters, 1)
    for p in parameters:
        p.grad.mul_(4.0)
    scaler.step(optimizer)
    others = matrices()
    push(others, 1)
    make(others).step()
    equal([p.detach() for p in others], [p.detach() for p in parameters])


@every
def test_empty_tensors(make):
    parameters = [nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.zeros(3, 0))]
    optimizer = make(parameters)
    walk(optimizer, parameters, 2)


@every
def test_what_cannot_be_is_said(make):
    for bad in ({"weight_decay": -1.0}, {"weight_decay": float("nan")}):
        with pytest.raises(ValueError, match="weight_decay="):
            make(matrices(), **bad)
    parameters = matrices()
    optimizer = make(parameters[:2])
    with pytest.raises(ValueError, match="lr="):
        optimizer.add_param_group({"params": parameters[2:], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="empty"):
        make([])


def test_who_may_be_divided_by_element():
    told = {c.__name__: c.shard_by for c in (SGD, Lion, Muon, Adafactor, ScheduleFree)}
    assert told == {"SGD": "element", "Lion": "element", "Muon": "tensor",
                    "Adafactor": "tensor", "ScheduleFree": "element"}  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(6, 4, generator=rng), torch.randn(6, 4, generator=rng)

    def stepped(cls, parts):
        held = [nn.Parameter(p.clone()) for p in start.split(6 // parts)]
        for p, g in zip(held, gradient.split(6 // parts), strict=True):
            p.grad = g.clone()
        cls(held).step()
        return torch.cat([p.detach() for p in held])

    for cls in (SGD, Lion, ScheduleFree, Muon, Adafactor):
        assert torch.equal(stepped(cls, 1), stepped(cls, 2)) == (cls.shard_by == "element")
