"""Which detection takes which object: all thresholds and areas at once, a bit for each.

The bit of threshold t and area range a is a T + t. A detection that can take one object only, the
common case, is done in a few operations on words; where several overlap it, threshold by
threshold.

COCO: in the order of scores, each detection takes the free object of largest overlap, the later
of equals, objects that count before those that do not; a crowd stays free. VOC: each detection
looks only at the object of largest overlap, the first of equals, taken or not.

References:
    Lin et al. (2014), arXiv:1405.0312; Everingham et al. (2010), section 4.2.

Shapes: T thresholds, A ranges; boxes are left, top, width, height.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["match_groups", "overlap"]

_NONE = np.uint64(0)


@njit(nogil=True, error_model="numpy", inline="always")
def overlap(d, g, crowd, offset):
    """Intersection over union of two boxes; over the detection's own area for a crowd."""
    wide = min(d[2] + d[0], g[2] + g[0]) - max(d[0], g[0]) + offset
    if wide <= 0:
        return 0.0
    high = min(d[3] + d[1], g[3] + g[1]) - max(d[1], g[1]) + offset
    if high <= 0:
        return 0.0
    both = wide * high
    own = (d[2] + offset) * (d[3] + offset)
    return both / own if crowd else both / (own + (g[2] + offset) * (g[3] + offset) - both)


@njit(nogil=True, error_model="numpy", inline="always")
def _passed(iou, thresholds, strict, ranges):
    """Bits of the thresholds that an overlap reaches, in every range."""
    row = _NONE
    for t in range(len(thresholds)):
        if iou > thresholds[t] or (not strict and iou == thresholds[t]):
            row |= np.uint64(1) << np.uint64(t)
    word = _NONE
    for a in range(ranges):
        word |= row << np.uint64(a * len(thresholds))
    return word


@njit(nogil=True, error_model="numpy")
def _choose(iou, candidates, few, taken, hidden, crowd, blind, thresholds, ranges):
    """Several objects overlap: the choice at each threshold and range, by COCO's rule.

    Returns the bits found and ignored, and the object chosen at the first bit (-1: none).
    """
    found = ignored = _NONE
    lead = -1
    for a in range(ranges):
        for t in range(len(thresholds)):
            bit = np.uint64(1) << np.uint64(a * len(thresholds) + t)
            best, chosen = thresholds[t], -1
            for second in range(2):
                for i in range(few):
                    g = candidates[i]
                    aside = (hidden[g] & bit) != _NONE
                    if aside != (second == 1) or ((taken[g] & bit) != _NONE and not crowd[g]):
                        continue
                    if iou[i] >= best:
                        best, chosen = iou[i], g
                if chosen >= 0:
                    break
            if chosen >= 0:
                taken[chosen] |= bit
                lead = chosen if bit == np.uint64(1) else lead
                if not blind[chosen]:
                    found |= bit
                ignored |= hidden[chosen] & bit
    return found, ignored, lead


@njit(nogil=True, error_model="numpy")
def match_groups(counter, units, block, most, group_ends, group_slot, group_count, member,
                 sequence, found_boxes, true_boxes, hidden, crowd, blind, thresholds, ranges,
                 voc, strict, offset, match, ignore, taker):  # fmt: skip
    """Matches the detections of every group of objects; `block` groups are one unit.

    Arguments, beside those that their names explain:

        most: Objects of the largest group.
        group_ends: (groups + 1,) objects of each group.
        hidden: (G,) bits of the thresholds and ranges in which an object does not count.
        blind: (G,) bool: taking the object leaves no trace (pycocotools' id 0).
        match, ignore: By place in the sequence; see `ranking.rank`.
        taker: Out: (G,) place of the detection that took the object at the first bit, -1 none.
    """
    iou, candidates = np.empty(most), np.empty(most, np.int64)
    groups, lowest = len(group_ends) - 1, thresholds[0]
    for t in range(len(thresholds)):
        lowest = min(lowest, thresholds[t])
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        for group in range(unit * block, min(groups, (unit + 1) * block)):
            low, high = group_ends[group], group_ends[group + 1]
            taken = np.zeros(high - low, np.uint64)
            aside, crowds, unseen = hidden[low:high], crowd[low:high], blind[low:high]
            for i in range(group_count[group]):
                place = member[group_slot[group] + i]
                box = found_boxes[sequence[place]]
                few = 0
                for g in range(high - low):
                    value = overlap(box, true_boxes[low + g], crowds[g] and not voc, offset)
                    if voc and few == 1:
                        if value > iou[0]:
                            iou[0], candidates[0] = value, g
                    elif value >= lowest:
                        iou[few], candidates[few] = value, g
                        few += 1
                if few == 0:
                    continue
                if few == 1:
                    g = candidates[0]
                    reached = _passed(iou[0], thresholds, strict, ranges)
                    if voc:
                        found = reached & (aside[g] | ~taken[g])
                        taken[g] |= found & ~aside[g]
                    else:
                        found = reached if crowds[g] else reached & ~taken[g]
                        taken[g] |= found
                    ignored = found & aside[g]
                    lead = g if found & np.uint64(1) != _NONE else -1
                    if unseen[g]:
                        found = _NONE
                else:
                    found, ignored, lead = _choose(
                        iou, candidates, few, taken, aside, crowds, unseen, thresholds, ranges
                    )
                if lead >= 0:
                    taker[low + lead] = place
                match[place] = found
                ignore[place] = ignored | (ignore[place] & ~found)
        unit = fetch_add(counter, 0, 1)
