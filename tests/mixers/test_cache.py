"""Caches: states stay valid while others go on from them, whatever shape the rows have."""

import pytest
import torch

from paragone.mixers.cache import KeyValueCache, LatentCache
from paragone.mixers.paged_cache import PAGE, PagedCache

KINDS = {"plain": KeyValueCache, "paged": PagedCache}


def tokens(rows, time, seed, width=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, time, width, generator=generator)


def held(cache, row):
    return [part[row, :, : int(cache.lengths[row])] for part in cache.filled]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_come_back_in_order_and_old_states_stay(kind):
    cache, seen, states = KINDS[kind](), [], []
    for seed, time in enumerate((5, 1, 1, 70, 1, 64, 1)):
        seen.append(tokens(3, time, seed))
        cache = cache.append(seen[-1], 2 * seen[-1])
        states.append((cache, torch.cat(seen, 2)))
    for state, whole in states:
        assert len(state) == whole.shape[2]
        for row in range(3):
            keys, values = held(state, row)
            assert torch.equal(keys, whole[row])
            assert torch.equal(values, 2 * whole[row])


@pytest.mark.parametrize("kind", KINDS)
def test_branches_do_not_see_each_other(kind):
    base = KINDS[kind]().append(tokens(2, 6, 0), tokens(2, 6, 0))
    base = base.append(tokens(2, 1, 1), tokens(2, 1, 1))
    left, right = base, base
    for t in range(3):
        left = left.append(tokens(2, 1, 10 + t), tokens(2, 1, 10 + t))
        right = right.append(tokens(2, 1, 20 + t), tokens(2, 1, 20 + t))
    for found, first in ((left, 10), (right, 20)):
        for t in range(3):
            assert torch.equal(found.filled[0][:, :, 7 + t], tokens(2, 1, first + t)[:, :, 0])
    assert len(base) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_unequal_length_grow_each_by_its_own(kind):
    cache, wanted = KINDS[kind](), [[], [], []]
    for seed, counts in enumerate(((5, 0, 2), (1, 1, 0), (0, 3, 64), (1, 1, 1))):
        new = tokens(3, max(counts), seed)
        for row, count in enumerate(counts):
            new[row, :, count:] = torch.nan
            wanted[row].append(new[row, :, :count])
        cache = cache.append(new, -new, torch.tensor(counts))
    assert cache.lengths.tolist() == [7, 5, 67]
    for row in range(3):
        keys, values = held(cache, row)
        assert torch.equal(keys, torch.cat(wanted[row], 1))
        assert torch.equal(values, -keys)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("discard", [False, True])
def test_a_refused_draft_is_taken_back(kind, discard):
    first = tokens(2, 66, 0)
    cache = KINDS[kind]().append(first, first)
    cache = cache.append(tokens(2, 1, 1), tokens(2, 1, 1))
    draft = cache.append(tokens(2, 4, 2), tokens(2, 4, 2))
    back = draft.truncate(torch.tensor([68, 70]), discard=discard)
    after = back.append(tokens(2, 1, 3), tokens(2, 1, 3))
    assert after.lengths.tolist() == [69, 71]
    for row, kept in enumerate((1, 3)):
        found = held(after, row)[0]
        assert torch.equal(found[:, :66], first[row])
        assert torch.equal(found[:, 67 : 67 + kept], tokens(2, 4, 2)[row, :, :kept])
        assert torch.equal(found[:, -1], tokens(2, 1, 3)[row, :, 0])
    if not discard:
        assert torch.equal(draft.filled[0][:, :, 67:71], tokens(2, 4, 2))
    with pytest.raises(ValueError, match="truncate"):
        back.truncate(99)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_selected_and_repeated(kind):
    cache = KINDS[kind]().append(tokens(3, 5, 0), tokens(3, 5, 1), torch.tensor([5, 2, 0]))
    some = cache.select(torch.tensor([1, 0, 0]))
    assert some.lengths.tolist() == [2, 5, 5]
    grown = some.append(tokens(3, 1, 2), tokens(3, 1, 2))
    assert torch.equal(held(grown, 2)[0][:, :5], tokens(3, 5, 0)[0])
    assert torch.equal(held(grown, 1)[0][:, 5], tokens(3, 1, 2)[1, :, 0])
    assert cache.lengths.tolist() == [5, 2, 0]


def test_the_first_append_copies_nothing_and_decoding_writes_in_place():
    keys = tokens(1, 5, 0)
    cache = KeyValueCache().append(keys, keys)
    assert cache.keys.data_ptr() == keys.data_ptr()
    cache = cache.append(tokens(1, 1, 1), tokens(1, 1, 1))
    place, capacity = cache.keys.data_ptr(), cache.keys.shape[2]
    assert capacity >= 64
    for t in range(capacity - 6):
        cache = cache.append(tokens(1, 1, t), tokens(1, 1, t))
        assert cache.keys.data_ptr() == place
    assert torch.equal(keys, tokens(1, 5, 0))
    roomy = KeyValueCache(capacity=100).append(keys, keys)
    assert roomy.keys.shape[2] == 100
    assert roomy.append(keys, keys).keys.data_ptr() == roomy.keys.data_ptr()


def test_bytes_of_a_token_are_counted():
    keys = tokens(2, 5, 0)
    assert KeyValueCache().append(keys, keys).bytes_per_token == 2 * 2 * 4 * 4
    half = KeyValueCache(dtype=torch.bfloat16).append(keys, keys)
    assert half.bytes_per_token == 2 * 2 * 4 * 2
    assert half.keys.dtype == torch.bfloat16
    assert PagedCache().append(keys, keys).bytes_per_token == 2 * 2 * 4 * 4
    latent = LatentCache().append(torch.zeros(2, 3, 512 + 64))
    assert latent.bytes_per_token == (512 + 64) * 4
    assert latent.latent.shape == (2, 3, 576)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_window_drops_what_nobody_looks_at(ragged):
    cache, whole = KeyValueCache(window=8), []
    lengths = torch.tensor([1, 1]) if not ragged else None
    for t in range(300):
        whole.append(tokens(2, 1, t))
        if ragged and t == 0:
            lengths = torch.tensor([1, 0])
        cache = cache.append(whole[-1], whole[-1], lengths)
        lengths = None
        assert torch.equal(cache.filled[0][0, :, :][:, : int(cache.lengths[0])][:, -8:],
                           torch.cat(whole, 2)[0, :, -8:])  # fmt: skip
    assert cache.keys.shape[2] <= 64
    start = cache.start
    assert (start.tolist() if ragged else start) == ([300, 299] if ragged else 300)
    with pytest.raises(ValueError, match="dropped"):
        cache.truncate(torch.tensor([3, 3]))


def test_gradients_flow_through_a_cache():
    first, second = tokens(2, 5, 0).requires_grad_(), tokens(2, 2, 1).requires_grad_()
    for lengths in (None, torch.tensor([5, 3])):
        cache = KeyValueCache().append(first, first, lengths).append(second, second)
        total = sum(held(cache, row)[0].sum() for row in range(2))
        grads = torch.autograd.grad(total, (first, second))
        assert (grads[1] == 1).all()
        assert (grads[0][0] == 1).all()
        assert (grads[0][1].sum(1) == (5 if lengths is None else 3)).all()
    with pytest.raises(ValueError, match="no gradient"):
        PagedCache().append(first, first)


def test_pages_return_to_the_pool_when_no_state_holds_them():
    keys = tokens(2, 3 * PAGE, 0)
    cache = PagedCache(pages=7).append(keys, keys)
    assert cache.pages_in_use == 6
    fork = cache.append(tokens(2, 1, 1), tokens(2, 1, 1))
    assert cache.pages_in_use == 8
    del fork
    assert cache.pages_in_use == 6
    one = cache.select(torch.tensor([1]))
    del cache
    assert one.pages_in_use == 3
    assert torch.equal(one.filled[0], keys[1:])


def test_what_does_not_fit_is_named():
    cache = KeyValueCache().append(tokens(2, 3, 0), tokens(2, 3, 0))
    with pytest.raises(ValueError, match="does not go on"):
        cache.append(tokens(2, 1, 0, width=5), tokens(2, 1, 0, width=5))
    with pytest.raises(ValueError, match="expected"):
        cache.append(tokens(2, 1, 0), tokens(2, 2, 0))
    with pytest.raises(ValueError, match="expected"):
        LatentCache().append(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="does not go on"):
        PagedCache().append(*[tokens(2, 3, 0)] * 2).append(*[tokens(1, 3, 0)] * 2)
    for empty in (KeyValueCache(), PagedCache()):
        with pytest.raises(ValueError, match="empty"):
            _ = empty.parts
    with pytest.raises(ValueError, match="window=0"):
        KeyValueCache(window=0)
    with pytest.raises(ValueError, match="capacity=-1"):
        KeyValueCache(capacity=-1)
    with pytest.raises(ValueError, match="empty"):
        KeyValueCache().truncate(0)
    assert "empty" in repr(KeyValueCache())
    assert "longest 3" in repr(cache)
