r"""What stands between the products of a step: norms, turning, attention over pages.

Products want the tokens of a block side by side: input k of token n lies at

$$ \lfloor n / B \rfloor\, K B + k B + (n \bmod B) , $$

and whoever makes the input of a product writes it there. Keys of a page lie with its tokens side
by side, so that the scores of WIDTH tokens are one vector; values lie token by token.

Shapes: N tokens, M width, B tokens of a block, K inputs of a product, D width of a head.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.lean import power
from paragone.kernels.simd import (
    WIDTH,
    fill_some,
    fma,
    largest,
    load,
    load_some,
    maximum,
    splat,
    store,
    store_some,
    total,
    zero,
)
from paragone.language.ops.decoding._cpu_panels import scattered

__all__ = ["attended", "cleared", "headed", "kept", "packed", "rows_normed"]

_inlined = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}
_NONE = np.float32(-np.inf)


@njit(**_inlined)
def cleared(x, at, count):
    """Zeros."""
    whole = count - count % WIDTH
    for c in range(0, whole, WIDTH):
        store(x, at + c, zero())
    store_some(x, at + whole, zero(), count - whole)


@njit(**_inlined)
def _inverse_rms(x, at, width, eps):
    acc = zero()
    whole = width - width % WIDTH
    for c in range(0, whole, WIDTH):
        v = load(x, at + c)
        acc = fma(v, v, acc)
    if whole < width:
        v = load_some(x, at + whole, width - whole)
        acc = fma(v, v, acc)
    return np.float32(1.0) / np.sqrt(total(acc) / np.float32(width) + np.float32(eps))


@njit(**_inlined)
def rows_normed(x, at, row, count, width, eps, arena, gain_at, out, out_row):
    """out[n] = norm(x[n]) for `count` rows, one behind the other; gain_at < 0: as they are."""
    for n in range(count):
        _row_normed(x, at + n * row, width, eps, arena, gain_at, out, n * out_row, 1)


@njit(**_inlined)
def _row_normed(x, at, width, eps, arena, gain_at, out, out_at, step):
    """One normalised row (unless gain_at < 0), its elements `step` apart."""
    plain = gain_at < 0
    factor = splat(np.float32(1.0) if plain else _inverse_rms(x, at, width, eps))
    whole = width - width % WIDTH
    for c in range(0, whole, WIDTH):
        v = load(x, at + c)
        if not plain:
            v = v * factor * load(arena, gain_at + c)
        if step == 1:
            store(out, out_at + c, v)
        else:
            scattered(v, WIDTH, out, out_at + c * step, step)
    if whole < width:
        some = width - whole
        v = load_some(x, at + whole, some)
        if not plain:
            v = v * factor * load_some(arena, gain_at + whole, some)
        scattered(v, some, out, out_at + whole * step, step)


@njit(**_inlined)
def packed(x, row, count, chosen, width, padded, eps, arena, gain_at, out, out_at, block):
    """Normalised rows in blocks; of `chosen` rows, if it is not empty."""
    if count % block or padded != width:
        cleared(out, out_at, (count + block - 1) // block * block * padded)
    for n in range(count):
        source = chosen[n] if len(chosen) else n
        target = out_at + n // block * padded * block + n % block
        _row_normed(x, source * row, width, eps, arena, gain_at, out, target, block)


@njit(**_inlined)
def headed(x, at, depth, arena, gain_at, angles, angle_at, factor, out):
    """A head's vector, normalised (unless gain_at < 0), turned (unless angle_at < 0) and scaled.

    `angles` holds D / 2 cosines and D / 2 sines of a place.
    """
    scale = splat(np.float32(factor))
    if gain_at >= 0:
        inverse = splat(_inverse_rms(x, at, depth, 1e-6))
        for c in range(0, depth, WIDTH):
            some = min(WIDTH, depth - c)
            v = load_some(x, at + c, some) * inverse * load_some(arena, gain_at + c, some)
            store_some(out, c, v, some)
    else:
        for c in range(0, depth, WIDTH):
            some = min(WIDTH, depth - c)
            store_some(out, c, load_some(x, at + c, some), some)
    half = depth // 2
    if angle_at < 0:
        for c in range(0, depth, WIDTH):
            some = min(WIDTH, depth - c)
            store_some(out, c, load_some(out, c, some) * scale, some)
        return
    for c in range(0, half, WIDTH):
        some = min(WIDTH, half - c)
        a, b = load_some(out, c, some), load_some(out, half + c, some)
        cos = load_some(angles, angle_at + c, some)
        sin = load_some(angles, angle_at + half + c, some)
        store_some(out, c, (a * cos - b * sin) * scale, some)
        store_some(out, half + c, (b * cos + a * sin) * scale, some)


@njit(**_inlined)
def kept(head, x, value_at, depth, keys, key_at, slots, slot, values, v_at):
    """Puts a turned key and its value into a page."""
    for d in range(depth):
        keys[key_at + d * slots + slot] = head[d]
    for c in range(0, depth, WIDTH):
        some = min(WIDTH, depth - c)
        store_some(values, v_at + slot * depth + c, load_some(x, value_at + c, some), some)


@njit(**_inlined)
def _page_scores(head, depth, keys, at, slots, scores, score_at):
    whole = depth - depth % 4
    for lane in range(0, slots, WIDTH):
        a, b, c, e = zero(), zero(), zero(), zero()
        for d in range(0, whole, 4):
            here = at + d * slots + lane
            a = fma(splat(head[d]), load(keys, here), a)
            b = fma(splat(head[d + 1]), load(keys, here + slots), b)
            c = fma(splat(head[d + 2]), load(keys, here + 2 * slots), c)
            e = fma(splat(head[d + 3]), load(keys, here + 3 * slots), e)
        for d in range(whole, depth):
            a = fma(splat(head[d]), load(keys, at + d * slots + lane), a)
        store(scores, score_at + lane, (a + b) + (c + e))


@njit(**_inlined)
def _mixed(weights, low, high, values, base, whole, group, table, page, slots, depth, branch,
           first_own, out):  # fmt: skip
    """The weighted sum of the values `low` to `high`, WIDTH coordinates at a time.

    Values of pages from `first_own` on are those of `branch`. Lanes behind the last coordinate read
    what follows in memory; nobody looks at them.
    """
    for c in range(0, depth, WIDTH):
        a, b, e, f = zero(), zero(), zero(), zero()
        for p in range(low // page, (high + page - 1) // page):
            source, at, w = values, (base + table[p]) * whole + group + c, p * slots
            if p >= first_own:
                source, at = branch, (p - first_own) * page * depth + c
            first, last = max(low - p * page, 0), min(high - p * page, page)
            fours = last - (last - first) % 4
            for j in range(first, fours, 4):
                here = at + j * depth
                a = fma(splat(weights[w + j]), load(source, here), a)
                b = fma(splat(weights[w + j + 1]), load(source, here + depth), b)
                e = fma(splat(weights[w + j + 2]), load(source, here + 2 * depth), e)
                f = fma(splat(weights[w + j + 3]), load(source, here + 3 * depth), f)
            for j in range(fours, last):
                a = fma(splat(weights[w + j]), load(source, at + j * depth), a)
        store(out, c, (a + b) + (e + f))


@njit(**_inlined)
def _branch(held, count, seen, seen_at, values, base, whole, group, table, page, slots, depth,
            scores, branch):  # fmt: skip
    """Puts scores and values of the new tokens that are seen side by side; returns the end.

    So they stand where they will stand if this branch is agreed to, and every sum is taken in the
    order of plain decoding. `branch` gets the values of the pages from that of `held` on.
    """
    first, place = held // page * page, held
    for j in range(first, held + count):
        if j >= held:
            if seen[seen_at + j - held] == 0:
                continue
            scores[place // page * slots + place % page] = scores[j // page * slots + j % page]
        source = (base + table[j // page]) * whole + group + j % page * depth
        target = (place if j >= held else j) - first
        for c in range(0, depth, WIDTH):
            some = min(WIDTH, depth - c)
            store_some(branch, target * depth + c, load_some(values, source + c, some), some)
        place += j >= held
    return place


@njit(**_inlined)
def attended(head, depth, high, held, count, window, seen, seen_at, see, keys, values, base, whole,
             group, table, page, slots, scores, branch, out):  # fmt: skip
    """Attention of one query to the keys of its sequence, of which there are `high`.

    The query is turned, and scaled so that its scores are powers of 2. With a `window` it sees
    only the last ones. Of the `count` keys behind the first `held` it sees those that `seen` says,
    if `see`. The layer's pages begin at page `base`; a page has `whole` numbers, those of the key
    head begin at `group`; `scores` has room for the slots of all pages of the table, `branch`, if
    `see`, for the values of a page and of `count` tokens more.
    """
    first_page = max(high - (count if see else 0) - window, 0) // page if window else 0
    for p in range(first_page, (high + page - 1) // page):
        number = base + table[p]
        _page_scores(head, depth, keys, number * whole + group, slots, scores, p * slots)
    first_own = len(table)
    if see:
        first_own = held // page
        high = _branch(held, count, seen, seen_at, values, base, whole, group, table, page, slots,
                       depth, scores, branch)  # fmt: skip
    low = max(high - window, 0) if window else 0
    first_page, end_page = low // page, (high + page - 1) // page
    top = splat(_NONE)
    for p in range(first_page, end_page):
        some = min(high - p * page, page)
        if some < slots:
            for lane in range(0, slots, WIDTH):
                v = fill_some(load(scores, p * slots + lane), splat(_NONE), max(some - lane, 0))
                store(scores, p * slots + lane, v)
        for j in range(low - p * page):
            scores[p * slots + j] = _NONE
        for lane in range(0, slots, WIDTH):
            top = maximum(load(scores, p * slots + lane), top)
    shift, more = splat(largest(top)), zero()
    for c in range(first_page * slots, end_page * slots, WIDTH):
        weight = power(load(scores, c) - shift)
        store(scores, c, weight)
        more = more + weight
    _mixed(scores, low, high, values, base, whole, group, table, page, slots, depth, branch,
           first_own, out)  # fmt: skip
    share = splat(np.float32(1.0) / total(more))
    for c in range(0, depth, WIDTH):
        store(out, c, load(out, c) * share)
