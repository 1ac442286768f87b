r"""Running moments: mean, variance, skewness, kurtosis and covariance of what came so far.

A sum of squares cancels where the mean is large, and one recursion a number is slow. Here each
block of 2,048 numbers is read twice, the second time out of the cache: with $c$ its mean as
rounded and $s_j = \sum_i (x_i - c)^j$, the rounding of $c$ is repaired,

$$ \mu = c + s_1/n, \qquad M_2 = s_2 - s_1^2/n , $$

and blocks, arrays, machines are joined by the pairwise formulas, with $\delta = \mu_B - \mu_A$,

$$ M_2 = M_{2,A} + M_{2,B} + \delta^2 \frac{n_A n_B}{n} $$

(and likewise for $M_3$, $M_4$ and co-moments). The mean is kept as a sum of two floats, so that
it loses nothing on the way.

Cost: O(1) memory; about one nanosecond a number in a large array.

References:
    Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", eq. 1.7, 2.1.
    Pébay (2008), "Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments", Sandia SAND2008-6212, eq. 2.1, 3.1.

Shapes: n numbers, or rows of d columns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone.estimation import _moments as kernels
from paragone.estimation._joining import POLICIES, Joinable, checked_policy
from paragone.estimation._stream import Progress, pieces, rows_of, writable

__all__ = ["RunningMean", "rolling"]

_HEAD = struct.Struct("<4sBBIqq")
_MARK = b"pgm1"
_PENDING = 256
_ROWS = 4096


class RunningMean(Joinable):
    r"""Count, mean, variance, skewness, kurtosis, least and greatest of a stream.

    Prefer it to NumPy's `mean` and `var` when data come in pieces, and to `river.stats` wherever
    arrays are at hand: all moments together cost what reading costs, and parts of a stream that
    were read elsewhere are joined exactly by `+`.

    Args:
        columns: Number d of columns: rows (n, d) are expected and `covariance` is kept. None:
            a stream of numbers.
        nan_policy: "raise"; "omit" leaves NaN out and counts them in `missing` (with columns:
            the whole row); "propagate" makes every moment NaN.

    Example:
        >>> stream = RunningMean().update([1.0, 2.0, 3.0]) + RunningMean().update([4.0])
        >>> stream.count, stream.mean, round(stream.variance, 4)
        (4, 2.5, 1.6667)
    """

    def __init__(self, columns: int | None = None, *, nan_policy: str = "raise") -> None:
        if columns is not None and (columns != int(columns) or columns < 1):
            raise ValueError(f"columns={columns} is no number of columns: use 1 or more, or None")
        self.columns = None if columns is None else int(columns)
        self.nan_policy = checked_policy(nan_policy)
        self._count, self._missing = 0, 0
        self._states = kernels.empty(self.columns or 1)
        self._products = None if columns is None else np.zeros((int(columns), int(columns)))
        self._waiting: list[float] = []

    def update(self, values: Any, weights: Any = None) -> RunningMean:
        """Takes an array in: (n,) or any shape without columns, (n, d) or one row (d,) with.

        Args:
            values: Numbers; nothing is taken in if one is refused.
            weights: One for each number or row, at least 0; a weight of 2 is the number given
                twice, a weight of 0 is the number left out.

        Raises:
            ValueError: NaN under nan_policy="raise", a wrong shape, or a weight that is none.
        """
        self._flush()
        values = np.asarray(values, np.float64)
        values = self._rows(values) if self.columns else values.reshape(-1)
        if weights is not None:
            weights = _checked_weights(weights, len(values))
        part = RunningMean(self.columns, nan_policy=self.nan_policy)
        if self.columns:
            part._take_rows(values, weights)
        else:
            part._take(np.ascontiguousarray(values), weights)
        return self.merge(part)

    def update_one(self, value: float) -> None:
        """Takes one number in; quicker than `update` with an array of one."""
        if self.columns:
            self.update(value)
            return
        value = float(value)
        if value != value and self.nan_policy == "raise":
            raise ValueError(_nan_words(1))
        self._waiting.append(value)
        if len(self._waiting) >= _PENDING:
            self._flush()

    def read(
        self, source: Any, columns: Any = None, *, progress: bool | Callable[..., Any] = False
    ) -> RunningMean:
        """Takes a whole stream in: a file larger than memory, or an iterator.

        Args:
            source: Path of an NPY, CSV, TSV or Parquet file, or an iterable of arrays or numbers.
            columns: Names of a table's columns: d of them, or one for a stream of numbers.
            progress: True for lines on stderr, or a function of (rows done, rows in all or
                None). What was read before an interrupt stays counted.

        Raises:
            ValueError: The file, a column or a cell cannot be used.
        """
        names = [columns] if isinstance(columns, str) else columns
        tell = Progress(progress, "mean", rows_of(source))
        for piece in pieces(source, names):
            self.update(piece)
            tell(len(piece))
        return self

    def _take(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        state = self._states[0]
        if weights is None:
            missing = sum(kernels.update(state, piece) for piece in writable(values))
            seen = len(values)
        else:
            missing = kernels.update_weighted(state, values.copy(), weights)
            seen = int(np.count_nonzero(weights))
        self._note_missing(missing, seen)

    def _note_missing(self, missing: int, seen: int) -> None:
        if missing and self.nan_policy == "raise":
            raise ValueError(_nan_words(missing))
        if missing and self.nan_policy == "propagate":
            self._states[:, 1:] = np.nan
            if self._products is not None:
                self._products[:] = np.nan
            self._states[:, 0] += missing
            missing = 0
        self._count += seen - missing
        self._missing += missing

    def _rows(self, values: np.ndarray) -> np.ndarray:
        rows = values[None] if values.ndim == 1 else values
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise ValueError(
                f"values of shape {values.shape} are no rows of {self.columns} columns: "
                f"give (n, {self.columns})"
            )
        return rows

    def _take_rows(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        absent = np.isnan(rows).any(axis=1)
        if weights is not None:
            absent &= weights > 0
        missing = int(absent.sum())
        if missing:
            rows = rows[~absent]
            weights = None if weights is None else weights[~absent]
        seen = len(rows) if weights is None else int(np.count_nonzero(weights))
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS]
            factor = None if weights is None else weights[start : start + _ROWS]
            self._join(*_block_of_rows(block, factor))
        self._note_missing(missing, seen + missing)

    def _join(self, states: np.ndarray, products: np.ndarray | None) -> None:
        mine, theirs = self._states[0, 0], states[0, 0]
        if products is not None and self._products is not None and theirs > 0:
            self._products += products
            if mine > 0:
                gap = (states[:, 1] - self._states[:, 1]) + (states[:, 2] - self._states[:, 2])
                self._products += np.outer(gap, gap) * (mine * (theirs / (mine + theirs)))
        for own, other in zip(self._states, states, strict=True):
            kernels.merge(own, other)

    def merge(self, other: RunningMean) -> RunningMean:
        """Takes in what another one has seen; the other stays as it is.

        Raises:
            ValueError: The other one has other columns.
        """
        if other.columns != self.columns:
            raise ValueError(
                f"columns={other.columns} cannot join columns={self.columns}: "
                "merge streams of the same columns"
            )
        self._flush()
        other._flush()
        self._join(other._states, other._products)
        self._count += other._count
        self._missing += other._missing
        return self

    @property
    def count(self) -> int:
        """Numbers (rows) that were taken in with a weight above 0."""
        return self._count + len(self._waiting)

    @property
    def missing(self) -> int:
        """NaN (rows with NaN) that were left out under nan_policy="omit"."""
        self._flush()
        return self._missing

    @property
    def total_weight(self) -> float:
        """Sum of the weights, the count without weights."""
        self._flush()
        return float(self._states[0, kernels.W])

    def _column(self, index: int) -> Any:
        self._flush()
        values = self._states[:, index]
        return values.copy() if self.columns else float(values[0])

    @property
    def mean(self) -> Any:
        """Mean, NaN of nothing; (d,) with columns."""
        high, low = self._column(kernels.HI), self._column(kernels.LO)
        return high + low if self._count else high * np.nan

    @property
    def variance(self) -> Any:
        """Sample variance, with the divisor (total weight - 1); NaN below two."""
        return self.var()

    @property
    def std(self) -> Any:
        """Square root of `variance`."""
        return np.sqrt(self.variance)

    def var(self, ddof: float = 1.0) -> Any:
        """Variance with the divisor (total weight - ddof); NaN where that is not above 0."""
        rest = self.total_weight - ddof
        return self._column(kernels.M2) * (1.0 / rest if rest > 0 else np.nan)

    @property
    def standard_error(self) -> Any:
        """Standard error of the mean of independent numbers."""
        return np.sqrt(self.variance / self.total_weight)

    @property
    def skewness(self) -> Any:
        """Third standardised moment $g_1$, as `scipy.stats.skew`; NaN of a constant."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.asarray(self._column(kernels.M2)) / self.total_weight
            found = np.asarray(self._column(kernels.M3)) / self.total_weight / spread**1.5
        return found if self.columns else float(found)

    @property
    def kurtosis(self) -> Any:
        """Fourth standardised moment less 3, $g_2$, as `scipy.stats.kurtosis`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.asarray(self._column(kernels.M2)) / self.total_weight
            found = np.asarray(self._column(kernels.M4)) / self.total_weight / spread**2 - 3.0
        return found if self.columns else float(found)

    @property
    def min(self) -> Any:
        """Least number; inf of nothing."""
        return self._column(kernels.LEAST)

    @property
    def max(self) -> Any:
        """Greatest number; -inf of nothing."""
        return self._column(kernels.MOST)

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance (d, d) of the columns.

        Raises:
            ValueError: The stream has no columns.
        """
        if self._products is None:
            raise ValueError("a stream of numbers has no covariance: make RunningMean(columns=d)")
        rest = self.total_weight - 1.0
        return self._products * (1.0 / rest if rest > 0 else np.nan)

    def to_bytes(self) -> bytes:
        """The state: 90 bytes for a stream of numbers; little-endian on every machine."""
        self._flush()
        head = _HEAD.pack(
            _MARK, POLICIES.index(self.nan_policy), self.columns is not None, self.columns or 1,
            self._count, self._missing,
        )  # fmt: skip
        tail = b"" if self._products is None else self._products.astype("<f8").tobytes()
        return head + self._states.astype("<f8").tobytes() + tail

    @classmethod
    def from_bytes(cls, state: bytes) -> RunningMean:
        """The stream whose state `to_bytes` gave.

        Raises:
            ValueError: The bytes are no such state, or are cut short.
        """
        if len(state) < _HEAD.size or state[:4] != _MARK:
            raise ValueError("these bytes are no RunningMean: give what to_bytes returned")
        _, policy, wide, columns, count, missing = _HEAD.unpack_from(state)
        size = _HEAD.size + 8 * columns * (8 + (columns if wide else 0))
        if len(state) != size:
            raise ValueError(f"{len(state)} bytes where {size} are needed: the state is cut short")
        stream = cls(columns if wide else None, nan_policy=POLICIES[policy])
        numbers = np.frombuffer(state, "<f8", offset=_HEAD.size).astype(np.float64)
        stream._states = numbers[: 8 * columns].reshape(columns, 8)
        if wide:
            stream._products = numbers[8 * columns :].reshape(columns, columns)
        stream._count, stream._missing = count, missing
        return stream

    def __repr__(self) -> str:
        kind = f"{self.columns} columns, " if self.columns else ""
        return f"RunningMean({kind}{self.count} seen, mean {self.mean}, variance {self.variance})"


def _nan_words(count: int) -> str:
    return f'{count} NaN among the numbers: clean them, or use nan_policy="omit" or "propagate"'


def _checked_weights(weights: Any, n: int) -> np.ndarray:
    weights = np.array(weights, np.float64).reshape(-1)
    if len(weights) != n:
        raise ValueError(f"{len(weights)} weights for {n} numbers: give one for each")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))][0]
        raise ValueError(f"a weight is {wrong}: use finite weights of at least 0")
    return weights


def _block_of_rows(rows: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """States (d, 8) and central products (d, d) of a block of rows without NaN."""
    states = kernels.empty(rows.shape[1])
    for state, column in zip(states, rows.T, strict=True):
        values = np.array(column)
        if weights is None:
            kernels.update(state, values)
        else:
            kernels.update_weighted(state, values, weights)
    if states[0, 0] == 0:
        return states, np.zeros((rows.shape[1], rows.shape[1]))
    with np.errstate(invalid="ignore"):
        gaps = rows - (states[:, 1] + states[:, 2])
        scaled = gaps if weights is None else gaps * weights[:, None]
        if weights is not None:
            gaps, scaled = gaps[weights > 0], scaled[weights > 0]
        first = scaled.sum(axis=0)
        return states, scaled.T @ gaps - np.outer(first, first) / states[0, 0]


def rolling(values: Any, window: int, *, ddof: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each full window of a series, stable to the last digits.

    Nothing is ever taken out of a sum: a window is joined from the end of one segment and the
    beginning of the next. So a large number, or a NaN, spoils the windows that hold it and no
    later one, as it does in `pandas.Series.rolling`; the cost does not depend on the window.

    Args:
        values: Series (n,).
        window: Length of the window, 1 to n.
        ddof: The divisor of the variance is (window - ddof).

    Returns:
        (means, variances), each (n - window + 1,).

    Raises:
        ValueError: The window does not fit.

    Example:
        >>> rolling([1e9, 1.0, 2.0, 3.0], 2)[1].tolist()[1:]
        [0.5, 0.5]
    """
    series = np.array(values, np.float64)
    if series.ndim != 1:
        raise ValueError(f"a series of shape {series.shape}: give one dimension")
    if window != int(window) or not 1 <= window <= len(series):
        raise ValueError(f"window={window} does not fit {len(series)} numbers: use 1 to n")
    means, squares = np.zeros(len(series) - window + 1), np.zeros(len(series) - window + 1)
    kernels.rolling(series, int(window), means, squares)
    return means, squares * (1.0 / (window - ddof) if window > ddof else np.nan)
