"""Kernels of non-maximum suppression: columns of coordinates, so that overlaps are vectors.

References:
    Bodla et al. (2017), "Soft-NMS", arXiv:1704.04503, figure 2.

Shapes: N boxes, sorted by score.
"""

from __future__ import annotations

import math

import numpy as np

from paragone.kernels.jit import njit

__all__ = ["hard", "soft"]


@njit(nogil=True, error_model="numpy")
def hard(columns, classes, threshold, limit, rows):
    """Writes the places that are kept to `rows` and returns how many, at most `limit`.

    `columns` (5, N): left, top, right, bottom, area, in the order of scores.
    """
    many, kept = columns.shape[1], 0
    left, top, right, bottom, area = columns
    gone = np.zeros(many, np.uint8)
    for i in range(many):
        if gone[i]:
            continue
        rows[kept] = i
        kept += 1
        if kept == limit:
            break
        x0, y0, x1, y1, mine, kind = left[i], top[i], right[i], bottom[i], area[i], classes[i]
        none = x0 - x0
        for j in range(i + 1, many):
            wide = max(none, min(x1, right[j]) - max(x0, left[j]))
            high = max(none, min(y1, bottom[j]) - max(y0, top[j]))
            common = wide * high
            ratio = common / (mine + area[j] - common)
            gone[j] |= (ratio > threshold) & (classes[j] == kind)
    return kept


@njit(nogil=True, error_model="numpy")
def soft(columns, classes, scores, gaussian, threshold, sigma, least, rows, values):
    """Writes places and lowered scores, the best first, and returns how many.

    `columns` (5, N), `scores` (N,) float64 and `classes` are changed.
    """
    many, kept = columns.shape[1], 0
    left, top, right, bottom, area = columns
    gone = np.zeros(many, np.uint8)
    while kept < many:
        best = -1
        for j in range(many):
            if not gone[j] and (best < 0 or scores[j] > scores[best]):
                best = j
        if not scores[best] >= least:
            break
        rows[kept], values[kept], gone[best] = best, scores[best], 1
        kept += 1
        for j in range(many):
            if gone[j] or classes[j] != classes[best]:
                continue
            wide = min(right[best], right[j]) - max(left[best], left[j])
            high = min(bottom[best], bottom[j]) - max(top[best], top[j])
            if wide <= 0 or high <= 0:
                continue
            ratio = wide * high / (area[best] + area[j] - wide * high)
            if gaussian:
                scores[j] *= math.exp(-ratio * ratio / sigma)
            elif ratio > threshold:
                scores[j] *= 1 - ratio
    return kept
