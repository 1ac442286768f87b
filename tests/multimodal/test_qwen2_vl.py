"""Qwen2VL: the tower against a mask, places by hand, batches, states, texts that follow."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.multimodal import qwen2_vl_models as models
from torch.nn import functional

from paragone.multimodal._qwen2_vl_config import Qwen2VLVisionConfig
from paragone.multimodal._qwen2_vl_generate import Reading
from paragone.multimodal._qwen2_vl_positions import checked_grids, places, windows
from paragone.multimodal.qwen2_vl import PlaceholderError, Qwen2VL, Qwen2VLTower

GRIDS = [(1, 4, 6), (1, 2, 2), (2, 6, 10), (1, 8, 4)]


def tower(kind: str, dtype: torch.dtype = torch.float64) -> Qwen2VLTower:
    values = models.raw(kind)["vision_config"]
    config = Qwen2VLVisionConfig.of(kind, values, "here")
    return models.filled(Qwen2VLTower(config, dtype=dtype))


def spots(grids: list, side: int | None) -> torch.Tensor:
    """(L, 5): picture, frame, row, column of each patch, and the number of its window."""
    found = []
    for number, (t, h, w) in enumerate(grids):
        for f in range(t):
            for y in range(0, h, 2):
                for x in range(0, w, 2):
                    for r, c in [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)]:
                        near = 0 if side is None else 1000 * (y // side) + x // side
                        found.append((number, f, r, c, near))
    return torch.tensor(found)


def by_mask(model: Qwen2VLTower, values: torch.Tensor, grids: list) -> torch.Tensor:
    """The tower written out: no order of windows, but a mask over all patches of all pictures."""
    c, at = model.config, spots(grids, 4 if model.config.windowed else None)
    x = values @ model.patch_embed.proj.weight.flatten(1).T
    steps = 10000.0 ** (-torch.arange(0, c.head_size, 4, dtype=torch.float64) / c.head_size)
    angles = torch.cat([at[:, 2:3] * steps, at[:, 3:4] * steps], -1)[:, None]
    cos, sin = angles.cos(), angles.sin()

    def turned(y: torch.Tensor) -> torch.Tensor:
        a, b = y.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    same = (at[:, None, :2] == at[None, :, :2]).all(-1)
    near = same & (at[:, None, 4] == at[None, :, 4])
    for number, block in enumerate(model.blocks):
        y = block.norm1(x)
        q, k, v = (
            (y @ block.attn.qkv.weight.T + block.attn.qkv.bias)
            .view(len(x), 3, c.heads, -1)
            .unbind(1)
        )
        scores = torch.einsum("qhd,khd->hqk", turned(q), turned(k)) * c.head_size**-0.5
        seen = near if c.windowed and number not in c.full else same
        share = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + block.attn.proj(torch.einsum("hqk,khd->qhd", share, v).flatten(1))
        y = block.norm2(x)
        if c.windowed:
            y = functional.silu(block.mlp.gate_proj(y)) * block.mlp.up_proj(y)
            x = x + block.mlp.down_proj(y)
        else:
            y = block.mlp.fc1(y)
            x = x + block.mlp.fc2(y / (1 + torch.exp(-1.702 * y)))
    return x


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_tower_is_attention_under_a_mask(kind):
    model, values = tower(kind), models.pixels(GRIDS).double()
    with torch.no_grad():
        wanted = by_mask(model, values, GRIDS)
        torch.testing.assert_close(model.hidden(values, GRIDS), wanted, rtol=1e-9, atol=1e-9)
        merged = model.merger.ln_q(wanted).reshape(-1, 96)
        merged = functional.gelu(merged @ model.merger.mlp[0].weight.T + model.merger.mlp[0].bias)
        merged = merged @ model.merger.mlp[2].weight.T + model.merger.mlp[2].bias
        torch.testing.assert_close(model(values, GRIDS), merged, rtol=1e-9, atol=1e-9)
        if kind == "qwen2_5_vl":
            # What the oracle must tell apart: attention over whole pictures in all blocks.
            model.config = Qwen2VLVisionConfig.of(
                kind, {**models.raw(kind)["vision_config"], "fullatt_block_indexes": [0, 1, 2]}, ""
            )
            assert (model.hidden(values, GRIDS) - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_picture_does_not_see_another(kind):
    model, values = tower(kind, torch.float32), models.pixels(GRIDS)
    counts = [t * h * w for t, h, w in GRIDS]
    with torch.no_grad():
        whole = model(values, GRIDS).split([count // 4 for count in counts])
        for grid, part, features in zip(GRIDS, values.split(counts), whole, strict=True):
            torch.testing.assert_close(model(part, [grid]), features, rtol=1e-5, atol=1e-5)
        values[: counts[0]] += 1.0
        again = model(values, GRIDS).split([count // 4 for count in counts])
    assert not torch.equal(again[0], whole[0])
    assert all(torch.equal(a, b) for a, b in zip(again[1:], whole[1:], strict=True))
    assert model(torch.zeros(0, 96), []).shape == (0, 48)


def test_the_towers_gradient():
    config = Qwen2VLVisionConfig(
        "qwen2_5_vl", width=8, depth=2, heads=2, inner=6, out=4, patch_size=1, window=4, full=(1,)
    )
    model = models.filled(Qwen2VLTower(config, dtype=torch.float64))
    x = torch.randn(28, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    grids = [(1, 6, 4), (1, 2, 2)]
    assert torch.autograd.gradcheck(lambda x: model(x, grids), (x,), fast_mode=True)


def test_places_by_hand():
    there = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0, 0]]).bool()
    grids = ((1, 4, 6), (1, 2, 4), (1, 2, 2))
    at, following = places(there, grids, 2, lengths=torch.tensor([9, 5]))
    assert at[:, 0].tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 5], [0, 1, 1, 1, 2, 2, 2, 4, 5], [0, 1, 2, 3, 1, 2, 3, 4, 5],
    ]  # fmt: skip
    assert at[:, 1, :5].tolist() == [[0, 0, 2, 3, 4], [0, 0, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert following.tolist() == [6, 5]
    # A film of three frames, two places of time each: 0, 2, 4.
    film = torch.tensor([[False, *[True] * 6, False]])
    at, following = places(film, ((3, 2, 4),), 2, steps=[2.0], start=torch.tensor([7]))
    assert at[0, 0].tolist() == [7, 8, 8, 10, 10, 12, 12, 13]
    assert at[2, 0].tolist() == [7, 8, 9, 8, 9, 8, 9, 13]
    assert following.tolist() == [14]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_windows_hold_each_token_once(rows, columns, side):
    order, counts = windows(((1, 2 * rows, 2 * columns),), 2, side)
    assert sorted(order.tolist()) == list(range(rows * columns))
    assert max(counts) <= side**2
    for part in order.split(counts):
        y, x = part // columns, part % columns
        assert len({(int(a) // side, int(b) // side) for a, b in zip(y, x, strict=True)}) == 1
    assert len(counts) == -(-rows // side) * -(-columns // side)


ROWS = [
    (3, (1, 4, 6), 4, 5, (1, 2, 2), 6),
    (7, 8, 9),
    ((1, 8, 4), 10),
]


def batch(rows: list) -> tuple[torch.Tensor, torch.Tensor, list, torch.Tensor]:
    ids = [models.row(*one) for one in rows]
    lengths = torch.tensor([len(one) for one in ids])
    padded = [one + [models.IMAGE] * (int(lengths.max()) - len(one)) for one in ids]
    grids = [part for one in rows for part in one if not isinstance(part, int)]
    return torch.tensor(padded), models.pixels(grids), grids, lengths


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_batch_is_its_rows(kind):
    model = models.small(kind)
    ids, values, grids, lengths = batch(ROWS)
    counts = [t * h * w for t, h, w in grids]
    parts, at = values.split(counts), 0
    with torch.no_grad():
        whole = model(ids, values, grids, lengths=lengths)
        last = model(ids, values, grids, lengths=lengths, last=True).logits
        for number, one in enumerate(ROWS):
            own = [part for part in one if not isinstance(part, int)]
            given = torch.cat(parts[at : at + len(own)]) if own else None
            at += len(own)
            n = int(lengths[number])
            alone = model(ids[number : number + 1, :n], given, own)
            torch.testing.assert_close(
                whole.logits[number, :n], alone.logits[0], rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(last[number, 0], alone.logits[0, -1], rtol=1e-4, atol=1e-4)
            assert int(whole.state.following[number]) == int(alone.state.following)
        # Another picture of the batch is not seen.
        values[-counts[-1] :] += 1.0
        after = model(ids, values, grids, lengths=lengths).logits
    assert torch.equal(after[0, : lengths[0]], whole.logits[0, : lengths[0]])
    assert not torch.equal(after[2, : lengths[2]], whole.logits[2, : lengths[2]])


@pytest.mark.parametrize("kind", models.KINDS)
def test_going_on_is_as_reading_at_once(kind):
    model = models.small(kind)
    ids, values, grids, _ = batch(ROWS[:1])
    cut = models.row(*ROWS[0][:3])
    with torch.no_grad():
        whole = model(ids, values, grids)
        first = model(ids[:, : len(cut)], values[:24], grids[:1])
        later = model(ids[:, len(cut) :], values[24:], grids[1:], state=first.state)
        joined = torch.cat([first.logits, later.logits], 1)
        torch.testing.assert_close(joined, whole.logits, rtol=1e-4, atol=1e-4)
        assert later.state.following.tolist() == whole.state.following.tolist()
        state, at = first.state, len(cut)
        for number in range(2):
            out = model(ids[:, at + number : at + number + 1], state=state)
            state = out.state
            torch.testing.assert_close(
                out.logits[:, 0], whole.logits[:, at + number], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", models.KINDS)
def test_gradients_reach_every_weight(kind):
    model = models.small(kind).train()
    ids, values, grids, lengths = batch(ROWS)
    logits = model(ids, values, grids, lengths=lengths).logits
    there = torch.arange(ids.shape[1]) < lengths[:, None]
    functional.cross_entropy(logits[there], ids[there].roll(-1)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


def test_placeholders_and_sizes_are_checked():
    model = models.small("qwen2_5_vl")
    ids, values, grids, _ = batch(ROWS[:1])
    with pytest.raises(PlaceholderError, match="7 placeholders, but 1 pictures give 6"):
        model(ids, values[:24], grids[:1])
    with pytest.raises(PlaceholderError, match="0 pictures give 0"):
        model(ids)
    with pytest.raises(ValueError, match="stands for 28 patches, and there are 24"):
        model(ids, values[:24], grids)
    with pytest.raises(ValueError, match=r"pixel_values have shape \(28, 95\)"):
        model(ids, values[:, 1:], grids)
    with pytest.raises(ValueError, match="1 numbers of seconds for 2 pictures"):
        model(ids, values, grids, seconds=[1.0])
    with pytest.raises(ValueError, match="picture 1 has a grid of 1 x 3 x 2"):
        checked_grids([(1, 2, 2), (1, 3, 2)], 2)
    with pytest.raises(ValueError, match=r"whole numbers of shape \(n, 3\)"):
        checked_grids(torch.zeros(2, 2), 2)
    with pytest.raises(ValueError, match="max_position_embeddings=512"):
        model.generate(ids, values, grids, max_new_tokens=600)


@pytest.mark.parametrize("kind", models.KINDS)
def test_texts_of_a_batch_are_those_of_its_rows(kind):
    model = models.small(kind)
    ids, values, grids, lengths = batch(ROWS)
    options = {"max_new_tokens": 6, "stop": (11,)}
    found = model.generate(ids, values, grids, lengths=lengths, **options)
    parts, at = values.split([t * h * w for t, h, w in grids]), 0
    for number, one in enumerate(ROWS):
        own = [part for part in one if not isinstance(part, int)]
        given = torch.cat(parts[at : at + len(own)]) if own else None
        at += len(own)
        alone = ids[number : number + 1, : int(lengths[number])]
        assert model.generate(alone, given, own, **options) == [found[number]]
        # Written out: everything anew for each token.
        row = alone
        for token in found[number]:
            with torch.no_grad():
                scores = model(row, given, own, last=True).logits[0, 0]
            scores[[models.START, models.END, models.IMAGE, models.VIDEO]] = -torch.inf
            assert int(scores.argmax()) == token
            row = torch.cat([row, torch.tensor([[token]])], 1)
    drawn = [
        model.generate(ids, values, grids, lengths=lengths, temperature=2.0, seed=seed, **options)
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    markers = {models.START, models.END, models.IMAGE, models.VIDEO}
    assert not markers & {token for rows in drawn for one in rows for token in one}


STEPS = [
    (3, (1, 4, 6), 4),
    (3, (1, 4, 6), 4, 5, 6, (1, 2, 4), 7),
    (3, (1, 4, 6), 4, 5, 6, (1, 2, 4), 7, 8, (1, 8, 4), 9),
    (3, 4, 5, 6, (1, 2, 4), 7, 8, (1, 8, 4), 9, 10),
    (3, 4, 5, 6, (1, 2, 4), 7, 8, (1, 8, 4), 9, 10),
]


def read_all(reading: Reading, changed: bool = False) -> list[tuple[list[int], int, int]]:
    """What follows each of the texts, and how much was read and looked at for it."""
    found = []
    for number, step in enumerate(STEPS):
        grids = [part for part in step if not isinstance(part, int)]
        keys = [repr(grid).encode() for grid in grids]
        values = [models.pixels([grid], seed=sum(grid)) for grid in grids]
        if changed and number == 4:
            keys[0], values[0] = b"other", values[0].flip(0)
        new = reading.follow(models.row(*step), keys, grids, values.__getitem__, most=4, stop=())
        found.append((new, reading.read, reading.seen))
    return found


@pytest.mark.parametrize("kind", models.KINDS)
def test_a_reading_goes_on_where_the_text_does(kind):
    model = models.small(kind)
    reading = Reading(model)
    found = read_all(reading)
    for step, (new, _, _) in zip(STEPS, found, strict=True):
        ids = torch.tensor([models.row(*step)])
        grids = [part for part in step if not isinstance(part, int)]
        values = torch.cat([models.pixels([grid], seed=sum(grid)) for grid in grids])
        assert [new] == model.generate(ids, values, grids, max_new_tokens=4, stop=())
    lengths = [len(models.row(*step)) for step in STEPS]
    # All, then what is new at the end, then all behind the first word, then the last word alone.
    assert [read for _, read, _ in found] == [
        lengths[0],
        lengths[1] - lengths[0],
        lengths[2] - lengths[1],
        lengths[3] - 1,
        1,
    ]
    assert [seen for _, _, seen in found] == [1, 1, 1, 0, 0]
    reading.forget()
    assert read_all(reading) == found
    other = read_all(Reading(model), changed=True)
    assert other[:4] == found[:4]
    assert other[4][1:] == (lengths[4] - models.row(*STEPS[4]).index(models.IMAGE), 1)


def test_a_reading_that_forgets_to_compare_pictures_is_caught(monkeypatch):
    model = models.small("qwen2_vl")
    right = read_all(Reading(model), changed=True)
    monkeypatch.setattr(
        Reading, "_common",
        lambda self, ids, spans: 0 if self._state is None else min(len(ids), len(self._ids)) - 1,
    )  # fmt: skip
    with pytest.raises((AssertionError, PlaceholderError, IndexError)):
        assert read_all(Reading(model), changed=True) == right


def test_bfloat16_is_near_float32():
    wide = models.small("qwen2_5_vl")
    narrow = Qwen2VL(wide.config, dtype=torch.bfloat16).eval()
    narrow.load_state_dict(wide.state_dict())
    ids, values, grids, lengths = batch(ROWS)
    there = torch.arange(ids.shape[1]) < lengths[:, None]
    with torch.no_grad():
        one = wide(ids, values, grids, lengths=lengths).logits[there].flatten()
        other = narrow(ids, values, grids, lengths=lengths).logits[there].flatten()
    assert other.dtype == torch.bfloat16
    texts = narrow.generate(ids, values, grids, lengths=lengths, max_new_tokens=3, stop=())
    assert [len(text) for text in texts] == [3, 3, 3]
    assert functional.cosine_similarity(one, other.float(), 0) > 0.98
