r"""A step of a decoder: all layers for the new tokens of some sequences, by a team of threads.

A step is a row of phases, each of which is some units of work: products by groups of panels,
attention by sequences and key heads. Whoever is free takes the next unit; a phase begins when
the one before it is done. A thread that comes late walks through what is done and helps with
the rest, and one that never comes is not waited for. What a unit computes does not depend on who
computes it, nor on which other tokens are in the step.

In a loop, the last phase of a step draws the next token, and the next step follows at once.

Shapes: L layers, N new tokens, S sequences, M width, H heads, G key heads, D their width, F hidden
units, V vocabulary, B tokens of a block.
"""

from __future__ import annotations

import numpy as np

from paragone.kernels.atomics import fetch_add, give_way, load_acquire, pause, sleep_on, wake
from paragone.kernels.jit import njit
from paragone.kernels.simd import WIDTH, exp, load, load_some, splat, store, store_some
from paragone.language.ops.decoding._cpu_draw import draw
from paragone.language.ops.decoding._cpu_panels import PANEL, UNROLL, panel, scattered
from paragone.language.ops.decoding._cpu_parts import (
    attended,
    cleared,
    headed,
    kept,
    packed,
    rows_normed,
)

__all__ = ["PLACES", "SIZES", "decode_kernel", "multiplied", "phases", "room_of"]

SIZES = (
    "layers", "width", "heads", "groups", "depth", "inner", "vocabulary", "page", "pages", "window",
    "turned", "tokens", "sequences", "block", "table", "see", "rows", "streams", "longest",
    "steps", "sleep", "head_block",
)  # fmt: skip
"""Names of the int64 numbers that the kernel takes."""
PLACES = (
    "qkv", "o", "gate_up", "down", "qkv_scale", "o_scale", "gate_up_scale", "down_scale",
    "qkv_bias", "o_bias", "gate_up_bias", "down_bias", "norm", "second_norm", "q_norm", "k_norm",
)  # fmt: skip
"""Columns of the (L + 1, 16) offsets; -1: there is none. In the last row "qkv", "qkv_scale" and
"norm" are those of the head."""
_one, _two, _three, _four, _five, _six = (panel(n) for n in range(1, 7))
_eight, _nine, _ten, _twelve = (panel(n) for n in (8, 9, 10, 12))
_STORE, _ADD, _GATE = 0, 1, 2
_PAUSES = 400
_TILE = 12 * PANEL
_inlined = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}


def phases(layers: int) -> int:
    """Phases of a step: the embedding, five a layer, the streams, the head, the draw."""
    return 5 * layers + 4


@njit(**_inlined)
def _up(value, multiple):
    return (value + multiple - 1) // multiple * multiple


@njit(nogil=True, error_model="numpy")
def room_of(width, qkv, mixed, inner, depth, tokens, block, scores, branch, workers):
    """Floats of scratch that a step wants, and those of each worker in it.

    `branch` is how many tokens' values have to stand side by side for trees of drafts.
    """
    filled = _up(tokens, block)
    shared = tokens * (width + qkv) + filled * (_up(mixed, UNROLL) + _up(inner, UNROLL)) + 4 * WIDTH
    own = filled * _up(width, UNROLL) + _TILE + scores + 2 * _up(depth, WIDTH) + 2 * WIDTH
    own += branch * depth + WIDTH
    return shared + workers * own, own


@njit(**_inlined)
def _next(tickets, phase):
    return fetch_add(tickets, 2 + 2 * phase, 1)


@njit(**_inlined)
def _done(tickets, phase):
    fetch_add(tickets, 3 + 2 * phase, 1)
    if load_acquire(tickets, 0) > 0:
        wake(tickets, 3 + 2 * phase)


@njit(**_inlined)
def _wait(tickets, phase, units, sleep):
    """Waits until all units are done; after some microseconds without the core."""
    turns = 0
    held = load_acquire(tickets, 3 + 2 * phase)
    while held < units:
        turns += 1
        if turns < _PAUSES:
            pause()
        elif sleep:
            fetch_add(tickets, 0, 1)
            sleep_on(tickets, 3 + 2 * phase, held, 1_000_000)
            fetch_add(tickets, 0, -1)
        else:
            give_way()
        held = load_acquire(tickets, 3 + 2 * phase)


@njit(**_inlined)
def multiplied(block, x, x_at, weights, at, depth, out, out_at, row):
    """The micro-kernel of `block` rows; see `_cpu_panels.panel`."""
    if block == 1:
        _one(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 2:
        _two(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 3:
        _three(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 4:
        _four(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 5:
        _five(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 6:
        _six(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 8:
        _eight(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 9:
        _nine(x, x_at, weights, at, depth, out, out_at, row)
    elif block == 10:
        _ten(x, x_at, weights, at, depth, out, out_at, row)
    else:
        _twelve(x, x_at, weights, at, depth, out, out_at, row)


@njit(**_inlined)
def _gated(tile, i, out, at, some, block):
    gate, up = load(tile, i * PANEL), load(tile, i * PANEL + WIDTH)
    one = splat(np.float32(1.0))
    scattered(gate / (one + exp(-gate)) * up, some, out, at, block)


@njit(**_inlined)
def _scaled(tile, count, arena, scale_at, bias_at):
    """Scales of narrow weights, and biases, where there are any."""
    for v in range(0, PANEL, WIDTH):
        if scale_at >= 0:
            scale = load(arena, scale_at + v)
            for i in range(count):
                store(tile, i * PANEL + v, load(tile, i * PANEL + v) * scale)
        if bias_at >= 0:
            bias = load(arena, bias_at + v)
            for i in range(count):
                store(tile, i * PANEL + v, load(tile, i * PANEL + v) + bias)


@njit(**_inlined)
def _product(mode, tickets, phase, workers, sleep, panels, depth, x, count, block, weights, at,
             arena, scale_at, bias_at, tile, out, row, limit):  # fmt: skip
    """A phase: all panels of a matrix times the packed rows of x, put where `mode` says."""
    units = 1 if workers == 1 else min(panels, 8 * workers)
    unit = _next(tickets, phase)
    while unit < units:
        for p in range(unit * panels // units, (unit + 1) * panels // units):
            for first in range(0, count, block):
                some = min(block, count - first)
                multiplied(block, x, first * depth, weights, at + p * depth * PANEL, depth, tile, 0,
                           PANEL)  # fmt: skip
                if scale_at >= 0 or bias_at >= 0:
                    _scaled(tile, some, arena, scale_at + p * PANEL if scale_at >= 0 else -1,
                            bias_at + p * PANEL if bias_at >= 0 else -1)  # fmt: skip
                if mode == _GATE:
                    c = p * WIDTH
                    for i in range(some):
                        _gated(tile, i, out, first * row + c * block + i,
                               min(WIDTH, limit - c), block)  # fmt: skip
                    continue
                for i in range(some):
                    for v in range(0, PANEL, WIDTH):
                        c = p * PANEL + v
                        left = min(WIDTH, limit - c)
                        if left <= 0:
                            continue
                        target = (first + i) * row + c
                        value = load(tile, i * PANEL + v)
                        if mode == _ADD:
                            value = value + load_some(out, target, left)
                        store_some(out, target, value, left)
        _done(tickets, phase)
        unit = _next(tickets, phase)
    _wait(tickets, phase, units, sleep)


@njit(**_inlined)
def _embedded(tickets, phase, sleep, tokens, count, embedding, width, h, spare):
    """A phase: rows of the embedding; and zeros where later phases leave gaps."""
    if _next(tickets, phase) == 0:
        for n in range(count):
            source = np.int64(tokens[n]) * width
            for c in range(0, width, WIDTH):
                some = min(WIDTH, width - c)
                store_some(h, n * width + c, load_some(embedding, source + c, some), some)
        cleared(spare, 0, len(spare))
        _done(tickets, phase)
    _wait(tickets, phase, 1, sleep)


@njit(**_inlined)
def _attention(tickets, phase, sizes, factor, layer, gains, arena, qkv, row, angles, keys, values,
               starts, past, tables, positions, seen, head, scores, branch, found, mixed, h,
               streams):  # fmt: skip
    """A phase: keys and values into their pages, and what the queries read there.

    Of the last layer also the streams before it, where those are wanted: none is written to
    until all units are done.
    """
    heads, groups, depth, page, pages, window = (
        sizes[2], sizes[3], sizes[4], sizes[7], sizes[8], sizes[9],
    )  # fmt: skip
    block, turned, see, longest = sizes[13], sizes[10], sizes[15], sizes[18]
    slots = _up(page, WIDTH)
    each_group = depth * slots
    inputs, each = _up(heads * depth, UNROLL), heads // groups
    units, base = sizes[12] * groups, layer * pages
    unit = _next(tickets, phase)
    while unit < units:
        s, g = unit // groups, unit % groups
        first, count, held = starts[s], starts[s + 1] - starts[s], past[s]
        table = tables[s]
        if g == 0 and sizes[17] == 2 and layer == sizes[0] - 1:
            width = sizes[1]
            for c in range(first * width, (first + count) * width):
                streams[c] = h[c]
        for i in range(count):
            at, turn = (first + i) * row + (heads + g) * depth, positions[first + i] * depth
            headed(qkv, at, depth, arena, gains[1], angles, turn if turned else -1, 1.0, head)
            number, slot = base + table[(held + i) // page], (held + i) % page
            kept(head, qkv, at + groups * depth, depth, keys,
                 (number * groups + g) * each_group, slots, slot,
                 values, (number * groups + g) * each_group)  # fmt: skip
        for i in range(count):
            n = first + i
            high = held + count if see else held + i + 1
            for own in range(g * each, (g + 1) * each):
                headed(qkv, n * row + own * depth, depth, arena, gains[0], angles,
                       positions[n] * depth if turned else -1, factor, head)  # fmt: skip
                attended(head, depth, high, held, count, window, seen, n * longest, see, keys,
                         values, base, groups * each_group, g * each_group, table, page, slots,
                         scores, branch, found)  # fmt: skip
                target = n // block * inputs * block + n % block + own * depth * block
                for c in range(0, depth, WIDTH):
                    scattered(load(found, c), min(WIDTH, depth - c), mixed, target + c * block,
                              block)  # fmt: skip
        _done(tickets, phase)
        unit = _next(tickets, phase)
    _wait(tickets, phase, units, sizes[20])


@njit(**_inlined)
def _step(worker, workers, first_phase, tickets, sizes, reals, places, weights, arena, embedding,
          angles, keys, values, tokens, starts, past, tables, positions, seen, chosen, room,
          logits, streams):  # fmt: skip
    layers, width, heads, groups, depth, inner, vocabulary = sizes[:7]
    count, block, sleep = sizes[11], sizes[13], sizes[20]
    qkv_row = _up((heads + 2 * groups) * depth, PANEL)
    mixed_in, inner_in, width_in = (
        _up(heads * depth, UNROLL),
        _up(inner, UNROLL),
        _up(width, UNROLL),
    )
    filled, eps, factor = _up(count, block), reals[0], reals[1]
    scores_room = _up(sizes[7], WIDTH) * sizes[14]
    branches = sizes[7] + sizes[18] if sizes[15] else 0
    whole, own = room_of(width, qkv_row, heads * depth, inner, depth, count, block, scores_room,
                         branches, workers)  # fmt: skip
    h, at = room[: count * width], count * width
    qkv, at = room[at : at + count * qkv_row], at + count * qkv_row
    mixed, gaps = room[at : at + filled * mixed_in], room[at : at + filled * (mixed_in + inner_in)]
    hidden, at = gaps[filled * mixed_in :], whole - (workers - worker) * own
    x, at = room[at : at + filled * width_in], at + filled * width_in
    tile, at = room[at : at + _TILE], at + _TILE
    scores, at = room[at : at + scores_room], at + scores_room
    head, at = room[at : at + _up(depth, WIDTH)], at + _up(depth, WIDTH)
    found, at = room[at : at + _up(depth, WIDTH)], at + _up(depth, WIDTH)
    branch = room[at : at + branches * depth + WIDTH]
    _embedded(tickets, first_phase, sleep, tokens, count, embedding, width, h, gaps)
    for phase in range(5 * layers + 1):
        layer, part = phase // 5, phase % 5
        at, ticket = places[layer], first_phase + 1 + phase
        rows, some, size = count, chosen[:0], block
        if layer == layers:
            if _next(tickets, ticket) == 0:
                if sizes[17] == 1:
                    rows_normed(h, 0, width, count, width, eps, arena, at[12], streams, width)
                _done(tickets, ticket)
            _wait(tickets, ticket, 1, sleep)
            ticket, rows, some, size = ticket + 1, sizes[16], chosen, sizes[21]
        if part == 1:
            _attention(tickets, ticket, sizes, factor, layer, at[14:], arena, qkv, qkv_row, angles,
                       keys, values, starts, past, tables, positions, seen, head, scores, branch,
                       found, mixed, h, streams)  # fmt: skip
            continue
        mode, which, source, depth_in, out = _STORE, 0, x, width_in, qkv
        row, limit, panels = qkv_row, qkv_row, qkv_row // PANEL
        if part == 0 or part == 3:
            packed(h, width, rows, some, width, width_in, eps, arena, at[12 if part == 0 else 13],
                   x, 0, size)  # fmt: skip
        if layer == layers:
            out, row, limit, panels = (
                logits,
                vocabulary,
                vocabulary,
                _up(vocabulary, PANEL) // PANEL,
            )
        elif part == 3:
            mode, which, out, row, limit = _GATE, 2, hidden, inner_in, inner
            panels = _up(inner, WIDTH) // WIDTH
        elif part > 0:
            mode, which, out, row, limit = _ADD, 1, h, width, width
            source, depth_in, panels = mixed, mixed_in, _up(width, PANEL) // PANEL
            if part == 4:
                which, source, depth_in = 3, hidden, inner_in
        _product(mode, tickets, ticket, workers, sleep, panels, depth_in, source, rows, size,
                 weights, at[which], arena, at[4 + which], at[8 + which], tile, out, row,
                 limit)  # fmt: skip
    return first_phase + 5 * layers + 3


@njit(nogil=True, error_model="numpy")
def decode_kernel(counter, workers, tickets, sizes, reals, places, weights, arena, embedding,
                  angles, keys, values, tokens, starts, past, tables, positions, seen, chosen,
                  room, logits, streams, state, history, log_probs, draw_reals, draw_wholes,
                  bias_ids, bias, ends, draw_room, draw_ids, marks):  # fmt: skip
    """A step for all sequences, or with `steps` > 0 a loop of steps for one that draws its tokens.

    `places` are offsets into `weights` (panels) and `arena` (the rest); `reals` the eps of the
    norms and the factor of the scores; `angles` D / 2 cosines and D / 2 sines of each place.
    `starts` (S + 1,) tells the first new token of each sequence, `chosen` the tokens that the head
    is asked about. A loop keeps in `state` the number of tokens known and of draws made, and
    whether one of `ends` was drawn; the rest is for `draw`.
    """
    worker = fetch_add(counter, 0, 1)
    if worker >= workers:
        return
    steps, vocabulary = sizes[19], sizes[6]
    first = 0
    for _ in range(max(steps, 1)):
        phase = _step(worker, workers, first, tickets, sizes, reals, places, weights, arena,
                      embedding, angles, keys, values, tokens, starts, past, tables, positions,
                      seen, chosen, room, logits, streams)  # fmt: skip
        first = phase + 1
        if steps == 0:
            break
        if _next(tickets, phase) == 0:
            token, log_prob = draw(logits, 0, vocabulary, history, state[0], state[1], draw_reals,
                                   draw_wholes, bias_ids, bias, draw_room, draw_ids,
                                   marks)  # fmt: skip
            history[state[0]] = token
            log_probs[state[1]] = log_prob
            state[0] += 1
            state[1] += 1
            tokens[0] = token
            past[0] += 1
            positions[0] += 1
            for end in ends:
                if token == end:
                    state[2] = 1
            _done(tickets, phase)
        _wait(tickets, phase, 1, sizes[20])
        if state[2]:
            break
