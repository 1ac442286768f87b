"""Split decoding in Triton, run by its interpreter, against float64 on whole matrices."""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from paragone.kernels import choice
from paragone.mixers.ops.attention import attention_triton_decode as op
from paragone.mixers.ops.attention.reference import attention_reference
from paragone.mixers.ops.attention.rule import Rule
from paragone.mixers.ops.decode.call import decode_attention

pytestmark = pytest.mark.usefixtures("interpreter")


def drawn(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def decoded(q, k, v, lengths, queries=None, table=None, scale=0.2, softcap=0.0, window=0,
            causal=True, sinks=None, span=64):  # fmt: skip
    return op.decode_call(
        q, k, v, lengths, queries, table, scale, softcap, window, causal, sinks, span
    )


def expected(q, k, v, lengths, queries=None, scale=0.2, softcap=0.0, window=0, causal=True,
             sinks=None):  # fmt: skip
    own = torch.full_like(lengths, q.shape[2]) if queries is None else queries
    rule = Rule(scale, softcap, window - 1 if window else -1, 0 if causal else -1)
    out, lse = attention_reference(q.double(), k.double(), v.double(), rule, lengths=(own, lengths))
    if sinks is not None:
        left = torch.sigmoid(lse.masked_fill(lse == -torch.inf, 0) - sinks.double()[:, None])
        out = out * left[..., None]
    return out, lse


def agree(mine, theirs, tolerance=2e-6):
    for ours, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=tolerance)


CASES = {
    "one query": (1, {}),
    "three": (3, {}),
    "fewer in a row": (3, {"queries": torch.tensor([3, 0])}),
    "window": (2, {"window": 40}),
    "softcap and sinks": (1, {"softcap": 2.0, "sinks": torch.tensor([0.5, -90.0, 200.0, 0.0])}),
    "not causal": (3, {"causal": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_attention_of_the_last_queries(name):
    time, given = CASES[name]
    q, k, v = drawn(1, 2, 4, time, 24), drawn(2, 2, 2, 150, 24), drawn(3, 2, 2, 150, 20)
    lengths = torch.tensor([2, 131])
    agree(decoded(q, k, v, lengths, **given), expected(q, k, v, lengths, **given))


def test_rows_without_keys():
    q, k = drawn(1, 2, 2, 2, 16), drawn(2, 2, 1, 70, 16)
    out, lse = decoded(q, k, k, torch.tensor([0, 1]))
    assert not out[0].any()
    assert (lse[0] == -torch.inf).all()
    agree((out, lse), expected(q, k, k, torch.tensor([0, 1])))


def test_the_number_of_spans_does_not_matter():
    q, k, v = drawn(1, 1, 4, 1, 16), drawn(2, 1, 1, 400, 16), drawn(3, 1, 1, 400, 16)
    whole = decoded(q, k, v, torch.tensor([390]), span=448)
    for span in (64, 128, 256):
        agree(decoded(q, k, v, torch.tensor([390]), span=span), [x.double() for x in whole], 1e-6)
    agree(whole, expected(q, k, v, torch.tensor([390])))


def test_pages_are_found_by_the_table_alone():
    """Unused pages are NaN, and entries behind a row's end are wild."""
    q, lengths = drawn(1, 3, 2, 2, 16), torch.tensor([37, 0, 80])
    k, v = drawn(2, 3, 1, 96, 16), drawn(3, 3, 1, 96, 8)
    table = torch.full((3, 6), 2**30, dtype=torch.int32)
    pages = [torch.full((9, 1, 16, width), torch.nan) for width in (16, 8)]
    order = iter(torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist())
    for row, length in enumerate(lengths.tolist()):
        for start in range(0, length, 16):
            at = table[row, start // 16] = next(order)
            end = min(start + 16, length)
            for page, whole in zip(pages, (k, v), strict=True):
                page[at, 0, : end - start] = whole[row, 0, start:end]
    agree(decoded(q, *pages, lengths, table=table), expected(q, k, v, lengths))


def test_the_latent_is_read_once_and_its_width_is_taken_in_two():
    q, k = drawn(1, 1, 5, 1, 80), drawn(2, 1, 1, 90, 80)
    out = decoded(q, k, k[..., :64], torch.tensor([77]))
    agree(out, expected(q, k, k[..., :64], torch.tensor([77])))
    apart = decoded(q, k, k[..., :64].clone(), torch.tensor([77]))
    assert all(torch.equal(a, b) for a, b in zip(out, apart, strict=True))


def test_half_precision_and_strides():
    q, k = drawn(1, 2, 4, 1, 16, dtype=torch.float16), drawn(2, 2, 90, 2, 16).half()
    k = k.transpose(1, 2)
    out, lse = decoded(q, k, k, torch.tensor([90, 50]))
    assert out.dtype == torch.float16
    agree((out, lse), expected(q, k, k, torch.tensor([90, 50])), 3e-3)


def test_large_logits():
    q, k = (30 * drawn(1, 1, 2, 1, 16)).round(), (30 * drawn(2, 1, 1, 130, 16)).round()
    agree(decoded(q, k, k, torch.tensor([130]), scale=0.125),
          expected(q, k, k, torch.tensor([130]), scale=0.125), 3e-4)  # fmt: skip


def test_an_error_that_is_planted_is_seen(monkeypatch):
    whole = op.start

    def planted(kernel, size, *given, **meta):
        if kernel is op.combine_kernel:
            given = (*given[:5], 1, *given[6:])
        whole(kernel, size, *given, **meta)

    monkeypatch.setattr(op, "start", planted)
    with pytest.raises(AssertionError):
        test_it_is_attention_of_the_last_queries("one query")


def test_what_no_kernel_takes_is_named():
    q, k = torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match="bfloat16 arithmetic is wrong"):
        decoded(q.bfloat16(), k, k, torch.tensor([1]))
    with pytest.raises(ValueError, match="v is torch"):
        decoded(q, k, k.half(), torch.tensor([1]))
    with pytest.raises(ValueError, match="2000 wide"):
        decoded(q.expand(1, 1, 1, 8)[..., :1].expand(1, 1, 1, 2000), k, k, torch.tensor([1]))


def test_it_is_a_back_end_of_decoding():
    q, k, lengths = drawn(1, 2, 4, 1, 16), drawn(2, 2, 2, 70, 16), torch.tensor([70, 3])
    given = {"window": 30, "sinks": torch.zeros(4), "return_lse": True}
    mine, theirs = (decode_attention(q, k, k, lengths, **given, backend=name)
                    for name in ("triton", "torch"))  # fmt: skip
    agree(mine, [x.double() for x in theirs])
    facts = {"dtype": torch.float32, "stored": torch.float32}
    assert choice.choose("decode_attention", device="cpu", **facts) == "numba"
