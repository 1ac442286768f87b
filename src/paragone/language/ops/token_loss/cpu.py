"""The head's loss on a CPU in float32, chunk by chunk, on the kernels of `_cpu_kernels`.

Shapes: R rows that have a label, C of a chunk, M width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from paragone.kernels.teams import share
from paragone.language.ops.memory import floats
from paragone.language.ops.token_loss._cpu_kernels import (
    GROUP,
    head_logits,
    head_rows,
    head_weights,
    unpack_weights,
)
from paragone.language.ops.token_loss._cpu_tiles import COLUMNS, ROWS, pack_transposed

__all__ = ["Head"]

_CHUNK = 1 << 24
"""Logits of a chunk: 64 MB."""


class Head:
    """The head of one call: its packed weight, and its gradient as it grows.

    Args:
        weight: (V, M) contiguous float32.
        wants_hidden: Whether gradients of the rows will be asked for.
        wants_weight: Whether the gradient of the weight will.
    """

    def __init__(self, weight: Tensor, wants_hidden: bool, wants_weight: bool) -> None:
        self.weight = weight
        self.vocabulary, self.width = weight.shape
        self.groups = -(-self.vocabulary // GROUP)
        self.threads = torch.get_num_threads()
        self.packed = np.empty(self.groups * self.width * GROUP, np.float32)
        share(
            pack_transposed, self.groups, floats(weight).reshape(-1), self.vocabulary, self.width,
            GROUP, self.packed, threads=self.threads,
        )  # fmt: skip
        self.wants_hidden = wants_hidden
        self.tall = -(-self.width // ROWS) * ROWS
        self.grown = None
        if wants_weight:
            self.grown = np.zeros(self.groups * self.tall * GROUP, np.float32)
        self.rows_of_weight = floats(weight)
        if wants_hidden and self.width % COLUMNS:
            self.rows_of_weight = _wider(self.rows_of_weight, -(-self.width // COLUMNS) * COLUMNS)
        self.logits = np.zeros(0, np.float32)

    def chunk(self, rows: int) -> int:
        """Rows of a chunk, of so many in all; a multiple of what a tile has."""
        most = max(ROWS, _CHUNK // (self.groups * GROUP) // ROWS * ROWS)
        parts = max(1, -(-rows // most))
        return -(-rows // (parts * ROWS)) * ROWS

    def scores(self, h: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Logits of the labels, and logarithms of the rows' sums, (C,) each.

        Args:
            h: (C, M).
            labels: (C,) all of them tokens.
        """
        have = len(h)
        self.rows = rows = -(-have // ROWS) * ROWS
        self.h = np.zeros((rows, self.width), np.float32)
        self.h[:have] = h.numpy()
        size = self.groups * rows * GROUP
        if len(self.logits) < size:
            self.logits = np.empty(size, np.float32)
        tops = np.empty(self.groups * rows, np.float32)
        sums = np.empty_like(tops)
        share(
            head_logits, self.groups, self.h.reshape(-1), self.packed, self.logits, tops, sums,
            rows, self.width, self.vocabulary, threads=self.threads,
        )  # fmt: skip
        tops, sums = tops.reshape(self.groups, rows), sums.reshape(self.groups, rows)
        top = tops.max(0)
        lse = top + np.log((sums * np.exp(tops - top)).sum(0, dtype=np.float64)).astype(np.float32)
        y = labels.numpy()
        found = self.logits[(y // GROUP * rows + np.arange(have)) * GROUP + y % GROUP]
        self.lse = lse
        return found, lse[:have]

    def gradients(self, scale: Tensor) -> Tensor | None:
        """Adds the rows' share s p to the gradient of the weight, and returns s p W, (C, M).

        Args:
            scale: (C,) s of each row; the caller subtracts what belongs to the label.
        """
        have, rows = len(scale), self.rows
        factor = np.zeros(rows, np.float32)
        factor[:have] = scale.numpy()
        turned = np.zeros(self.tall * rows, np.float32)
        grown = np.zeros(0, np.float32)
        if self.grown is not None:
            grown = self.grown
            turned = _tiles(self.h, self.tall)
        share(
            head_weights, self.groups, turned, self.lse, factor, self.logits, grown, rows,
            self.width, self.grown is not None, threads=self.threads,
        )  # fmt: skip
        if not self.wants_hidden:
            return None
        wide = self.rows_of_weight.shape[1]
        out = np.empty((rows, wide), np.float32)
        tall = -(-rows // (self.threads * ROWS)) * ROWS
        share(
            head_rows, -(-rows // tall), self.logits, self.rows_of_weight.reshape(-1),
            out.reshape(-1), rows, wide, self.vocabulary, tall, threads=self.threads,
        )  # fmt: skip
        return torch.from_numpy(out[:have, : self.width])

    def weight_gradient(self) -> Tensor:
        """(V, M) what `gradients` has added up."""
        assert self.grown is not None
        out = torch.empty(self.vocabulary, self.width)
        share(
            unpack_weights, self.groups, self.grown, out.numpy().reshape(-1), self.width,
            self.vocabulary, threads=self.threads,
        )  # fmt: skip
        return out


def _wider(x: np.ndarray, width: int) -> np.ndarray:
    out = np.zeros((len(x), width), np.float32)
    out[:, : x.shape[1]] = x
    return out


def _tiles(h: np.ndarray, tall: int) -> np.ndarray:
    """H^T as (M / ROWS, C, ROWS)."""
    wide = _wider(h, tall)
    return np.ascontiguousarray(wide.reshape(len(h), -1, ROWS).transpose(1, 0, 2)).reshape(-1)
