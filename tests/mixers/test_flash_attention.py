"""Exact attention against its float64 definition: values, every gradient, and the known traps."""

import math

import pytest
import torch
from torch.nn import functional

from paragone.kernels import choice
from paragone.mixers import BlockMask, attention, attention_packed
from paragone.mixers.ops.attention.registration import operate
from paragone.mixers.ops.attention.rule import Call, Rule

INF = torch.inf


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tensors(rows=2, heads=4, group=2, queries=65, keys=65, width=16, value=16, seed=0):
    return (
        draw(rows, heads, queries, width, seed=seed),
        draw(rows, group, keys, width, seed=seed + 1),
        draw(rows, group, keys, value, seed=seed + 2),
    )


def both(leaves, function, dtype=torch.float32):
    """Outputs, logarithms and gradients in float32 (by the kernels) and float64 (the definition).

    The loss takes in both results, so the gradient through the logarithms is tested, too.
    """
    found = []
    for kind in (dtype, torch.float64):
        given = [x.to(dtype).to(kind).requires_grad_() for x in leaves]
        out, lse = function(*given)
        seen = lse.isfinite()
        loss = (out * draw(*out.shape, seed=9)).sum()
        loss = loss + (lse.masked_fill(~seen, 0) * draw(*lse.shape, seed=10)).sum()
        found.append([out, lse, *torch.autograd.grad(loss, given)])
    return found


def agree(leaves, function, tolerance=1e-5):
    found, wanted = both(leaves, function)
    assert torch.equal(found[1].isfinite(), wanted[1].isfinite())
    assert (found[1] == -INF).equal(wanted[1] == -INF)
    for at, (one, two) in enumerate(zip(found, wanted, strict=True)):
        one, two = one.masked_fill(~two.isfinite(), 0), two.masked_fill(~two.isfinite(), 0)
        assert one.isfinite().all(), at
        size = two.abs().max().clamp(min=1e-6) if two.numel() else 1
        if two.numel():
            assert (one - two).abs().max() / size < tolerance, at
    return found


def call(**options):
    return lambda q, k, v: attention(q, k, v, return_lse=True, **options)


def test_definition_against_a_loop():
    q, k, v = (x.double() for x in tensors(1, 2, 1, 5, 7))
    bias, slopes = draw(2, 5, 7, seed=4).double(), torch.tensor([0.3, 0.7]).double()
    out, lse = attention(
        q, k, v, causal=True, window=4, softcap=1.5, scale=0.4, bias=bias, alibi=slopes,
        return_lse=True,
    )  # fmt: skip
    for head in range(2):
        for i in range(5):
            total, sums = 0.0, torch.zeros(16).double()
            for j in range(7):
                place = i + 2
                if place - 3 <= j <= place:
                    score = 1.5 * math.tanh(0.4 * float(q[0, head, i] @ k[0, 0, j]) / 1.5)
                    score += float(bias[head, i, j]) - float(slopes[head]) * abs(place - j)
                    total += math.exp(score)
                    sums += math.exp(score) * v[0, 0, j]
            torch.testing.assert_close(out[0, head, i], sums / total)
            assert math.isclose(float(lse[0, head, i]), math.log(total), rel_tol=1e-12)


def test_definition_has_the_gradient_of_its_differences():
    leaves = [x.double().requires_grad_() for x in tensors(1, 2, 1, 4, 5, 3, 2)]
    bias, slopes = draw(2, 1, 5).double().requires_grad_(), draw(2).double().requires_grad_()

    def loss(q, k, v, bias, slopes):
        return attention(
            q, k, v, causal=True, window=3, softcap=2.0, bias=bias, alibi=slopes, dropout=0.2,
            seed=3, return_lse=True,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, (*leaves, bias, slopes))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (63, 64), (65, 131), (131, 65), (97, 300)])
@pytest.mark.parametrize(("width", "value"), [(16, 16), (64, 64), (40, 80), (130, 7)])
def test_sizes(queries, keys, width, value):
    leaves = tensors(1, 2, 1, queries, keys, width, value)
    agree(leaves, call())
    agree(leaves, call(causal=True))


@pytest.mark.parametrize("options", [
    {"causal": True, "alignment": "top-left"},
    {"window": 20}, {"window": (5, None)}, {"window": (None, 3), "alignment": "top-left"},
    {"window": (17, 40), "softcap": 2.0}, {"causal": True, "window": 1},
    {"scale": 0.7, "softcap": 0.5}, {"alibi": True},
    {"alibi": torch.arange(8.0).view(2, 4) / 9, "causal": True},
    {"dropout": 0.3, "seed": 2**61 + 7}, {"lengths": torch.tensor([0, 131])},
    {"lengths": (torch.tensor([70, 9]), torch.tensor([0, 100])), "causal": True},
], ids=str)  # fmt: skip
def test_options(options):
    agree(tensors(queries=90, keys=131), call(**options))


@pytest.mark.parametrize("shape", [
    (2, 4, 70, 90), (1, 4, 70, 90), (2, 1, 70, 90), (1, 1, 70, 90), (4, 1, 90), (2, 1, 1, 90),
    (2, 4, 70, 1), (1, 1),
])  # fmt: skip
def test_bias_and_its_gradient(shape):
    leaves = (*tensors(queries=70, keys=90), draw(*shape, seed=5))
    agree(leaves, lambda q, k, v, b: attention(q, k, v, bias=b, causal=True, return_lse=True))


def test_everything_at_once_with_gradients_of_slopes_and_sinks():
    mask = draw(2, 1, 70, 200, seed=3) > -0.5
    mask[:, :, 11] = False
    mask[:, :, :, 64:128] = False
    leaves = (*tensors(queries=70, keys=200), draw(4, 70, 200, seed=5), draw(4, seed=6).abs(),
              draw(4, seed=7))  # fmt: skip
    agree(leaves, lambda q, k, v, b, a, s: attention(
        q, k, v, bias=b, alibi=a, sinks=s, mask=mask, softcap=3.0, window=(90, 30), dropout=0.2,
        seed=5, lengths=(torch.tensor([70, 40]), torch.tensor([155, 200])), return_lse=True,
    ))  # fmt: skip


def test_sinks_are_a_key_without_value():
    q, k, v = tensors(group=4)
    sinks = draw(4)
    scores = torch.cat([q @ k.mT / 4, sinks.view(1, 4, 1, 1).expand(2, 4, 65, 1)], -1)
    wanted = torch.softmax(scores, -1)[..., :-1] @ v
    torch.testing.assert_close(attention(q, k, v, sinks=sinks), wanted, rtol=1e-5, atol=1e-6)
    none = torch.full((4,), -INF)
    torch.testing.assert_close(attention(q, k, v, sinks=none), attention(q, k, v))


@pytest.mark.parametrize("hide", ["mask", "bias", "lengths", "causal"])
def test_query_that_sees_nothing_is_zero_and_has_no_gradient(hide):
    leaves = tensors(queries=80, keys=70)
    mask = torch.ones(80, 70, dtype=torch.bool)
    mask[[0, 5, 79]] = False
    options = {
        "mask": {"mask": mask}, "bias": {"bias": torch.zeros(80, 70).masked_fill(~mask, -INF)},
        "lengths": {"lengths": (torch.tensor([80, 80]), torch.tensor([0, 0]))},
        "causal": {"causal": True},
    }[hide]  # fmt: skip
    blind = ~mask.any(-1)
    if hide == "lengths":
        blind = torch.ones(80, dtype=torch.bool)
    if hide == "causal":
        blind = torch.arange(80) < 10
    out, lse, dq, dk, dv = agree(leaves, call(**options))
    assert (out[:, :, blind] == 0).all()
    assert (lse[:, :, blind] == -INF).all()
    assert (dq[:, :, blind] == 0).all()
    assert dk.isfinite().all()
    assert dv.isfinite().all()


def test_large_logits_are_exact():
    q, k, v = tensors(1, 2, 2, 65, 65, 64, 64)
    out = attention(30 * q, 30 * k, v)
    wanted = attention(30 * q.double(), 30 * k.double(), v.double())
    assert (out - wanted).abs().max() < 2e-3  # a score of 5e3 has four decimals in float32
    assert attention(1e4 * q, 1e4 * k, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_by_the_rule_of_flash_attention(dtype):
    leaves = tensors(1, 4, 2, 70, 90, 32, 32)

    def plain(q, k, v):
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        scores = q @ k.mT / math.sqrt(32)
        return torch.softmax(scores, -1) @ v, torch.logsumexp(scores, -1)

    found, wanted = both(leaves, call(), dtype)
    simple = both(leaves, plain, dtype)[0]
    for at, (one, two, three) in enumerate(zip(found, wanted, simple, strict=True)):
        unit = torch.finfo(dtype).eps * two.abs().max()
        assert (one - two).abs().max() <= 2 * (three - two).abs().max() + 2 * unit, at
        assert one.dtype == (torch.float32 if at == 1 else dtype)


def test_strides_and_expanded_tensors():
    q, k, v = draw(2, 70, 4, 16), draw(2, 70, 2, 16, seed=1), draw(1, 1, 70, 24, seed=2)
    agree((q, k, v), lambda q, k, v: attention(
        q.transpose(1, 2), k.transpose(1, 2), v.expand(2, 2, 70, 24), return_lse=True))  # fmt: skip
    out = attention(q.transpose(1, 2), k.transpose(1, 2), k.transpose(1, 2))
    assert out.transpose(1, 2).is_contiguous()
    wide = draw(2, 4, 70, 40)[..., ::2]
    agree((wide,), lambda x: attention(x, x, x, return_lse=True))


@pytest.mark.parametrize("shape", [(0, 4, 9, 9), (2, 4, 0, 9), (2, 4, 9, 0), (2, 4, 0, 0)])
def test_nothing_to_do(shape):
    rows, heads, queries, keys = shape
    leaves = tensors(rows, heads, 2, queries, keys)
    out, lse, *_ = agree(leaves, call(causal=True))
    assert out.shape == (rows, heads, queries, 16)
    assert (lse == -INF).all()


def test_padding_may_be_nan():
    leaves = tensors(2, 4, 2, 70, 70)
    lengths = torch.tensor([13, 66])
    poisoned = [x.clone() for x in leaves]
    for x in poisoned:
        for row, length in enumerate(lengths):
            x[row, :, length:] = torch.nan
    for options in ({"causal": True}, {}, {"window": (4, 9)}):
        clean = agree(leaves, call(lengths=lengths, **options))
        dirty = agree(poisoned, call(lengths=lengths, **options))
        for one, two in zip(clean, dirty, strict=True):
            assert torch.equal(one, two)
        assert (dirty[0][0, :, 13:] == 0).all()


def test_packed_rows_do_not_leak_and_may_be_empty():
    lengths_q, lengths_k = torch.tensor([3, 0, 70, 9, 1]), torch.tensor([0, 5, 80, 9, 66])
    q, k = draw(83, 4, 16), draw(160, 2, 16, seed=1)

    def run(q, k):
        return attention_packed(
            q, k, k, lengths_q, lengths_k, causal=True, window=40, softcap=4.0, return_lse=True
        )

    out, lse, *_ = agree((q, k), run)
    starts = [torch.cumsum(n, 0) - n for n in (lengths_q, lengths_k)]
    for row, (n, m) in enumerate(zip(lengths_q.tolist(), lengths_k.tolist(), strict=True)):
        a, b = int(starts[0][row]), int(starts[1][row])
        only = torch.full_like(k, torch.nan)
        only[b : b + m] = k[b : b + m]
        alone = torch.full_like(q, torch.nan)
        alone[a : a + n] = q[a : a + n]
        again, _ = run(alone, only)
        assert torch.equal(again[a : a + n], out[a : a + n])
        one = attention(
            q[a : a + n].transpose(0, 1)[None], *[k[b : b + m].transpose(0, 1)[None]] * 2,
            causal=True, window=40, softcap=4.0,
        )  # fmt: skip
        torch.testing.assert_close(out[a : a + n], one[0].transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert (lse[:3] == -INF).all()


@pytest.mark.parametrize("options", [{}, {"window": 30}, {"alignment": "top-left"}])
def test_the_past_is_the_same_bit_for_bit_whatever_follows(options):
    q, k, v = tensors(1, 2, 2, 300, 300)
    before = attention(q, k, v, causal=True, **options)
    for at in (1, 64, 129, 299):
        changed = [x.clone() for x in (q, k, v)]
        for x in changed:
            x[:, :, at:] = 50 * draw(*x[:, :, at:].shape, seed=8)
        after = attention(*changed, causal=True, **options)
        assert torch.equal(after[:, :, :at], before[:, :, :at])
        assert not torch.allclose(after[:, :, at:], before[:, :, at:])


def test_results_do_not_depend_on_the_number_of_threads():
    leaves = (*tensors(2, 4, 2, 300, 520, 32, 32), draw(1, 4, 300, 520))
    found, threads = [], torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(both(leaves, lambda q, k, v, b: attention(
                q, k, v, bias=b, causal=True, return_lse=True))[0])  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_dropout_keeps_the_expected_share_and_repeats_itself():
    q, k = torch.zeros(1, 8, 64, 4), torch.zeros(1, 8, 512, 4)
    v = torch.eye(512).expand(1, 8, 512, 512)
    weights = attention(q, k, v, dropout=0.25, seed=1) * 512 * 0.75
    assert ((weights == 0) | ((weights - 1).abs() < 1e-5)).all()
    assert abs(float(weights.mean()) - 0.75) < 4 * math.sqrt(0.25 * 0.75 / weights.numel())
    assert torch.equal(weights, attention(q, k, v, dropout=0.25, seed=1) * 512 * 0.75)
    other = attention(q, k, v, dropout=0.25, seed=2) * 512 * 0.75
    assert abs(float((other == weights).float().mean()) - 0.625) < 0.01
    generator = torch.Generator().manual_seed(4)
    draws = [attention(q, k, v, dropout=0.25, generator=generator) for _ in range(2)]
    assert not torch.equal(*draws)


@pytest.mark.peers
@pytest.mark.parametrize("causal", [False, True])
def test_torch_agrees(causal):
    leaves = [x.requires_grad_() for x in tensors(2, 4, 4, 130, 130, 32, 32)]
    mine = attention(*leaves, causal=causal)
    theirs = functional.scaled_dot_product_attention(*leaves, is_causal=causal)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)
    weight = draw(*mine.shape, seed=3)
    for one, two in zip(*(torch.autograd.grad((y * weight).sum(), leaves) for y in (mine, theirs)),
                        strict=True):  # fmt: skip
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_operation_is_registered_as_torch_wants_it():
    q, k, v = (x.requires_grad_() for x in tensors(1, 2, 1, 9, 9))
    bias = draw(1, 1, 9, 9).requires_grad_()
    given = Call(q, k, v, Rule(0.25, right=0), None, False, None, None, None, bias, None)
    arguments = (q, k, v, None, None, False, None, None, None, bias, None, *given.rule, "numba")
    torch.library.opcheck(torch.ops.paragone.attention.default, arguments)
    out, _ = operate(given, "numba")
    torch.testing.assert_close(out, attention(q, k, v, causal=True, bias=bias))


def test_few_queries_are_those_of_the_whole():
    q, k, v = tensors(2, 4, 2, 90, 90)
    lengths = torch.tensor([90, 31])
    for options in ({"causal": True}, {"causal": True, "window": 9, "softcap": 2.0}, {}):
        whole = attention(q, k, v, **options)
        for few in (1, 3, 8):
            last = attention(q[:, :, -few:], k, v, **options)
            torch.testing.assert_close(last, whole[:, :, -few:], rtol=1e-5, atol=1e-5)
    pair = (torch.tensor([2, 1]), lengths)
    found = attention(q[:, :, :2], k, v, causal=True, lengths=pair, sinks=draw(4), return_lse=True)
    exact = attention(*(x.double() for x in (q[:, :, :2], k, v)), causal=True, lengths=pair,
                      sinks=draw(4).double(), return_lse=True)  # fmt: skip
    for one, two in zip(found, exact, strict=True):
        torch.testing.assert_close(one, two.float(), rtol=1e-5, atol=1e-5)


def test_back_ends_by_name():
    q, k, v = tensors()
    torch.testing.assert_close(attention(q, k, v, backend="torch"), attention(q, k, v))
    with pytest.raises(ValueError, match=r"numba: q is torch\.float64"):
        attention(q.double(), k.double(), v.double(), backend="numba")
    with pytest.raises(ValueError, match=r"triton: .*float64"):
        attention(q.double(), k.double(), v.double(), backend="triton")
    assert "numba: yes" in choice.explain("attention", device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(("change", "text"), [
    ({"q": torch.zeros(2, 65, 16)}, "expected as"),
    ({"q": torch.zeros(2, 4, 65, 8)}, "different widths"),
    ({"q": torch.zeros(2, 3, 65, 16)}, "3 heads of q are no multiple"),
    ({"q": torch.zeros(1, 4, 65, 16)}, "numbers of rows differ"),
    ({"v": torch.zeros(2, 2, 64, 16)}, "differ in length"),
    ({"q": torch.zeros(2, 4, 65, 16).double()}, "one floating-point type"),
    ({"q": torch.zeros(2, 4, 65, 16, device="meta")}, "move them to one device"),
    ({"alignment": "bottom"}, "neither 'bottom-right'"), ({"window": 0}, "window=0"),
    ({"window": (1, 2, 3)}, "from 0 on or None"), ({"softcap": -1.0}, "softcap=-1.0"),
    ({"scale": math.inf}, "not finite"), ({"dropout": 1.0}, "dropout=1.0"),
    ({"mask": torch.zeros(65, 65)}, "as `bias`"),
    ({"mask": torch.ones(64, 65, dtype=torch.bool)}, "does not broadcast"),
    ({"bias": torch.zeros(2, 65, 65)}, "does not broadcast"),
    ({"bias": torch.ones(65, 65, dtype=torch.bool)}, "goes to `mask`"),
    ({"lengths": torch.tensor([66, 1])}, "have 66"), ({"lengths": torch.tensor([-1, 1])}, "-1"),
    ({"lengths": torch.tensor([1, 2, 3])}, "of shape"), ({"lengths": torch.ones(2)}, "integers"),
    ({"alibi": torch.ones(3)}, "slopes of shape"), ({"sinks": torch.ones(3)}, "one for each head"),
    ({"method": "fast"}, "three-pass"), ({"backend": "jax"}, "jax"),
], ids=str)  # fmt: skip
def test_bad_arguments_are_named(change, text):
    given = dict(zip("qkv", tensors(), strict=True)) | change
    q, k, v = (given.pop(name) for name in "qkv")
    with pytest.raises(ValueError, match=text):
        attention(q, k, v, **given)


def test_packed_sums_must_agree():
    x = draw(9, 2, 4)
    with pytest.raises(ValueError, match="sum 8, but there are 9"):
        attention_packed(x, x, x, torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="sum 10, but there are 9"):
        attention_packed(x, x, x, torch.tensor([4, 5]), torch.tensor([5, 5]))


def test_a_planted_bug_is_caught(monkeypatch):
    import paragone.mixers.ops.attention._cpu as cpu

    monkeypatch.setattr(cpu, "LOG2E", 1.443)
    with pytest.raises(AssertionError):
        agree(tensors(), call())


def test_blocks_of_a_dense_mask_are_made_again_when_it_changes():
    q, k, v = tensors(queries=130, keys=130)
    mask = torch.zeros(130, 130, dtype=torch.bool)
    mask[:, 0] = True
    found = attention(q, k, v, mask=mask)[:, :2]
    torch.testing.assert_close(found, v[:, :1, :1].expand(2, 2, 130, 16))
    mask[:, 0] = False
    mask[:, 129] = True
    found = attention(q, k, v, mask=mask)[:, :2]
    torch.testing.assert_close(found, v[:, :1, 129:].expand(2, 2, 130, 16))


@pytest.mark.parametrize("shape", [
    (2, 4, 130, 200), (1, 4, 130, 200), (200,), (130, 1), (2, 1, 1, 200),
])  # fmt: skip
def test_masks_of_every_shape_and_by_blocks(shape):
    mask = draw(*shape, seed=3) > 0
    leaves = tensors(queries=130, keys=200)
    dense = agree(leaves, call(mask=mask))
    whole = torch.broadcast_to(mask, (*(1, 1, 1, *mask.shape)[-4:-2], 130, 200))
    blocks = BlockMask.from_mask(whole)
    assert torch.equal(blocks.dense(), whole)
    for one, two in zip(agree(leaves, call(mask=blocks)), dense, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
