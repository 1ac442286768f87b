r"""Derivatives in fixed point: words for histograms, and sums that no order of rows changes.

A float sum changes with the order of its terms; a sum of whole numbers does not, so it may be
shared among threads, blocks or processes. With $e$ such that $|x| \le 2^e$ for all m rows,

$$ x \approx a / u, \qquad a = \lfloor u x \rceil, \qquad
   u = 2^{62 - \lceil \log_2 (m+1) \rceil - e} $$

never overflows a 64-bit sum and errs by less than $2^{-62} m$ of the largest magnitude a row
(m = 2^20: $2^{-42}$). Sums of leaves are taken on that grid. Histograms have coarser words that
hold both derivatives, see `_histogram`; `bits` makes them as coarse as wanted: with b bits the
largest magnitude is $2^{b-1} - 1$ units, and rounding is random,
$\lfloor s x + \xi \rfloor$ with $\xi$ uniform in [0, 1), so that sums keep their expectation.

Cost: three passes over the derivatives, all vectorised, and one over the leaves.

References:
    Shi, Ke, Liu, Liu & Liu (2022), "Quantized training of gradient boosting decision trees",
    NeurIPS, section 4 (bits, stochastic rounding, leaves from unrounded sums).

Shapes: m rows; g and h, first and second derivatives, float64 (m,).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from paragone.ensemble._sampling import mix
from paragone.ensemble._share import ALONE, Share
from paragone.kernels.jit import njit

__all__ = ["Grid", "Words", "in_slices", "measure", "node_sums", "note_leaves", "quantise"]

SLICE = 1 << 16
"""Rows below which a second thread is not worth its start."""


class Grid(NamedTuple):
    """The grids of g and h, the sums of |g| and h, and the largest |g| and h.

    All are of the rows of all processes: `rows`, of which `before` come before those here.
    """

    unit_g: float
    unit_h: float
    size_g: float
    size_h: float
    top_g: float
    top_h: float
    before: int
    rows: int


class Words(NamedTuple):
    """Packed derivatives.

    Attributes:
        words: int64 (m,).
        inverse_g: Value of one unit of g.
        inverse_h: Value of one unit of h.
        least: Smallest integer h of a row.
        most: Largest.
        total: Sum of the words.
    """

    words: np.ndarray
    inverse_g: float
    inverse_h: float
    least: int
    most: int
    total: int


def in_slices(work: Callable[[int, int, int], None], rows: int, threads: int) -> None:
    """Runs work(slice number, begin, end) over all rows, large ones on several threads.

    The kernels let go of the interpreter's lock, so plain threads do; each parallel region of
    Numba would cost seconds of compilation.
    """
    threads = min(threads, max(1, rows // SLICE))
    if threads == 1:
        work(0, 0, rows)
        return
    cuts = [rows * t // threads for t in range(threads + 1)]
    others = [
        threading.Thread(target=work, args=(t, cuts[t], cuts[t + 1])) for t in range(1, threads)
    ]
    for other in others:
        other.start()
    work(0, 0, cuts[1])
    for other in others:
        other.join()


def measure(
    gradient: np.ndarray, hessian: np.ndarray, threads: int = 1, share: Share = ALONE
) -> Grid:
    """Chooses the grid.

    Raises:
        ValueError: A derivative is not finite.
    """
    m = len(gradient)
    tops, whole = np.zeros((threads, 2)), np.zeros((threads, 2), np.int64)

    def largest(t: int, begin: int, end: int) -> None:
        tops[t] = _largest(gradient[begin:end], hessian[begin:end])

    in_slices(largest, m, threads)
    before, rows, tops = share.span(m, tops.max(axis=0))
    top_g, top_h = (float(top) for top in tops)
    if not (math.isfinite(top_g) and math.isfinite(top_h)):
        raise ValueError("a gradient or hessian is not finite: check the targets and the objective")
    room = 62 - rows.bit_length()
    # An exponent below -960 would ask for a unit beyond the range of floats.
    unit_g, unit_h = (math.ldexp(1.0, room - max(math.frexp(t)[1], -960)) for t in (top_g, top_h))

    def sizes(t: int, begin: int, end: int) -> None:
        whole[t] = _magnitudes(gradient[begin:end], hessian[begin:end], unit_g, unit_h)

    in_slices(sizes, m, threads)
    size_g, size_h = share.add(whole.sum(axis=0)) / np.array([unit_g, unit_h])
    if not (math.isfinite(size_g) and math.isfinite(size_h)):
        raise ValueError("the sum of the derivatives is not finite: scale the targets down")
    return Grid(unit_g, unit_h, float(size_g), float(size_h), top_g, top_h, before, rows)


def _scale(size: float, top: float, bits: int) -> float:
    """Returns the power of two that brings the sum of magnitudes below 2^30, the top into bits."""
    if not size > 0.0:
        return 1.0
    exponent = 30 - math.frexp(size)[1]
    if bits:
        exponent = min(exponent, bits - 1 - math.frexp(top)[1])
    return math.ldexp(1.0, min(exponent, 1000))


def quantise(
    gradient: np.ndarray,
    hessian: np.ndarray,
    grid: Grid,
    bits: int = 0,
    seed: int = 0,
    threads: int = 1,
    share: Share = ALONE,
    words: np.ndarray | None = None,
) -> Words:
    """Packs the derivatives.

    Args:
        gradient: float64 (m,).
        hessian: float64 (m,).
        grid: As measured.
        bits: Bits of a row's gradient with its sign, rounded at random; 0 for as many as fit.
        seed: Decides the random rounding.
        threads: Threads for many rows.
        share: The processes that hold the other rows.
        words: int64 (m,) to be filled; None for a new array.
    """
    scale_g = _scale(grid.size_g, grid.top_g, bits)
    # h has no sign, so it may have as many bits, all for its size.
    scale_h = _scale(grid.size_h, grid.top_h, bits + 1 if bits else 0)
    words = np.empty(len(gradient), np.int64) if words is None else words
    found = np.zeros((threads, 3), np.int64)
    found[:, 0] = np.iinfo(np.int64).max

    def pack(t: int, begin: int, end: int) -> None:
        own = (gradient[begin:end], hessian[begin:end], scale_g, scale_h, words[begin:end])
        if bits:
            found[t] = _pack_at_random(*own, grid.before + begin, np.uint64(seed))
        else:
            found[t] = _pack(*own)

    in_slices(pack, len(words), threads)
    # Integers below 2^53, so floats hold them.
    ends = np.array([-min(found[:, 0].min(), 1 << 31), found[:, 1].max()], np.float64)
    _, total, ends = share.span(int(found[:, 2].sum()), ends)
    return Words(words, 1.0 / scale_g, 1.0 / scale_h, -int(ends[0]), int(ends[1]), total)


def note_leaves(nodes: np.ndarray, index: np.ndarray, leaf: np.ndarray, threads: int = 1) -> None:
    """Writes the leaf of each row of `index` to `leaf`."""

    def note(t: int, begin: int, end: int) -> None:
        _note(nodes["begin"], nodes["end"], nodes["left"], index, begin, end, leaf)

    in_slices(note, len(index), threads)


def node_sums(
    leaf: np.ndarray,
    gradient: np.ndarray,
    hessian: np.ndarray,
    left: np.ndarray,
    grid: Grid,
    threads: int = 1,
    share: Share = ALONE,
) -> np.ndarray:
    """Returns the sums of g and h of every node, float64 (nodes, 2).

    Args:
        leaf: int32 (m,), leaf of each row.
        gradient: float64 (m,).
        hessian: float64 (m,).
        left: Left child of each node, 0 for a leaf; children stand behind their parent.
        grid: As measured.
        threads: Threads for many rows.
        share: The processes that hold the other rows.
    """
    parts = np.zeros((threads, len(left), 2), np.int64)

    def add(t: int, begin: int, end: int) -> None:
        _sum_leaves(
            leaf[begin:end], gradient[begin:end], hessian[begin:end], grid.unit_g, grid.unit_h,
            parts[t],
        )  # fmt: skip

    in_slices(add, len(leaf), threads)
    whole = share.add(parts.sum(axis=0) if threads > 1 else parts[0])
    _add_children(left, whole)
    return whole / np.array([grid.unit_g, grid.unit_h])


@njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _tops(gradient, hessian):
    top_g, top_h = 0.0, 0.0
    for k in range(np.uint64(len(gradient))):
        top_g, top_h = max(top_g, abs(gradient[k])), max(top_h, hessian[k])
    return top_g, top_h


@njit(nogil=True, error_model="numpy")
def _largest(gradient, hessian):
    odd = np.int64(0)
    for k in range(np.uint64(len(gradient))):
        fine = (abs(gradient[k]) < np.inf) & (hessian[k] < np.inf)
        odd += np.int64(0) if fine else np.int64(1)
    return _tops(gradient, hessian) if odd == 0 else (np.inf, np.inf)


@njit(nogil=True, error_model="numpy")
def _magnitudes(gradient, hessian, unit_g, unit_h):
    total_g, total_h = np.int64(0), np.int64(0)
    for k in range(np.uint64(len(gradient))):
        total_g += np.int64(np.rint(abs(gradient[k]) * unit_g))
        total_h += np.int64(np.rint(hessian[k] * unit_h))
    return total_g, total_h


@njit(nogil=True, error_model="numpy")
def _pack(gradient, hessian, scale_g, scale_h, words):
    least, most, total = np.int64(1 << 62), np.int64(-1), np.int64(0)
    for k in range(np.uint64(len(words))):
        h = np.int64(np.rint(hessian[k] * scale_h))
        word = (np.int64(np.rint(gradient[k] * scale_g)) << np.int64(32)) + h
        words[k] = word
        total += word
        least, most = min(least, h), max(most, h)
    return least, most, total


@njit(nogil=True, error_model="numpy")
def _pack_at_random(gradient, hessian, scale_g, scale_h, words, first, seed):
    least, most, total = np.int64(1 << 62), np.int64(-1), np.int64(0)
    for k in range(np.uint64(len(words))):
        # One draw gives both halves: it depends on the row's place alone, not on a thread.
        drawn = mix(seed + np.uint64(first) + k)
        low = np.float64(drawn & np.uint64(0xFFFFFFFF)) * 2.0**-32
        high = np.float64(drawn >> np.uint64(32)) * 2.0**-32
        h = np.int64(np.floor(hessian[k] * scale_h + low))
        word = (np.int64(np.floor(gradient[k] * scale_g + high)) << np.int64(32)) + h
        words[k] = word
        total += word
        least, most = min(least, h), max(most, h)
    return least, most, total


@njit(nogil=True, error_model="numpy")
def _note(begins, ends, lefts, index, begin, end, leaf):
    for k in range(len(begins)):
        if lefts[k] == 0:
            for i in range(
                np.uint64(max(begin, begins[k])), np.uint64(max(begin, min(end, ends[k])))
            ):
                leaf[np.uint64(index[i])] = k


@njit(nogil=True, error_model="numpy")
def _sum_leaves(leaf, gradient, hessian, unit_g, unit_h, whole):
    for i in range(np.uint64(len(leaf))):
        k = np.uint64(leaf[i])
        whole[k, np.uint64(0)] += np.int64(np.rint(gradient[i] * unit_g))
        whole[k, np.uint64(1)] += np.int64(np.rint(hessian[i] * unit_h))


@njit(nogil=True, error_model="numpy")
def _add_children(left, whole):
    for k in range(len(left) - 1, -1, -1):
        if left[k] > 0:
            whole[k, 0] = whole[left[k], 0] + whole[left[k] + 1, 0]
            whole[k, 1] = whole[left[k], 1] + whole[left[k] + 1, 1]
