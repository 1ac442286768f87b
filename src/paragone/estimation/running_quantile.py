r"""Running quantiles: medians and tails of a stream, from a state of fixed size.

Three ways, and they promise different things:

**histogram**: numbers are counted by the leading bits of their own representation, that is by
exponent and first $m$ binary digits, which splits every octave into $2^m$ buckets. A quantile is
off by at most a factor,

$$ |\hat x_q - x_q| \le 2^{-(m+1)}\, |x_q| , $$

for any data and with nothing left to chance; joining is exact. Zeros and infinities have counters
of their own; below the least normal float (2.2e-308) the error is that of 2.2e-308.

**kll**: sorted blocks of $B$ numbers are halved, every other number kept with twice the weight,
the first or the second by a coin; two blocks of equal weight are merged and halved in turn, and
when the levels are full, the stream is sampled below them. Each halving moves a rank by at most
its weight, up or down alike, and with $n$ numbers the squared weights add up to at most $n^2/B^2$
and a sixteenth more for the sampler. By Hoeffding, for any data in any order,

$$ P\bigl( |\hat R(x) - R(x)| > \varepsilon n \bigr)
   \le 2 \exp\Bigl( -\frac{8}{17} \varepsilon^2 B^2 \Bigr) . $$

**p2**: five numbers move along with one quantile and know the neighbourhood by a parabola. The
smallest state, no promise, and it cannot be joined.

Errors of value (histogram) and of rank (kll) are not comparable: between two far clusters the
ranks of KLL are right and its median may be anywhere, that of the histogram is in place.

Cost: about 1.3 ns a number (histogram), 10 ns falling to 1 with the length (kll), 13 ns (p2).

References:
    Karnin, Lang and Liberty (2016), "Optimal quantile approximation in streams", section 4.
    Agarwal et al. (2012), "Mergeable summaries", section 3.
    Jain and Chlamtac (1985), "The P2 algorithm for dynamic calculation of quantiles and
    histograms without storing observations", CACM 28, box 1.
    Masson, Rim and Lee (2019), "DDSketch", section 2, for the promise of relative error.

Shapes: n numbers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _sketch as kernels
from paragone.estimation._compactor import Compactor, size_for
from paragone.estimation._histogram import Histogram
from paragone.estimation._joining import POLICIES, Joinable, checked_policy
from paragone.estimation._markers import Markers
from paragone.estimation._stream import Progress, pieces, rows_of, writable

__all__ = ["RunningQuantile"]

_ENGINES = {"histogram": Histogram, "kll": Compactor, "p2": Markers}
_HEAD = struct.Struct("<4sBB?xqqddqq")
_MARK = b"pgq1"
_PENDING = 256
_SURE = 0.99


class RunningQuantile(Joinable):
    """Quantiles and ranks of a stream of numbers.

    Prefer "histogram" for measurements of one sign or scale (times, sizes, prices): it is the
    quickest here and its promise is about values. Prefer "kll" (to t-digest and GK as well)
    when ranks matter or values are of no scale. Prefer `numpy.quantile` when all is in memory
    and asked once.

    Args:
        method: "histogram", "kll" or "p2".
        relative_error: Histogram: the largest relative error of a quantile, 1e-5 to 0.5. The
            memory is 8 / relative_error bytes for each octave that the numbers span.
        k: KLL: accuracy, 8 to 65535; a rank is off by more than 2.7 / k, a share of n, with a
            probability below 1 % (1.33 % for k=200). The memory is about 120 k bytes.
        quantiles: P2: the probabilities to follow.
        nan_policy: "raise"; "omit" leaves NaN out and counts them in `missing`; "propagate"
            makes every answer NaN.
        random_state: KLL: seed of the coins; the same numbers in the same order with the same
            seed give the same state.

    Example:
        >>> stream = RunningQuantile(relative_error=0.001).update(range(1, 10001))
        >>> bool(abs(stream.quantile(0.5) - 5000) <= 5), round(float(stream.cdf(2500.0)), 2)
        (True, 0.25)
    """

    def __init__(
        self,
        method: str = "histogram",
        *,
        relative_error: float = 0.005,
        k: int = 200,
        quantiles: Any = (0.5,),
        nan_policy: str = "raise",
        random_state: RandomState = 0,
    ) -> None:
        if method == "histogram":
            if not 1e-5 <= relative_error <= 0.5:
                raise ValueError(f"relative_error={relative_error} is not within 1e-5 and 0.5")
            self._engine: Any = Histogram(float(relative_error))
        elif method == "kll":
            if k != int(k) or not 8 <= k <= 65535:
                raise ValueError(f"k={k} is no whole number within 8 and 65535")
            self._engine = Compactor(int(k), _seed(random_state))
        elif method == "p2":
            self._engine = Markers(_probabilities(quantiles))
        else:
            raise ValueError(f"method={method!r} is none of {', '.join(_ENGINES)}")
        self.method, self.nan_policy = method, checked_policy(nan_policy)
        self._count, self._missing, self._spoiled = 0, 0, False
        self._min, self._max = np.inf, -np.inf
        self._waiting: list[float] = []

    def update(self, values: Any) -> RunningQuantile:
        """Takes an array of any shape in; nothing of it if one number is refused.

        Raises:
            ValueError: NaN under nan_policy="raise".
        """
        self._flush()
        numbers = np.ascontiguousarray(values, np.float64).reshape(-1)
        if self.nan_policy == "raise" and not numbers.flags.writeable:
            missing = int(np.isnan(numbers).sum())
            if missing:
                raise ValueError(_nan_words(missing))
        for piece in writable(numbers):
            self._take(piece)
        return self

    def read(
        self, source: Any, column: str | None = None, *,
        progress: bool | Callable[..., Any] = False,
    ) -> RunningQuantile:  # fmt: skip
        """Takes a whole stream in: a file larger than memory, or an iterator.

        Args:
            source: Path of an NPY, CSV, TSV or Parquet file, or an iterable of arrays or numbers.
            column: Name of a table's column.
            progress: True for lines on stderr, or a function of (rows done, rows in all or None).

        Raises:
            ValueError: The file, the column or a cell cannot be used.
        """
        tell = Progress(progress, "quantile", rows_of(source))
        for piece in pieces(source, None if column is None else [column]):
            self.update(piece)
            tell(len(piece))
        return self

    def update_one(self, value: float) -> None:
        """Takes one number in; quicker than `update` with an array of one."""
        value = float(value)
        if value != value and self.nan_policy == "raise":
            raise ValueError(_nan_words(1))
        self._waiting.append(value)
        if len(self._waiting) >= _PENDING:
            self._flush()

    def _take(self, values: np.ndarray) -> None:
        if not len(values):
            return
        least, most, largest = kernels.extremes(values.view(np.int64))
        if largest > kernels.INFINITE:
            absent = np.isnan(values)
            missing = int(absent.sum())
            if self.nan_policy == "raise":
                raise ValueError(_nan_words(missing))
            self._missing += missing
            self._spoiled |= self.nan_policy == "propagate"
            self._take(values[~absent])
            return
        self._min = min(self._min, _number(least))
        self._max = max(self._max, _number(most))
        self._engine.take(values)
        self._count += len(values)

    @property
    def count(self) -> int:
        """Numbers that were taken in."""
        self._flush()
        return self._count

    @property
    def missing(self) -> int:
        """NaN among the numbers, under nan_policy="omit" and "propagate"."""
        self._flush()
        return self._missing

    @property
    def min(self) -> float:
        """Least number, exact; inf of nothing."""
        self._flush()
        return float("nan") if self._spoiled else self._min

    @property
    def max(self) -> float:
        """Greatest number, exact; -inf of nothing."""
        self._flush()
        return float("nan") if self._spoiled else self._max

    @property
    def error(self) -> str:
        """What is promised, in words."""
        if self.method == "histogram":
            bound = 2.0 ** -(self._engine.digits + 1)
            return f"a quantile is within a factor 1 +- {bound:.2g} of its value"
        if self.method == "kll":
            return f"a rank is within {self.rank_error:.2%} of the count, with 99 % confidence"
        return "none: P-square promises nothing"

    @property
    def rank_error(self) -> float:
        """KLL: share of the count that a rank is off by with a probability of 1 % at most.

        Raises:
            ValueError: The method is another: it has no error of rank.
        """
        if self.method != "kll":
            raise ValueError(f'method={self.method!r} bounds no rank: take method="kll"')
        return math.sqrt(17.0 / 8.0 * math.log(2.0 / (1.0 - _SURE))) / size_for(self._engine.k)

    def quantile(self, q: Any) -> Any:
        """The number at the share q of the sorted stream (as `inverted_cdf` of NumPy).

        Args:
            q: Probabilities (...), each from 0 to 1; 0 and 1 are the exact least and greatest.

        Returns:
            Values (...), NaN of an empty stream.

        Raises:
            ValueError: A probability is outside [0, 1], or P-square does not follow it.
        """
        q = np.asarray(q, np.float64)
        if not ((q >= 0) & (q <= 1)).all():
            raise ValueError(f"q={q} is no probability: use 0 to 1")
        self._flush()
        if self._spoiled or not self._count:
            return np.full(q.shape, np.nan)[()]
        if self.method == "p2":
            return self._engine.quantile(q, self._count)[()]
        ranks = np.clip(np.ceil(q * self._count), 1, self._count)
        found = np.clip(self._engine.quantiles(ranks), self._min, self._max)
        return np.where(q == 0, self._min, np.where(q == 1, self._max, found))[()]

    def rank(self, x: Any) -> Any:
        """How many numbers are at most x (...), estimated.

        Raises:
            ValueError: x is NaN, or the method is P-square, which knows no ranks.
        """
        if self.method == "p2":
            raise ValueError('P-square knows no ranks: take method="kll" or "histogram"')
        x = np.asarray(x, np.float64)
        if np.isnan(x).any():
            raise ValueError("x is NaN, which has no rank: give numbers")
        self._flush()
        if self._spoiled:
            return np.full(x.shape, np.nan)[()]
        found = self._engine.ranks(x) if self._count else np.zeros(x.shape)
        return np.where(x < self._min, 0.0, np.where(x >= self._max, self._count, found))[()]

    def cdf(self, x: Any) -> Any:
        """The share of the numbers that are at most x (...); NaN of an empty stream."""
        rank = self.rank(x)
        return rank / self._count if self._count else rank * np.nan

    def merge(self, other: RunningQuantile) -> RunningQuantile:
        """Takes in what another one has seen; the other stays as it is.

        Raises:
            ValueError: Another method or accuracy, or P-square, which has no merge.
        """
        if not self._engine.mergeable or not other._engine.mergeable:
            raise ValueError('P-square cannot be joined: take method="kll" or "histogram"')
        if self.method != other.method or self._engine.same != other._engine.same:
            raise ValueError(
                f"{self!r} cannot join {other!r}: use the same method and accuracy for both"
            )
        self._flush()
        other._flush()
        self._engine.merge(other._engine)
        self._count += other._count
        self._missing += other._missing
        self._spoiled |= other._spoiled
        self._min, self._max = min(self._min, other._min), max(self._max, other._max)
        return self

    def to_bytes(self) -> bytes:
        """The state, little-endian on every machine."""
        self._flush()
        whole, floats = self._engine.pack()
        head = _HEAD.pack(
            _MARK, list(_ENGINES).index(self.method), POLICIES.index(self.nan_policy),
            self._spoiled, self._count, self._missing, self._min, self._max, len(whole),
            len(floats),
        )  # fmt: skip
        return head + whole.astype("<i8").tobytes() + floats.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, state: bytes) -> RunningQuantile:
        """The stream whose state `to_bytes` gave.

        Raises:
            ValueError: The bytes are no such state, or are cut short.
        """
        if len(state) < _HEAD.size or state[:4] != _MARK:
            raise ValueError("these bytes are no RunningQuantile: give what to_bytes returned")
        _, method, policy, spoiled, count, missing, least, most, whole, floats = _HEAD.unpack_from(
            state
        )
        if len(state) != _HEAD.size + 8 * (whole + floats):
            raise ValueError(f"the state is cut short: {len(state)} bytes")
        name = list(_ENGINES)[method]
        stream = cls(name, nan_policy=POLICIES[policy])
        at = _HEAD.size
        stream._engine = _ENGINES[name].unpack(
            np.frombuffer(state, "<i8", whole, at).astype(np.int64),
            np.frombuffer(state, "<f8", floats, at + 8 * whole).astype(np.float64),
        )
        stream._count, stream._missing, stream._spoiled = count, missing, spoiled
        stream._min, stream._max = least, most
        return stream

    def __repr__(self) -> str:
        return f"RunningQuantile({self.method!r}, {self.count} seen; {self.error})"


def _number(order: int) -> float:
    """The float that stands at this place in the order of `extremes`."""
    bits = np.int64(order)
    return float((bits ^ ((bits >> 63) & kernels.MAGNITUDE)).view(np.float64))


def _seed(random_state: RandomState) -> int:
    return int(as_generator(random_state).integers(1 << 62))


def _nan_words(count: int) -> str:
    return f'{count} NaN among the numbers: clean them, or use nan_policy="omit" or "propagate"'


def _probabilities(quantiles: Any) -> tuple[float, ...]:
    found = tuple(float(q) for q in np.atleast_1d(np.asarray(quantiles, np.float64)))
    if not found or not all(0 < q < 1 for q in found):
        raise ValueError(f"quantiles={quantiles} are no probabilities: use numbers within 0 and 1")
    return found
