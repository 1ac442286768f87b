"""Exact attention in Triton, run by its interpreter, against float64 on whole matrices."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from triton.runtime import interpreter

from paragone.kernels import choice, launch
from paragone.mixers import attention
from paragone.mixers.ops.attention import attention_triton as op
from paragone.mixers.ops.attention import attention_triton_parts as parts
from paragone.mixers.ops.attention import registration
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.call import attend
from paragone.mixers.ops.attention.reference import attention_reference
from paragone.mixers.ops.attention.rule import Call, Extras, Rule

pytestmark = pytest.mark.usefixtures("interpreter")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3}


def drawn(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def qkv(rows=1, heads=2, kv_heads=1, queries=37, keys=50, d=24, e=20, dtype=torch.float32):
    return (drawn(1, rows, heads, queries, d, dtype=dtype),
            drawn(2, rows, kv_heads, keys, d, dtype=dtype),
            drawn(3, rows, kv_heads, keys, e, dtype=dtype))  # fmt: skip


def call_of(q, k, v, rule, extras):
    """As `attend` makes it: four axes for a mask and a bias, two for the slopes."""
    lengths, packed, mask, bias, slopes = extras
    table = elements = None
    if isinstance(mask, BlockMask):
        mask, table, elements = None, mask.table, mask.elements
    mask, bias = (x if x is None else x[(None,) * (4 - x.ndim)] for x in (mask, bias))
    return Call(q, k, v, rule, lengths, packed, mask, table, elements, bias, slopes)


def expected(q, k, v, rule, extras, dout, dlse):
    """Output, logarithms and all gradients of the definition in float64."""
    extra = [x if x is None else x.double().requires_grad_() for x in (extras.bias, extras.slopes)]
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
    out, lse = attention_reference(
        *wide, rule, lengths=extras.lengths, mask=mask, bias=extra[0], slopes=extra[1]
    )
    pull = (out * dout.double()).sum() + (lse.masked_fill(lse == -torch.inf, 0) * dlse).sum()
    grads = torch.autograd.grad(pull, [*wide, *(x for x in extra if x is not None)])
    return [out.detach(), lse.detach(), *grads]


def found(q, k, v, rule, extras, dout, dlse):
    call = call_of(q, k, v, rule, extras)
    out, lse = op.forward_call(call)
    grads = op.backward_call(call, dout, dlse, out, lse, True)
    shapes = [q, k, v, extras.bias, extras.slopes]
    return [out, lse, *(g.reshape(x.shape) for g, x in zip(grads, shapes, strict=True)
                        if g is not None)]  # fmt: skip


def forward(q, k, v, rule, extras=Extras()):  # noqa: B008
    return op.forward_call(call_of(q, k, v, rule, extras))


def agree(q, k, v, rule, extras=Extras(), tolerance=None):  # noqa: B008
    dout, dlse = drawn(8, *q.shape[:3], v.shape[-1], dtype=q.dtype), drawn(9, *q.shape[:3]).double()
    dlse = dlse.float().double()
    theirs = expected(q, k, v, rule, extras, dout, dlse)
    mine = found(q, k, v, rule, extras, dout, dlse)
    assert len(mine) == len(theirs)
    for ours, right in zip(mine, theirs, strict=True):
        assert ours.shape == right.shape
        scale = max([1.0, *right[right.isfinite()].abs().flatten().tolist()])
        torch.testing.assert_close(ours.double(), right, rtol=0,
                                   atol=scale * (tolerance or TOLERANCE[q.dtype]))  # fmt: skip
    return mine


SLOPES = torch.tensor([[0.5, 0.0625]])
CASES = {
    "all": (Rule(0.2), {}),
    "causal, more keys": (Rule(0.2, right=0), {}),
    "causal, top left": (Rule(0.2, right=0, bottom=False), {}),
    "window": (Rule(0.2, left=11, right=0), {}),
    "window to both sides": (Rule(0.2, left=3, right=40), {}),
    "softcap": (Rule(0.9, softcap=3.0, right=0), {}),
    "alibi": (Rule(0.2), {"slopes": SLOPES}),
    "alibi by row": (Rule(0.2, right=0), {"slopes": torch.cat([SLOPES, 2 * SLOPES])}),
    "bias": (Rule(0.2, softcap=8.0), {"bias": drawn(4, 1, 2, 37, 50)}),
    "bias of all rows": (Rule(0.2, right=0), {"bias": drawn(4, 1, 2, 37, 50)}),
    "bias of keys": (Rule(0.2), {"bias": drawn(4, 2, 1, 1, 50)}),
    "bias of queries": (Rule(0.2), {"bias": drawn(4, 37, 1)}),
    "one bias": (Rule(0.2), {"bias": drawn(4, 1, 1)}),
    "mask": (Rule(0.2), {"mask": drawn(5, 1, 1, 37, 50) > 1.4}),
    "mask of keys": (Rule(0.2, right=0), {"mask": drawn(5, 1, 2, 1, 50) > 0}),
    "dropout": (Rule(0.2, right=0, dropout=0.3, seed=2**40 + 3), {}),
    "lengths": (Rule(0.2, right=0), {"lengths": (torch.tensor([30, 0]), torch.tensor([44, 33]))}),
    "lengths, no keys": (Rule(0.2), {"lengths": (torch.tensor([37, 1]), torch.tensor([0, 50]))}),
}


TWO_ROWS = ("alibi by row", "bias of all rows", "bias of keys", "lengths", "lengths, no keys")


@pytest.mark.parametrize("name", CASES)
def test_forward_and_all_gradients(name):
    rule, extras = CASES[name]
    rows = 2 if name in TWO_ROWS else 1
    agree(*qkv(rows), rule, Extras(**extras))


@pytest.mark.parametrize(
    ("queries", "keys", "d", "e"),
    [(1, 1, 1, 1), (0, 5, 8, 8), (5, 0, 8, 8), (63, 65, 40, 16), (64, 64, 16, 32), (67, 31, 3, 7)],
)
def test_odd_sizes(queries, keys, d, e):
    agree(*qkv(1, 2, 2, queries, keys, d, e), Rule(0.3, right=0))


@pytest.mark.parametrize("heads", [(4, 2), (3, 1)])
def test_heads_that_share_keys(heads):
    agree(*qkv(1, *heads, 20, 33, 16, 16), Rule(0.25, left=9, right=2))


def test_half_precision_by_the_rule_of_flash_attention():
    """At most twice the error of plain torch in float16, and two units in the last place."""
    q, k, v = qkv(1, 2, 2, dtype=torch.float16)
    rule, dout, dlse = Rule(0.2, right=0), drawn(8, 1, 2, 37, 20).half(), torch.zeros(1, 2, 37)
    exact = expected(q, k, v, rule, Extras(), dout, dlse)
    mine = found(q, k, v, rule, Extras(), dout, dlse)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    hidden = torch.ones(37, 50, dtype=torch.bool).triu(14)
    scores = (leaves[0] @ leaves[1].mT * 0.2).masked_fill(hidden, -torch.inf)
    out = scores.softmax(-1) @ leaves[2]
    plain = [out.detach(), *torch.autograd.grad(out, leaves, dout)]
    assert mine[0].dtype == torch.float16
    for ours, theirs, right in zip([mine[0], *mine[2:]], plain, [exact[0], *exact[2:]],
                                   strict=True):  # fmt: skip
        unit = 2.0**-10 * float(right.abs().max())
        allowed = 2 * float((theirs - right).abs().max()) + 2 * unit
        assert float((ours - right).abs().max()) <= allowed


def test_programs_that_walk_through_several_tiles(monkeypatch):
    given = qkv(2, 2, 1, 70, 40)
    whole = forward(*given, Rule(0.2, right=0))
    monkeypatch.setattr(op, "grid", lambda name, many: (min(many, 5), 1, 1))
    few = forward(*given, Rule(0.2, right=0))
    assert all(torch.equal(a, b) for a, b in zip(whole, few, strict=True))


def test_many_rows_see_nothing():
    q, k, v = qkv(1, 2, 2, 45, 20)
    out, lse, dq = agree(q, k, v, Rule(0.2, right=0))[:3]
    assert torch.equal(out[:, :, :25], torch.zeros(1, 2, 25, 20))
    assert (lse[:, :, :25] == -torch.inf).all()
    assert not dq[:, :, :25].any()
    hidden = Extras(mask=torch.zeros(45, 20, dtype=torch.bool))
    for each in agree(q, k, v, Rule(0.2), hidden):
        assert (each == -torch.inf).all() or not each.any()
    # A bias of minus infinity hides as a mask does.
    bias = torch.where(drawn(5, 45, 20) > 1, 0.0, -torch.inf)
    as_bias = forward(q, k, v, Rule(0.2), Extras(bias=bias))
    as_mask = forward(q, k, v, Rule(0.2), Extras(mask=bias == 0))
    for ours, right in zip(as_bias, as_mask, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-6)


def test_large_logits_are_exact():
    q, k, v = qkv(1, 1, 1)
    exact = 30 * (30 * q).round() / 30, (30 * k).round()
    agree(*exact, v, Rule(0.125, right=0), tolerance=2e-5)


def test_strides_are_taken_as_they_are():
    q, k, v = qkv(1, 4, 2, 20, 33, 16, 16)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    shared = [q, k[:, :1].expand_as(k), v[:, :1].expand_as(v)]
    apart = [x.mT.contiguous().mT for x in (q, k, v)]
    plain = forward(q, k, v, Rule(0.2, right=0))
    for same in (turned, apart):
        for ours, right in zip(forward(*same, Rule(0.2, right=0)), plain, strict=True):
            assert torch.equal(ours, right)
    agree(*shared, Rule(0.2))
    dout = torch.ones(()).expand(1, 4, 20, 16)
    call = Call(q, k, v, Rule(0.2))
    out, lse = op.forward_call(call)
    once = op.backward_call(call, dout, None, out, lse, False)
    twice = op.backward_call(call, dout.contiguous(), None, out, lse, False)
    assert all(torch.equal(a, b) for a, b in zip(once[:3], twice[:3], strict=True))


def test_rows_that_start_anywhere():
    """Kernels count on rows of whole 16 bytes starting at whole ones: other views are copied."""
    q, k, v = qkv(1, 2, 1, 20, 33, 8, 8)
    plain = forward(q, k, v, Rule(0.2, right=0))
    apart = [torch.nn.functional.pad(x, (1, 0))[..., 1:] for x in (q, k, v)]
    assert not any(x.is_contiguous() or x.data_ptr() % 16 == 0 for x in apart)
    moved = [op._last_dense(x) for x in apart]
    assert not any(n % 4 for x in moved for n in x.stride()[:-1])
    assert all(op._last_dense(x) is x for x in (q, k, v, apart[0][..., :7]))
    for ours, right in zip(forward(*apart, Rule(0.2, right=0)), plain, strict=True):
        assert torch.equal(ours, right)


def test_padding_may_be_nan():
    q, k, v = qkv(2)
    ends = (torch.tensor([30, 0]), torch.tensor([44, 33]))
    rule, dout = Rule(0.2, right=0), drawn(8, 2, 2, 37, 20)
    clean = found(q, k, v, rule, Extras(lengths=ends), dout, None)
    for x, end in ((q, ends[0]), (dout, ends[0]), (k, ends[1]), (v, ends[1])):
        x[torch.arange(x.shape[2]) >= end[:, None, None] + torch.zeros(1, x.shape[1], 1)] = (
            torch.nan
        )
    poisoned = found(q, k, v, rule, Extras(lengths=ends), dout, None)
    assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))


def test_packed_rows():
    lengths = torch.tensor([13, 0, 40, 1]), torch.tensor([0, 7, 33, 3])
    q, k, v = (drawn(n, 1, 2, int(lengths[n > 0].sum()), 16) for n in range(3))
    rule = Rule(0.2, left=20, right=0, dropout=0.25, seed=2**40 + 7)
    extras = Extras(lengths, True, None, drawn(4, 4, 1, 1, 33), drawn(5, 4, 2).abs())
    wide = [x.double().requires_grad_() for x in (q, k, v, extras.bias, extras.slopes)]
    dout, dlse = drawn(8, 1, 2, 54, 16), drawn(9, 1, 2, 54)
    out, lse = attend(*wide[:3], rule, extras._replace(bias=wide[3], slopes=wide[4]), "torch")
    pull = (out * dout).sum() + (lse.masked_fill(lse == -torch.inf, 0) * dlse).sum()
    theirs = [out, lse, *torch.autograd.grad(pull, wide)]
    mine = found(q, k, v, rule, extras, dout, dlse)
    for ours, right in zip(mine, theirs, strict=True):
        scale = max([1.0, *right[right.isfinite()].abs().flatten().tolist()])
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=2e-6 * scale)


def test_packed_rows_do_not_see_each_other():
    lengths = (torch.tensor([20, 17]),) * 2
    q, k, v = (drawn(n, 1, 1, 37, 16) for n in range(3))
    extras = Extras(lengths=lengths, packed=True)
    clean = forward(q, k, v, Rule(0.2), extras)
    for x in (q, k, v):
        x[:, :, 20:] = torch.nan
    poisoned = forward(q, k, v, Rule(0.2), extras)
    assert all(torch.equal(a[:, :, :20], b[:, :, :20])
               for a, b in zip(clean, poisoned, strict=True))  # fmt: skip


def test_masks_by_blocks():
    whole = (drawn(5, 1, 2, 100, 140) > 1).logical_and_(
        torch.arange(140) // 64 != torch.arange(100)[:, None] // 64
    )
    whole[..., 80:, 128:] = True
    blocks = BlockMask.from_mask(whole)
    assert 0 < blocks.density < 1
    q, k, v = qkv(1, 2, 1, 100, 140, 16, 16)
    agree(q, k, v, Rule(0.2), Extras(mask=blocks))
    shared = BlockMask.from_mask(whole[:, :1])
    ends = torch.tensor([90, 3]), torch.tensor([140, 70])
    q, k, v = qkv(2, 2, 1, 100, 140, 16, 16)
    agree(q, k, v, Rule(0.2, right=0), Extras(lengths=ends, mask=shared))


def test_only_blocks_that_are_seen_are_visited(monkeypatch):
    """Of a window as many tiles for each query, of a causal mask half of them."""
    visits = []
    q, k, v = qkv(1, 1, 1, 256, 256, 16, 16)
    real = interpreter.InterpretedFunction.__call__

    def counted(self, *given, **named):
        visits.append(self is parts.logits)
        return real(self, *given, **named)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", counted)
    for rule, most in ((Rule(0.2), 64), (Rule(0.2, right=0), 36), (Rule(0.2, left=31, right=0), 15),
                       (Rule(0.2, left=0, right=0), 8)):  # fmt: skip
        visits.clear()
        forward(q, k, v, rule)
        assert sum(visits) == most
    # With a mask in blocks of 64: causal and only the keys from 64 to 127.
    mask = (torch.arange(256) // 64 == 1).expand(1, 1, 1, 256)
    for given, most in ((mask, 3), (BlockMask.from_mask(mask.expand(1, 1, 256, 256)), 3)):
        visits.clear()
        forward(q, k, v, Rule(0.2, right=0), Extras(mask=given))
        assert sum(visits) == most


def test_addresses_beyond_two_to_the_31_elements(tmp_path):
    """Heads lie 2^31 elements apart, in a file that has hardly any blocks."""
    far = 2**31 + 64
    file = torch.from_file(str(tmp_path / "far"), True, far + 4096, dtype=torch.float16)
    q, k, v = (file.as_strided((1, 2, 20, 16), (0, far, 16, 1), 1024 * n) for n in range(3))
    for n, x in enumerate((q, k, v)):
        x.copy_(drawn(n, 1, 2, 20, 16))
    near = [x.clone() for x in (q, k, v)]
    for mine, other in zip(forward(q, k, v, Rule(0.2)), forward(*near, Rule(0.2)), strict=True):
        assert torch.equal(mine, other)


def test_an_error_that_is_planted_is_seen(monkeypatch):
    whole = op._terms

    def planted(*given):
        return whole(*given)._replace(right=1)

    monkeypatch.setattr(op, "_terms", planted)
    with pytest.raises(AssertionError):
        agree(*qkv(), Rule(0.2, right=0))


def test_what_no_kernel_takes_is_named():
    x = torch.zeros(1, 1, 2, 8)
    for given, message in (
        ((x.double(), x.double(), x.double()), "float64 is none of float32"),
        ((x.bfloat16(), x.bfloat16(), x.bfloat16()), "bfloat16 arithmetic is wrong"),
        ((x, x.half(), x), "k is torch.float16"),
        ((x.expand(1, 1, 2, 8)[..., :1].expand(1, 1, 2, 1025), x, x), "1025 wide, at most 1024"),
    ):
        with pytest.raises(ValueError, match=message):
            forward(*given, Rule(1.0))
    with pytest.raises(ValueError, match="does not broadcast"):
        forward(x, x, x, Rule(1.0), Extras(bias=torch.zeros(3, 2)))


def test_a_mask_on_wide_heads_of_float32_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setattr(op, "interpreting", lambda: False)
    x = torch.zeros(1, 1, 2, 160)
    with pytest.raises(ValueError, match="160 wide, at most 128"):
        forward(x, x, x, Rule(1.0), Extras(mask=torch.ones(2, 2, dtype=torch.bool)))


def test_it_is_a_back_end_of_attention():
    q, k, v = (x.requires_grad_() for x in qkv())
    slopes = SLOPES[0].clone().requires_grad_()
    given = {"causal": True, "window": 20, "alibi": slopes, "return_lse": True}
    mine = attention(q, k, v, **given, sinks=torch.tensor([0.3, -2.0]), backend="triton")
    theirs = attention(q, k, v, **given, sinks=torch.tensor([0.3, -2.0]), backend="torch")
    for ours, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=5e-6)
    pulls = [torch.autograd.grad(out.square().sum() + lse.sum(), (q, k, v, slopes))
             for out, lse in (mine, theirs)]  # fmt: skip
    for ours, right in zip(*pulls, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-4)
    assert choice.choose("attention", device="cpu", dtype=torch.float32) != "triton"
    assert choice.choose("attention", device="cpu", dtype=torch.float64) == "torch"


def test_the_operation_is_sound():
    q, k, v = (x.requires_grad_() for x in qkv(1, 2, 1, 5, 7, 8, 8))
    bias = drawn(4, 1, 2, 5, 7).requires_grad_()
    given = (q, k, v, None, None, False, None, None, None, bias, None, *Rule(0.3), "triton")
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(registration._attention, given, test_utils=checks)


def test_predicates(monkeypatch):
    facts = {"dtype": torch.bfloat16, "named": "triton"}
    with pytest.raises(ValueError, match="bfloat16 arithmetic is wrong"):
        choice.choose("attention", "triton", device="cpu", **facts)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1 before the import"):
        choice.choose("attention", "triton", device="cpu", **facts)
