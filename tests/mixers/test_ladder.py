"""The four ways to attention: one result, one gradient, and the cost that the formula says."""

import pytest
import torch

from paragone.mixers import attention
from paragone.mixers.ops.attention.ladder import METHODS, Cost, climb, cost
from paragone.mixers.ops.attention.rule import Extras, Rule


def given(queries=70, keys=133, heads=4, groups=2, dtype=torch.float64):
    random = torch.Generator().manual_seed(queries)
    return [
        torch.randn(2, h, t, d, generator=random, dtype=dtype).requires_grad_()
        for h, t, d in ((heads, queries, 8), (groups, keys, 8), (groups, keys, 5))
    ]


OPTIONS = {
    "plain": {},
    "causal": {"causal": True},
    "more queries than keys": {"causal": True, "sizes": (80, 33)},
    "window": {"causal": True, "window": 9, "alignment": "top-left"},
    "softcap": {"softcap": 2.0, "scale": 0.7},
    "alibi": {"causal": True, "alibi": True},
    "sinks": {"sinks": torch.linspace(-1, 1, 4, dtype=torch.float64)},
    "lengths": {"lengths": (torch.tensor([70, 3]), torch.tensor([0, 120])), "causal": True},
    "dropout": {"dropout": 0.3, "seed": 4},
    "mask": {"mask": torch.rand(2, 1, 70, 133, generator=torch.Generator().manual_seed(1)) < 0.1},
    "bias": {"bias": torch.linspace(-3, 3, 133, dtype=torch.float64).view(1, 1, 1, -1)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_result_and_gradient_are_those_of_the_definition(method, name):
    options = dict(OPTIONS[name])
    operands = given(*options.pop("sizes", (70, 133)))
    found = []
    for how in ({"backend": "torch"}, {"method": method}):
        out, lse = attention(*operands, return_lse=True, **options, **how)
        seen = lse.masked_fill(lse == -torch.inf, 0)
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + seen.sin().sum()
        found.append([out, lse, *torch.autograd.grad(loss, operands)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)
        assert not one.isnan().any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(1, 1), (64, 64), (65, 129), (7, 200), (130, 0)])
def test_what_is_done_is_what_the_formula_says(method, sizes):
    queries, keys = sizes
    q, k, v = (x.detach() for x in given(queries, keys))
    tally = Cost()
    climb(method, q, k, v, Rule(0.3), Extras(), tally)
    assert tally == cost(method, queries, keys, 8, 5, heads=8)


def test_tiles_read_less_and_write_no_scores():
    far = {method: cost(method, 4096, 4096, 64, 64) for method in METHODS}
    assert far["tiled"].written == far["online"].written == 4096 * 64
    assert far["three-pass"].written == 4096 * (4096 + 64)
    assert far["online"].read > 60 * far["tiled"].read
    assert far["three-pass"].read > far["two-pass"].read > far["tiled"].read


def test_a_forgotten_correction_would_be_seen():
    q, k, v = (x.detach() for x in given(5, 90))
    good, _ = climb("tiled", q, k, v, Rule(1.0), Extras())
    parts = [climb("three-pass", q, k[:, :, j], v[:, :, j], Rule(1.0), Extras())
             for j in (slice(0, 64), slice(64, 90))]  # fmt: skip
    weights = torch.softmax(torch.stack([lse for _, lse in parts]), 0)[..., None]
    whole = sum(w * out for w, (out, _) in zip(weights, parts, strict=True))
    torch.testing.assert_close(good, whole, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(good, sum(out for out, _ in parts) / 2, atol=1e-3)


def test_unknown_ways():
    q, k, v = (x.detach() for x in given(3, 3))
    with pytest.raises(ValueError, match="'four-pass' is none of"):
        attention(q, k, v, method="four-pass")
    with pytest.raises(ValueError, match="'four-pass' is none of three-pass"):
        cost("four-pass", 1, 1, 1, 1)
    with pytest.raises(ValueError, match="'four-pass' is none of three-pass"):
        climb("four-pass", q, k, v, Rule(1.0), Extras())
