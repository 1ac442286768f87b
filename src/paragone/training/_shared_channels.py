"""Compiled parts of messages from one rank to another: boxes in a ring for each ordered pair.

The channel from s to d has two words, how many boxes s has filled and how many d has emptied, and
`BOXES` boxes of `BOX` bytes behind a head of eight words (tag, bytes of the message, bytes in this
box). A message takes as many boxes as it needs, one after the other; so it may be longer than the
ring.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import (
    clock,
    fence,
    give_way,
    load_acquire,
    pause,
    pointer,
    sleep_on,
    store_release,
)  # fmt: skip
from paragone.kernels.jit import njit
from paragone.training._shared_kernels import (
    DONE,
    GAVE_UP,
    NAP,
    PATIENCE,
    SPINS,
    WAITING,
    YIELDS,
    carray,
    ring_bells,
)  # fmt: skip
from paragone.training._shared_memory import (
    BELL,
    BOX,
    BOX_WORDS,
    BOXES,
    CHANNEL_WORDS,
    EMPTIED,
    FILLED,
    GIVEN_UP,
    RANK_WORDS,
    SLEEPS,
    channels_at,
)  # fmt: skip

__all__ = ["await_change", "look", "peek", "receive_some", "send_some"]

_channels_at = njit(channels_at)


@njit(nogil=True, error_model="numpy")
def channel(world, source, target):
    """First word of a channel, and of its boxes."""
    number = source * world + target
    boxes = _channels_at(world) + world * world * CHANNEL_WORDS
    return _channels_at(world) + number * CHANNEL_WORDS, boxes + number * BOXES * BOX_WORDS


@njit(nogil=True, error_model="numpy")
def send_some(words, me, world, target, address, total, done, tag):
    """Fills boxes as long as there is room; `done` is -1 before the first, returns the new one."""
    base, boxes = channel(world, me, target)
    filled = words[base + FILLED]
    begun = filled
    content = carray(pointer(address), (total,), np.uint8)
    while done < total and filled - load_acquire(words, base + EMPTIED) < BOXES:
        done = max(done, 0)
        place = boxes + filled % BOXES * BOX_WORDS
        size = min(BOX, total - done)
        words[place] = tag
        words[place + 1] = total
        words[place + 2] = size
        box = words[place + 8 : place + BOX_WORDS].view(np.uint8)
        part = content[done : done + size]
        for i in range(size):
            box[i] = part[i]
        done += size
        filled += 1
        store_release(words, base + FILLED, filled)
    if filled != begun:
        ring_bells(words, me, world)
    return done


@njit(nogil=True, error_model="numpy")
def peek(words, me, world, source):
    """Tag and bytes of the message that comes next, or (0, -1)."""
    base, boxes = channel(world, source, me)
    emptied = words[base + EMPTIED]
    if load_acquire(words, base + FILLED) == emptied:
        return 0, -1
    place = boxes + emptied % BOXES * BOX_WORDS
    return words[place], words[place + 1]


@njit(nogil=True, error_model="numpy")
def receive_some(words, me, world, source, address, total, done):
    """Empties boxes of one message; `done` is -1 before the first, returns the new one."""
    base, boxes = channel(world, source, me)
    emptied = words[base + EMPTIED]
    begun = emptied
    content = carray(pointer(address), (total,), np.uint8)
    while done < total and load_acquire(words, base + FILLED) > emptied:
        done = max(done, 0)
        place = boxes + emptied % BOXES * BOX_WORDS
        size = words[place + 2]
        box = words[place + 8 : place + BOX_WORDS].view(np.uint8)
        part = content[done : done + size]
        for i in range(size):
            part[i] = box[i]
        done += size
        emptied += 1
        store_release(words, base + EMPTIED, emptied)
    if emptied != begun:
        ring_bells(words, me, world)
    return done


@njit(nogil=True, error_model="numpy")
def look(words, me, world, seen):
    """Whether a channel of this rank has changed since it was `seen`; sees it anew."""
    changed = False
    for other in range(world):
        filled = load_acquire(words, channel(world, other, me)[0] + FILLED)
        emptied = load_acquire(words, channel(world, me, other)[0] + EMPTIED)
        changed = changed or filled != seen[2 * other] or emptied != seen[2 * other + 1]
        seen[2 * other], seen[2 * other + 1] = filled, emptied
    return changed


@njit(nogil=True, error_model="numpy")
def await_change(words, me, world, seen):
    """Waits until boxes were filled for this rank or emptied by others since it has `seen` them."""
    mine = (me + 1) * RANK_WORDS
    until = clock() + PATIENCE
    tries = 0
    while not look(words, me, world, seen):
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
        changed = look(words, me, world, seen)
        if not changed:
            sleep_on(words, mine + BELL, bell, NAP)
        store_release(words, mine + SLEEPS, 0)
        if changed:
            return DONE
        if clock() > until:
            return WAITING
    return DONE
