"""Sparse attention against all pairs with a mask that is written down place by place."""

import pytest
import torch

from paragone.mixers import SparseAttention
from paragone.mixers._cheap_patterns import Pattern
from paragone.mixers.sparse_attention import masked, sparse_attention


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def written(kind, time, side, tail, causal):
    """The sets of Child et al., pair by pair, in plain Python."""
    mask = torch.zeros(time, time, dtype=torch.bool)
    for i in range(time):
        for j in range(time):
            near, column = abs(i - j) < side, (i - j) % side == 0
            same, last = i // side == j // side, j % side in range(side - tail, side)
            mask[i, j] = {
                "local": near,
                "column": column,
                "strided": near or column,
                "block": same,
                "summary": last,
                "fixed": same or (last and (not causal or j // side < i // side)),
            }[kind] and (j <= i or not causal)
    return mask


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["local", "column", "strided", "block", "summary", "fixed"])
def test_is_dense_attention_with_the_written_mask(kind, causal):
    for time, side in ((1, 4), (5, 7), (64, 8), (67, 9), (30, 1)):
        pattern = Pattern(kind, causal, side, min(3, side))
        mask = written(kind, time, side, min(3, side), causal)
        place = torch.arange(time)
        assert torch.equal(pattern.sees(place[:, None], place[None]), mask)
        q, k, v = normal(3, 2, 3, time, 8)
        wanted = masked(q, k, v, mask)
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
            found = sparse_attention(*(t.to(dtype) for t in (q, k, v)), pattern)
            torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_gradients_are_those_of_dense_attention():
    for kind in ("strided", "fixed"):
        pattern = Pattern(kind, True, 5, 2)
        single = [t.float().requires_grad_() for t in normal(3, 1, 2, 33, 8)]
        double = [t.detach().double().requires_grad_() for t in single]
        weights = normal(1, 2, 33, 8, seed=5)
        (sparse_attention(*single, pattern) * weights).sum().backward()
        (masked(*double, written(kind, 33, 5, 2, True)) * weights).sum().backward()
        for one, two in zip(single, double, strict=True):
            torch.testing.assert_close(one.grad.double(), two.grad, rtol=1e-5, atol=1e-5)
    inputs = [t.requires_grad_() for t in normal(3, 1, 1, 7, 2)]
    pattern = Pattern("strided", True, 3, 1)
    assert torch.autograd.gradcheck(lambda *t: sparse_attention(*t, pattern), inputs)


def test_strided_looks_both_ways_like_the_paper():
    sees = Pattern("strided", stride=4).sees(torch.tensor([[9]]), torch.arange(16)[None])[0]
    assert sees.nonzero()[:, 0].tolist() == [1, 5, 6, 7, 8, 9]
    fixed = Pattern("fixed", stride=4, summary=1).sees(torch.tensor([[9]]), torch.arange(16)[None])
    assert fixed[0].nonzero()[:, 0].tolist() == [3, 7, 8, 9]


@pytest.mark.parametrize("causal", [True, False])
def test_bigbird_by_blocks_is_bigbird_by_places(causal):
    pattern = Pattern("bigbird", causal, block=64, random=1)
    place = torch.arange(500)
    mask = pattern.sees(place[:, None], place[None])
    assert torch.equal(pattern.block_mask(500, place.device).dense()[0, 0], mask)
    assert mask.float().mean() < (0.5 if causal else 0.85)
    assert mask.any(1).all()
    shorter = pattern.sees(place[:200, None], place[None, :200])
    if causal:
        assert torch.equal(shorter, mask[:200, :200])
    q, k, v = normal(3, 1, 1, 500, 4)
    torch.testing.assert_close(sparse_attention(q, k, v, pattern), masked(q, k, v, mask))
    odd = Pattern("bigbird", causal, block=10, random=1)
    mask = odd.sees(place[:, None], place[None])
    torch.testing.assert_close(sparse_attention(q, k, v, odd), masked(q, k, v, mask))


@pytest.mark.parametrize(
    "rule",
    [
        lambda i, j: (i + j) % 3 == 0,
        torch.rand(70, 70, generator=torch.Generator().manual_seed(1)) < 0.3,
        torch.rand(2, 70, 70, generator=torch.Generator().manual_seed(2)) < 0.3,
    ],
    ids=["rule", "mask", "heads"],
)
def test_custom_patterns(rule):
    mixer = SparseAttention(8, 2, rule, dtype=torch.float64).eval()
    place = torch.arange(70)
    mask = rule if isinstance(rule, torch.Tensor) else rule(place[:, None], place[None])
    dense = SparseAttention(8, 2, mask & (place[None] <= place[:, None]), causal=False,
                            dtype=torch.float64)  # fmt: skip
    dense.load_state_dict(mixer.state_dict())
    x = normal(2, 70, 8)
    torch.testing.assert_close(mixer(x)[0], dense(x)[0])
    _, state = mixer(x[:, :40])
    torch.testing.assert_close(mixer(x[:, 40:], state=state)[0], mixer(x)[0][:, 40:])
    for t in range(40, 44):
        y, state = mixer.step(x[:, t], state)
        torch.testing.assert_close(y, mixer(x)[0][:, t])


def test_masks_of_blocks_are_their_elements():
    blocks = torch.rand(3, 3, generator=torch.Generator().manual_seed(4)) < 0.5
    q, k, v = normal(3, 1, 2, 150, 4)
    for side in (50, 64):
        pattern = Pattern("custom", True, block=side, rule=blocks)
        mask = blocks.repeat_interleave(side, 0).repeat_interleave(side, 1)[:150, :150].tril()
        torch.testing.assert_close(sparse_attention(q, k, v, pattern), masked(q, k, v, mask))


@pytest.mark.parametrize("pattern", ["strided", "fixed", "local", "bigbird"])
@pytest.mark.parametrize("form", ["merged", "per-head"])
def test_states_steps_and_rows_of_their_own_length(pattern, form):
    if form == "per-head" and pattern not in ("strided", "fixed"):
        pytest.skip("has no per-head form")
    mixer = SparseAttention(16, 4, pattern, stride=6, summary=2, block=5, random=1, form=form,
                            dtype=torch.float64).eval()  # fmt: skip
    x = normal(3, 31, 16)
    lengths = torch.tensor([31, 4, 0])
    y, state = mixer(x.masked_fill(torch.arange(31)[:, None] >= lengths[:, None, None], torch.nan),
                     lengths=lengths)  # fmt: skip
    more = normal(3, 9, 16, seed=1)
    after, state = mixer(more, state=state)
    last, _ = mixer.step(more[:, 0], state)
    for row, length in enumerate(lengths.tolist()):
        whole = torch.cat([x[row, :length], more[row], more[row, :1]])
        wanted = mixer(whole[None])[0][0]
        torch.testing.assert_close(y[row, :length], wanted[:length])
        torch.testing.assert_close(after[row], wanted[length:-1])
        torch.testing.assert_close(last[row], wanted[-1])


def test_heads_take_the_two_sets_in_turn():
    mixer = SparseAttention(16, 4, "strided", stride=4, form="per-head")
    assert [pattern.kind for pattern in mixer.patterns] == ["local", "column"]
    x = normal(1, 20, 16, dtype=torch.float32)
    q, k, v = mixer.to_qkv(x).unflatten(-1, (3, 4, 4)).unbind(2)
    mixer.rotary = None
    place = torch.arange(20)
    found = []
    for head in range(4):
        mask = mixer.patterns[head % 2].sees(place[:, None], place[None])
        found.append(masked(*(t[:, :, head : head + 1].transpose(1, 2) for t in (q, k, v)), mask))
    wanted = mixer.to_out(torch.cat(found, 1).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x)[0], wanted)


def test_without_a_past_padding_is_hidden():
    mixer = SparseAttention(8, 2, "strided", stride=3, causal=False, dtype=torch.float64)
    x = normal(2, 20, 8)
    y, state = mixer(x.masked_fill(torch.arange(20)[:, None] >= 11, torch.nan),
                     lengths=torch.tensor([11, 11]))  # fmt: skip
    assert state is None
    torch.testing.assert_close(y[:, :11], mixer(x[:, :11])[0])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heads": 3}, "width=16 is no multiple of heads=3"),
        ({"pattern": "spiral"}, "pattern='spiral' is none of strided"),
        ({"summary": 200}, "summary=200"),
        ({"form": "both"}, "form='both' is none of"),
        ({"form": "per-head", "pattern": "local"}, "got pattern='local'"),
        ({"pattern": torch.zeros(3, 3)}, "torch.float32 of shape"),
        ({"pattern": torch.zeros(5, 3, 3, dtype=torch.bool)}, r"\(5, 3, 3\)"),
        ({"heads": 16}, "heads of width 1 cannot be turned"),
    ],
)
def test_bad_options_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        SparseAttention(**{"width": 16, "heads": 2, **options})


def test_a_mask_that_is_too_small_is_named():
    mixer = SparseAttention(8, 2, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(4, 4\) covers 4 x 4 places"):
        mixer(torch.zeros(1, 6, 8))
