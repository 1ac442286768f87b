r"""The draw of the next token in compiled code; `paragone.language.sampling` is its definition.

Exponentials are taken in float32, sums in float64. A filter counts tokens by the first bits of
their weights and sorts only those near its edge, so that no vocabulary is sorted whole.

Shapes: V vocabulary, T tokens so far.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.jit import njit
from paragone.kernels.simd import (
    WIDTH,
    exp,
    fill_some,
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

__all__ = ["REALS", "WHOLES", "draw", "draw_rows", "uniform"]

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
def uniform(key, step):
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
    """Out = exp((x - top) sharpness); returns the sum, blocks of it in float64."""
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
    """Sorts the first `count` ids by falling keys[id]; equal keys stay in order."""
    width = 1
    while width < count:
        for low in range(0, count, 2 * width):
            middle, high = min(low + width, count), min(low + 2 * width, count)
            i, j = low, middle
            for k in range(low, high):
                if i < middle and (j >= high or keys[ids[i]] >= keys[ids[j]]):
                    spare[k] = ids[i]
                    i += 1
                else:
                    spare[k] = ids[j]
                    j += 1
        for k in range(count):
            ids[k] = spare[k]
        width *= 2


@njit(**_inlined)
def _cut(p, keys, count, most, share, ids, spare):
    """Keeps of p the tokens with the greatest keys: `most` of them, or the fewest with a share.

    Tokens are counted by the first bits of their keys, which rise with these; only those of the
    one bin in which the last kept token is are sorted. `keys` may be p.
    """
    tally, masses, sum_ = np.zeros(_BINS, np.int64), np.zeros(_BINS), 0.0
    bits = keys.view(np.int32)
    for c in range(count):
        if p[c] > 0:
            tally[bits[c] >> _DROPPED] += 1
            masses[bits[c] >> _DROPPED] += np.float64(p[c])
            sum_ += np.float64(p[c])
    wanted = share * sum_ * (1 - 1e-7)
    found, mass, edge = np.int64(0), 0.0, _BINS
    while edge > 0 and found < most and (mass < wanted or found == 0):
        edge -= 1
        found += tally[edge]
        mass += masses[edge]
    found, mass, some = found - tally[edge], mass - masses[edge], 0
    for c in range(count):
        if p[c] > 0 and bits[c] >> _DROPPED == edge:
            ids[some] = c
            some += 1
    _sorted(ids, keys, some, spare)
    left = 0
    while left < some and found < most and (mass < wanted or found == 0):
        mass += np.float64(p[ids[left]])
        left += 1
        found += 1
    for c in range(count):
        if bits[c] >> _DROPPED < edge:
            p[c] = np.float32(0.0)
    for i in range(left, some):
        p[ids[i]] = np.float32(0.0)


@njit(**_inlined)
def _thinned(p, count, reals, top_k, ids, keys, spare):
    """The filters, one after the other: what they refuse becomes 0 in p."""
    if 0 < top_k < count:
        _cut(p, p, count, top_k, 2.0, ids, spare)
    if reals[1] < 1:
        _cut(p, p, count, count, reals[1], ids, spare)
    for c in range(count):
        if p[c] < np.float32(reals[2]):
            p[c] = np.float32(0.0)
    if reals[3] < 1:
        sum_, mean = 0.0, 0.0
        for c in range(count):
            sum_ += np.float64(p[c])
        for c in range(count):
            share = max(np.float64(p[c]) / sum_, 1e-300)
            mean -= share * np.log(share)
        for c in range(count):
            share = max(np.float64(p[c]) / sum_, 1e-300)
            keys[c] = np.float32(1.0 / (1.0 + abs(-np.log(share) - mean)))
        _cut(p, keys, count, count, reals[3], ids, spare)


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
    """Draws a token; returns it and its log-probability.

    `logits` holds the (V,) scores from `at` on; `known` tokens of the history count. `bias` is
    added to the scores of `bias_ids`. Room: (3 V,) float32, (2 V,) int64, (V,) uint8 zeros.
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
        _thinned(p, count, reals, wholes[0], ids, keys, ids[count:])
        sum_, held = 0.0, 0.0
        for c in range(count):
            sum_ += np.float64(p[c])
        target = uniform(wholes[1], step) * sum_
        for c in range(count):
            if p[c] > 0:
                token = c
                held += np.float64(p[c])
                if held > target:
                    break
    return token, np.float64(logits[at + token]) * sharpness - norm


@njit(nogil=True, error_model="numpy")
def draw_rows(logits, rows, history, known, steps, reals, wholes, bias_at, bias_ids, bias, room,
              ids, marks, tokens, log_probs):  # fmt: skip
    """Draws a token for each row i of the logits with what belongs to row `rows[i]`.

    `known` and `steps` tell how far each row is; `bias_at` where its part of `bias` begins.
    """
    count = logits.shape[1]
    flat = logits.reshape(-1)
    for i in range(len(rows)):
        row = rows[i]
        some = slice(bias_at[row], bias_at[row + 1])
        tokens[i], log_probs[i] = draw(
            flat, i * count, count, history[row], known[row], steps[row], reals[row], wholes[row],
            bias_ids[some], bias[some], room, ids, marks,
        )  # fmt: skip
