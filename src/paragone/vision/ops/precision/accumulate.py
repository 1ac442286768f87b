r"""Precision over recall, from the bits of the matches.

Along a class in order of falling score, with TP and FP counted so far,

$$ r = \frac{TP}{P}, \quad p = \frac{TP}{TP + FP + \varepsilon}, \quad
   \hat p(r) = \max_{r' \ge r} p(r') . $$

Only where a detection is right does recall grow and can the envelope end, so that the counts are
kept there alone; between them the wrong ones are a number.

References:
    Everingham et al. (2010), section 4.2; Lin et al. (2014), arXiv:1405.0312.

Shapes: K classes, A ranges of area, M limits of detections, T thresholds, R recalls.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["curves"]


@njit(nogil=True, error_model="numpy")
def _needed(recalls, positives, out):
    """For each recall the least number of right detections that reaches it."""
    for r in range(len(recalls)):
        count = max(np.int64(np.ceil(recalls[r] * positives)), 0)
        while count > 0 and (count - 1) / positives >= recalls[r]:
            count -= 1
        while count / positives < recalls[r]:
            count += 1
        out[r] = count


@njit(nogil=True, error_model="numpy")
def curves(counter, units, ends, kept, sequence, number, match, ignore, score, object_ends, hidden,
           ranges, limits, recalls, steps, epsilon, precision, recall, scores, area):  # fmt: skip
    """Reads the curves of one class and range of area after the other.

    Arguments, beside those that their names explain:

        ends, kept, sequence, number, match, ignore: As `ranking.rank` left them.
        score: (N,) by detection.
        object_ends, hidden: (K + 1,) objects of each class; bits in which they do not count.
        limits: (M,) detections that count in a class and image, rising.
        steps: T.
        epsilon: Added to TP + FP.
        precision, scores: Out: (K, A, M, T, R).
        recall, area: Out: (K, A, M, T): the last recall; the area under the envelope.
    """
    need = np.empty(len(recalls), np.int64)
    full = (np.uint64(1) << np.uint64(steps)) - np.uint64(1) if steps < 64 else ~np.uint64(0)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        k, a = unit // ranges, unit % ranges
        shift, start = np.uint64(a * steps), ends[k]
        positives = 0
        for g in range(object_ends[k], object_ends[k + 1]):
            positives += np.int64(((hidden[g] >> shift) & np.uint64(1)) == np.uint64(0))
        if positives == 0:
            for m in range(len(limits)):
                for t in range(steps):
                    recall[k, a, m, t] = area[k, a, m, t] = -1.0
                    for r in range(len(recalls)):
                        precision[k, a, m, t, r] = scores[k, a, m, t, r] = -1.0
            unit = fetch_add(counter, 0, 1)
            continue
        _needed(recalls, positives, need)
        wrong = np.empty((steps, positives), np.int32)
        place = np.empty((steps, positives), np.int32)
        right, extra = np.empty(steps, np.int64), np.empty(steps, np.int64)
        envelope = np.empty(positives)
        for m in range(len(limits)):
            for t in range(steps):
                right[t] = extra[t] = 0
            base, limit = 0, limits[m]
            for p in range(start, start + kept[k]):
                hit, aside = (match[p] >> shift) & full, (ignore[p] >> shift) & full
                inside = number[p] < limit
                if hit == np.uint64(0) and (aside == np.uint64(0) or aside == full):
                    base += np.int64(inside and aside == np.uint64(0))
                elif inside:
                    for t in range(steps):
                        if (aside >> np.uint64(t)) & np.uint64(1) != np.uint64(0):
                            continue
                        if (hit >> np.uint64(t)) & np.uint64(1) != np.uint64(0):
                            wrong[t, right[t]] = base + extra[t]
                            place[t, right[t]] = p
                            right[t] += 1
                        else:
                            extra[t] += 1
            for t in range(steps):
                best, under, n = 0.0, 0.0, right[t]
                for i in range(n - 1, -1, -1):
                    best = max(best, (i + 1) / (wrong[t, i] + np.float64(i + 1) + epsilon))
                    envelope[i] = best
                    under += best * ((i + 1) / positives - i / positives)
                recall[k, a, m, t] = n / positives
                area[k, a, m, t] = under
                for r in range(len(recalls)):
                    at = need[r] - 1
                    value = told = 0.0
                    if at < 0 and kept[k] > 0:
                        value = envelope[0] if n > 0 else 0.0
                        told = score[sequence[start]]
                    elif 0 <= at < n:
                        value, told = envelope[at], score[sequence[place[t, at]]]
                    precision[k, a, m, t, r] = value
                    scores[k, a, m, t, r] = told
        unit = fetch_add(counter, 0, 1)
