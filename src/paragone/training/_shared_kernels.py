r"""Compiled parts of the shared group: arriving, waiting, and the sum over all ranks.

Each rank counts its arrivals in a word of its own. An operation consists of rounds: write into the
own lane, `arrive`, `await_all`, read the lanes of all. There are two lanes a rank, for even and
for odd counts: whoever arrives at count c + 1 has done with the lanes of count c, so a lane is
written again only when everyone has read it, and one wait a round is enough.

The sum of n values over p ranks is, for each i, in the order of the ranks and so the same bits on
each,

$$ y_i = (\dots((x_{0,i} + x_{1,i}) + x_{2,i}) + \dots) + x_{p-1,i}, \qquad \bar y_i = y_i / p . $$

If all tensors lie in shared memory, rank r computes part r of y and writes it to all tensors: one
wait before, one behind, n values read and n written by each rank (two-rank traffic 2 n, no copy).
Else the values go through the lanes in chunks: each rank reads the lanes of all.

Each kernel comes back after at most `PATIENCE` nanoseconds of waiting with `WAITING` and is called
again with the same arguments: its place is kept in `state`. So Python sees signals in time.
"""

from __future__ import annotations

from typing import Any

import numba

from paragone.kernels.atomics import (
    clock,
    fence,
    fetch_add,
    give_way,
    load_acquire,
    pause,
    pointer,
    sleep_on,
    store_release,
    wake,
)  # fmt: skip
from paragone.kernels.jit import njit
from paragone.training._shared_memory import (
    ARRIVED,
    BELL,
    DESCRIPTORS,
    GIVEN_UP,
    RANK_WORDS,
    SLEEPS,
)  # fmt: skip

__all__ = [
    "BLOCK", "DONE", "GAVE_UP", "MISMATCH", "NAP", "PATIENCE", "SPINS", "WAITING", "YIELDS",
    "all_reduce", "carray", "meet", "ring_bells",
]  # fmt: skip

carray: Any = vars(numba)["carray"]
WAITING, DONE, GAVE_UP, MISMATCH = 0, 1, 2, 3
PATIENCE = 5_000_000
"""Nanoseconds that a kernel waits before it comes back to Python."""
SPINS, YIELDS, NAP = 20, 100, 1_000_000
"""Loads before the first `give_way`, before the first sleep; nanoseconds of a sleep."""
BLOCK = 2048
"""Values that are summed at a time: they stay in the first-level cache."""


@njit(nogil=True, error_model="numpy")
def ring_bells(words, me, world):
    """Wakes the ranks that sleep, after a change that they may wait for."""
    fence()
    for other in range(world):
        base = (other + 1) * RANK_WORDS
        if other != me and load_acquire(words, base + SLEEPS) != 0:
            fetch_add(words, base + BELL, 1)
            wake(words, base + BELL)


@njit(nogil=True, error_model="numpy")
def arrive(words, state, me, world):
    """Says that this rank has come to its next count."""
    state[0] += 1
    store_release(words, (me + 1) * RANK_WORDS + ARRIVED, state[0])
    ring_bells(words, me, world)


@njit(nogil=True, error_model="numpy")
def await_word(words, me, index, least, until):
    """Waits until a word is at least so large: spins, gives way, then sleeps."""
    mine = (me + 1) * RANK_WORDS
    tries = 0
    while load_acquire(words, index) < least:
        tries += 1
        if tries <= SPINS:
            pause()
            continue
        if load_acquire(words, GIVEN_UP) != 0:
            return GAVE_UP
        if tries <= YIELDS:
            give_way()
            continue
        bell = load_acquire(words, mine + BELL)
        store_release(words, mine + SLEEPS, 1)
        fence()
        if load_acquire(words, index) < least:
            sleep_on(words, mine + BELL, bell, NAP)
        store_release(words, mine + SLEEPS, 0)
        if clock() > until:
            return WAITING
    return DONE


@njit(nogil=True, error_model="numpy")
def await_all(words, state, me, world):
    """Waits until all ranks have come to the count of this one."""
    until = clock() + PATIENCE
    for other in range(world):
        if other != me:
            place = (other + 1) * RANK_WORDS + ARRIVED
            status = await_word(words, me, place, state[0], until)
            if status != DONE:
                return status
    return DONE


@njit(nogil=True, error_model="numpy")
def describe(words, state, me, code, number, arena, offset):
    """Writes what this rank is about to do, for the count it will come to next."""
    place = (me + 1) * RANK_WORDS + DESCRIPTORS + 16 * ((state[0] + 1) & 1)
    words[place] = code
    words[place + 1] = number
    words[place + 2] = arena
    words[place + 3] = offset


@njit(nogil=True, error_model="numpy")
def agreed(words, state, me, world):
    """Whether all ranks do the same at this count."""
    place = DESCRIPTORS + 16 * (state[0] & 1)
    mine = (me + 1) * RANK_WORDS + place
    for other in range(world):
        theirs = (other + 1) * RANK_WORDS + place
        if words[theirs] != words[mine] or words[theirs + 1] != words[mine + 1]:
            return False
    return True


@njit(nogil=True, error_model="numpy")
def meet(words, state, me, world, code, number):
    """One round: comes, and waits for all; what is done is compared unless its code is below 0."""
    if state[1] == 0:
        if code >= 0:
            describe(words, state, me, code, number, -1, 0)
        arrive(words, state, me, world)
        state[1] = 1
    status = await_all(words, state, me, world)
    if status == WAITING:
        return status
    state[1] = 0
    if status == DONE and code >= 0 and not agreed(words, state, me, world):
        return MISMATCH
    return status


@njit(nogil=True, error_model="numpy")
def copied(target, source):
    """Copies values; views that begin at 0 let the loop run in vectors."""
    for i in range(len(target)):
        target[i] = source[i]


@njit(nogil=True, error_model="numpy")
def added(target, source):
    for i in range(len(target)):
        target[i] += source[i]


@njit(nogil=True, error_model="numpy")
def fill(lanes, state, me, lane, part):
    """Writes values into the lane that this rank shows at its next count."""
    begin = (2 * me + (state[0] + 1 & 1)) * lane
    copied(lanes[begin : begin + len(part)], part)


@njit(nogil=True, error_model="numpy")
def sum_lanes(out, lanes, world, lane, slot, mean):
    """Sums the lanes of all ranks, in their order, into `out`."""
    divisor = out.dtype.type(max(mean, 1))
    for low in range(0, len(out), BLOCK):
        total = out[low : low + BLOCK]
        size = len(total)
        begin = slot * lane + low
        copied(total, lanes[begin : begin + size])
        for k in range(1, world):
            begin = (2 * k + slot) * lane + low
            added(total, lanes[begin : begin + size])
        if mean != 0:
            for i in range(size):
                total[i] /= divisor


@njit(nogil=True, error_model="numpy")
def sum_in_place(words, bases, scratch, state, me, world, number, mean):
    """Part `me` of the sum of tensors in shared memory, written to all of them."""
    place = DESCRIPTORS + 16 * (state[0] & 1)
    begin, end = number * me // world & -16, number * (me + 1) // world & -16
    if me == world - 1:
        end = number
    mine = (me + 1) * RANK_WORDS + place
    row = bases[words[mine + 2]]
    divisor = scratch.dtype.type(max(mean, 1))
    for low in range(begin, end, BLOCK):
        size = min(BLOCK, end - low)
        total = scratch[:size]
        for k in range(world):
            theirs = (k + 1) * RANK_WORDS + place
            address = row[k] + words[theirs + 3] + low * scratch.itemsize
            part = carray(pointer(address), (size,), scratch.dtype)
            if k == 0:
                copied(total, part)
            else:
                added(total, part)
        if mean != 0:
            for i in range(size):
                total[i] /= divisor
        for k in range(world):
            theirs = (k + 1) * RANK_WORDS + place
            address = row[k] + words[theirs + 3] + low * scratch.itemsize
            copied(carray(pointer(address), (size,), scratch.dtype), total)


@njit(nogil=True, error_model="numpy")
def all_shared(words, state, world):
    """1 if all ranks name the same arena, 0 if nobody names one, else 2."""
    place = DESCRIPTORS + 16 * (state[0] & 1) + 2
    first = words[RANK_WORDS + place]
    same, none = first >= 0, True
    for k in range(world):
        arena = words[(k + 1) * RANK_WORDS + place]
        same = same and arena == first
        none = none and arena < 0
    return 1 if same else (0 if none else 2)


@njit(nogil=True, error_model="numpy")
def all_reduce(
    words, state, me, world, lanes, bases, scratch, address, number, code, arena, offset, mean
):
    """Sum over all ranks into the tensor of each; see the module's text.

    `state` is (count, phase, chunk): phase 0 begins, 1 awaits the descriptors, 2 awaits the end of
    a sum in place, 3 fills the lane with the next chunk, 4 awaits the lanes of the others.
    """
    lane = len(lanes) // (2 * world)
    tensor = carray(pointer(address), (number,), scratch.dtype)
    if state[1] == 0:
        if arena < 0:
            fill(lanes, state, me, lane, tensor[:lane])
        describe(words, state, me, code, number, arena, offset)
        arrive(words, state, me, world)
        state[1] = 1
        state[2] = 0
    while True:
        if state[1] == 3:
            low = state[2] * lane
            if low >= number:
                break
            fill(lanes, state, me, lane, tensor[low : low + lane])
            arrive(words, state, me, world)
            state[1] = 4
        status = await_all(words, state, me, world)
        if status == WAITING:
            return status
        if status == DONE and state[1] == 1 and not agreed(words, state, me, world):
            status = MISMATCH
        if status != DONE:
            state[1] = 0
            return status
        if state[1] == 2:
            break
        if state[1] == 1:
            how = all_shared(words, state, world)
            if how == 1:
                sum_in_place(words, bases, scratch, state, me, world, number, mean)
                arrive(words, state, me, world)
                state[1] = 2
                continue
            if how == 2:
                state[1] = 3
                continue
        low = state[2] * lane
        sum_lanes(tensor[low : low + lane], lanes, world, lane, state[0] & 1, mean)
        state[2] += 1
        state[1] = 3
    state[1] = 0
    return DONE
