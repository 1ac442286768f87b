"""Gradient hooks on 2 and 3 real ranks: bounds of a step, sums over steps, DDP, infinities."""

import pytest
import torch
import torch.distributed as dist
from tests.training.ranks import run_ranks

from paragone.training import compression
from paragone.training.compression import BF16, FP16, Int8, Ordered, PowerSGD, TopK, hook

SHAPES = ((40, 30), (30,), (8, 4, 3, 3), (1,))
KEYS = ("a", "b", "c", "d")


def gradients(rank, step=0, dtype=torch.float32, spread=10.0):
    generator = torch.Generator().manual_seed(100 * step + rank)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [(g * spread**i).to(dtype) for i, g in enumerate(made)]


def exact(world, step=0, dtype=torch.float32, spread=10.0):
    every = [gradients(rank, step, dtype, spread) for rank in range(world)]
    return [torch.stack([g[i].double() for g in every]).mean(0) for i in range(len(SHAPES))]


def one_step(rank, world):
    """How far one step is off, relative to the largest gradient of the tensor."""
    bounds = {FP16: 2.0**-10, BF16: 2.0**-7, Int8: 0.9 / 127, Ordered: 1e-6}
    for kind, bound in bounds.items():
        for dtype in (torch.float32, torch.float64):
            means = kind().average(gradients(rank, 0, dtype), KEYS)
            for i, (mean, truth) in enumerate(zip(means, exact(world, 0, dtype), strict=True)):
                assert mean.dtype == dtype
                assert mean.shape == SHAPES[i]
                top = max(10.0**i * 5, 5e3 if kind is Int8 and i != 3 else 0)
                assert (mean - truth).abs().max() <= bound * top, (kind, i)
    assert TopK(1.0).average(gradients(rank), KEYS)[2].sub(exact(world)[2]).abs().max() < 1e-4
    bits = [mean.double().sum().item() for mean in Int8().average(gradients(rank), KEYS)]
    every = [None] * world
    dist.all_gather_object(every, bits)
    assert all(other == bits for other in every), "ranks disagree"


def sums(rank, world):
    """With feedback the sum of the means stays near the true sum; without it, it walks away."""
    steps, fixed = 15, gradients(rank, 3, spread=1.0)
    truth = exact(world, 3, spread=1.0)
    gaps = {}
    for name, make in (
        ("fp16", FP16), ("bf16", BF16), ("int8", Int8), ("topk", lambda **o: TopK(0.2, **o)),
        ("powersgd", lambda **o: PowerSGD(2, **o)),
    ):  # fmt: skip
        for feedback in (True, False):
            state = make(feedback=feedback)
            total = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
            early = 0.0
            for step in range(steps):
                for sum_, mean in zip(total, state.average(fixed, KEYS), strict=True):
                    sum_ += mean
                if step == steps // 3 - 1:
                    early = float((total[0] - truth[0] * (step + 1)).abs().max())
            gaps[name, feedback] = (early, float((total[0] - truth[0] * steps).abs().max()))
    for name in ("fp16", "bf16", "int8", "topk", "powersgd"):
        late, loose = gaps[name, True][1], gaps[name, False][1]
        assert late < 0.6 * loose, (name, gaps)
        assert loose > 2.5 * gaps[name, False][0], (name, "should grow with the steps", gaps)
        assert late < 2.5 * max(gaps[name, True][0], 1e-9), (name, "should stay", gaps)


def mismatch(rank, world):
    for state in (Int8(), TopK(0.1), Ordered()):
        with pytest.raises(ValueError, match="called different things"):
            state.average([torch.ones(3 + rank)], ("a",))


def low_rank(rank, world):
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.randn(n, 2, generator=generator) for n in (50, 40))
    mine = left @ (right * (rank + 1)).T
    state = PowerSGD(2)
    mean, vector = state.average([mine, torch.ones(7) * rank], ("m", "v"))
    truth = left @ (right * (world + 1) / 2).T
    assert (mean - truth).abs().max() < 1e-4 * truth.abs().max()
    assert torch.allclose(vector, torch.full((7,), (world - 1) / 2))
    other = PowerSGD(1).average([mine], ("m",))[0]
    assert (other - truth).abs().max() > 1e-2 * truth.abs().max(), "rank 1 cannot hold rank 2"


def bytes_and_infinities(rank, world):
    big = [torch.randn(256, 256, generator=torch.Generator().manual_seed(rank))]
    for state, most in (
        (FP16(), 0.51), (Int8(), 0.27), (TopK(0.01), 0.03), (PowerSGD(2), 0.02), (Ordered(), 1.01),
    ):  # fmt: skip
        state.average(big, ("w",))
        assert 0 < state.sent <= most * state.plain, type(state)
    for state in (FP16(), BF16(), Int8(), TopK(0.1), PowerSGD(1), Ordered()):
        bad = [g.clone() for g in big]
        bad[0][0, 0] = float("inf") if rank else 1.0
        assert not state.average(bad, ("w",))[0].isfinite().all(), type(state)
        after = state.average(big, ("w",))[0]
        assert after.isfinite().all(), (type(state), "an infinity stayed in the feedback")


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(20, 33), torch.nn.Tanh(), torch.nn.Linear(33, 3))


def data(rank):
    generator = torch.Generator().manual_seed(50 + rank)
    return torch.randn(16, 20, generator=generator), torch.randn(16, 3, generator=generator)


def train(model, batches, steps, world):
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in range(steps):
        optimizer.zero_grad()
        for x, y in batches:
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
        for p in model.parameters():
            p.grad /= world
        optimizer.step()
        losses.append(float(loss))
    return [p.detach().clone() for p in model.parameters()], losses


def with_ddp(rank, world):
    """DDP with each hook against one process that accumulates the micro-batches in order."""
    from torch.nn.parallel import DistributedDataParallel

    alone, _ = train(net(), [data(r) for r in range(world)], 8, world)
    for state in (Ordered(), FP16(), BF16(), Int8(), TopK(0.2), PowerSGD(2)):
        model = DistributedDataParallel(net(), bucket_cap_mb=0.002)
        model.register_comm_hook(state, hook)
        found, losses = train(model, [data(rank)], 8, 1)
        gaps = [float((a - b).abs().max()) for a, b in zip(alone, found, strict=True)]
        if isinstance(state, Ordered):
            assert gaps == [0.0] * 4, "must be the same bits"
        else:
            limit = 0.5 if isinstance(state, (TopK, PowerSGD)) else 2e-2
            assert 0 < max(gaps) < limit, (type(state), gaps)
        assert losses[-1] < losses[0]


def everything(rank, world):
    for check in (one_step, sums, mismatch, low_rank, bytes_and_infinities, with_ddp):
        check(rank, world)
    return rank


@pytest.mark.parametrize("world", [2, 3])
def test_hooks_on_real_ranks(world):
    assert run_ranks(world, everything, timeout=100) == list(range(world))


def test_wrong_arguments_are_named():
    for share in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match=f"share={share}"):
            TopK(share)
    with pytest.raises(ValueError, match="rank=0"):
        PowerSGD(0)
    with pytest.raises(ValueError, match="1 gradients, 2 keys"):
        Ordered().average([torch.ones(2)], ("a", "b"))
    assert set(compression.__all__) > {"hook"}
