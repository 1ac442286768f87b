r"""Average precision of many weighted copies of one evaluation, a vector of them at a time.

An image of weight w stands for w copies of it. Matches within an image do not change, so that a
copy needs no boxes: along the ranking its weights add up,

$$ TP_j = \sum_{i \le j} w_i \,[i \text{ right}], \qquad P = \sum_g w_g , $$

and precision, envelope and recall are read from these sums as they are from counts. Copies of a
detection stand together.

Cost: O(N) additions of vectors for each `LANES` copies, and a division for each right detection.

References:
    Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13.

Shapes: N detections, G objects, K classes, T thresholds, R recalls, B blocks of `LANES` copies.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, load, store, zero

__all__ = ["LANES", "resampled"]

LANES = WIDTH
"""Copies that one pass over the detections serves."""

_ONE, _NONE = np.uint64(1), np.uint64(0)


@njit(nogil=True, error_model="numpy")
def resampled(counter, units, ends, rows, match, ignore, object_ends, object_rows, weights, steps,
              recalls, even, exact, epsilon, out):  # fmt: skip
    """Reads the average precision of one class and block of copies after the other.

    Arguments, beside those that their names explain:

        ends: (K + 1,) where the detections of each class begin, ranked.
        rows: (N,) row of the detection's weights.
        match, ignore: (N,) bits of the thresholds at which it takes an object, does not count.
        object_ends, object_rows: (K + 1,) objects of each class that count; their weights' rows.
        weights: (B, rows, LANES) float32, whole; sums stay below 2^24.
        even: Whether recall r is r * (1 / (R - 1)), to the last bit.
        exact: Whether the area is exact (VOC 2010 on) and not read at recalls.
        out: Out: (K, T, B, LANES), -1 where a copy has no object.
    """
    blocks, last = len(weights), np.float64(len(recalls) - 1)
    small, step = max(epsilon, 1e-300), 1.0 / max(last, 1.0)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        k, block = unit // blocks, unit % blocks
        weight = weights[block].ravel()
        positives = np.zeros(LANES, np.int64)
        for g in range(object_ends[k], object_ends[k + 1]):
            for lane in range(LANES):
                positives[lane] += np.int64(weight[object_rows[g] * LANES + lane])
        some = 0
        for i in range(ends[k], ends[k + 1]):
            some += np.int64((match[i] | ignore[i]) != _NONE)
        chosen = np.empty(some, np.int64)
        before, right = np.empty(some * LANES, np.float32), np.empty(some * LANES, np.float32)
        several = np.empty(some * LANES, np.float32)
        base, some = zero(), 0
        for i in range(ends[k], ends[k + 1]):
            if (match[i] | ignore[i]) == _NONE:
                base = base + load(weight, rows[i] * LANES)
            else:
                chosen[some] = i
                store(before, some * LANES, base)
                some += 1
        precision, reach = np.empty(some * LANES), np.empty(some * LANES)
        share = np.empty(LANES)
        for lane in range(LANES):
            share[lane] = np.float64(max(positives[lane], 1))
        for t in range(steps):
            n, shift = 0, np.uint64(t)
            wrong, hits = zero(), zero()
            for j in range(some):
                i = chosen[j]
                if (ignore[i] >> shift) & _ONE != _NONE:
                    continue
                here = load(weight, rows[i] * LANES)
                if (match[i] >> shift) & _ONE == _NONE:
                    wrong = wrong + here
                    continue
                hits = hits + here
                store(right, n * LANES, hits)
                store(several, n * LANES, hits + wrong + load(before, j * LANES))
                n += 1
            for j in range(n):
                for lane in range(LANES):
                    e = np.uint64(j * LANES + lane)
                    hit = np.float64(right[e])
                    # The tiny number keeps 0 / 0 at 0 and is lost in every other sum.
                    precision[e] = hit / (np.float64(several[e]) + small)
                    reach[e] = hit / share[lane]
            if even:
                for i in range(n * LANES):
                    at = np.floor(reach[i] * last + 0.5)
                    reach[i] = at + (1.0 if at * step <= reach[i] else 0.0)
            elif not exact:
                for i in range(n * LANES):
                    at = 0
                    while at < len(recalls) and recalls[at] <= reach[i]:
                        at += 1
                    reach[i] = at
            for i in range((n - 1) * LANES - 1, -1, -1):
                e, later = np.uint64(i), np.uint64(i + LANES)
                precision[e] = precision[e] if precision[e] > precision[later] else precision[later]
            for i in range(n * LANES - 1, LANES - 1, -1):
                reach[np.uint64(i)] -= reach[np.uint64(i - LANES)]
            for lane in range(LANES):
                total = 0.0
                for j in range(n):
                    total += precision[j * LANES + lane] * reach[j * LANES + lane]
                value = total if exact else total / len(recalls)
                out[k, t, block, lane] = value if positives[lane] > 0 else -1.0
        unit = fetch_add(counter, 0, 1)
