"""The three products of a linear layer, on the kernels of `_cpu_tiles`.

Shapes: N tokens, K inputs, F outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.language.ops.product._cpu_tiles import COLUMNS, multiply, pack_transposed

__all__ = ["inputs_gradient", "outputs", "weights_gradient"]

_TALL = 256
_BLOCK = 1 << 17
"""Floats of a block of B that many rows use."""
_NONE = np.zeros(0, np.float32)


def _flat(x: Tensor) -> np.ndarray:
    return x.numpy().reshape(-1)


def _run(a, strides, b, panel, row, tail, c, sizes, add) -> None:
    m, n, k = sizes
    panels = -(-n // COLUMNS)
    wide = max(1, min(panels, _BLOCK // (min(k, 512) * COLUMNS)))
    units = -(-m // _TALL) * -(-panels // wide)
    threads = torch.get_num_threads() if m * n * k > 1 << 20 else 1
    share(
        multiply, units, a, *strides, b, panel, row, tail, c, n, m, n, k, add, _TALL, wide,
        threads=threads,
    )  # fmt: skip


def _tail(b: Tensor) -> np.ndarray:
    """The last panel of a row-major B, padded; empty where it is whole."""
    k, n = b.shape
    rest = n % COLUMNS
    if not rest:
        return _NONE
    out = np.zeros((k, COLUMNS), np.float32)
    out[:, :rest] = b.numpy()[:, n - rest :]
    return out.reshape(-1)


def outputs(x: Tensor, weight: Tensor) -> Tensor:
    """X W^T: (N, F) from (N, K) and (F, K), all contiguous float32."""
    (m, k), n = x.shape, weight.shape[0]
    panels = -(-n // COLUMNS)
    packed = np.empty(panels * k * COLUMNS, np.float32)
    threads = torch.get_num_threads() if n * k > 1 << 18 else 1
    share(pack_transposed, panels, _flat(weight), n, k, COLUMNS, packed, threads=threads)
    out = torch.empty(m, n)
    _run(_flat(x), (k, 1), packed, k * COLUMNS, COLUMNS, _NONE, _flat(out), (m, n, k), 0)
    return out


def inputs_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Grad W: (N, K) from (N, F) and (F, K)."""
    (m, k), n = grad.shape, weight.shape[1]
    out = torch.empty(m, n)
    _run(_flat(grad), (k, 1), _flat(weight), COLUMNS, n, _tail(weight), _flat(out), (m, n, k), 0)
    return out


def weights_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x: (F, K) from (N, F) and (N, K)."""
    (k, m), n = grad.shape, x.shape[1]
    out = torch.empty(m, n)
    _run(_flat(grad), (1, m), _flat(x), COLUMNS, n, _tail(x), _flat(out), (m, n, k), 0)
    return out
