r"""What the attention kernels share: a row's place, tiles, logits, dropout, blocks to visit.

Flags are bits of one compile-time number, so that a kernel contains what its call asked for and
nothing else. The logit of query $i$ and key $j$ is made in a fixed order, scale, softcap, bias,
mask, and stands in powers of two from then on:

$$ z_{ij} = \log_2 e\,\bigl(c \tanh(\tau q_i^\top k_j / c) + b_{ij} - a_h |i + \delta - j|\bigr),
   \qquad z_{ij} = -\infty \text{ where } j \text{ is masked.} $$

$\delta$ is the alignment: the difference of the lengths (bottom-right) or 0 (top-left). A query
sees the band $-left \le j - i - \delta \le right$; `key_blocks` and `query_blocks` cut it into
blocks that need the test and blocks that lie inside, so that the time follows the band's area.

Shapes: M queries of a tile, N keys of a tile, D and E key and value width.
"""

# Triton's compiler gives these functions their meaning, Python's types do not.
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportArgumentType=false

from typing import Any, NamedTuple

import triton
import triton.language as tl

from paragone.kernels.device import random_word, tanh

__all__ = [
    "ALIBI",
    "BIAS",
    "BLOCKS",
    "BOTTOM",
    "CAP",
    "DROP",
    "EXACT",
    "LEFT",
    "LENGTHS",
    "LN2",
    "LOG2E",
    "MASK",
    "PACKED",
    "RIGHT",
    "SIDE",
    "Rows",
    "Steps",
    "Terms",
    "at_row",
    "block_of",
    "column",
    "kept",
    "key_blocks",
    "logits",
    "long",
    "put_block",
    "query_blocks",
    "span",
    "visited",
]  # fmt: skip


class Rows(NamedTuple):
    """Where rows are: places of queries and keys (firsts or lengths), counts, padded sizes."""

    places_q: Any
    places_k: Any
    rows: int
    heads: int
    group: int
    queries: int
    keys: int


class Steps(NamedTuple):
    """Steps of (row, head, token) of each tensor; delta has those of lse."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    out: tuple[int, ...]
    lse: tuple[int, ...]
    dout: tuple[int, ...] = (0, 0, 0)
    dq: tuple[int, ...] = (0, 0, 0)
    dk: tuple[int, ...] = (0, 0, 0)
    dv: tuple[int, ...] = (0, 0, 0)


class Terms(NamedTuple):
    """What makes a logit beside q and k, and dropout's numbers.

    `last` is a constant to the compiler. Triton 3.6 takes stock of the tuples in here whenever a
    field is set, constants last: without one behind them, steps of 1 would be None in a loop.
    """

    scale: float
    cap: float
    left: int
    right: int
    slopes: Any
    slopes_step: int
    bias: Any
    bias_steps: tuple[int, ...]
    mask: Any
    mask_steps: tuple[int, ...]
    table: Any
    order: Any
    order_steps: tuple[int, ...]
    counts: Any
    count_steps: tuple[int, ...]
    key: int
    threshold: int
    gain: float
    sizes: tuple[int, int]
    last: int = 1


RIGHT = tl.constexpr(1)
"""No key beyond i + shift + right; with right = 0: causal."""
LEFT = tl.constexpr(2)
"""No key before i + shift - left."""
BOTTOM = tl.constexpr(4)
"""The last query is aligned with the last key of its row; else the first with the first."""
CAP = tl.constexpr(8)
ALIBI = tl.constexpr(16)
BIAS = tl.constexpr(32)
MASK = tl.constexpr(64)
DROP = tl.constexpr(256)
LENGTHS = tl.constexpr(512)
"""Rows are padded and have their lengths."""
PACKED = tl.constexpr(1024)
"""Rows lie end to end and have their first tokens' places."""
BLOCKS = tl.constexpr(2048)
"""Blocks are visited in the order of a list; without MASK those partly masked have elements."""
SIDE = tl.constexpr(64)
"""Side of a block of a block mask, and then of a tile."""
EXACT = tl.constexpr(4096)
"""Products of float32 are made of three of TensorFloat-32, good to float32; else of one."""
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def long(x):
    """(number): the same in 64 bits, also where it is known at compile time."""
    return tl.full([], x, tl.int64)


@triton.jit
def span(places, row, size, FLAGS: tl.constexpr):
    """(first token of a row: int64, its number of tokens: int32)."""
    if PACKED & FLAGS:
        start = tl.load(places + row).to(tl.int64)
        many = (tl.load(places + row + 1).to(tl.int64) - start).to(tl.int32)
    elif LENGTHS & FLAGS:
        start, many = long(0), tl.load(places + row).to(tl.int32)
    else:
        start, many = long(0), tl.full([], size, tl.int32)
    return start, many


@triton.jit
def at_row(base, steps, row, head, start):
    """The address of a row's and head's first token; `steps` are of (row, head, token)."""
    return base + long(row) * steps[0] + long(head) * steps[1] + start * steps[2]


@triton.jit
def _corner(base, first, stride, ROWS: tl.constexpr, SIZE: tl.constexpr):
    """(address of row `first`, offsets of the rows behind it), (ROWS, 1).

    Rows of whole 16 bytes start at whole ones: the caller sees to it, and the compiler, which
    looks at steps for multiples of 16 alone, has to be told that widths such as 72 are.
    """
    WIDE: tl.constexpr = base.dtype.element_ty.primitive_bitwidth
    corner, down = base + long(first) * stride, tl.arange(0, ROWS)[:, None] * stride
    if SIZE * WIDE % 128 == 0:
        corner = tl.multiple_of(corner, 16)
        down = tl.multiple_of(down, (128 // WIDE, 128 // WIDE))
    return corner, down


@triton.jit
def block_of(
    base, first, stride, limit, ROWS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    TAIL: tl.constexpr,
):  # fmt: skip
    """(ROWS, WIDTH) from row `first` on, of which SIZE columns are there; zero beyond `limit`.

    It has the type that is stored: an operand for `tl.dot`, to be cast for anything else.
    """
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    corner, down = _corner(base, first, stride, ROWS, SIZE)
    places = corner + down + columns[None, :]
    if TAIL and SIZE < WIDTH:
        mask = (first + rows < limit)[:, None] & (columns < SIZE)[None, :]
        found = tl.load(places, mask=mask, other=0.0)
    elif TAIL:
        found = tl.load(places, mask=(first + rows < limit)[:, None], other=0.0)
    elif SIZE < WIDTH:
        found = tl.load(places, mask=(columns < SIZE)[None, :], other=0.0)
    else:
        found = tl.load(places)
    return found.to(base.dtype.element_ty)


@triton.jit
def put_block(
    base, first, stride, limit, values, ROWS: tl.constexpr, SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Stores (ROWS, WIDTH) from row `first` on, up to `limit` and SIZE columns."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    corner, down = _corner(base, first, stride, ROWS, SIZE)
    places = corner + down + columns[None, :]
    mask = (first + rows < limit)[:, None] & (columns < SIZE)[None, :]
    tl.store(places, values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def column(base, first, limit, other, ROWS: tl.constexpr):
    """(ROWS,) float32 from place `first` on; `other` beyond `limit`."""
    rows = first + tl.arange(0, ROWS)
    return tl.load(base + rows, mask=rows < limit, other=other).to(tl.float32)


@triton.jit
def logits(s, i, j, where, terms, BAND: tl.constexpr, FLAGS: tl.constexpr):
    """(z, t): logits of the products s in powers of two, and tanh of what the softcap takes.

    `i` and `j` have one side of length 1 each, in whichever order s has its axes.
    """
    row, head, _, queries, keys, shift = where
    t = s
    if CAP & FLAGS:
        t = tanh(s * (terms.scale / terms.cap))
        z = t * (terms.cap * LOG2E)
    else:
        z = s * (terms.scale * LOG2E)
    if ALIBI & FLAGS:
        slope = tl.load(terms.slopes + row * terms.slopes_step + head).to(tl.float32)
        z = z - (slope * LOG2E) * tl.abs(i + shift - j).to(tl.float32)
    inside = (i < queries) & (j < keys)
    if BIAS & FLAGS:
        place = at_row(terms.bias, terms.bias_steps, row, head, i.to(tl.int64))
        place = place + j.to(tl.int64) * terms.bias_steps[3]
        z = z + tl.load(place, mask=inside, other=0.0).to(tl.float32) * LOG2E
    if MASK & FLAGS:
        place = at_row(terms.mask, terms.mask_steps, row, head, i.to(tl.int64))
        place = place + j.to(tl.int64) * terms.mask_steps[3]
        seen = tl.load(place, mask=inside, other=0).to(tl.int32)
        z = tl.where(seen != 0, z, float("-inf"))
    elif BLOCKS & FLAGS:
        # One block for the whole tile: its sides are those of a block.
        down, across = tl.min(tl.min(i, 1), 0) // SIDE, tl.min(tl.min(j, 1), 0) // SIDE
        place = at_row(terms.table, terms.mask_steps, row, head, down) + across
        block = tl.load(place).to(tl.int64)
        place = terms.mask + block + (i % SIDE) * SIDE + j % SIDE
        seen = tl.load(place, mask=inside & (block >= 0), other=1).to(tl.int32)
        z = tl.where(seen != 0, z, float("-inf"))
    if BAND:
        visible = j < keys
        if RIGHT & FLAGS:
            visible = visible & (j <= i + (shift + terms.right))
        if LEFT & FLAGS:
            visible = visible & (j >= i + (shift - terms.left))
        z = tl.where(visible, z, float("-inf"))
    return z, t


@triton.jit
def kept(i, j, where, terms):
    """Whether dropout keeps an entry: the hash of `rule.kept`."""
    line = (long(where[0]) * where[2] + where[1]) * terms.sizes[0] + i
    return random_word(terms.key, line * terms.sizes[1] + j) >= terms.threshold


@triton.jit
def visited(turn, order, FLAGS: tl.constexpr):
    """Where the block of this turn starts: the turn itself, or the next one of a block mask."""
    start = turn
    if BLOCKS & FLAGS:
        start = tl.load(order + turn).to(tl.int32) * SIDE
    return start


@triton.jit
def key_blocks(first, where, terms, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAGS: tl.constexpr):
    """(lo, inner, outer, hi): keys that a tile of queries sees; [inner, outer) need no test."""
    _, _, _, queries, keys, shift = where
    last = tl.minimum(first + ROWS, queries) - 1
    lo, inner, outer, hi = keys * 0, keys * 0, keys, keys
    if RIGHT & FLAGS:
        hi = tl.minimum(hi, tl.maximum(last + shift + terms.right + 1, 0))
        outer = tl.minimum(outer, tl.maximum(first + shift + terms.right + 1, 0))
    if LEFT & FLAGS:
        lo = tl.maximum(first + shift - terms.left, 0) // COLUMNS * COLUMNS
        inner = (tl.maximum(last + shift - terms.left, 0) + COLUMNS - 1) // COLUMNS * COLUMNS
    hi = tl.where(first < queries, hi, 0)
    lo = tl.minimum(lo, hi)
    inner = tl.minimum(tl.maximum(inner, lo), hi)
    # Where nothing is left inside, the last sweep goes on from where the first one stopped.
    outer = tl.maximum(tl.minimum(outer, hi) // COLUMNS * COLUMNS, inner)
    return lo, inner, outer, hi


@triton.jit
def query_blocks(
    first, where, terms, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FLAGS: tl.constexpr
):
    """(lo, inner, outer, hi): queries that see a tile of keys; [inner, outer) need no test."""
    _, _, _, queries, keys, shift = where
    last = tl.minimum(first + COLUMNS, keys) - 1
    lo, inner, outer, hi = queries * 0, queries * 0, queries, queries
    if RIGHT & FLAGS:
        lo = tl.maximum(first - shift - terms.right, 0) // ROWS * ROWS
        inner = (tl.maximum(last - shift - terms.right, 0) + ROWS - 1) // ROWS * ROWS
    if LEFT & FLAGS:
        hi = tl.minimum(hi, tl.maximum(last - shift + terms.left + 1, 0))
        outer = tl.minimum(hi, tl.maximum(first - shift + terms.left + 1, 0)) // ROWS * ROWS
    hi = tl.where(first < keys, hi, 0)
    lo = tl.minimum(lo, hi)
    inner = tl.minimum(tl.maximum(inner, lo), hi)
    outer = tl.maximum(tl.minimum(outer, hi), inner)
    return lo, inner, outer, hi
