r"""The draw of the next token in compiled code; `paragone.language.sampling` is its definition.

Exponentials are taken in float32, sums in float64. A filter looks only at tokens that can be among
the first ones: those above a bound that is lowered until they are enough, so that no vocabulary is
sorted whole for ten tokens.

Shapes: V vocabulary, T tokens so far.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    exp,
    load,
    load_some,
    maximum,
    fill_some,
    largest,
    splat,
    store,
    store_some,
    total,
    zero,
)

__all__ = ["REALS", "WHOLES", "draw"]

REALS = ("temperature", "top_p", "min_p", "typical_p", "repetition", "presence", "frequency")
"""Names of the float64 numbers that `draw` takes; shares of 1 and factors of 1 are none."""
WHOLES = ("top_k", "key", "prompt")
"""Names of the int64 numbers; top_k = 0 is all, `key` has the bits of the seed."""
_inlined = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}
_NONE = np.float32(-np.inf)
_BINS, _DROPPED = 2048, 19
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@njit(**_inlined)
def _mixed(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


@njit(**_inlined)
def _uniform(key, step):
    """As `sampling.uniform`."""
    own = _mixed(np.uint64(key) + np.uint64(_GOLDEN))
    word = _mixed(own + np.uint64(_GOLDEN) * np.uint64(step + 1))
    return np.float64(np.int64(word >> np.uint64(11))) * 2.0**-53


@njit(**_inlined)
def _greatest(x, at, count):
    top = splat(_NONE)
    whole = count - count % WIDTH
    for c in range(0, whole, WIDTH):
        top = maximum(load(x, at + c), top)
    if whole < count:
        some = count - whole
        top = maximum(fill_some(load_some(x, at + whole, some), splat(_NONE), some), top)
    return largest(top)


@njit(**_inlined)
def _exponentials(x, at, count, top, sharpness, out):
    """out = exp((x - top) sharpness); returns the sum, blocks of it in float64."""
    whole, sum_ = count - count % WIDTH, 0.0
    shift, factor = splat(top), splat(np.float32(sharpness))
    acc = zero()
    for c in range(0, whole, WIDTH):
        v = exp((load(x, at + c) - shift) * factor)
        store(out, c, v)
        acc = acc + v
        if c % 4096 == 0:
            sum_ += np.float64(total(acc))
            acc = zero()
    if whole < count:
        some = count - whole
        v = fill_some(exp((load_some(x, at + whole, some) - shift) * factor), zero(), some)
        store_some(out, whole, v, some)
        acc = acc + v
    return sum_ + np.float64(total(acc))


@njit(**_inlined)
def _sorted(ids, keys, count, spare):
    """Sorts the first `count` ids by rising keys[id]; equal keys stay in order."""
    width = 1
    while width < count:
        for low in range(0, count, 2 * width):
            middle, high = min(low + width, count), min(low + 2 * width, count)
            i, j = low, middle
            for k in range(low, high):
                if i < middle and (j >= high or keys[ids[i]] <= keys[ids[j]]):
                    spare[k] = ids[i]
                    i += 1
                else:
                    spare[k] = ids[j]
                    j += 1
        for k in range(count):
            ids[k] = spare[k]
        width *= 2


@njit(**_inlined)
def _above(p, count, bound, ids):
    """Tokens with p >= bound, in order; returns how many, and their sum."""
    found, mass = 0, 0.0
    for i in range(count):
        if p[i] >= bound:
            ids[found] = i
            found += 1
            mass += np.float64(p[i])
    return found, mass


@njit(**_inlined)
def _bound(p, count, wanted, share, sum_, room):
    """A bound that the first `wanted` tokens, or those that hold a share, are not below.

    Tokens are counted by the first bits of p, which rise with it.
    """
    tally = np.zeros(_BINS, np.int64)
    masses = np.zeros(_BINS)
    for c in range(count):
        room[c] = p[c]
    bits = room[:count].view(np.int32)
    for c in range(count):
        at = bits[c] >> _DROPPED
        tally[at] += 1
        masses[at] += np.float64(p[c])
    found, mass, at = np.int64(0), 0.0, _BINS
    while at > 0 and found < wanted and (mass < share * sum_ * (1 + 1e-9) or found == 0):
        at -= 1
        found += tally[at]
        mass += masses[at]
    edge = np.empty(1, np.int32)
    edge[0] = at << _DROPPED
    return edge.view(np.float32)[0]


@njit(**_inlined)
def _leading(p, ids, count, share):
    """How many of the first ids hold a share of the sum of all `count`."""
    sum_ = 0.0
    for i in range(count):
        sum_ += np.float64(p[ids[i]])
    return _reaching(p, ids, count, share * sum_)


@njit(**_inlined)
def _reaching(p, ids, count, wanted):
    held = 0.0
    for i in range(count):
        held += np.float64(p[ids[i]])
        if held >= wanted * (1 - 1e-7):
            return i + 1
    return count


@njit(**_inlined)
def _thinned(p, count, sum_, reals, top_k, ids, keys, spare):
    """Tokens that the filters leave, in `ids`, rising; returns how many."""
    top_p, min_p, typical = reals[1], reals[2], reals[3]
    found, mass = count, sum_
    if 0 < top_k < count or top_p < 1:
        limited = 0 < top_k < count
        bound = _bound(p, count, top_k if limited else count, 2.0 if limited else top_p, sum_, keys)
        found, mass = _above(p, count, bound, ids)
        for i in range(found):
            keys[ids[i]] = -p[ids[i]]
        _sorted(ids, keys, found, spare)
        if 0 < top_k < count:
            found = min(found, top_k)
            if top_p < 1:
                found = _leading(p, ids, found, top_p)
        else:
            found = _reaching(p, ids, found, top_p * sum_)
        for i in range(found):
            keys[ids[i]] = np.float32(ids[i])
        _sorted(ids, keys, found, spare)
    else:
        found, mass = _above(p, count, np.float32(0.0), ids)
    if min_p > 0:
        kept = 0
        for i in range(found):
            if p[ids[i]] >= np.float32(min_p):
                ids[kept] = ids[i]
                kept += 1
        found = kept
    if typical < 1:
        sum_, mean = 0.0, 0.0
        for i in range(found):
            sum_ += np.float64(p[ids[i]])
        for i in range(found):
            share = max(np.float64(p[ids[i]]) / sum_, 1e-300)
            mean -= share * np.log(share)
        for i in range(found):
            share = max(np.float64(p[ids[i]]) / sum_, 1e-300)
            keys[ids[i]] = np.float32(abs(-np.log(share) - mean))
        _sorted(ids, keys, found, spare)
        found = _reaching(p, ids, found, typical * sum_)
        for i in range(found):
            keys[ids[i]] = np.float32(ids[i])
        _sorted(ids, keys, found, spare)
    return found


@njit(**_inlined)
def _penalised(logits, at, count, history, known, reals, prompt, bias_ids, bias, z, marks):
    for c in range(count):
        z[c] = logits[at + c]
    repetition, presence, frequency = (
        np.float32(reals[4]), np.float32(reals[5]), np.float32(reals[6]),
    )  # fmt: skip
    if repetition != 1:
        for t in range(known):
            token = history[t]
            if marks[token] == 0:
                marks[token] = 1
                z[token] = z[token] / repetition if z[token] > 0 else z[token] * repetition
        for t in range(known):
            marks[history[t]] = 0
    if presence != 0 or frequency != 0:
        for t in range(prompt, known):
            token = history[t]
            z[token] -= frequency if marks[token] else frequency + presence
            marks[token] = 1
        for t in range(prompt, known):
            marks[history[t]] = 0
    for i in range(len(bias_ids)):
        z[bias_ids[i]] += np.float32(bias[i])


@njit(nogil=True, error_model="numpy")
def draw(logits, at, count, history, known, step, reals, wholes, bias_ids, bias, room, ids, marks):
    """Draws a token.

    Args:
        logits: Holds the (V,) scores from `at` on.
        count: V.
        history: Tokens so far; `known` of them count.
        step: Number of the draw.
        reals: See `REALS`.
        wholes: See `WHOLES`.
        bias_ids: Tokens whose scores get `bias`.
        room: (3 V,) float32.
        ids: (2 V,) int64.
        marks: (V,) uint8, zeros.

    Returns:
        The token and its log-probability.
    """
    z, p, keys = room[:count], room[count : 2 * count], room[2 * count :]
    temperature = reals[0]
    sharpness = 1.0 / temperature if temperature > 0 else 1.0
    changed = reals[4] != 1 or reals[5] != 0 or reals[6] != 0 or len(bias_ids) > 0
    highest = _greatest(logits, at, count)
    sum_ = _exponentials(logits, at, count, highest, sharpness, p)
    norm = np.float64(highest) * sharpness + np.log(sum_)
    scores, scores_at, top = logits, at, highest
    if changed:
        _penalised(logits, at, count, history, known, reals, wholes[2], bias_ids, bias, z, marks)
        scores, scores_at, top = room, 0, _greatest(room, 0, count)
        if temperature > 0:
            sum_ = _exponentials(room, 0, count, top, sharpness, p)
    token = 0
    if temperature == 0:
        while token < count - 1 and scores[scores_at + token] != top:
            token += 1
    else:
        thin = 0 < wholes[0] < count or reals[1] < 1 or reals[2] > 0 or reals[3] < 1
        target = _uniform(wholes[1], step)
        held = 0.0
        if thin:
            found = _thinned(p, count, sum_, reals, wholes[0], ids, keys, ids[count:])
            for i in range(found):
                held += np.float64(p[ids[i]])
            target, held = target * held, 0.0
            for i in range(found):
                if p[ids[i]] > 0:
                    token = ids[i]
                held += np.float64(p[ids[i]])
                if held > target:
                    break
        else:
            sum_ = 0.0
            for i in range(count):
                sum_ += np.float64(p[i])
            target *= sum_
            for i in range(count):
                if p[i] > 0:
                    token = i
                held += np.float64(p[i])
                if held > target:
                    break
    return token, np.float64(logits[at + token]) * sharpness - norm
