r"""Squared-ReLU attention on the CPU: tiles of scores that never leave the cache.

A unit is a block of 96 queries. For each block of keys that it sees, the scores are a product of
register tiles, are squared where positive, and are multiplied into the outputs at once. Keys come
as panels (S / C, D, C) and values as (E / C, S, C) with C = `TILE_COLUMNS`, both filled up with
zeros, which a squared ReLU leaves zeros.

Shapes: B rows, T queries, S keys, D key width, E value width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paragone.kernels.atomics import fetch_add
from paragone.kernels.jit import njit
from paragone.kernels.teams import share
from paragone.kernels.tiles import TILE_COLUMNS, TILE_ROWS, tile

__all__ = ["backward", "forward"]

_product = tile(TILE_ROWS)
_ROWS, _KEYS = 16 * TILE_ROWS, 2 * TILE_COLUMNS
_BLOCK = 256


@njit(nogil=True, error_model="numpy")
def _square(p, rows, keys, first, causal):
    """Squares what is positive; behind the diagonal, `first` keys from row 0 on, all is zero."""
    for r in range(rows):
        at = r * _KEYS
        for j in range(keys):
            x = max(p[at + j], np.float32(0))
            p[at + j] = x * x
        if causal:
            for j in range(max(first + r, 0), keys):
                p[at + j] = np.float32(0)


@njit(nogil=True, error_model="numpy")
def _forward(counter, units, q, panels_k, panels_v, out, queries, keys, depth, width, causal):
    blocks = -(-queries // _ROWS)
    p = np.empty(_ROWS * _KEYS, np.float32)
    unit = fetch_add(counter, 0, 1)
    while unit < units:
        row = unit // blocks
        start = (blocks - 1 - unit % blocks) * _ROWS
        rows = min(_ROWS, queries - start)
        seen = min(keys, start + rows) if causal else keys
        for key in range(0, seen, _KEYS):
            count = min(_KEYS, -(-(seen - key) // TILE_COLUMNS) * TILE_COLUMNS)
            for panel in range(0, count, TILE_COLUMNS):
                place = (row * keys + key + panel) * depth
                for r in range(0, rows, TILE_ROWS):
                    _product(
                        q, (row * queries + start + r) * depth, depth, 1,
                        panels_k, place, TILE_COLUMNS, p, r * _KEYS + panel, _KEYS, depth, 0,
                    )  # fmt: skip
            _square(p, rows, count, start - key + 1, causal)
            for column in range(0, width, TILE_COLUMNS):
                place = (row * width + column) * keys + key * TILE_COLUMNS
                for r in range(0, rows, TILE_ROWS):
                    _product(
                        p, r * _KEYS, _KEYS, 1, panels_v, place, TILE_COLUMNS,
                        out, (row * queries + start + r) * width + column, width, count,
                        1 if key > 0 else 0,
                    )  # fmt: skip
        unit = fetch_add(counter, 0, 1)


def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Returns (B, T, E) for float32 q (B, T, D), k (B, S, D) and v (B, S, E)."""
    rows, time, depth = q.shape
    size = TILE_COLUMNS
    more = -k.shape[1] % size
    keys, width = k.shape[1] + more, v.shape[2] + -v.shape[2] % size
    q = functional.pad(q, (0, 0, 0, -time % TILE_ROWS)).contiguous()
    k = functional.pad(k, (0, 0, 0, more)).unflatten(1, (-1, size)).mT.contiguous()
    values = v.shape[2]
    v = functional.pad(v, (0, width - values, 0, more))
    panels = v.unflatten(2, (-1, size)).transpose(1, 2).contiguous()
    out = q.new_empty(rows, q.shape[1], width)
    if not keys or not out.numel():
        return q.new_zeros(rows, time, values)
    work = rows * time * keys * (depth + width)
    share(
        _forward, rows * -(-q.shape[1] // _ROWS), q.numpy(), k.numpy(), panels.numpy(),
        out.numpy(), q.shape[1], keys, depth, width, causal,
        threads=torch.get_num_threads() if work > 2**22 else 1,
    )  # fmt: skip
    out = out[:, :time, :values]
    return out.contiguous()


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k and v.

    Weights are computed again for 256 queries at a time; five products of that size keep the
    matrix library as busy as tiles of our own would.
    """
    grad_q, grad_k, grad_v = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
    for start in range(0, q.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        seen = slice(0, min(start + _BLOCK, k.shape[1]) if causal else k.shape[1])
        scores = torch.bmm(q[:, part], k[:, seen].mT).relu_()
        if causal:
            scores[:, :, start:] = scores[:, :, start:].tril()
        slope = torch.bmm(grad[:, part], v[:, seen].mT).mul_(scores).mul_(2)
        grad_q[:, part] = torch.bmm(slope, k[:, seen])
        grad_k[:, seen].baddbmm_(slope.mT, q[:, part])
        grad_v[:, seen].baddbmm_(scores.square_().mT, grad[:, part])
    return grad_q, grad_k, grad_v
