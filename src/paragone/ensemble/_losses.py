r"""Losses of boosting: value, first and second derivative, best constant, best leaf step.

Boosting adds trees to a raw score $F$ and needs, for each row, the derivatives of the loss
$L(y, F)$ in $F$,

$$ g_i = w_i \, \partial L / \partial F_i, \qquad h_i = w_i \, \partial^2 L / \partial F_i^2 , $$

the constant $F_0 = \arg\min_c \sum_i w_i L(y_i, c)$ to start from, and for Friedman's
boosting the step $\gamma_j = \arg\min_\gamma \sum_{i \in j} w_i L(y_i, F_i + \gamma)$ of each
leaf $j$ (his Algorithm 1, line 5), which is a weighted median or quantile, a closed form, or
one Newton step.

Where the second derivative is zero almost everywhere (absolute, quantile) or not continuous
(Huber), `hessian` is its upper bound $w_i$: then $-G/H$ is a safe gradient step but not a good
leaf, so `needs_refit` tells second-order boosters to use `leaf_values`.

Costs O(n K) a call; leaf quantiles O(n log n).

References:
    Friedman (2001), "Greedy function approximation: a gradient boosting machine", Annals of
    Statistics 29, algorithms 1-6. Jorgensen (1987), "Exponential dispersion models" (Tweedie).

Shapes: n rows, K raw scores a row (raw, gradient, hessian are (K, n)), J leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logit, xlogy

from paragone.ensemble._loss_kernels import (
    TINY,
    logistic_gradients,
    quantiles,
    softmax_gradients,
    sums,
)  # fmt: skip

__all__ = ["Loss", "make_loss"]

_MAX_LOG = 300.0
"""exp(300) is finite, and so are sums and squares of it."""
_EDGE = 1e-15
"""Probabilities are kept so far from 0 and 1 before their logarithm is taken."""
_MAX_LOG_STEP = 10.0
"""Longest leaf step in log space: a leaf whose targets are all zero would ask for -inf."""


def _two_sides(log_odds: np.ndarray) -> np.ndarray:
    """Returns the probabilities (n, 2) of the first and the second class."""
    share = np.empty((len(log_odds), 2))
    share[:, 0], share[:, 1] = expit(-log_odds), expit(log_odds)
    return share


def _exp(raw: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(raw, -_MAX_LOG, _MAX_LOG))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns numerator / denominator, and 0 where there is nothing to divide by."""
    safe = np.abs(denominator) > 1e-150
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=safe)


class Loss:
    """One loss; targets are float64 (n,): numbers, or class codes 0, 1, ... as floats.

    Attributes:
        name: As given to `make_loss`.
        outputs: K, raw scores a row: 1 for regression and two classes.
        constant_hessian: Whether `hessian` is the weight itself.
        needs_refit: Whether -G/H is not a useful leaf, so `leaf_values` must be used.
        newton_scale: Factor of -G/H in Friedman's leaves where `leaf_values` is None.
    """

    name: str = ""
    outputs: int = 1
    constant_hessian: bool = False
    needs_refit: bool = False
    newton_scale: float = 1.0

    def check(self, y: np.ndarray) -> None:
        """Raises `ValueError` for targets outside the loss's domain."""

    def initial(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Returns the best constant in raw space, (K,)."""
        raise NotImplementedError

    def gradients(
        self,
        y: np.ndarray,
        raw: np.ndarray,
        weight: np.ndarray,
        gradient: np.ndarray,
        hessian: np.ndarray,
    ) -> None:
        """Fills `gradient` and `hessian` (K, n), weights multiplied in; once a round."""
        raise NotImplementedError

    def losses(self, y: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Returns L of every row, (n,)."""
        raise NotImplementedError

    def value(self, y: np.ndarray, raw: np.ndarray, weight: np.ndarray) -> float:
        """Returns the weighted mean loss."""
        # Not a BLAS product, whose order of summation depends on the number of threads.
        return float((self.losses(y, raw) * weight).sum() / weight.sum())

    def transform(self, raw: np.ndarray) -> np.ndarray:
        """Returns predictions: (n,) or (n, K) numbers, or (n, classes) probabilities."""
        return raw[0]

    def inverse(self, prediction: np.ndarray) -> np.ndarray:
        """Returns raw scores (K, n) that `transform` would turn into `prediction`."""
        return np.atleast_2d(prediction.T)

    def leaf_values(
        self,
        y: np.ndarray,
        raw: np.ndarray,
        weight: np.ndarray,
        leaf: np.ndarray,
        num_leaves: int,
        k: int,
    ) -> np.ndarray | None:
        """Returns Friedman's step of output `k` in each leaf, (J,).

        None stands for the Newton step, -newton_scale G / H.

        Args:
            y: Targets (n,).
            raw: Raw scores (K, n) before the step.
            weight: Weights (n,), 0 for rows that were left out of the tree.
            leaf: Leaf (or node) number of each row, below `num_leaves`.
            num_leaves: J; leaves without rows get 0.
            k: Which output the tree is for.
        """
        return None


class Squared(Loss):
    r"""$L = (y - F)^2 / 2$; the best constant is the mean."""

    name = "squared"
    constant_hessian = True

    def initial(self, y, weight):
        return np.array([np.average(y, weights=weight)])

    def gradients(self, y, raw, weight, gradient, hessian):
        np.multiply(weight, raw[0] - y, out=gradient[0])
        hessian[0] = weight

    def losses(self, y, raw):
        return 0.5 * (y - raw[0]) ** 2


class Quantile(Loss):
    r"""$L = \sum_k \rho_{\alpha_k}(y - F_k)$ with $\rho_\alpha(u) = u (\alpha - [u < 0])$.

    With several levels the K predictions of a row are sorted (Chernozhukov et al. 2010,
    "Quantile and probability curves without crossing", proposition 4: that never costs
    pinball loss), so that quantiles do not cross.
    """

    name = "quantile"
    constant_hessian = True
    needs_refit = True

    def __init__(self, alpha: float | Sequence[float] = 0.5) -> None:
        self.alpha = np.atleast_1d(np.asarray(alpha, np.float64))
        if self.alpha.ndim != 1 or not np.all((self.alpha > 0) & (self.alpha < 1)):
            raise ValueError(f"quantile alpha={alpha!r} must lie in (0, 1); 0.5 is the median")
        self.outputs = len(self.alpha)

    def initial(self, y, weight):
        return np.array([quantiles(y, weight, a)[0] for a in self.alpha])

    def gradients(self, y, raw, weight, gradient, hessian):
        np.multiply(weight, (raw > y) - self.alpha[:, None], out=gradient)
        gradient[raw == y] = 0.0
        hessian[:] = weight

    def losses(self, y, raw):
        u = y - raw
        return np.maximum(u * self.alpha[:, None], u * (self.alpha[:, None] - 1)).sum(0)

    def transform(self, raw):
        if self.outputs == 1:
            return raw[0]
        place = np.argsort(np.argsort(self.alpha, kind="stable"), kind="stable")
        return np.sort(raw, axis=0)[place].T.copy()

    def leaf_values(self, y, raw, weight, leaf, num_leaves, k):
        return quantiles(y - raw[k], weight, self.alpha[k], leaf, num_leaves)


class Absolute(Loss):
    r"""$L = |y - F|$; constants and leaves are weighted medians."""

    name = "absolute"
    constant_hessian = True
    needs_refit = True

    def initial(self, y, weight):
        return quantiles(y, weight, 0.5)

    def gradients(self, y, raw, weight, gradient, hessian):
        np.multiply(weight, np.sign(raw[0] - y), out=gradient[0])
        hessian[0] = weight

    def losses(self, y, raw):
        return np.abs(y - raw[0])

    def leaf_values(self, y, raw, weight, leaf, num_leaves, k):
        return quantiles(y - raw[0], weight, 0.5, leaf, num_leaves)


class Huber(Loss):
    r"""$L = u^2/2$ if $|u| \le \delta$, else $\delta (|u| - \delta/2)$, with $u = y - F$.

    Either `delta` is fixed, or it is set anew each round to the `alpha`-quantile of $|u|$
    (Friedman's Algorithm 4). A leaf is its median $m$ plus one step,
    $m + \overline{\mathrm{sign}(u - m) \min(\delta, |u - m|)}$ (his eq. 26-27).
    """

    name = "huber"
    constant_hessian = True
    needs_refit = True

    def __init__(self, delta: float | None = None, alpha: float = 0.9) -> None:
        if delta is not None and not delta > 0:
            raise ValueError(f"huber delta={delta!r} must be > 0, or None to follow alpha")
        if not 0 < alpha <= 1:
            raise ValueError(f"huber alpha={alpha!r} must lie in (0, 1]; 0.9 is usual")
        self.alpha, self.fixed = alpha, delta is not None
        self.delta = 1.0 if delta is None else float(delta)

    def initial(self, y, weight):
        center = quantiles(y, weight, 0.5)
        if not self.fixed:
            return center
        # The step below is a majorise-minimise step, so it converges for every delta.
        for _ in range(1000):
            step = np.average(np.clip(y - center, -self.delta, self.delta), weights=weight)
            center = center + step
            if abs(step) <= 1e-12 * (abs(center[0]) + self.delta):
                break
        return center

    def gradients(self, y, raw, weight, gradient, hessian):
        u = y - raw[0]
        if not self.fixed:
            self.delta = float(quantiles(np.abs(u), weight, self.alpha)[0])
        np.multiply(-weight, np.clip(u, -self.delta, self.delta), out=gradient[0])
        hessian[0] = weight

    def losses(self, y, raw):
        u = np.abs(y - raw[0])
        inner = np.minimum(u, self.delta)
        return inner * (u - 0.5 * inner)

    def leaf_values(self, y, raw, weight, leaf, num_leaves, k):
        u = y - raw[0]
        median = quantiles(u, weight, 0.5, leaf, num_leaves)
        clipped = np.clip(u - median[leaf], -self.delta, self.delta)
        total = sums(weight * clipped, leaf, num_leaves)
        return median + _ratio(total, sums(weight, leaf, num_leaves))


class Tweedie(Loss):
    r"""Half the Tweedie deviance of power p, with $\mu = e^F$.

    $$ L = \frac{y^{2-p}}{(1-p)(2-p)} - \frac{y \mu^{1-p}}{1-p} + \frac{\mu^{2-p}}{2-p},
       \quad g = \mu^{2-p} - y \mu^{1-p}, \quad
       h = (2-p) \mu^{2-p} - (1-p) y \mu^{1-p} . $$

    p = 1 is Poisson, $L = y \log(y/\mu) - y + \mu$; p = 2 is gamma, $L = y/\mu - 1 -
    \log(y/\mu)$. The best step of a leaf solves $\sum w g = 0$ exactly:
    $\gamma = \log(\sum w y \mu^{1-p} / \sum w \mu^{2-p})$.
    """

    def __init__(self, power: float = 1.5, name: str = "tweedie") -> None:
        if not 1 <= power <= 2:
            raise ValueError(
                f"tweedie power={power!r} must lie in [1, 2]: 1 is poisson, 2 is gamma"
            )
        self.power, self.name = float(power), name

    def check(self, y):
        if self.power == 2 and not np.all(y > 0):
            raise ValueError(f"loss {self.name!r} needs targets > 0; the least is {y.min()}")
        if not np.all(y >= 0):
            raise ValueError(f"loss {self.name!r} needs targets >= 0; the least is {y.min()}")

    def initial(self, y, weight):
        return np.log(np.maximum(np.average(y, weights=weight), [1e-15]))

    def _parts(self, y, raw):
        return _exp((2 - self.power) * raw), y * _exp((1 - self.power) * raw)

    def gradients(self, y, raw, weight, gradient, hessian):
        p = self.power
        mass, pull = self._parts(y, raw[0])
        np.multiply(weight, mass - pull, out=gradient[0])
        hessian[0] = weight * np.maximum((2 - p) * mass - (1 - p) * pull, TINY)

    def losses(self, y, raw):
        p, f = self.power, raw[0]
        mass, pull = self._parts(y, f)
        if p == 1:
            return xlogy(y, y) - y * f - y + mass
        if p == 2:
            return pull - 1 - np.log(y) + f
        return y ** (2 - p) / ((1 - p) * (2 - p)) - pull / (1 - p) + mass / (2 - p)

    def transform(self, raw):
        return _exp(raw[0])

    def inverse(self, prediction):
        return np.log(np.maximum(prediction, 1e-15))[None]

    def leaf_values(self, y, raw, weight, leaf, num_leaves, k):
        mass, pull = self._parts(y, raw[0])
        top = sums(weight * pull, leaf, num_leaves)
        bottom = sums(weight * mass, leaf, num_leaves)
        step = np.log(np.maximum(top, 1e-300)) - np.log(np.maximum(bottom, 1e-300))
        return np.where(bottom > 0, np.clip(step, -_MAX_LOG_STEP, _MAX_LOG_STEP), 0.0)


class Logistic(Loss):
    r"""$L = \log(1 + e^F) - y F$, $p = 1/(1 + e^{-F})$, $g = p - y$, $h = p (1 - p)$.

    A leaf is one Newton step, $\sum w (y - p) / \sum w p (1 - p)$ (Friedman's Algorithm 5,
    for F on the scale of the log-odds).
    """

    name = "logistic"

    def initial(self, y, weight):
        share = np.average(y, weights=weight)
        return np.array([logit(np.clip(share, _EDGE, 1 - _EDGE))])

    def gradients(self, y, raw, weight, gradient, hessian):
        logistic_gradients(y, raw[0], weight, gradient[0], hessian[0])

    def losses(self, y, raw):
        return np.logaddexp(0.0, raw[0]) - y * raw[0]

    def transform(self, raw):
        return _two_sides(raw[0])

    def inverse(self, prediction):
        return logit(np.clip(prediction[:, 1], _EDGE, 1 - _EDGE))[None]


class Softmax(Loss):
    r"""$L = \log \sum_k e^{F_k} - F_y$, $g_k = p_k - [y = k]$, $h_k = s\, p_k (1 - p_k)$.

    The true second derivative is a full matrix whose diagonal has s = 1 (scikit-learn's
    histogram boosting). Boosters take one tree a class, all at once, so others bound it:
    s = 2 makes the diagonal dominate the matrix (XGBoost), s = K/(K-1) is LightGBM's.
    `hessian_scale` is s. Friedman's leaf (Algorithm 6) is
    $\frac{K-1}{K} \sum w ([y = k] - p_k) / \sum w p_k (1 - p_k)$, whatever s: so
    `newton_scale` is s (K - 1) / K.
    """

    name = "softmax"

    def __init__(self, num_classes: int, hessian_scale: float = 1.0) -> None:
        self.outputs, self.scale = num_classes, float(hessian_scale)
        self.newton_scale = self.scale * (num_classes - 1) / num_classes

    def initial(self, y, weight):
        share = np.bincount(y.astype(np.int64), weight, minlength=self.outputs) / weight.sum()
        log_share = np.log(np.clip(share, _EDGE, 1.0))
        return log_share - log_share.mean()

    def gradients(self, y, raw, weight, gradient, hessian):
        softmax_gradients(y, raw, weight, self.scale, gradient, hessian)

    def losses(self, y, raw):
        return -log_softmax(raw, axis=0)[y.astype(np.int64), np.arange(len(y))]

    def transform(self, raw):
        share = np.exp(raw - raw.max(axis=0))
        return np.ascontiguousarray((share / share.sum(axis=0)).T)

    def inverse(self, prediction):
        log_share = np.log(np.clip(prediction.T, _EDGE, 1.0))
        return log_share - log_share.mean(axis=0)


class Exponential(Loss):
    r"""$L = e^{-s F}$ with $s = 2y - 1$: AdaBoost's loss, $g = -s e^{-sF}$, $h = e^{-sF}$.

    F is half the log-odds, so $p = 1 / (1 + e^{-2F})$. A leaf is the Newton step
    $\sum w s e^{-sF} / \sum w e^{-sF}$.
    """

    name = "exponential"

    def initial(self, y, weight):
        share = np.average(y, weights=weight)
        return np.array([0.5 * logit(np.clip(share, _EDGE, 1 - _EDGE))])

    def gradients(self, y, raw, weight, gradient, hessian):
        sign = 2 * y - 1
        np.multiply(weight, np.maximum(_exp(-sign * raw[0]), TINY), out=hessian[0])
        np.multiply(-sign, hessian[0], out=gradient[0])

    def losses(self, y, raw):
        return _exp((1 - 2 * y) * raw[0])

    def transform(self, raw):
        return _two_sides(2 * raw[0])

    def inverse(self, prediction):
        return 0.5 * logit(np.clip(prediction[:, 1], _EDGE, 1 - _EDGE))[None]


_LOSSES: dict[str, Callable[..., Loss]] = {
    "squared": Squared,
    "absolute": Absolute,
    "huber": Huber,
    "quantile": Quantile,
    "poisson": lambda: Tweedie(1.0, "poisson"),
    "gamma": lambda: Tweedie(2.0, "gamma"),
    "tweedie": Tweedie,
    "logistic": Logistic,
    "exponential": Exponential,
}
_ALIASES = {"squared_error": "squared", "absolute_error": "absolute", "log_loss": "logistic"}


def make_loss(name: str | Callable, *, num_classes: int | None = None, **params: Any) -> Loss:
    """Returns a new loss object, one for each fit.

    Args:
        name: "squared" (or "squared_error"), "absolute", "huber", "quantile", "poisson",
            "gamma", "tweedie", "logistic", "softmax", "log_loss" (logistic or softmax by the
            number of classes), "exponential", or a callable; see `_custom_loss.Custom`.
        num_classes: Number of classes; None in regression.
        **params: Parameters of the loss: `delta`, `alpha`, `power`, `hessian_scale`.

    Example:
        >>> make_loss("log_loss", num_classes=3).outputs
        3
    """
    if callable(name):
        from paragone.ensemble._custom_loss import Custom

        return Custom(name, num_classes=num_classes, **params)
    key = _ALIASES.get(name, name)
    if key == "softmax" or (key == "logistic" and (num_classes or 2) > 2):
        if num_classes is None:
            raise ValueError("loss 'softmax' needs num_classes; use it for classification")
        return Softmax(num_classes, **params)
    if key not in _LOSSES:
        known = ", ".join(sorted([*_LOSSES, "softmax", *_ALIASES]))
        raise ValueError(f"unknown loss {name!r}; use one of {known}, or a callable")
    if key == "exponential" and (num_classes or 2) > 2:
        raise ValueError(f"loss 'exponential' is for 2 classes, not {num_classes}; use 'log_loss'")
    return _LOSSES[key](**params)
