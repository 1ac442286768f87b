"""Order: detections by class and image, and within a class by falling score, ties as they came.

Two counting sorts (image, then class) put the boxes of each class and image side by side. One
radix sort a class on the bits of the scores then gives the order in which precision is read, and
walking along it numbers the detections of each image, so that no group is sorted by itself.

Shapes: N detections, K classes; slots are places in the order class, image, file.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit

__all__ = ["counting_order", "rank"]

_DIGIT = 11
_BUCKETS = 1 << _DIGIT
_PASSES = 6
_MASK = np.uint64(_BUCKETS - 1)
_FEW = 48


@njit(nogil=True, error_model="numpy")
def counting_order(keys, buckets, order, out, ends):
    """Writes `order`, sorted stably by its keys, to `out`; to `ends` where each bucket begins."""
    for b in range(buckets + 1):
        ends[b] = 0
    for i in range(len(keys)):
        ends[keys[i] + 1] += 1
    for b in range(buckets):
        ends[b + 1] += ends[b]
    place = np.empty(buckets, np.int64)
    for b in range(buckets):
        place[b] = ends[b]
    for j in range(len(order)):
        i = order[j]
        b = keys[i]
        out[place[b]] = i
        place[b] += 1


@njit(nogil=True, error_model="numpy")
def _falling(keys, order, spare, spare_keys):
    """Sorts `keys` and with them `order`, stably, by rising keys."""
    n = len(keys)
    if n <= _FEW:
        for i in range(1, n):
            key, what = keys[i], order[i]
            j = i - 1
            while j >= 0 and keys[j] > key:
                keys[j + 1] = keys[j]
                order[j + 1] = order[j]
                j -= 1
            keys[j + 1] = key
            order[j + 1] = what
        return
    counts = np.zeros((_PASSES, _BUCKETS), np.int32)
    for i in range(n):
        key = keys[i]
        for step in range(_PASSES):
            counts[step, np.int64((key >> np.uint64(_DIGIT * step)) & _MASK)] += 1
    flipped = False
    for step in range(_PASSES):
        shift = np.uint64(_DIGIT * step)
        source, target = keys, spare_keys
        source_order, target_order = order, spare
        if flipped:
            source, target = spare_keys, keys
            source_order, target_order = spare, order
        count = counts[step]
        if count[np.int64((source[0] >> shift) & _MASK)] == n:
            continue
        total = 0
        for b in range(_BUCKETS):
            here = count[b]
            count[b] = total
            total += here
        for i in range(n):
            key = source[i]
            b = np.int64((key >> shift) & _MASK)
            target[count[b]] = key
            target_order[count[b]] = source_order[i]
            count[b] += 1
        flipped = not flipped
    if flipped:
        for i in range(n):
            keys[i], order[i] = spare_keys[i], spare[i]


@njit(nogil=True, error_model="numpy")
def rank(counter, units, ends, slots, image, bits, area, ranges, steps, most,
         group_ends, group_image, sequence, number, member, kept, match, ignore,
         group_slot, group_count):  # fmt: skip
    """Orders one class after the other by falling score and numbers the detections of an image.

    Arguments, beside those that their names explain:

        ends: (K + 1,) where the slots of each class begin.
        slots: (N,) detection in each slot.
        bits: (N,) float64 scores as uint64, without negative zero.
        area, ranges: (N,) areas and (A, 2) bounds, both of which belong to the range.
        steps: T; the bit of threshold t and range a is a T + t.
        most: Detections that count in a class and image.
        group_ends, group_image: (K + 1,) groups of objects of each class; their images.
        sequence, number: Out: by falling score, the detection and its number in its image.
        member: Out: for each slot (as number in its image) the place in the sequence.
        kept: Out: (K,) detections that count.
        match, ignore: Out: no bit, and those of the ranges that the detection lies outside of.
        group_slot, group_count: Out: for each group of objects its detections.
    """
    full = (np.uint64(1) << np.uint64(steps)) - np.uint64(1) if steps < 64 else ~np.uint64(0)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        start, n = ends[unit], ends[unit + 1] - ends[unit]
        keys, spare_keys = np.empty(n, np.uint64), np.empty(n, np.uint64)
        order, spare = np.empty(n, np.int32), np.empty(n, np.int32)
        first, count = np.empty(n, np.int32), np.zeros(n, np.int32)
        group, before = group_ends[unit], -1
        for i in range(n):
            row = slots[start + i]
            word = bits[row]
            negative = (word >> np.uint64(63)) != np.uint64(0)
            keys[i] = word if negative else ~(word | (np.uint64(1) << np.uint64(63)))
            order[i] = i
            here = image[row]
            first[i] = i if here != before else first[i - 1]
            if here != before:
                while group < group_ends[unit + 1] and group_image[group] < here:
                    group += 1
            if group < group_ends[unit + 1] and group_image[group] == here:
                if here != before:
                    group_slot[group] = start + i
                if group_count[group] < most:
                    group_count[group] += 1
            before = here
        _falling(keys, order, spare, spare_keys)
        q = start
        for i in range(n):
            head = first[order[i]]
            place = count[head]
            if place >= most:
                continue
            count[head] += 1
            row = slots[start + order[i]]
            sequence[q] = row
            number[q] = place
            member[start + head + place] = q
            out = np.uint64(0)
            for a in range(len(ranges)):
                if area[row] < ranges[a, 0] or area[row] > ranges[a, 1]:
                    out |= full << np.uint64(a * steps)
            match[q] = np.uint64(0)
            ignore[q] = out
            q += 1
        kept[unit] = q - start
        unit = fetch_add(counter, 0, 1)
