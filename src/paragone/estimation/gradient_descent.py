r"""Gradient descent by one row, by a batch, or by all rows, in one call.

A loss that is a mean over rows has a gradient that is one, and any part of the rows estimates it:

$$ w_{k+1} = \Pi\Bigl( w_k - \frac{a_k}{m} \sum_{i \in B_k} \nabla \ell(w_k; x_i) \Bigr), $$

with $m = |B_k|$: stochastic gradient descent for $m = 1$, mini-batches between, full-batch
descent for $m = n$. The noise of a step falls as $1/m$, its cost grows as m; per row, one pass in
small batches with averaging is as good as it gets (the average has the covariance of the best
estimator). With $a_k = 1/k$, $m = 1$ and the loss $(w - x)^2 / 2$ the iterate *is* the mean of the
rows seen.

How rows are taken matters and is said, not guessed: the `order` of a pass, with or without
`replacement` (n rows drawn with replacement are not the full batch: a third of the rows is
missing), and what becomes of a `last_partial` batch.

Cost: O(d) a row in a compiled loop for the losses named here (5-10 ns for one unknown); memory
O(d), and O(d^2) if the plug-in interval is wanted.

References:
    Robbins and Monro (1951), "A stochastic approximation method".
    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging".
    Chen, Lee, Tong and Zhang (2020), "Statistical inference for model parameters in stochastic
    gradient descent", section 3, for the plug-in interval.

Shapes: n rows, d unknowns, p recorded points of the path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.estimation import _descent as kernels
from paragone.estimation._inference import normal_quantile, scaling_quantile
from paragone.estimation._recursion import Box, DivergenceError, projection_for
from paragone.estimation._rows import Rows
from paragone.estimation._stream import Progress
from paragone.estimation.steps import Power, of

__all__ = ["LOSSES", "Descent", "sgd"]

LOSSES = {
    "mean": kernels.MEAN, "linear": kernels.LINEAR, "logistic": kernels.LOGISTIC,
    "quantile": kernels.QUANTILE, "huber": kernels.HUBER,
}  # fmt: skip
_POINTS = 2048
_FAR = 1e10


@dataclass
class Descent:
    """What `sgd` returns.

    Attributes:
        params: Last iterate (d,).
        updates: Steps taken.
        rows: Rows taken, each pass counted.
        path: Iterates (p, d), the first and then evenly over the logarithm of the step.
        path_steps: Number of the step of each (p,).
        loss: Name of the loss, or "custom".
        batch: Rows of a batch, 0 for all.
        order: In which order the rows were taken.
        single: Whether each row was taken once, in an order that does not depend on it; only
            then do intervals mean what they say.
    """

    params: np.ndarray
    updates: int
    rows: int
    path: np.ndarray
    path_steps: np.ndarray
    loss: str
    batch: int
    order: str
    single: bool
    _sums: np.ndarray = field(repr=False)
    _third: float = field(repr=False)
    _used: int = field(repr=False)
    _slope: np.ndarray | None = field(repr=False, default=None)
    _noise: np.ndarray | None = field(repr=False, default=None)
    _seen: int = field(repr=False, default=0)

    @property
    def average(self) -> np.ndarray:
        """Average (d,) of the iterates after the burn-in.

        Raises:
            ValueError: There is none: averaging is off, or the burn-in took all.
        """
        if self._used < 1:
            raise ValueError(
                f"no average of {self.updates} steps: use averaging=True and a burn_in below that"
            )
        return self._sums[1] + self._sums[2]

    def interval(self, level: float = 0.95, *, kind: str = "scaling") -> np.ndarray:
        """Confidence intervals (2, d) of the minimiser.

        Args:
            level: Their confidence.
            kind: "scaling" (random scaling, from the path alone, any loss), or "plugin" (mean,
                linear, logistic, huber, if `covariance=True`): shorter, and right sooner.

        Raises:
            ValueError: Rows were taken more than once, or what the kind needs is missing.
        """
        if not self.single:
            raise ValueError(
                "rows were taken more than once, so that the path knows no fresh noise: use "
                "epochs=1 and replacement=False for an interval"
            )
        centre = self.average
        if kind == "scaling":
            _, _, offset, first, second = self._sums
            n = self._used
            spread = second - 2 * offset * first + offset**2 * self._third
            half = scaling_quantile(level) * np.sqrt(np.maximum(spread, 0.0) / n) / n
            return np.stack([centre - half, centre + half])
        if kind != "plugin":
            raise ValueError(f"kind={kind!r} is none of 'scaling', 'plugin'")
        half = normal_quantile(level) * np.sqrt(np.diag(self.covariance))
        return np.stack([centre - half, centre + half])

    @property
    def covariance(self) -> np.ndarray:
        """Plug-in covariance (d, d) of `average`: $A^{-1} S A^{-T} / n$.

        Raises:
            ValueError: It was not asked for, or the loss has no second derivative to average.
        """
        if self._slope is None or self._noise is None or not self._seen:
            raise ValueError(
                "no covariance was kept: call sgd(..., covariance=True) with the loss mean, "
                "linear, logistic or huber"
            )
        inverse = np.linalg.inv(self._slope / self._seen)
        return inverse @ (self._noise / self._seen) @ inverse.T / self._seen


def sgd(
    loss: str | Callable[..., Any],
    data: Any,
    start: Any = None,
    *,
    batch: int | str = 1,
    epochs: int = 1,
    steps: Any = None,
    averaging: bool = True,
    burn_in: int = 0,
    projection: Any = None,
    order: str | None = None,
    replacement: bool = False,
    last_partial: str = "keep",
    target: str | None = None,
    tau: float = 0.5,
    delta: float = 1.0,
    covariance: bool = False,
    random_state: RandomState = 0,
    progress: bool | Callable[..., Any] = False,
) -> Descent:
    r"""Minimises a mean of losses over rows by stochastic, mini-batch or full-batch descent.

    Prefer it to scikit-learn's `SGDRegressor` and `SGDClassifier` when step sizes, batches and
    order are the question, when an interval is wanted, or when rows come from a file larger
    than memory; prefer closed forms (`numpy.linalg.lstsq`) for a linear model that fits.

    Args:
        loss: "mean" ($|w - x|^2/2$); of rows (x, y) "linear" ($(x \cdot w - y)^2/2$),
            "logistic" (y in {0, 1}), "quantile" (tau), "huber" (delta); or a gradient: a
            function (w, rows) that returns the mean gradient (d,) over rows (m, c).
        data: An array (n,) or (n, c); a pair (x, y); an iterator of such arrays (one pass); or
            the path of an NPY, CSV, TSV or Parquet file. Without x the losses of (x, y) fit a
            constant. Add a column of ones for an intercept.
        start: $w_1$ (d,), 0 if None.
        batch: m, or "full".
        epochs: Passes.
        steps: $a_k$; by default 1/k for "mean" with m = 1, else `Power(0.5, 0, 0.6)`.
        averaging: Keep the average of the path.
        burn_in: Steps that the average leaves out.
        projection: (low, high), a radius or a function of w.
        order: "shuffle" (the default where every row can be reached), "sequential" (the default
            of streams, CSV and Parquet), or "pieces" (shuffles 65,536 rows at a time).
        replacement: Draw rows independently, n a pass.
        last_partial: "keep" uses the last batch of a pass if it is short, "drop" leaves it out.
        target: Name of the column y of a table; the others are x. By default the last.
        tau: Of "quantile".
        delta: Of "huber".
        covariance: Keep what the plug-in interval needs.
        random_state: Of order and draws.
        progress: True for lines on stderr, or a function of (rows done, rows in all or None).

    Raises:
        ValueError: Data, an argument or a number in the data cannot be used.
        DivergenceError: An iterate left all bounds.

    Example:
        >>> float(sgd("mean", [2.0, 4.0, 9.0], order="sequential").params[0])
        5.0
    """
    _check(loss, batch, epochs, last_partial, tau, delta, covariance)
    name = loss if isinstance(loss, str) else "custom"
    source = Rows(
        data, name, target=target, order=order, replacement=replacement, passes=epochs,
        generator=as_generator(random_state),
    )  # fmt: skip
    size = 0 if batch == "full" else int(batch)
    if steps is None:
        steps = Power(1.0, 0.0, 1.0) if (name, size) == ("mean", 1) else Power(0.5, 0.0, 0.6)
    run = _Run(
        loss, start, size, of(steps), projection, burn_in, averaging, covariance,
        delta if name == "huber" else tau,
    )  # fmt: skip
    tell = Progress(progress, "sgd", None if source.total is None else source.total * epochs)
    for _ in range(epochs):
        seen = 0
        for rows, y, order_of in source.one_pass():
            run.take(rows, y, order_of)
            seen += len(order_of)
            tell(len(order_of))
        if not seen:
            raise ValueError("data has no rows: give at least one")
        run.end_of_pass(size == 0 or last_partial == "keep")
    return run.result(name, size, source.order, epochs == 1 and not replacement)


def _check(loss: Any, batch: Any, epochs: int, partial: str, tau: float, delta: float,
           covariance: bool) -> None:  # fmt: skip
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is none of {', '.join(LOSSES)}, and no function")
    if batch != "full" and (isinstance(batch, str) or batch != int(batch) or batch < 1):
        raise ValueError(f"batch={batch!r} is no number of rows: use 1 or more, or 'full'")
    if epochs != int(epochs) or epochs < 1:
        raise ValueError(f"epochs={epochs} is no number of passes: use 1 or more")
    if partial not in ("keep", "drop"):
        raise ValueError(f"last_partial={partial!r} is none of 'keep', 'drop'")
    if not 0 < tau < 1:
        raise ValueError(f"tau={tau} is no probability: use a number within 0 and 1")
    if not delta > 0:
        raise ValueError(f"delta={delta} is no width: use a number above 0")
    if covariance and (callable(loss) or loss == "quantile"):
        raise ValueError(
            "covariance=True needs the loss mean, linear, logistic or huber: use the interval of "
            'kind "scaling" with others'
        )


class _Run:
    """The state of a descent while rows come."""

    def __init__(
        self, loss: Any, start: Any, batch: int, steps: Any, projection: Any, burn_in: int,
        averaging: bool, covariance: bool, extra: float,
    ) -> None:  # fmt: skip
        self.loss, self.start, self.batch, self.steps = loss, start, batch, steps
        self.project = projection_for(projection)
        self.burn_in = burn_in if averaging else np.iinfo(np.int64).max
        self.wanted, self.extra, self.rows = covariance, extra, 0
        self.w: np.ndarray = np.zeros(0)

    def _begin(self, columns: int) -> None:
        start = np.zeros(columns) if self.start is None else self.start
        self.w = np.array(start, np.float64).reshape(-1)
        d = len(self.w)
        if isinstance(self.loss, str) and d != columns:
            raise ValueError(f"start has {d} numbers for {columns} columns: give one for each")
        if not np.isfinite(self.w).all():
            raise ValueError(f"start={self.start} is not finite: begin at numbers")
        self.place = np.array([0, 0, 1, 1], np.int64)
        self.sums, self.third = np.zeros((5, d)), np.zeros(1)
        self.path = np.zeros((_POINTS, d + 1))
        self.path[0, 1:] = self.w
        kept = d if self.wanted else 0
        self.slope, self.noise = np.zeros((kept, kept)), np.zeros((kept, kept))
        self.seen = np.zeros(1, np.int64)
        box = self.project if isinstance(self.project, Box) else None
        bounds = (-np.inf, np.inf) if box is None else (box.low, box.high)
        self.low, self.high = (np.broadcast_to(one, d).astype(float) for one in bounds)
        self.compiled = isinstance(self.loss, str) and (self.project is None or box is not None)

    def _size(self) -> float:
        return float(self.steps(int(self.place[0]) + 1))

    def take(self, rows: np.ndarray, y: np.ndarray, order: np.ndarray) -> None:
        if not len(self.w):
            self._begin(rows.shape[1])
            sizes = [np.max(np.abs(each), initial=0.0) for each in (self.w, rows, y)]
            self.scale = _FAR * (1.0 + float(max(sizes)))
        self.rows += len(order)
        batch = self.batch or np.iinfo(np.int64).max
        if callable(self.loss):
            self._call(rows, order, batch)
        elif self.compiled:
            self._descend(rows, y, order, batch)
        else:
            while len(order):
                room = int(min(batch - self.place[1], len(order)))
                self._descend(rows, y, order[:room], np.iinfo(np.int64).max)
                order = order[room:]
                if self.place[1] == batch:
                    self._advance()
        self._near()

    def _near(self) -> None:
        if not np.all(np.abs(self.w) < self.scale):
            raise DivergenceError(
                f"w = {self.w} after {self.place[0]} steps: descent diverges; give smaller steps, "
                "scale the columns, or give projection=(low, high)"
            )

    def _descend(self, rows: np.ndarray, y: np.ndarray, order: np.ndarray, batch: int) -> None:
        k = int(self.place[0])
        count = (int(self.place[1]) + len(order)) // batch
        sizes = np.atleast_1d(np.asarray(self.steps(np.arange(k + 1, k + count + 1)), np.float64))
        kernels.descend(
            LOSSES[self.loss], self.extra, rows, y, order, batch, sizes, self.w, self.low,
            self.high, self.burn_in, self.place, self.sums, self.third, self.path, self.slope,
            self.noise, self.seen,
        )  # fmt: skip

    def _call(self, rows: np.ndarray, order: np.ndarray, batch: int) -> None:
        """A gradient in Python: the open batch is the mean over its parts by their rows."""
        while len(order):
            room = int(min(batch - self.place[1], len(order)))
            part = np.asarray(self.loss(self.w.copy(), rows[order[:room]]), np.float64).reshape(-1)
            if part.shape != self.w.shape:
                raise ValueError(
                    f"the gradient has {part.size} numbers for {len(self.w)} unknowns: "
                    "return one for each"
                )
            self.sums[0] += part * room
            self.place[1] += room
            order = order[room:]
            if self.place[1] == batch:
                self._advance()
                self._near()

    def _advance(self) -> None:
        bounds = self.low, self.high
        if self.project is None or self.compiled:
            kernels.advance(
                self.w, self._size(), *bounds, self.burn_in, self.place, self.sums, self.third,
                self.path,
            )  # fmt: skip
            return
        # Any other projection: the point it gives is reached by a step of its own making.
        wanted = self.w - self._size() * self.sums[0] / self.place[1]
        end = np.asarray(self.project(wanted), np.float64)
        self.sums[0] = (self.w - end) * self.place[1]
        kernels.advance(
            self.w, 1.0, *bounds, self.burn_in, self.place, self.sums, self.third, self.path
        )

    def end_of_pass(self, keep: bool) -> None:
        if self.place[1] and keep:
            self._advance()
        self.sums[0] = 0.0
        self.place[1] = 0

    def result(self, loss: str, batch: int, order: str, single: bool) -> Descent:
        points = int(self.place[3])
        updates = int(self.place[0])
        if loss == "mean" and self.wanted:
            self.slope = np.eye(len(self.w)) * self.seen[0]
        return Descent(
            self.w, updates, self.rows, self.path[:points, 1:].copy(),
            self.path[:points, 0].astype(np.int64), loss, batch, order, single, self.sums,
            float(self.third[0]), max(updates - self.burn_in, 0),
            self.slope if self.wanted else None, self.noise if self.wanted else None,
            int(self.seen[0]),
        )  # fmt: skip
