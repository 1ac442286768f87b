"""Rows for `sgd`: what they are, in which order they come, and by pieces if they are many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paragone.estimation import _stream as stream

__all__ = ["Rows"]

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
_PAIRED = ("linear", "logistic", "quantile", "huber")


class Rows:
    """Pieces (rows (m, d), targets (m,), order (m,)) of one pass after another.

    Args:
        data: As `sgd` takes it.
        loss: Name of the loss; those of rows (x, y) get their targets apart.
        target: Name of a table's target column.
        order: "shuffle", "sequential", "pieces" or None.
        replacement: Draw rows independently.
        passes: How often the data will be read.
        generator: Of orders and draws.
    """

    def __init__(
        self, data: Any, loss: str, *, target: str | None, order: str | None, replacement: bool,
        passes: int, generator: np.random.Generator,
    ) -> None:  # fmt: skip
        self.loss, self.generator, self.replacement = loss, generator, replacement
        self.source, self.target = data, target
        self.columns: list[str] | None = None
        mapped = isinstance(data, str | Path) and Path(data).suffix == ".npy"
        if isinstance(data, tuple) and len(data) == 2 and loss in _PAIRED:
            self.source = _paired(*data)
        elif isinstance(data, list | tuple) or hasattr(data, "__array__"):
            self.source = np.asarray(data, np.float64)
        elif mapped:
            self.source = np.load(Path(data), mmap_mode="r")
        elif isinstance(data, str | Path):
            self.columns = self._named(stream.columns_of(data) or [])
        reach = isinstance(self.source, np.ndarray)
        if reach and not self.source.size:
            raise ValueError("data has no rows: give at least one")
        if target is not None and self.columns is None:
            raise ValueError(f"target={target!r} names a column of a CSV or Parquet file only")
        self.order = order or ("shuffle" if reach else "sequential")
        if self.order not in ("shuffle", "sequential", "pieces"):
            raise ValueError(f"order={order!r} is none of 'shuffle', 'sequential', 'pieces'")
        if not reach and (self.order == "shuffle" or replacement):
            raise ValueError(
                "rows of a stream, CSV or Parquet file cannot be reached at will: use "
                "order='sequential' or 'pieces' and replacement=False, or an array or NPY file"
            )
        if passes > 1 and not reach and not isinstance(data, str | Path):
            raise ValueError(f"a stream can be read once, not epochs={passes} times: use epochs=1")
        if replacement:
            self.order = "with replacement"
        self.total = len(self.source) if reach else stream.rows_of(data)

    def _named(self, names: list[str]) -> list[str]:
        """Columns with the target last."""
        target = self.target or (names[-1] if names else "")
        if target not in names:
            raise ValueError(f"there is no column {target!r} among {', '.join(names)}")
        if self.loss == "mean":
            return names if self.target is None else [target]
        return [name for name in names if name != target] + [target]

    def one_pass(self) -> Iterator[Piece]:
        if not isinstance(self.source, np.ndarray):
            for piece in stream.pieces(self.source, self.columns):
                order = np.arange(len(piece))
                if self.order == "pieces":
                    order = self.generator.permutation(len(piece))
                yield self._split(piece, order)
            return
        n = len(self.source)
        order = self._order(n)
        small = not isinstance(self.source, np.memmap)
        if small:
            rows, y, _ = self._split(self.source, order[:0])
            for start in range(0, n, stream.CHUNK):
                yield rows, y, order[start : start + stream.CHUNK]
            return
        for start in range(0, n, stream.CHUNK):
            some = order[start : start + stream.CHUNK]
            yield self._split(np.asarray(self.source[some], np.float64), np.arange(len(some)))

    def _order(self, n: int) -> np.ndarray:
        if self.replacement:
            return self.generator.integers(0, n, n)
        if self.order == "shuffle":
            return self.generator.permutation(n)
        if self.order == "pieces":
            parts = range(0, n, stream.CHUNK)
            shuffled = [
                start + self.generator.permutation(min(stream.CHUNK, n - start)) for start in parts
            ]
            return np.concatenate(shuffled) if shuffled else np.zeros(0, np.int64)
        return np.arange(n)

    def _split(self, piece: np.ndarray, order: np.ndarray) -> Piece:
        table = piece.reshape(len(piece), -1)
        if self.loss in _PAIRED:
            y = np.ascontiguousarray(table[:, -1], np.float64)
            x = table[:, :-1] if table.shape[1] > 1 else np.ones((len(table), 1))
            if self.loss == "logistic" and not ((y == 0) | (y == 1)).all():
                wrong = y[(y != 0) & (y != 1)][0]
                raise ValueError(f"y is {wrong} for logistic loss: use 0 and 1")
        else:
            x, y = table, np.zeros(len(table))
        # Kernels know arrays that may be written to only.
        x = np.require(x, np.float64, ["C", "W"])
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("data holds NaN or infinite numbers: clean the rows before")
        return x, y, order


def _paired(x: Any, y: Any) -> np.ndarray:
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64).reshape(-1)
    left = left.reshape(len(left), -1)
    if len(left) != len(right):
        raise ValueError(f"{len(left)} rows of x for {len(right)} of y: give one y for each")
    return np.column_stack([left, right])
