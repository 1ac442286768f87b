r"""Kernels of chunked linear attention with no gate, a gate a head, or a gate a channel.

With $b$ the sums of the gates from a chunk's first token on, both ends included, a chunk of C
tokens knows of all earlier ones by the state S before it alone:

$$ o_t = (q_t \odot e^{b_t})^\top S + \sum_{s \le t} w_{ts} v_s, \quad
   w_{ts} = \sum_d q_{td} k_{sd}\, e^{b_{td} - b_{sd}}, \qquad
   S' = e^{b_C} \odot S + \sum_s (k_s \odot e^{b_C - b_s})\, v_s^\top . $$

`states_kernel` goes from chunk to chunk (backwards, with q and the outputs' gradient, for the
gradients of the states), the others work on all chunks at once. No exponent is positive: a gate a
channel is taken relative to the first token of a block of 16, and the weights inside such a block
are formed one key at a time. Everything is summed in float32.

References:
    Yang et al. (2024), arXiv:2312.06635, section 4 and appendix C (chunks, secondary chunks,
    gradients).

Shapes: B rows, H heads, T time, C chunk, D key width, E value width.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

import triton
import triton.language as tl

__all__ = ["NONE", "SCALAR", "VECTOR", "queries_and_keys_kernel", "states_kernel", "values_kernel"]

NONE = tl.constexpr(0)
SCALAR = tl.constexpr(1)
VECTOR = tl.constexpr(2)


@triton.jit
def _long(x):
    return tl.full([], x, tl.int64)


@triton.jit
def _tile(
    base, first, step, limit, from_column, end_column, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """(ROWS, COLUMNS) in float32 from a row and a column on, zero beyond the limits."""
    rows, columns = tl.arange(0, ROWS), from_column + tl.arange(0, COLUMNS)
    places = base + _long(first) * step + rows[:, None] * step + columns[None, :]
    mask = (first + rows < limit)[:, None] & (columns < end_column)[None, :]
    return tl.load(places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _put(
    base, first, step, limit, from_column, end_column, values, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    rows, columns = tl.arange(0, ROWS), from_column + tl.arange(0, COLUMNS)
    places = base + _long(first) * step + rows[:, None] * step + columns[None, :]
    mask = (first + rows < limit)[:, None] & (columns < end_column)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _sums(
    b, first, from_column, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    GATE: tl.constexpr,
):  # fmt: skip
    """(ROWS, COLUMNS or 1) of the gates' sums; their rows are padded to whole chunks."""
    if GATE == VECTOR:
        rows, columns = first + tl.arange(0, ROWS), from_column + tl.arange(0, COLUMNS)
        places = b + rows.to(tl.int64)[:, None] * D + columns[None, :]
        found = tl.load(places, mask=(columns < D)[None, :], other=0.0).to(tl.float32)
    else:
        found = tl.load(b + first + tl.arange(0, ROWS)).to(tl.float32)[:, None]
    return found


@triton.jit
def _at(steps, head, heads):
    """Where a row and head begins; steps are of (row, head, token)."""
    return _long(head // heads) * steps[0] + _long(head % heads) * steps[1]


@triton.jit
def states_kernel(
    k, v, b, start, states, final, k_steps, v_steps, heads, time, chunks, D: tl.constexpr,
    E: tl.constexpr, TILE_D: tl.constexpr, TILE_E: tl.constexpr, CHUNK: tl.constexpr,
    GATE: tl.constexpr, REVERSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the state of one head before each chunk, or of its gradient behind each chunk."""
    head = tl.program_id(0)
    at_d, at_e = tl.program_id(1) * TILE_D, tl.program_id(2) * TILE_E
    k_row, v_row = k + _at(k_steps, head, heads), v + _at(v_steps, head, heads)
    b_row = b + _long(head) * chunks * CHUNK * (D if GATE == VECTOR else 1)
    memory = start + _long(head) * D * E
    s = _tile(memory, at_d, E, D, at_e, E, TILE_D, TILE_E)
    for turn in range(chunks):
        chunk = (chunks - 1 - turn) if REVERSE else turn
        first = chunk * CHUNK
        place = states + (_long(head) * chunks + chunk) * D * E
        _put(place, at_d, E, D, at_e, E, s, TILE_D, TILE_E)
        x = _tile(k_row, first, k_steps[2], time, at_d, D, CHUNK, TILE_D)
        y = _tile(v_row, first, v_steps[2], time, at_e, E, CHUNK, TILE_E)
        if GATE != NONE:
            here = _sums(b_row, first, at_d, D, CHUNK, TILE_D, GATE)
            last = _sums(b_row, first + CHUNK - 1, at_d, D, 1, TILE_D, GATE)
            x = x * tl.exp(here if REVERSE else last - here)
            s = s * tl.exp(tl.trans(last))
        s += tl.dot(tl.trans(x), y, input_precision=PRECISION)
    _put(final + _long(head) * D * E, at_d, E, D, at_e, E, s, TILE_D, TILE_E)


@triton.jit
def _own_weights(
    q, k_row, b_here, b_row, first, time, k_step, D: tl.constexpr, TILE_D: tl.constexpr,
    BLOCK: tl.constexpr, GATE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weights of a block's queries and keys, zero where the key is later."""
    t, s = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    if GATE == VECTOR:
        w = tl.zeros([BLOCK, BLOCK], tl.float32)
        for one in range(BLOCK):
            key = _tile(k_row, first + one, k_step, time, 0, D, 1, TILE_D)
            gap = b_here - _sums(b_row, first + one, 0, D, 1, TILE_D, GATE)
            column = tl.sum(q * key * tl.exp(tl.minimum(gap, 0.0)), 1)
            w = tl.where((s == one) & (t >= one), column[:, None], w)
    else:
        k = _tile(k_row, first, k_step, time, 0, D, BLOCK, TILE_D)
        w = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if GATE == SCALAR:
            w = w * tl.exp(tl.minimum(b_here - tl.trans(b_here), 0.0))
        w = tl.where(t >= s, w, 0.0)
    return w


@triton.jit
def values_kernel(
    q, k, v, b, states, out, q_steps, k_steps, v_steps, out_steps, scale, heads, time, chunks,
    D: tl.constexpr, E: tl.constexpr, TILE_D: tl.constexpr, TILE_E: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, GATE: tl.constexpr, BACKWARD: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the outputs of a block of queries, or of the gradients of a block of values.

    Backward, v are the outputs' gradients and states those of the states.
    """
    BLOCKS: tl.constexpr = CHUNK // BLOCK
    head, at_e = tl.program_id(1), tl.program_id(2) * TILE_E
    chunk, own = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    first = chunk * CHUNK + own * BLOCK
    q_row, k_row = q + _at(q_steps, head, heads), k + _at(k_steps, head, heads)
    v_row = v + _at(v_steps, head, heads)
    b_row = b + _long(head) * chunks * CHUNK * (D if GATE == VECTOR else 1)
    place = states + (_long(head) * chunks + chunk) * D * E
    s = _tile(place, 0, E, D, at_e, E, TILE_D, TILE_E)
    x = _tile(q_row, first, q_steps[2], time, 0, D, BLOCK, TILE_D)
    b_here = tl.zeros([BLOCK, 1], tl.float32)
    if GATE != NONE:
        b_here = _sums(b_row, first, 0, D, BLOCK, TILE_D, GATE)
    if BACKWARD:
        y = _tile(k_row, first, k_steps[2], time, 0, D, BLOCK, TILE_D)
        since = y
        if GATE != NONE:
            last = _sums(b_row, chunk * CHUNK + CHUNK - 1, 0, D, 1, TILE_D, GATE)
            since = y * tl.exp(last - b_here)
        o = tl.dot(since, s, input_precision=PRECISION)
        for other in range(own + 1, BLOCKS):
            at = chunk * CHUNK + other * BLOCK
            b_there = _sums(b_row, at, 0, D, BLOCK, TILE_D, GATE)
            border = _sums(b_row, at, 0, D, 1, TILE_D, GATE)
            z = _tile(q_row, at, q_steps[2], time, 0, D, BLOCK, TILE_D)
            z = z * tl.exp(b_there - border)
            w = tl.dot(y * tl.exp(border - b_here), tl.trans(z), input_precision=PRECISION)
            later = _tile(v_row, at, v_steps[2], time, at_e, E, BLOCK, TILE_E)
            o = tl.dot(w, later, o, input_precision=PRECISION)
    else:
        o = tl.dot(x * tl.exp(b_here), s, input_precision=PRECISION)
        for other in range(own):
            at = chunk * CHUNK + other * BLOCK
            b_there = _sums(b_row, at, 0, D, BLOCK, TILE_D, GATE)
            border = _sums(b_row, first, 0, D, 1, TILE_D, GATE)
            z = _tile(k_row, at, k_steps[2], time, 0, D, BLOCK, TILE_D)
            z = z * tl.exp(border - b_there)
            w = tl.dot(x * tl.exp(b_here - border), tl.trans(z), input_precision=PRECISION)
            earlier = _tile(v_row, at, v_steps[2], time, at_e, E, BLOCK, TILE_E)
            o = tl.dot(w, earlier, o, input_precision=PRECISION)
    w = _own_weights(
        x, k_row, b_here, b_row, first, time, k_steps[2], D, TILE_D, BLOCK, GATE, PRECISION
    )
    if BACKWARD:
        w = tl.trans(w)
    mine = _tile(v_row, first, v_steps[2], time, at_e, E, BLOCK, TILE_E)
    o = tl.dot(w, mine, o, input_precision=PRECISION) * scale
    out_row = out + _at(out_steps, head, heads)
    _put(out_row, first, out_steps[2], time, at_e, E, o, BLOCK, TILE_E)


@triton.jit
def _pulls(
    do_row, v_row, at_do, at_v, time, do_step, v_step, E: tl.constexpr, TILE_E: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the weights of one block's queries and another block's keys."""
    dw = tl.zeros([BLOCK, BLOCK], tl.float32)
    for at_e in range(0, E, TILE_E):
        do = _tile(do_row, at_do, do_step, time, at_e, E, BLOCK, TILE_E)
        y = _tile(v_row, at_v, v_step, time, at_e, E, BLOCK, TILE_E)
        dw = tl.dot(do, tl.trans(y), dw, input_precision=PRECISION)
    return dw


@triton.jit
def queries_and_keys_kernel(
    q, k, v, do, b, states, pulls, dq, dk, q_steps, k_steps, v_steps, do_steps, dq_steps, dk_steps,
    heads, time, chunks, D: tl.constexpr, E: tl.constexpr, TILE_D: tl.constexpr,
    TILE_E: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, GATE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries and keys; `pulls` are those of the states behind chunks."""
    BLOCKS: tl.constexpr = CHUNK // BLOCK
    head = tl.program_id(1)
    chunk, own = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    first = chunk * CHUNK + own * BLOCK
    q_row, k_row = q + _at(q_steps, head, heads), k + _at(k_steps, head, heads)
    v_row, do_row = v + _at(v_steps, head, heads), do + _at(do_steps, head, heads)
    b_row = b + _long(head) * chunks * CHUNK * (D if GATE == VECTOR else 1)
    place = (_long(head) * chunks + chunk) * D * E
    x = _tile(q_row, first, q_steps[2], time, 0, D, BLOCK, TILE_D)
    y = _tile(k_row, first, k_steps[2], time, 0, D, BLOCK, TILE_D)
    gx, gy = tl.zeros([BLOCK, TILE_D], tl.float32), tl.zeros([BLOCK, TILE_D], tl.float32)
    for at_e in range(0, E, TILE_E):
        pull = _tile(do_row, first, do_steps[2], time, at_e, E, BLOCK, TILE_E)
        value = _tile(v_row, first, v_steps[2], time, at_e, E, BLOCK, TILE_E)
        s = _tile(states + place, 0, E, D, at_e, E, TILE_D, TILE_E)
        gx = tl.dot(pull, tl.trans(s), gx, input_precision=PRECISION)
        g = _tile(pulls + place, 0, E, D, at_e, E, TILE_D, TILE_E)
        gy = tl.dot(value, tl.trans(g), gy, input_precision=PRECISION)
    b_here = tl.zeros([BLOCK, 1], tl.float32)
    if GATE != NONE:
        b_here = _sums(b_row, first, 0, D, BLOCK, TILE_D, GATE)
        last = _sums(b_row, chunk * CHUNK + CHUNK - 1, 0, D, 1, TILE_D, GATE)
        gx = gx * tl.exp(b_here)
        gy = gy * tl.exp(last - b_here)
    for other in range(own):
        at = chunk * CHUNK + other * BLOCK
        border = _sums(b_row, first, 0, D, 1, TILE_D, GATE)
        z = _tile(k_row, at, k_steps[2], time, 0, D, BLOCK, TILE_D)
        z = z * tl.exp(border - _sums(b_row, at, 0, D, BLOCK, TILE_D, GATE))
        dw = _pulls(do_row, v_row, first, at, time, do_steps[2], v_steps[2], E, TILE_E, BLOCK,
                    PRECISION)  # fmt: skip
        gx += tl.dot(dw, z, input_precision=PRECISION) * tl.exp(b_here - border)
    for other in range(own + 1, BLOCKS):
        at = chunk * CHUNK + other * BLOCK
        border = _sums(b_row, at, 0, D, 1, TILE_D, GATE)
        z = _tile(q_row, at, q_steps[2], time, 0, D, BLOCK, TILE_D)
        z = z * tl.exp(_sums(b_row, at, 0, D, BLOCK, TILE_D, GATE) - border)
        dw = _pulls(do_row, v_row, at, first, time, do_steps[2], v_steps[2], E, TILE_E, BLOCK,
                    PRECISION)  # fmt: skip
        gy += tl.dot(tl.trans(dw), z, input_precision=PRECISION) * tl.exp(border - b_here)
    dw = _pulls(do_row, v_row, first, first, time, do_steps[2], v_steps[2], E, TILE_E, BLOCK,
                PRECISION)  # fmt: skip
    t, u = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    if GATE == VECTOR:
        for one in range(BLOCK):
            key = _tile(k_row, first + one, k_steps[2], time, 0, D, 1, TILE_D)
            gap = b_here - _sums(b_row, first + one, 0, D, 1, TILE_D, GATE)
            column = tl.sum(tl.where((u == one) & (t >= one), dw, 0.0), 1)
            faded = column[:, None] * tl.exp(tl.minimum(gap, 0.0))
            gx += faded * key
            gy += tl.where(t == one, tl.sum(faded * x, 0)[None, :], 0.0)
    else:
        if GATE == SCALAR:
            dw = dw * tl.exp(tl.minimum(b_here - tl.trans(b_here), 0.0))
        dw = tl.where(t >= u, dw, 0.0)
        gx = tl.dot(dw, y, gx, input_precision=PRECISION)
        gy = tl.dot(tl.trans(dw), x, gy, input_precision=PRECISION)
    dq_row, dk_row = dq + _at(dq_steps, head, heads), dk + _at(dk_steps, head, heads)
    _put(dq_row, first, dq_steps[2], time, 0, D, gx, BLOCK, TILE_D)
    _put(dk_row, first, dk_steps[2], time, 0, D, gy, BLOCK, TILE_D)
