r"""States in 8 bits: blocks of 256 numbers, each a code of a table times the block's largest.

The table of Dettmers et al. has decades of growing detail: between $10^{i-7}$ and $10^{i-6}$,
$i = 0 \dots 6$, lie $2^i$ equal cells (twice as many without a sign), whose midpoints are the
values, beside 0 and 1. A value $x$, divided by the largest $a$ of its block, gets the code of
the nearest midpoint. No table is searched: the decade is found by comparing with the seven points
half way between two neighbouring decades, and within it the cell is a line in $x$,

$$ \text{rank}(y) = \min(\lfloor \alpha_i\,y + \beta_i \rfloor,\ \text{last}_i), \qquad
   y = |x| / a , $$

which is a chain of selections that becomes vector code.

One value is not the nearest: a second moment above zero never gets the code of zero. Beside a
first moment that kept its code, the quotient would be $m / \epsilon$, thousands of times the
learning rate. With the least positive code the update is bounded by the spacing of the tables:
a code is at most twice $|m|$ and at least half of $v$, together a factor below three.

State of a parameter as bitsandbytes lays it out, so that either reads the other's: `state1` and
`state2` (uint8, shaped like the parameter), `absmax1` and `absmax2` (one float32 for a block),
`qmap1` and `qmap2` (the tables).

References:
    Dettmers et al. (2022), "8-bit optimizers via block-wise quantization", arXiv:2110.02861,
    sections 2.1 and 2.2.
    Dettmers (2016), "8-bit approximations for parallelism in deep learning", arXiv:1511.04561.
"""

from __future__ import annotations

import numpy as np
import torch

from paragone.kernels.jit import njit
from paragone.kernels.narrow import bits_of, single_of

__all__ = [
    "BLOCK", "LEAST", "check_state", "decode", "encode_signed", "encode_unsigned", "lift_zeros",
    "new_state", "table_of",
]  # fmt: skip

BLOCK = 256
LEAST = 4096
"""Smaller parameters keep 32-bit states."""


def _cells(signed: bool) -> list[np.ndarray]:
    """Borders of the cells in each decade."""
    counts = [2**i if signed else 2 ** (i + 1) for i in range(7)]
    return [np.linspace(0.1, 1.0, n + 1) * 10.0 ** (i - 6) for i, n in enumerate(counts)]


def table_of(signed: bool) -> np.ndarray:
    """Returns the 256 values in order, as float32.

    Example:
        >>> table_of(False)[[0, 1, 255]].tolist()
        [0.0, 3.2500003044333425e-07, 1.0]
    """
    positive = []
    for i in range(7):
        # The published table is made in float32; its last bits are part of the format.
        edges = torch.linspace(0.1, 1.0, 2 ** (i + 1 - signed) + 1, dtype=torch.float32)
        positive += ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - 6)).tolist()
    positive = np.array(positive)
    sides = [-positive[::-1], [0.0]] if signed else [[0.0]]
    return np.concatenate([*sides, positive, [1.0]]).astype(np.float32)


def _lines(signed: bool) -> tuple[tuple[float, float, float, float], ...]:
    """(from where on, alpha, beta, last rank) for each decade, and for the value 1."""
    found, rank, below = [], 1, 0.0
    for edges in _cells(signed):
        count, width = len(edges) - 1, edges[1] - edges[0]
        lowest = edges[0] + width / 2
        found.append((
            (below + lowest) / 2, 1 / width, rank - edges[0] / width, float(rank + count - 1),
        ))  # fmt: skip
        rank, below = rank + count, edges[-1] - width / 2
    return (*found, ((below + 1.0) / 2, 0.0, float(rank), float(rank)))


_SIGNED_LINES, _UNSIGNED_LINES = _lines(True), _lines(False)
_SIGNED, _UNSIGNED = table_of(True), table_of(False)


def new_state(p: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the moments of a parameter before its first step: zeros, in 8 bits.

    Example:
        >>> new_state(torch.ones(300))["absmax1"].shape
        torch.Size([2])
    """
    found: dict[str, torch.Tensor] = {}
    for number, signed in ((1, True), (2, False)):
        table = torch.from_numpy(table_of(signed))
        zero = 127 if signed else 0
        found[f"state{number}"] = torch.full_like(p, zero, dtype=torch.uint8)
        found[f"absmax{number}"] = torch.zeros(-(-p.numel() // BLOCK), device=p.device)
        found[f"qmap{number}"] = table.to(p.device)
    return found


def check_state(p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    """Refuses states that are laid out in another way.

    Raises:
        ValueError: A shape, a type or a table is another one.
    """
    for number, signed in ((1, True), (2, False)):
        codes, scales = state[f"state{number}"], state[f"absmax{number}"]
        if codes.dtype != torch.uint8 or codes.shape != p.shape or not codes.is_contiguous():
            raise ValueError(
                f"state{number} is {codes.dtype} {tuple(codes.shape)}; a parameter "
                f"{tuple(p.shape)} needs uint8 of its own shape"
            )
        if scales.dtype != torch.float32 or scales.numel() != -(-p.numel() // BLOCK):
            raise ValueError(
                f"absmax{number} has {scales.numel()} {scales.dtype} for {p.numel()} elements; "
                f"one float32 for each {BLOCK} is needed (bitsandbytes 0.45 and newer)"
            )
        table = state[f"qmap{number}"].cpu().numpy()
        if not np.allclose(table, table_of(signed), rtol=1e-6, atol=0):
            raise ValueError(f"qmap{number} is not the dynamic table; other maps are not read")


def lift_zeros(state: dict[str, torch.Tensor]) -> None:
    """Gives second moments that another library rounded to zero the least positive code."""
    state["state2"][(state["state2"] == 0) & (state["state1"] != 127)] = 1


@njit(nogil=True, error_model="numpy")
def decode(codes, scale, signed, out):
    """Values of the codes of a block."""
    table = _SIGNED if signed else _UNSIGNED
    for i in range(len(codes)):
        out[i] = table[codes[i]] * scale


@njit(nogil=True, error_model="numpy")
def _largest(values, count):
    """Largest size; compared as bits, whose order is that of the sizes with NaN on top."""
    most = np.int32(0)
    for i in range(count):
        most = max(most, np.int32(bits_of(values[i]) & np.uint32(0x7FFFFFFF)))
    return single_of(np.uint32(most))


@njit(nogil=True, error_model="numpy")
def _reciprocal(largest):
    """1 / largest; 0 where that would be infinite, and the block counts as zeros."""
    return np.float32(1) / largest if not largest < np.float32(1e-37) else np.float32(0)


@njit(nogil=True, error_model="numpy")
def encode_signed(values, codes):
    """Writes the codes of the nearest values of a block; returns the size that was divided out."""
    largest = _largest(values, len(codes))
    scale = _reciprocal(largest)
    for i in range(len(codes)):
        y = np.float32(abs(values[i]) * scale)
        a, b, top = np.float32(0), np.float32(0), np.float32(0)
        for line in _SIGNED_LINES:
            inside = y >= np.float32(line[0])
            a = np.float32(line[1]) if inside else a
            b = np.float32(line[2]) if inside else b
            top = np.float32(line[3]) if inside else top
        rank = np.int32(min(np.float32(a * y + b), top))
        below = 127 - min(rank, np.int32(127))
        codes[i] = np.uint8(below if values[i] < 0 else 127 + rank)
    return largest


@njit(nogil=True, error_model="numpy")
def encode_unsigned(values, codes):
    """The same for numbers that are not negative; only zero gets the code 0."""
    largest = _largest(values, len(codes))
    scale = _reciprocal(largest)
    for i in range(len(codes)):
        y = np.float32(values[i] * scale)
        a, b, top = np.float32(0), np.float32(0), np.float32(0)
        for line in _UNSIGNED_LINES:
            inside = y >= np.float32(line[0])
            a = np.float32(line[1]) if inside else a
            b = np.float32(line[2]) if inside else b
            top = np.float32(line[3]) if inside else top
        rank = np.int32(min(np.float32(a * y + b), top))
        codes[i] = np.uint8(max(rank, np.int32(y > np.float32(0))))
    return largest
