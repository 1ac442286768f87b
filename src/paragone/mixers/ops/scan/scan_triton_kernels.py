r"""Kernels of the selective scan: a tile of times, channels and states at once, tile after tile.

Within a tile the recurrence $h_t = a_t h_{t-1} + b_t$ is an associative scan of pairs,

$$ (a, b) \circ (a', b') = (a a',\, a' b + b'), \qquad
   a_t = e^{\Delta_t A}, \quad b_t = \Delta_t x_t B_t , $$

and from tile to tile one state of (channels, N) is carried. The state before each tile is kept, so
that the way back needs no others: with $g_t = C_t\, \mathrm{d}y_t$ it scans
$\mathrm{d}h_t = g_t + a_{t+1} \mathrm{d}h_{t+1}$ from the end. Sums over channels (of dB and dC)
are left by each program for its own channels: no atomics, the same result in every run.

References:
    Gu and Dao (2023), "Mamba", arXiv:2312.00752, algorithm 2, section 3.3.2.
    Blelloch (1990), "Prefix sums and their applications", section 1.4 (scan of a recurrence).

Shapes: B rows, T time, D channels, N states of a channel.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import triton
import triton.language as tl

__all__ = ["backward_kernel", "forward_kernel"]


@triton.jit
def _long(x):
    return tl.full([], x, tl.int64)


@triton.jit
def _after(a, b, next_a, next_b):
    return a * next_a, next_a * b + next_b


@triton.jit
def _tile(base, t, c, step, limit, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) in float32 from time t and column c on, zero beyond the limits."""
    rows, columns = t + tl.arange(0, ROWS), c + tl.arange(0, COLUMNS)
    places = base + rows.to(tl.int64)[:, None] * step + columns[None, :]
    mask = ((rows >= 0) & (rows < limit))[:, None] & (columns < width)[None, :]
    return tl.load(places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _put(base, t, c, step, limit, width, values, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    rows, columns = t + tl.arange(0, ROWS), c + tl.arange(0, COLUMNS)
    places = base + rows.to(tl.int64)[:, None] * step + columns[None, :]
    mask = (rows < limit)[:, None] & (columns < width)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _line(base, c, width, COLUMNS: tl.constexpr):
    columns = c + tl.arange(0, COLUMNS)
    return tl.load(base + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def _size(raw, t, limit, ROWS: tl.constexpr, SOFTPLUS: tl.constexpr):
    """(step size, its derivative by what it is made of), both zero beyond the limit."""
    size, slope = raw, tl.full(raw.shape, 1.0, tl.float32)
    if SOFTPLUS:
        small = tl.exp(-tl.abs(raw))
        whole = 1.0 + small
        rest = whole - 1.0
        # ln(1 + e) with all digits of e, also where 1 + e has lost them.
        log = tl.where(
            rest == 0.0, small, tl.log(whole) * (small / tl.where(rest == 0.0, 1.0, rest))
        )
        size = tl.maximum(raw, 0.0) + log
        slope = tl.where(raw >= 0, 1.0, small) / whole
    there = (t + tl.arange(0, ROWS) < limit)[:, None]
    return tl.where(there, size, 0.0), tl.where(there, slope, 0.0)


@triton.jit
def _limit(lengths, row, time, LENGTHS: tl.constexpr):
    limit = tl.full([], time, tl.int32)
    if LENGTHS:
        limit = tl.load(lengths + row).to(tl.int32)
    return limit


@triton.jit
def forward_kernel(
    x, dt, a, b, c, skip, z, bias, start, lengths, y, kept, final, x_steps, dt_steps, b_steps,
    c_steps, z_steps, time, width, count, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STATES: tl.constexpr, SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, LENGTHS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """A tile of channels of one row; steps are of (row, time), y and kept are contiguous."""
    row, first = tl.program_id(1), tl.program_id(0) * COLUMNS
    limit = _limit(lengths, row, time, LENGTHS)
    tiles = (time + ROWS - 1) // ROWS
    x_row, dt_row = x + _long(row) * x_steps[0], dt + _long(row) * dt_steps[0]
    b_row, c_row = b + _long(row) * b_steps[0], c + _long(row) * c_steps[0]
    z_row, y_row = z + _long(row) * z_steps[0], y + _long(row) * time * width
    rates = _tile(a, first, 0, count, width, count, COLUMNS, STATES)
    h = _tile(start + _long(row) * width * count, first, 0, count, width, count, COLUMNS, STATES)
    added = tl.zeros([COLUMNS], tl.float32)
    if BIAS:
        added = _line(bias, first, width, COLUMNS)
    past = tl.zeros([COLUMNS], tl.float32)
    if SKIP:
        past = _line(skip, first, width, COLUMNS)
    end = (tl.arange(0, ROWS) == ROWS - 1)[:, None, None]
    for tile in range(tiles):
        t = tile * ROWS
        if KEEP:
            place = kept + (_long(row) * tiles + tile) * width * count
            _put(place, first, 0, count, width, count, h, COLUMNS, STATES)
        u = _tile(x_row, t, first, x_steps[1], limit, width, ROWS, COLUMNS)
        raw = _tile(dt_row, t, first, dt_steps[1], limit, width, ROWS, COLUMNS) + added[None, :]
        size = _size(raw, t, limit, ROWS, SOFTPLUS)[0]
        into = _tile(b_row, t, 0, b_steps[1], limit, count, ROWS, STATES)
        out = _tile(c_row, t, 0, c_steps[1], limit, count, ROWS, STATES)
        fade = tl.exp(size[:, :, None] * rates[None, :, :])
        new = (size * u)[:, :, None] * into[:, None, :]
        faded, own = tl.associative_scan((fade, new), 0, _after)
        states = own + faded * h[None, :, :]
        h = tl.sum(tl.where(end, states, 0.0), 0)
        found = tl.sum(states * out[:, None, :], 2) + past[None, :] * u
        if GATE:
            g = _tile(z_row, t, first, z_steps[1], limit, width, ROWS, COLUMNS)
            found = found * g * tl.sigmoid(g)
        _put(y_row, t, first, width, time, width, found, ROWS, COLUMNS)
    _put(final + _long(row) * width * count, first, 0, count, width, count, h, COLUMNS, STATES)


@triton.jit
def backward_kernel(
    dy, dfinal, x, dt, a, b, c, skip, z, bias, lengths, kept, dx, ddt, da, db, dc, dskip, dz, dbias,
    dstart, dy_steps, x_steps, dt_steps, b_steps, c_steps, z_steps, time, width, count,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STATES: tl.constexpr, SKIP: tl.constexpr,
    GATE: tl.constexpr, BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, LENGTHS: tl.constexpr,
):  # fmt: skip
    """The same backwards; db and dc are (tiles of channels, B, T, N), da, dskip, dbias by row."""
    row, first = tl.program_id(1), tl.program_id(0) * COLUMNS
    limit = _limit(lengths, row, time, LENGTHS)
    tiles = (time + ROWS - 1) // ROWS
    x_row, dt_row = x + _long(row) * x_steps[0], dt + _long(row) * dt_steps[0]
    b_row, c_row = b + _long(row) * b_steps[0], c + _long(row) * c_steps[0]
    z_row, dy_row = z + _long(row) * z_steps[0], dy + _long(row) * dy_steps[0]
    flat = _long(row) * time * width
    part = (_long(tl.program_id(0)) * tl.num_programs(1) + row) * time * count
    rates = _tile(a, first, 0, count, width, count, COLUMNS, STATES)
    added = tl.zeros([COLUMNS], tl.float32)
    if BIAS:
        added = _line(bias, first, width, COLUMNS)
    past = tl.zeros([COLUMNS], tl.float32)
    if SKIP:
        past = _line(skip, first, width, COLUMNS)
    state = _long(row) * width * count
    pull = _tile(dfinal + state, first, 0, count, width, count, COLUMNS, STATES)
    to_rates = tl.zeros([COLUMNS, STATES], tl.float32)
    to_skip, to_bias = tl.zeros([COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    front = (tl.arange(0, ROWS) == 0)[:, None, None]
    for turn in range(tiles):
        tile = tiles - 1 - turn
        t = tile * ROWS
        place = kept + (_long(row) * tiles + tile) * width * count
        h = _tile(place, first, 0, count, width, count, COLUMNS, STATES)
        u = _tile(x_row, t, first, x_steps[1], limit, width, ROWS, COLUMNS)
        raw = _tile(dt_row, t, first, dt_steps[1], limit, width, ROWS, COLUMNS) + added[None, :]
        size, slope = _size(raw, t, limit, ROWS, SOFTPLUS)
        later = _tile(dt_row, t + 1, first, dt_steps[1], limit, width, ROWS, COLUMNS)
        next_size = _size(later + added[None, :], t + 1, limit, ROWS, SOFTPLUS)[0]
        into = _tile(b_row, t, 0, b_steps[1], limit, count, ROWS, STATES)
        out = _tile(c_row, t, 0, c_steps[1], limit, count, ROWS, STATES)
        # Scanned one step late, for the state before each time: h - b would cancel.
        raw = _tile(dt_row, t - 1, first, dt_steps[1], limit, width, ROWS, COLUMNS)
        old_size = _size(raw + added[None, :], t - 1, limit, ROWS, SOFTPLUS)[0]
        old = old_size * _tile(x_row, t - 1, first, x_steps[1], limit, width, ROWS, COLUMNS)
        old_into = _tile(b_row, t - 1, 0, b_steps[1], limit, count, ROWS, STATES)
        fade = tl.where(front, 1.0, tl.exp(old_size[:, :, None] * rates[None, :, :]))
        new = tl.where(front, 0.0, old[:, :, None] * old_into[:, None, :])
        faded, own = tl.associative_scan((fade, new), 0, _after)
        left = (own + faded * h[None, :, :]) * tl.exp(size[:, :, None] * rates[None, :, :])
        states = left + (size * u)[:, :, None] * into[:, None, :]
        asked = _tile(dy_row, t, first, dy_steps[1], limit, width, ROWS, COLUMNS)
        if GATE:
            g = _tile(z_row, t, first, z_steps[1], limit, width, ROWS, COLUMNS)
            share = tl.sigmoid(g)
            plain = tl.sum(states * out[:, None, :], 2) + past[None, :] * u
            to_gate = asked * plain * share * (1.0 + g * (1.0 - share))
            _put(dz + flat, t, first, width, time, width, to_gate, ROWS, COLUMNS)
            asked = asked * g * share
        next_fade = tl.exp(next_size[:, :, None] * rates[None, :, :])
        wanted = asked[:, :, None] * out[:, None, :]
        faded, own = tl.associative_scan((next_fade, wanted), 0, _after, reverse=True)
        pulls = own + faded * pull[None, :, :]
        pull = tl.sum(tl.where(front, pulls, 0.0), 0)
        before = pulls * left
        to_input = tl.sum(pulls * into[:, None, :], 2)
        to_size = (tl.sum(before * rates[None, :, :], 2) + to_input * u) * slope
        to_rates += tl.sum(before * size[:, :, None], 0)
        to_bias += tl.sum(to_size, 0)
        to_skip += tl.sum(asked * u, 0)
        to_x = to_input * size + asked * past[None, :]
        _put(dx + flat, t, first, width, time, width, to_x, ROWS, COLUMNS)
        _put(ddt + flat, t, first, width, time, width, to_size, ROWS, COLUMNS)
        # Channels beyond the last one have rates, sizes and inputs of zero: they add nothing.
        to_b = tl.sum(pulls * (size * u)[:, :, None], 1)
        to_c = tl.sum(states * asked[:, :, None], 1)
        _put(db + part, t, 0, count, time, count, to_b, ROWS, STATES)
        _put(dc + part, t, 0, count, time, count, to_c, ROWS, STATES)
    raw = _tile(dt_row, 0, first, dt_steps[1], limit, width, 1, COLUMNS) + added[None, :]
    size = tl.sum(_size(raw, 0, limit, 1, SOFTPLUS)[0], 0)
    pull = pull * tl.exp(size[:, None] * rates)
    _put(dstart + state, first, 0, count, width, count, pull, COLUMNS, STATES)
    _put(da + state, first, 0, count, width, count, to_rates, COLUMNS, STATES)
    channels = first + tl.arange(0, COLUMNS)
    tl.store(dskip + _long(row) * width + channels, to_skip, mask=channels < width)
    tl.store(dbias + _long(row) * width + channels, to_bias, mask=channels < width)
