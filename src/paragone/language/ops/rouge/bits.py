r"""Longest common subsequences with a machine word for 64 rows of the table.

Column j of the table differs from row to row by 0 or 1. With bit i of $V$ unset where row i is one
above row i - 1, and $M_y$ the places of word y in the text x,

$$ U = V \wedge M_y, \qquad V \leftarrow (V + U) \vee (V \wedge \neg M_y) , $$

and the length is the number of zeros of $V$ at the end. Longer texts carry from word to word.

The filter looks at few pairs. If more than a share of the words must be common, two texts that
are near share one of their rarest words already: with $t$ the least length that can suffice, one
among the first $m - t + 1$ of x in any fixed order and the first $n - t + 1$ of y.

Cost: `nearest_in_pool` O(n ceil(m / 64)) a text of the pool; `novel_rows` about the texts that
share a rare word.

References:
    Hyyrö (2004), Bit-parallel LCS-length computation revisited, section 3.
    Bayardo, Ma and Srikant (2007), Scaling up all pairs similarity search, section 4 (prefixes).

Shapes: N texts; tokens of all of them in a row, text i from starts[i] to starts[i + 1]; V words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from paragone.kernels.intrinsics import count_ones
from paragone.kernels.jit import njit

__all__ = ["nearest_in_pool", "novel_rows"]

_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


@njit(**_FLAGS)
def _write_masks(tokens, first, last, slot, masks, width):
    """Sets the places of each word of a text; `slot` names the masks of a word, 0: none."""
    used = 1
    for at in range(first, last):
        word = tokens[at]
        if slot[word] == 0:
            slot[word] = used
            for part in range(width):
                masks[used * width + part] = np.uint64(0)
            used += 1
        i = at - first
        place = slot[word] * width + (i >> 6)
        masks[place] |= np.uint64(1) << np.uint64(i & 63)


@njit(**_FLAGS)
def _common(tokens, first, last, slot, masks, width, size, state):
    """Length of the longest common subsequence of a text and the one whose masks are set."""
    ones = ~np.uint64(0)
    if width == 1:
        v = ones
        for at in range(np.uint64(first), np.uint64(last)):
            match = masks[np.uint64(slot[np.uint64(tokens[at])])]
            u = v & match
            v = (v + u) | (v & ~match)
        if size < 64:
            v |= ones << np.uint64(size)
        return np.int64(count_ones(~v))
    for part in range(width):
        state[part] = ones
    for at in range(first, last):
        place, carry = slot[tokens[at]] * width, np.uint64(0)
        for part in range(width):
            match, v = masks[place + part], state[part]
            u = v & match
            partial = v + u
            total = partial + carry
            carry = np.uint64(partial < v) | np.uint64(total < partial)
            state[part] = total | (v & ~match)
    found = np.int64(0)
    for part in range(width):
        v = state[part]
        rest = size - part * 64
        if rest < 64:
            v |= ones << np.uint64(rest)
        found += np.int64(count_ones(~v))
    return found


@njit(**_FLAGS)
def _f(common, m, n):
    """The F-measure, rounded as in `reference.f_measure`."""
    if common == 0:
        return 0.0
    precision, recall = common / n, common / m
    return 2 * precision * recall / (precision + recall)


@njit(**_FLAGS)
def _sizes(m, longest, floor):
    """Least and greatest number of words of a text that can come nearer than `floor`."""
    low, high = 1, m
    while low < m and _f(low, m, low) <= floor:
        low += 1
    while high < longest and _f(m, m, high + 1) > floor:
        high += 1
    return low, high


@njit(**_FLAGS)
def nearest_in_pool(words, tokens, starts, count, longest, floor, first, slot, masks, state, out):
    """F-measure and number of the nearest text of a pool; those up to `floor` are passed by.

    Args:
        words: The text's words.
        tokens: Words of the pool's texts.
        starts: Where they start.
        count: How many there are.
        longest: Most words of one of them.
        floor: What must be exceeded; with -1 no text is passed by.
        first: Whether the first that exceeds it is enough.
        slot: (V,) zeros; room for words.
        masks: Room for masks.
        state: Room for the columns of long texts.
        out: (N,) gets the common length with each text that was looked at, or is empty.
    """
    m = len(words)
    width = max((m + 63) >> 6, 1)
    _write_masks(words, 0, m, slot, masks, width)
    every = floor < 0
    best, at, low, high = floor, np.int64(-1), np.int64(0), np.int64(longest)
    if not every:
        low, high = _sizes(m, longest, floor)
    for i in range(count):
        n = starts[i + 1] - starts[i]
        if n < low or n > high:
            continue
        found = _common(tokens, starts[i], starts[i + 1], slot, masks, width, m, state)
        if len(out) > 0:
            out[i] = found
        # A common length that cannot beat the best one is not divided.
        if found * 2 <= best * (m + n) * 0.999999:
            continue
        score = _f(found, m, n)
        if score > best:
            best, at = score, i
            if first:
                break
            if not every:
                low, high = _sizes(m, longest, best)
    for place in range(m):
        slot[words[place]] = 0
    return best, at


@njit(**_FLAGS)
def novel_rows(tokens, starts, keys, prefixes, heads, fixed, threshold, slot, masks, state, by):
    """Takes texts one by one into the pool unless one of the pool is near.

    Args:
        tokens: Words of all texts.
        starts: (N + 1,) where texts start.
        keys: The same words, with their count within the text, as ranks from rare to frequent,
            sorted within each text; equal ones of a text differ.
        prefixes: (N,) how many keys of each text are looked up.
        heads: (K + 1,) where the list of each key starts among all that may be written.
        fixed: The first texts are in the pool whatever they are like.
        threshold: Texts of a higher F-measure are near.
        slot: (V,) zeros; room for words.
        masks: Room for masks.
        state: Room for the columns of long texts.
        by: (N,) gets -1 for a text that was taken, else the number of a near one.
    """
    count = len(starts) - 1
    lists = np.empty(heads[-1], np.int64)
    ends = heads.copy()
    seen = np.full(count, -1, np.int64)
    longest = np.int64(0)
    for i in range(count):
        longest = max(longest, starts[i + 1] - starts[i])
    masks[:] = 0
    for i in range(count):
        first, last = starts[i], starts[i + 1]
        m = last - first
        width = max((m + 63) >> 6, 1)
        by[i] = -1
        if i >= fixed and prefixes[i] > 0:
            for part in range(width):
                masks[part] = np.uint64(0)
            _write_masks(tokens, first, last, slot, masks, width)
            low, high = _sizes(m, longest, threshold)
            for at in range(first, first + prefixes[i]):
                for place in range(heads[keys[at]], ends[keys[at]]):
                    other = lists[place]
                    if seen[other] == i:
                        continue
                    seen[other] = i
                    n = starts[other + 1] - starts[other]
                    if n < low or n > high:
                        continue
                    found = _common(tokens, starts[other], starts[other + 1], slot, masks, width,
                                    m, state)  # fmt: skip
                    if _f(found, m, n) > threshold:
                        by[i] = other
                        break
                if by[i] >= 0:
                    break
            for at in range(first, last):
                slot[tokens[at]] = 0
        if by[i] < 0:
            for at in range(first, first + prefixes[i]):
                lists[ends[keys[at]]] = i
                ends[keys[at]] += 1
