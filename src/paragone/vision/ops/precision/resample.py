r"""Average precision of many weighted copies of one evaluation, sixteen at a time.

An image of weight w stands for w copies of it. Matches within an image do not change, so that a
copy needs no boxes: along the ranking its weights add up,

$$ TP_j = \sum_{i \le j} w_i \,[i \text{ right}], \qquad P = \sum_g w_g , $$

and precision, envelope and recall are read from these sums as they are from counts. Copies of a
detection stand together.

Cost: O(N) additions for each sixteen copies, and a division for each right detection.

References:
    Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13.

Shapes: N detections, G objects, K classes, T thresholds, R recalls, B blocks of `LANES` copies.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["LANES", "resampled"]

LANES = 16
"""Copies that one pass over the detections serves."""

_ONE, _NONE = np.uint64(1), np.uint64(0)


@njit(nogil=True, error_model="numpy")
def resampled(counter, units, ends, rows, match, ignore, object_ends, object_rows, weights, steps,
              recalls, exact, epsilon, out):  # fmt: skip
    """Reads the average precision of one class and block of copies after the other.

    Arguments, beside those that their names explain:

        ends: (K + 1,) where the detections of each class begin, ranked.
        rows: (N,) row of the detection's weights.
        match, ignore: (N,) bits of the thresholds at which it takes an object, does not count.
        object_ends, object_rows: (K + 1,) objects of each class that count; their weights' rows.
        weights: (B, rows, LANES) uint8.
        exact: Whether the area is exact (VOC 2010 on) and not read at recalls.
        out: Out: (K, T, B, LANES), -1 where a copy has no object.
    """
    blocks = len(weights)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        k, block = unit // blocks, unit % blocks
        weight = weights[block]
        positives = np.zeros(LANES, np.int64)
        for g in range(object_ends[k], object_ends[k + 1]):
            for lane in range(LANES):
                positives[lane] += weight[object_rows[g], lane]
        some = 0
        for i in range(ends[k], ends[k + 1]):
            some += np.int64((match[i] | ignore[i]) != _NONE)
        chosen = np.empty(some, np.int64)
        before = np.empty((some, LANES), np.int32)
        base = np.zeros(LANES, np.int32)
        some = 0
        for i in range(ends[k], ends[k + 1]):
            if (match[i] | ignore[i]) == _NONE:
                for lane in range(LANES):
                    base[lane] += weight[rows[i], lane]
            else:
                chosen[some] = i
                for lane in range(LANES):
                    before[some, lane] = base[lane]
                some += 1
        precision, right = np.empty((some, LANES)), np.empty((some, LANES), np.int32)
        left, reached = np.empty(LANES, np.int64), np.empty(LANES)
        wrong, hits = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
        best, total = np.empty(LANES), np.empty(LANES)
        for t in range(steps):
            n, shift = 0, np.uint64(t)
            wrong[:], hits[:] = 0, 0
            for j in range(some):
                i = chosen[j]
                if (ignore[i] >> shift) & _ONE != _NONE:
                    continue
                row = rows[i]
                if (match[i] >> shift) & _ONE == _NONE:
                    for lane in range(LANES):
                        wrong[lane] += weight[row, lane]
                    continue
                for lane in range(LANES):
                    hits[lane] += weight[row, lane]
                    all_ = np.float64(hits[lane] + before[j, lane] + wrong[lane]) + epsilon
                    precision[n, lane] = hits[lane] / all_ if hits[lane] > 0 else 0.0
                    right[n, lane] = hits[lane]
                n += 1
            best[:], total[:] = 0.0, 0.0
            for lane in range(LANES):
                reached[lane] = hits[lane] / positives[lane] if positives[lane] > 0 else 0.0
                left[lane] = np.searchsorted(recalls, reached[lane], side="right")
            for j in range(n - 1, -1, -1):
                for lane in range(LANES):
                    best[lane] = max(best[lane], precision[j, lane])
                    earlier = np.int64(right[j - 1, lane]) if j > 0 else 0
                    if right[j, lane] == earlier and j > 0:
                        continue
                    recall = earlier / positives[lane] if positives[lane] > 0 else 0.0
                    if exact:
                        total[lane] += best[lane] * (reached[lane] - recall)
                        reached[lane] = recall
                        continue
                    first = left[lane]
                    if j == 0:
                        first = 0
                    else:
                        while first > 0 and recalls[first - 1] > recall:
                            first -= 1
                    total[lane] += best[lane] * (left[lane] - first)
                    left[lane] = first
            for lane in range(LANES):
                value = total[lane] if exact else total[lane] / len(recalls)
                out[k, t, block, lane] = value if positives[lane] > 0 else -1.0
        unit = fetch_add(counter, 0, 1)
