"""Panels: the order in which the weights of a product lie, and how many rows go together.

Shapes: R outputs, K inputs.
"""

from __future__ import annotations

import numpy as np

from paragone.language.ops.decoding._cpu_panels import BLOCKS, PANEL, STREAMED, UNROLL

__all__ = ["block_of", "padded", "paneled", "side_by_side"]


def padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Adds rows of zeros up to a multiple.

    Args:
        rows: (R, …).
        multiple: Of the rows of the result.
    """
    more = -len(rows) % multiple
    return np.concatenate([rows, np.zeros((more, *rows.shape[1:]), rows.dtype)]) if more else rows


def paneled(weights: np.ndarray) -> np.ndarray:
    """(R, K) weights to (R / PANEL, K, PANEL), both padded with zeros.

    Args:
        weights: Of any dtype.
    """
    rows = padded(padded(weights, PANEL).T, UNROLL).T
    return rows.reshape(-1, PANEL, rows.shape[1]).swapaxes(1, 2)


def block_of(rows: int, streamed: bool) -> int:
    """How many rows share a reading of a panel.

    Args:
        rows: Rows there are.
        streamed: Whether floats come from far: then three rows cost as much as nine.
    """
    sizes = STREAMED if streamed else BLOCKS
    fitting = [b for b in sizes if b >= rows]
    large = [b for b in reversed(sizes) if b >= sizes[-1] / 2]
    return fitting[0] if fitting else min(large, key=lambda b: -(-rows // b) * b)


def side_by_side(x: np.ndarray, block: int) -> np.ndarray:
    """(n, K) rows to (n / block, K, block), both padded with zeros.

    Args:
        x: float32.
        block: Rows that lie side by side.
    """
    count, inputs = x.shape
    found = np.zeros((-(-count // block), inputs + -inputs % UNROLL, block), np.float32)
    whole = count // block
    found[:whole, :inputs] = x[: whole * block].reshape(whole, block, inputs).swapaxes(1, 2)
    if whole < len(found):
        found[whole, :inputs, : count - whole * block] = x[whole * block :].T
    return found
