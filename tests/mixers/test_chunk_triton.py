"""Chunked linear attention in Triton, run by its interpreter, against the recurrence in float64."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from paragone.kernels import choice
from paragone.mixers.ops.linear import chunk_triton as op
from paragone.mixers.ops.linear.interface import linear_attention
from paragone.mixers.ops.linear.reference import LinearState, recurrent

pytestmark = pytest.mark.usefixtures("interpreter")


def drawn(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs(time, gate, rows=1, heads=1, d=12, e=20, strong=1.0):
    q, k = drawn(1, rows, heads, time, d), drawn(2, rows, heads, time, d)
    v, memory = drawn(3, rows, heads, time, e), drawn(4, rows, heads, d, e)
    shape = {"none": None, "scalar": (rows, heads, time), "vector": (rows, heads, time, d)}[gate]
    return q, k, v, None if shape is None else -strong * drawn(5, *shape).abs(), memory


def expected(q, k, v, gate, memory, scale):
    norm = memory.new_zeros(*memory.shape[:2], 0)
    o, state = recurrent(q, k, v, gate, None, LinearState(memory, norm), scale)
    return o, state.memory


def with_gradients(run, given):
    leaves = [x.clone().requires_grad_() for x in given if x is not None]
    whole = iter(leaves)
    o, final = run(*(None if x is None else next(whole) for x in given))
    pull = (o * drawn(8, *o.shape)).sum() + (final * drawn(9, *final.shape)).sum()
    return [o.detach(), final.detach(), *torch.autograd.grad(pull, leaves)]


def agree(mine, theirs, tolerance=5e-6):
    for ours, right in zip(mine, theirs, strict=True):
        size = max([1.0, *right.abs().flatten().tolist()])
        torch.testing.assert_close(ours.double(), right.double(), rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("time", [1, 37])
@pytest.mark.parametrize("gate", ["none", "scalar", "vector"])
def test_outputs_state_and_all_gradients(gate, time):
    given = inputs(time, gate, heads=1 if gate == "vector" else 2)
    mine = with_gradients(lambda *x: op.chunks(*x, 0.3, 32), given)
    wide = [None if x is None else x.double() for x in given]
    agree(mine, with_gradients(lambda *x: expected(*x, 0.3), wide))


@pytest.mark.parametrize("gate", ["scalar", "vector"])
def test_strong_decay_stays_finite_and_exact(gate):
    """Down to -20 a token and more, between tokens that hardly fade."""
    given = list(inputs(40, gate, heads=1, strong=20.0))
    given[3] = torch.where(drawn(6, *given[3].shape) > 0.5, given[3], 1e-3 * given[3])
    mine = with_gradients(lambda *x: op.chunks(*x, 1.0, 64), given)
    assert all(x.isfinite().all() for x in mine)
    wide = [x.double() for x in given]
    agree(mine, with_gradients(lambda *x: expected(*x, 1.0), wide), 5e-5)


def test_a_gate_of_zero_is_no_gate():
    q, k, v, _, memory = inputs(37, "none")
    plain = op.chunks(q, k, v, None, memory, 1.0)
    scalar = op.chunks(q, k, v, torch.zeros(1, 1, 37), memory, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(plain, scalar, strict=True))
    vector = op.chunks(q, k, v, torch.zeros(1, 1, 37, 12), memory, 1.0)
    agree(vector, plain)


@pytest.mark.parametrize("gate", ["none", "vector"])
def test_the_size_of_a_chunk_and_a_cut_do_not_matter(gate):
    q, k, v, g, memory = inputs(54, gate)
    whole = op.chunks(q, k, v, g, memory, 1.0, 16)
    agree(op.chunks(q, k, v, g, memory, 1.0, 64), whole)
    cut = [[None if x is None else x[:, :, part] for x in (q, k, v, g)]
           for part in (slice(0, 37), slice(37, None))]  # fmt: skip
    first, state = op.chunks(*cut[0], memory, 1.0)
    second, state = op.chunks(*cut[1], state, 1.0)
    agree((torch.cat([first, second], 2), state), whole)


def test_outputs_do_not_depend_on_what_comes_later():
    q, k, v, g, memory = inputs(40, "vector")
    before = op.chunks(q, k, v, g, memory, 1.0, 16)[0]
    for x in (q, k, v, g):
        x[:, :, 21:] = 7.0 if x is not g else -7.0
    after = op.chunks(q, k, v, g, memory, 1.0, 16)[0]
    assert torch.equal(before[:, :, :21], after[:, :, :21])


def test_strides_half_precision_and_nothing_at_all():
    q, k, v, g, memory = inputs(33, "scalar")
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    plain = op.chunks(q, k, v, g, memory, 1.0)
    for ours, right in zip(op.chunks(*turned, g, memory, 1.0), plain, strict=True):
        assert torch.equal(ours, right)
    half = op.chunks(q.half(), k.half(), v.half(), g, memory, 1.0)
    assert half[0].dtype == torch.float16
    agree(half, expected(*(x.half().double() for x in (q, k, v)), g.double(), memory.double(), 1.0),
          1e-3)  # fmt: skip
    none = op.chunks(q[:, :, :0], k[:, :, :0], v[:, :, :0], g[:, :, :0], memory, 1.0)
    assert none[0].shape == (1, 1, 0, 20)
    assert torch.equal(none[1], memory)


def test_the_operation_is_sound():
    given = [x.requires_grad_() for x in inputs(5, "vector", heads=1, d=3, e=2)]
    torch.library.opcheck(op._chunks, (*given, 0.5, 16, False))


def test_an_error_that_is_planted_is_seen(monkeypatch):
    whole = op._Work._sums
    monkeypatch.setattr(op._Work, "_sums", lambda self, gate: whole(self, gate.roll(1, 2)))
    with pytest.raises(AssertionError):
        test_outputs_state_and_all_gradients("scalar", 37)


def test_what_no_kernel_takes_is_named():
    q, k, v, g, memory = inputs(3, "scalar")
    with pytest.raises(ValueError, match="bfloat16 arithmetic is wrong"):
        op.chunks(q.bfloat16(), k.bfloat16(), v.bfloat16(), g, memory, 1.0)
    wide = torch.zeros(1, 1, 2, 300)
    with pytest.raises(ValueError, match="300 wide, at most 256"):
        op.chunks(wide, wide, wide, None, torch.zeros(1, 1, 300, 300), 1.0)


@pytest.mark.parametrize("gate", ["none", "scalar"])
def test_it_is_a_back_end_of_linear_attention(gate):
    q, k, v, g, memory = inputs(20, gate, rows=2, heads=1)
    if g is not None:
        g[0, :, 13:] = torch.nan
    q[0, :, 13:], k[0, :, 13:], v[0, :, 13:] = torch.nan, torch.nan, torch.nan
    state = LinearState(memory, drawn(7, 2, 1, 12).abs())
    given = {"gate": g, "state": state, "normalize": True, "feature_map": "elu1",
             "lengths": torch.tensor([13, 20]), "chunk": 16}  # fmt: skip
    mine = linear_attention(q, k, v, **given, backend="triton")
    theirs = linear_attention(q, k, v, **given, backend="torch")
    agree((mine[0], *mine[1]), (theirs[0], *theirs[1]))
    with pytest.raises(ValueError, match="no delta rule"):
        linear_attention(q, k, v, beta=q[..., 0], backend="triton")
    facts = {"device": q.device, "dtype": q.dtype, "causal": True, "form": "auto"}
    assert choice.choose("linear_attention", **facts) == "numba"
