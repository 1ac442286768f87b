r"""Exact derivatives of a model written with NumPy or torch functions.

A difference quotient loses half of the digits to cancellation. Two ways lose none. A step along
the imaginary axis has no difference to take,

$$ \frac{\partial f}{\partial \theta_j}(\theta) =
   \frac{\operatorname{Im} f(\theta + i h e_j)}{h} + O(h^2), \qquad h = 10^{-40}, $$

and works for whatever NumPy evaluates on complex numbers; torch differentiates itself. Both are
compared once with differences: `abs`, `maximum` and comparisons are not analytic, and would give
a wrong derivative in silence. Where that happens differences of fourth order are taken instead,
and the result says so.

References:
    Squire and Trapp (1998), "Using complex variables to estimate derivatives of real functions",
    SIAM Review 40, eq. 6.

Shapes: n observations, p parameters.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Curve", "curve"]

STEP = 1e-40
"""Imaginary step: its square vanishes beside one in every format."""

Model = Callable[[Any, Any], Any]
Pack = Callable[[Any], Any]


class Curve:
    """A model at fixed inputs: values and Jacobian as functions of the parameters alone.

    Attributes:
        kind: "complex step", "torch" or "differences".
        extended: Whether values come in extended precision (`numpy.longdouble`).
    """

    kind = ""
    extended = False

    def values(self, theta: np.ndarray) -> np.ndarray:
        """Returns f(theta), shape (n,), in the precision of `theta` where the model keeps it."""
        raise NotImplementedError

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """Returns the derivatives, shape (n, p), float64."""
        raise NotImplementedError


class _NumpyCurve(Curve):
    def __init__(self, model: Model, x: Any, pack: Pack, n: int | None):
        self.model, self.pack, self.n = model, pack, n
        self.x = x
        self.kind = "complex step"
        self.extended = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps

    def _call(self, theta: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = np.asarray(self.model(self.pack(theta), self.x))
        return np.broadcast_to(found, (self.n or 1,)) if found.ndim == 0 else found.ravel()

    def values(self, theta: np.ndarray) -> np.ndarray:
        return self._call(theta).real

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        theta = np.asarray(theta, dtype=np.float64)
        if self.kind == "differences":
            return self.differences(theta)
        columns = []
        for j in range(theta.size):
            moved = theta.astype(np.complex128)
            moved[j] += 1j * STEP
            columns.append(self._call(moved).imag / STEP)
        return np.stack(columns, axis=1).astype(np.float64)

    def differences(self, theta: np.ndarray) -> np.ndarray:
        """Central differences of fourth order; about eleven digits."""
        columns = []
        for j in range(theta.size):
            h = 1e-3 * max(abs(theta[j]), 1e-8)
            at = [self._call(_moved(theta, j, k * h)).real for k in (-2, -1, 1, 2)]
            columns.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h))
        return np.stack(columns, axis=1).astype(np.float64)

    def choose(self, theta: np.ndarray) -> None:
        """Falls back to differences where the model cannot take complex numbers truly."""
        rough = self.differences(theta)
        try:
            exact = self.jacobian(theta)
        except TypeError:
            self.kind = "differences"
            return
        size = np.abs(rough).max(axis=0, initial=0.0)
        agree = np.abs(exact - rough) <= 1e-3 * size + 1e-300
        if np.isfinite(rough).all() and not agree.all():
            self.kind = "differences"


class _TorchCurve(Curve):
    def __init__(self, model: Model, x: Any, pack: Pack, n: int | None):
        import torch

        self.model, self.pack, self.n = model, pack, n
        self.kind = "torch"
        self.x = _to_torch(x, torch)

    def _call(self, theta: Any) -> Any:
        found = self.model(self.pack(theta), self.x)
        return found.expand(self.n or 1) if found.ndim == 0 else found.reshape(-1)

    def values(self, theta: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self._call(torch.as_tensor(np.array(theta, dtype=np.float64))).numpy()

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        import torch

        at = torch.tensor(np.asarray(theta, dtype=np.float64), requires_grad=True)
        out = self._call(at)
        # J^T v is linear in v, so that its derivative by v is a row of J^T: p passes, not n.
        v = torch.zeros_like(out, requires_grad=True)
        (pulled,) = torch.autograd.grad(out, at, v, create_graph=True)
        rows = [torch.autograd.grad(part, v, retain_graph=True)[0] for part in pulled]
        return torch.stack(rows, dim=1).numpy()


def _moved(theta: np.ndarray, j: int, by: float) -> np.ndarray:
    found = theta.copy()
    found[j] += by
    return found


def _to_torch(x: Any, torch: Any) -> Any:
    if isinstance(x, (tuple, list)) and any(isinstance(part, np.ndarray) for part in x):
        return type(x)(_to_torch(part, torch) for part in x)
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(np.asarray(x, dtype=np.float64))


def _holds_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(part, torch.Tensor) for part in parts)


def _wants_torch(model: Model, x: Any, pack: Pack, theta: np.ndarray) -> bool:
    """Whether the model is written with torch functions: it returns a tensor, or asks for one."""
    if _holds_tensor(x):
        return True
    if "torch" not in sys.modules:
        return False
    try:
        with np.errstate(all="ignore"):
            return _holds_tensor(model(pack(theta), x))
    except TypeError as error:
        return "Tensor" in str(error)


def curve(
    model: Model, x: Any, pack: Pack, theta: np.ndarray, n: int | None = None
) -> Curve:  # fmt: skip
    """Returns the model at `x` as a `Curve`, and checks what it returns at the start.

    Args:
        model: `model(params, x)`, written with NumPy or torch functions.
        x: Its second argument, passed through.
        pack: From the free parameters to what the model takes as its first argument.
        theta: Starting values, shape (p,).
        n: Number of observations (None: as many as the model returns).

    Raises:
        ValueError: The model returns another number of values, or none that is finite.
    """
    kind = _TorchCurve if _wants_torch(model, x, pack, theta) else _NumpyCurve
    found = kind(model, x, pack, n)
    values = found.values(theta)
    if n is not None and values.shape != (n,):
        raise ValueError(
            f"model returned {values.size} values at the start, y has {n}; "
            "return one value for each observation"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(
            f"model is {values[bad]} for observation {bad} at the start; "
            "choose a start at which all values are finite"
        )
    if isinstance(found, _NumpyCurve):
        found.choose(np.asarray(theta, dtype=np.float64))
    return found
