r"""Nonlinear least squares: parameters of any curve, with standard errors that hold all digits.

Independent normal errors of equal variance make the maximum of the likelihood the minimum of

$$ S(\theta) = \sum_i \Big(\frac{y_i - f(\theta, x_i)}{\sigma_i}\Big)^2, \qquad
   \widehat{\operatorname{cov}}(\hat\theta) = s^2 (J^\top J)^{-1}, \quad
   s^2 = \frac{S(\hat\theta)}{n - p}, $$

with $J$ the derivatives of $f/\sigma$ at the minimum. Derivatives are exact (`_jacobian`), the
search is a trust region with several scalings (`_levenberg`), and the minimum is polished in
extended precision: on all 54 problems of NIST's reference data sets parameters and standard
errors agree with the certified values to six digits or more. A step costs p + 1 evaluations of
the model and O(n p^2).

References:
    Bates and Watts (1988), Nonlinear regression analysis and its applications, eq. 2.3, 2.13
    (covariance, bands) and section 6.1 (profile t).
    NIST/ITL, Statistical Reference Datasets, nonlinear regression.

Shapes: n observations, p free parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import optimize, stats

from paragone.estimation._jacobian import Curve, curve
from paragone.estimation._levenberg import minimise, offset, polish

__all__ = ["NonlinearFit", "nonlinear_least_squares"]

Values: TypeAlias = "np.ndarray | dict[str, float]"
TOLERANCE = 1e-9
"""Relative offset at which the search stops; the polish goes on from there."""


@dataclass(frozen=True, kw_only=True)
class NonlinearFit:
    """What `nonlinear_least_squares` found.

    Attributes:
        params: Estimates, in the form of `start`: an array, or a dict by name.
        standard_errors: Their standard errors, in the same form; NaN where the data do not
            determine a parameter (then `message` says so), 0 for fixed ones.
        covariance: Covariance of all parameters, shape (k, k), fixed ones with zeros.
        rss: Sum of squared (weighted) residuals.
        sigma: Residual standard deviation s, sqrt(rss / dof).
        dof: n - p.
        residuals: (y - f) / sigma_i, shape (n,).
        converged: Whether a minimum with a Jacobian of full rank was reached.
        message: One sentence about the end of the search.
        iterations: Steps tried.
        jacobian: How derivatives were taken: "complex step", "torch" or "differences".
    """

    params: Any
    standard_errors: Any
    covariance: np.ndarray
    rss: float
    sigma: float
    dof: int
    residuals: np.ndarray
    converged: bool
    message: str
    iterations: int
    jacobian: str
    _task: _Task = field(repr=False)
    _theta: np.ndarray = field(repr=False)

    def interval(
        self, level: float = 0.95, kind: Literal["wald", "profile"] = "wald"
    ) -> np.ndarray:
        """Returns confidence limits of each parameter, shape (k, 2), in the order of `start`.

        Args:
            level: Coverage, between 0 and 1.
            kind: "wald" is estimate plus or minus t times the standard error; "profile" moves one
                parameter and fits the others again until S has grown by s^2 t^2. Prefer it where
                the model bends: it does not depend on how the model is parametrised.

        Raises:
            ValueError: `level` outside (0, 1), or no such kind.
        """
        _check_level(level)
        reach = float(stats.t.ppf(0.5 + level / 2, self.dof)) if self.dof else np.nan
        task = self._task
        found = np.repeat(task.full(self._theta)[:, None], 2, axis=1).astype(np.float64)
        error = np.sqrt(np.diag(self.covariance))[task.free]
        for i, at in enumerate(task.free):
            if kind == "wald":
                found[at] += np.array([-1.0, 1.0]) * reach * error[i]
            elif kind == "profile":
                found[at] = [_profile(self, i, sign, reach, error[i]) for sign in (-1, 1)]
            else:
                raise ValueError(f'kind={kind!r}; choose "wald" or "profile"')
        return found

    def predict(
        self, x: Any, level: float | None = None, band: Literal["mean", "new"] = "mean"
    ) -> Any:
        """Returns f at new x, shape (m,); with `level` also the lower and upper limit.

        Args:
            x: Second argument of the model.
            level: Coverage of the band; None gives values alone.
            band: "mean" covers the curve, "new" a further observation (of sigma_i = 1).
        """
        task = self._task
        theta = np.asarray(self._theta, dtype=np.float64)
        there = curve(task.model, _inputs(x), task.pack, theta)
        values = np.asarray(there.values(theta), dtype=np.float64)
        if level is None:
            return values
        _check_level(level)
        j = there.jacobian(theta)
        free = np.ix_(task.free, task.free)
        variance = np.sum((j @ self.covariance[free]) * j, axis=1)
        if band == "new":
            variance = variance + self.sigma**2
        elif band != "mean":
            raise ValueError(f'band={band!r}; choose "mean" or "new"')
        reach = stats.t.ppf(0.5 + level / 2, self.dof) * np.sqrt(variance)
        return values, values - reach, values + reach

    def summary(self) -> str:
        """A table of estimates, standard errors, t ratios and 95 % limits, as text."""
        limits = self.interval()
        error = np.sqrt(np.diag(self.covariance))
        rows = [f"{'':12} {'estimate':>14} {'std. error':>12} {'t':>9} {'95 % limits':>27}"]
        for i, name in enumerate(self._task.names):
            value = float(self._task.full(self._theta)[i])
            if i not in self._task.free:
                rows.append(f"{name:12} {value:14.7g} {'fixed':>12}")
                continue
            ratio = value / error[i] if error[i] else np.nan
            low, high = limits[i]
            rows.append(
                f"{name:12} {value:14.7g} {error[i]:12.4g} {ratio:9.3g} {low:13.6g} {high:13.6g}"
            )
        rows.append(
            f"S = {self.rss:.7g}, s = {self.sigma:.5g}, {self.dof} degrees of freedom; "
            f"{self.message}"
        )
        return "\n".join(rows)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The problem: data, weights, and which parameters are free."""

    model: Callable[[Any, Any], Any]
    y: np.ndarray
    weight: np.ndarray
    names: Sequence[str]
    start: np.ndarray
    free: np.ndarray
    named: bool
    curve: Curve

    def full(self, theta: np.ndarray) -> np.ndarray:
        return _put(self.start, self.free, theta)

    def pack(self, theta: Any) -> Any:
        return _pack(self.start, self.free, self.names if self.named else None, theta)

    def out(self, values: np.ndarray) -> Values:
        return dict(zip(self.names, values.tolist(), strict=True)) if self.named else values

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """(f - y) / sigma in double precision."""
        with np.errstate(all="ignore"):
            found = (self.curve.values(theta) - self.y) * self.weight
            return np.asarray(found, dtype=np.float64)

    def fine_residuals(self, theta: np.ndarray) -> np.ndarray:
        """The same in the precision of theta."""
        return (self.curve.values(theta) - self.y) * self.weight

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        return self.curve.jacobian(theta) * self.weight[:, None]


def _put(start: np.ndarray, free: np.ndarray, theta: Any) -> Any:
    if isinstance(theta, np.ndarray):
        found = start.astype(np.result_type(start.dtype, theta.dtype))
        found[free] = theta
        return found
    found = theta.new_tensor(start)
    return found.index_copy(0, theta.new_tensor(free).long(), theta)


def _pack(start: np.ndarray, free: np.ndarray, names: Sequence[str] | None, theta: Any) -> Any:
    full = _put(start, free, theta)
    return full if names is None else dict(zip(names, full, strict=True))


def _inputs(x: Any) -> Any:
    """A plain list of numbers as an array; all else as it is."""
    return np.asarray(x) if isinstance(x, list) else x


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level!r} must lie strictly between 0 and 1; 0.95 is usual")


def nonlinear_least_squares(
    model: Callable[[Any, Any], Any],
    start: Sequence[float] | Mapping[str, float] | np.ndarray,
    x: Any,
    y: Any,
    *,
    sigma: Any = None,
    absolute_sigma: bool = False,
    fixed: Sequence[str | int] = (),
    max_iterations: int = 2000,
) -> NonlinearFit:
    """Fits y = model(params, x) by least squares.

    Prefer it to `scipy.optimize.curve_fit` where digits count: derivatives are exact, and the
    search does not stop on a plateau. For a distribution use `fit`; for priors use `Model`.

    Args:
        model: `model(params, x)` returns n values; written with NumPy or torch functions.
        start: Where to begin: a sequence (params is then an array) or a dict name to value
            (params is then a dict).
        x: Anything the model understands, passed through.
        y: Observations, shape (n,). With `numpy.longdouble` input (x and y) residuals are
            computed to 19 digits, for models that fit the data to nearly all of theirs.
        sigma: Standard deviations of the observations, scalar or shape (n,); None for equal ones.
        absolute_sigma: Whether `sigma` is known and not only relative; then s^2 is taken as 1.
        fixed: Names (or positions) of parameters that stay at their start.
        max_iterations: Steps that one descent may try.

    Raises:
        ValueError: Empty or non-finite input, fewer observations than free parameters, a model
            that returns another shape or is not finite at the start.

    Example:
        >>> x = np.arange(6.0)
        >>> found = nonlinear_least_squares(lambda p, x: p[0] * p[1] ** x, [1, 1], x, 3 * 0.5**x)
        >>> found.params.round(9).tolist()
        [3.0, 0.5]
    """
    task = _prepare(model, start, x, y, sigma, fixed)
    found = minimise(task.residuals, task.jacobian, task.start[task.free], max_iterations,
                     TOLERANCE)  # fmt: skip
    theta, j = found.theta, task.jacobian(found.theta)
    flat = offset(task.residuals(theta), j) == np.inf
    if not flat:
        fine = theta.astype(np.longdouble) if task.curve.extended else theta
        refined = polish(task.fine_residuals, task.jacobian, fine)
        if _rss(task, refined) <= found.rss * (1 + 1e-9) + 1e-300:
            theta, j = refined, task.jacobian(refined)
    rss, dof = _rss(task, theta), task.y.size - task.free.size
    variance = 1.0 if absolute_sigma else rss / dof if dof else np.nan
    covariance = np.zeros((task.start.size,) * 2)
    covariance[np.ix_(task.free, task.free)] = _covariance(j, variance, flat)
    return NonlinearFit(
        params=task.out(np.asarray(task.full(theta), dtype=np.float64)),
        standard_errors=task.out(np.sqrt(np.diag(covariance))),
        covariance=covariance, rss=rss, sigma=float(np.sqrt(rss / dof)) if dof else np.nan,
        dof=dof, residuals=-task.residuals(theta), converged=found.converged and not flat,
        message=_message(found.converged, flat, dof, found.iterations),
        iterations=found.iterations, jacobian=task.curve.kind, _task=task, _theta=theta,
    )  # fmt: skip


def _rss(task: _Task, theta: np.ndarray) -> float:
    r = task.fine_residuals(theta)
    return float(r @ r)


def _message(converged: bool, flat: bool, dof: int, iterations: int) -> str:
    if flat:
        return (
            "the data do not determine all parameters here (the Jacobian is singular): "
            "standard errors are NaN; fix a parameter or start elsewhere"
        )
    if not converged:
        return f"no minimum after {iterations} steps: start elsewhere or raise max_iterations"
    if dof == 0:
        return "converged; as many parameters as observations, so that no error can be estimated"
    return f"converged after {iterations} steps"


def _covariance(j: np.ndarray, variance: float, flat: bool) -> np.ndarray:
    p = j.shape[1]
    if flat or not np.isfinite(j).all():
        return np.full((p, p), np.nan)
    scale = np.linalg.norm(j, axis=0)
    inverse = np.linalg.inv(np.linalg.qr(j / scale)[1])
    return variance * (inverse @ inverse.T) / np.outer(scale, scale)


def _prepare(
    model: Callable[[Any, Any], Any], start: Any, x: Any, y: Any, sigma: Any,
    fixed: Sequence[str | int],
) -> _Task:  # fmt: skip
    named = isinstance(start, Mapping)
    names = [str(name) for name in start] if named else [f"p{i}" for i in range(len(start))]
    at = np.array([float(v) for v in (start.values() if named else start)])
    if at.size == 0 or not np.isfinite(at).all():
        raise ValueError(f"start={start!r} must hold at least one number, and finite ones")
    y = np.asarray(y.detach().numpy() if hasattr(y, "detach") else y)
    y = y.astype(np.result_type(y.dtype, np.float64)).ravel()
    if y.size == 0 or not np.isfinite(y).all():
        raise ValueError(
            f"y has {y.size} values, {int(np.sum(~np.isfinite(y)))} of them not finite; "
            "at least one is needed, and finite ones: drop those rows of x and y"
        )
    free = np.setdiff1d(np.arange(at.size), [_position(name, names) for name in fixed])
    if free.size == 0:
        raise ValueError(f"fixed={list(fixed)!r} leaves no parameter free; leave one out")
    if y.size < free.size:
        raise ValueError(
            f"{y.size} observations cannot determine {free.size} free parameters; "
            "fix some or bring more data"
        )
    deviation = np.asarray(1.0 if sigma is None else sigma, dtype=np.float64)
    if deviation.ndim and deviation.shape != y.shape:
        raise ValueError(f"sigma has shape {deviation.shape}, y {y.shape}; give one for each")
    if not (np.isfinite(deviation) & (deviation > 0)).all():
        raise ValueError("sigma must be positive and finite everywhere; drop other rows")
    x = _inputs(x)
    there = curve(
        model, x, lambda theta: _pack(at, free, names if named else None, theta), at[free], y.size
    )
    return _Task(
        model=model, y=y, weight=np.broadcast_to(1.0 / deviation, y.shape), names=names,
        start=at, free=free, named=named, curve=there,
    )  # fmt: skip


def _position(name: str | int, names: Sequence[str]) -> int:
    if isinstance(name, str) and name in names:
        return names.index(name)
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    raise ValueError(f"fixed parameter {name!r} is none of {', '.join(names)}")


def _profile(fit: NonlinearFit, which: int, sign: int, reach: float, error: float) -> float:
    """The value of one parameter at which S, minimised over the others, has grown by s^2 t^2."""
    task, best = fit._task, np.asarray(fit._theta, dtype=np.float64)
    if not np.isfinite(error) or not np.isfinite(reach):
        return np.nan
    others = np.delete(np.arange(best.size), which)
    scale = error / np.sqrt(np.diag(_covariance(task.jacobian(best), 1.0, False)))[which]
    last = best[others]

    def excess(distance: float) -> float:
        """Signed square root of the growth of S, less t."""
        nonlocal last
        theta = best.copy()
        theta[which] = best[which] + sign * distance
        if others.size:

            def join(rest: np.ndarray) -> np.ndarray:
                return np.insert(rest, which, theta[which])

            inner = minimise(
                lambda rest: task.residuals(join(rest)),
                lambda rest: task.jacobian(join(rest))[:, others],
                last, 200, 1e-7,
            )  # fmt: skip
            last, rss = inner.theta, inner.rss
        else:
            rss = float(np.sum(task.residuals(theta) ** 2))
        if not np.isfinite(rss):
            return np.inf
        return float(np.sqrt(max(rss - fit.rss, 0.0)) / scale - reach)

    far = reach * error
    for _ in range(40):
        if excess(far) > 0:
            last = best[others]
            root = optimize.root_scalar(excess, bracket=(0.0, far), method="brentq", rtol=1e-10)
            return float(best[which] + sign * root.root)
        far *= 1.6
    return sign * np.inf
