"""Muon: against singular value decompositions, PyTorch's own, and AdamW where it is AdamW."""

import math

import pytest
import torch
from torch import nn

from paragone.training import Muon
from paragone.training.by_name import make_optimizer
from paragone.training.muon import COEFFICIENTS, orthogonalize


def polynomial(s, steps=5):
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (8, 3), (7, 7), (2, 4, 6), (2, 3, 6, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_singular_values_go_through_the_polynomial(shape, dtype):
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / torch.linalg.matrix_norm(x)[..., None]
    expected = (u * polynomial(s)[..., None, :].to(dtype)) @ vh
    found = orthogonalize(x, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    wrong = (u * polynomial(s, 4)[..., None, :].to(dtype)) @ vh
    assert (wrong - expected).abs().max() > 1e-3


def test_singular_values_end_near_one():
    s = torch.logspace(math.log10(2e-3), 0, 5000, dtype=torch.float64)
    assert polynomial(s).min() > 0.68
    assert polynomial(s).max() < 1.21
    zero = orthogonalize(torch.zeros(3, 4))
    assert torch.equal(zero, torch.zeros(3, 4))


def stepped(make, start, gradients, **options):
    p = nn.Parameter(start.clone())
    optimizer = make([p], **options)
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (33, 17), (6, 6)])
def test_equals_torch_bit_for_bit_in_its_type(adjust, shape):
    rng = torch.Generator().manual_seed(3)
    start = torch.randn(shape, generator=rng)
    gradients = [torch.randn(shape, generator=rng) for _ in range(4)]
    for nesterov in (True, False):
        options = {"lr": 0.02, "weight_decay": 0.1, "nesterov": nesterov}
        mine = stepped(Muon, start, gradients, adjust=adjust, ns_dtype=torch.bfloat16, **options)
        theirs = stepped(torch.optim.Muon, start, gradients, adjust_lr_fn=adjust, **options)
        assert torch.equal(mine, theirs)
        exact = stepped(Muon, start, gradients, adjust=adjust, **options)
        torch.testing.assert_close(exact, theirs, rtol=0.02, atol=0.005)


def test_matrices_of_one_shape_are_stepped_as_alone():
    rng = torch.Generator().manual_seed(4)
    shapes = [(6, 4), (6, 4), (4, 6), (3, 6, 4)]
    starts = [torch.randn(s, generator=rng) for s in shapes]
    gradients = [torch.randn(s, generator=rng) for s in shapes]
    together = [nn.Parameter(w.clone()) for w in starts]
    optimizer = Muon(together, lr=0.1, weight_decay=0.1)
    for p, g in zip(together, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, w, g in zip(together, starts, gradients, strict=True):
        alone = stepped(Muon, w, [g], lr=0.1, weight_decay=0.1)
        torch.testing.assert_close(p.detach(), alone, rtol=1e-5, atol=1e-6)
        if p.ndim == 3:
            parts = [stepped(Muon, w[i], [g[i]], lr=0.1, weight_decay=0.1) for i in range(len(w))]
            torch.testing.assert_close(p.detach(), torch.stack(parts), rtol=1e-5, atol=1e-6)


def test_kernels_are_one_matrix():
    rng = torch.Generator().manual_seed(5)
    start, gradient = (torch.randn(8, 3, 3, 3, generator=rng) for _ in range(2))
    kernel = stepped(Muon, start, [gradient], lr=0.1)
    flat = stepped(Muon, start.flatten(1), [gradient.flatten(1)], lr=0.1)
    torch.testing.assert_close(kernel.flatten(1), flat, rtol=1e-6, atol=1e-6)
    batched = stepped(Muon, start, [gradient], lr=0.1, flatten=False)
    assert not torch.allclose(batched, kernel)
    line = stepped(Muon, start[..., 0], [gradient[..., 0]], lr=0.1, flatten=True)
    flat = stepped(Muon, start[..., 0].flatten(1), [gradient[..., 0].flatten(1)], lr=0.1)
    torch.testing.assert_close(line.flatten(1), flat, rtol=1e-6, atol=1e-6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.inner = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.back = nn.Linear(16, 8, bias=False)
        self.head = nn.Linear(8, 11, bias=False)


def test_split_takes_the_hidden_matrices():
    model = Model()
    groups = {g["name"]: g for g in Muon.split(model, lr=1e-3, weight_decay=0.1)}
    names = {id(p): n for n, p in model.named_parameters()}
    told = {kind: [names[id(p)] for p in g["params"]] for kind, g in groups.items()}
    assert told == {
        "hidden": ["inner.weight", "back.weight"],
        "kernels": ["conv.weight"],
        "embeddings and head": ["table.weight", "head.weight"],
        "vectors": ["conv.bias", "inner.bias", "norm.weight", "norm.bias"],
    }
    assert groups["kernels"]["flatten"] is True
    assert groups["vectors"]["weight_decay"] == 0.0
    assert groups["embeddings and head"]["weight_decay"] == 0.1
    optimizer = Muon(list(groups.values()), lr=0.02)
    assert [g["lr"] for g in optimizer.param_groups] == [0.02, 0.02, 1e-3, 1e-3]
    named = {g["name"]: g for g in Muon.split(model, head=("back",))}
    assert any(p is model.head.weight for p in named["hidden"]["params"])
    assert any(p is model.back.weight for p in named["embeddings and head"]["params"])
    with pytest.raises(ValueError, match="no parameter's name begins"):
        Muon.split(model, head="lm_head")
    model.head.weight = model.table.weight
    tied = {g["name"]: g for g in Muon.split(model, head="")}
    assert sum(p is model.table.weight for p in tied["embeddings and head"]["params"]) == 1


def test_norms_of_two_dimensions_are_no_matrices():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm((2, 4)), nn.Linear(8, 8))
    groups = {g["name"]: g["params"] for g in Muon.split(model)}
    assert [len(groups[kind]) for kind in ("hidden", "embeddings and head", "vectors")] == [1, 1, 4]
    decayed, others = make_optimizer(model, "adamw", lr=1e-3, weight_decay=0.1).param_groups
    assert (len(decayed["params"]), len(others["params"])) == (2, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_groups_of_adamw_are_adamw(dtype):
    rng = torch.Generator().manual_seed(6)
    start = [torch.randn(s, generator=rng, dtype=dtype) for s in ((), (5,), (3, 4))]
    mine, others = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = Muon([{"params": mine, "adamw": True, "weight_decay": 0.1}], adamw_lr=0.01)
    b = torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, foreach=False)
    for _ in range(5):
        for p, q in zip(mine, others, strict=True):
            p.grad = torch.randn(p.shape, generator=rng, dtype=dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, others, strict=True))


def test_update_is_as_large_as_the_factor_says():
    rng = torch.Generator().manual_seed(7)
    gradient = torch.randn(64, 32, generator=rng)
    found = -stepped(Muon, torch.zeros(64, 32), [gradient], lr=1.0, adjust="match_rms_adamw")
    assert 0.14 < found.square().mean().sqrt() < 0.25
    spectral = -stepped(Muon, torch.zeros(64, 32), [gradient], lr=1.0)
    assert torch.linalg.matrix_norm(spectral, 2) < 1.21 * math.sqrt(2)


def test_parameters_spread_over_ranks(tmp_path):
    """One rank in a mesh: the same code as for many, which gather before they multiply."""
    from torch import distributed as dist
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh("cpu", (1,))
        rng = torch.Generator().manual_seed(8)
        start, gradient = (torch.randn(6, 4, generator=rng) for _ in range(2))
        p = nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))
        optimizer = Muon([p], lr=0.1, weight_decay=0.1)
        p.grad = distribute_tensor(gradient.clone(), mesh, [Shard(0)])
        optimizer.step()
        assert isinstance(p.data, DTensor)
        assert isinstance(optimizer.state[p]["momentum_buffer"], DTensor)
        alone = stepped(Muon, start, [gradient], lr=0.1, weight_decay=0.1)
        assert torch.equal(p.full_tensor().detach(), alone)
    finally:
        dist.destroy_process_group()


def test_what_cannot_be_is_said():
    w = [nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(ValueError, match=r"shape \(3,\) is no matrix.*Muon.split"):
        Muon([nn.Parameter(torch.zeros(3))])
    for options, word in [
        ({"adjust": "rms"}, "adjust"), ({"momentum": 1.0}, "momentum"), ({"ns_steps": 0}, "ns_st"),
        ({"ns_coefficients": (1.0, 2.0)}, "three"), ({"betas": (0.9, 1.0)}, "beta2"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            Muon(w, **options)
