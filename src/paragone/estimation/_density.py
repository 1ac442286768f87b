"""One shape for every log density, so that the samplers are compiled once for all of them.

A compiled density is `f(x, slope, reals, integers) -> log p(x)`: it reads the constrained vector
x (n,), writes the gradient into slope (n,), and finds its data in two flat arrays. The samplers
take it as a first-class function: by its address, not by its code. So machine code of a sampler is
made once and kept on disk, and a new density costs its own compilation alone. Python functions
come in by the same door: `call_back` jumps to the address of a ctypes callback, which holds the
interpreter's lock while it runs.

Shapes: x and slope (n,), u and its gradient (m,), rows (r, m).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.experimental.function_type import _get_wrapper_address
from numba.extending import intrinsic

from paragone.estimation._parameters import Layout, Parameter
from paragone.estimation._transforms import constrain, constrain_rows, pull_back
from paragone.kernels.jit import njit

__all__ = ["SIGNATURE", "Callback", "Compiled", "Target", "call_back", "density"]

_VECTOR = types.float64[::1]
SIGNATURE: Any = types.float64(_VECTOR, _VECTOR, _VECTOR, types.int64[::1])
"""What a compiled density looks like; its arguments are x, slope, reals, integers."""


class Compiled(types.WrapperAddressProtocol):
    """A density known to kernels by its address."""

    def __init__(self, kernel: Any) -> None:
        kernel.compile(SIGNATURE)
        self._address = _get_wrapper_address(kernel, SIGNATURE)

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        """Numba's signature."""
        return SIGNATURE


@intrinsic
def _jump(typing_context, address, x, slope):
    def generate(context, builder, signature, arguments):
        pointer = ir.DoubleType().as_pointer()
        kind = ir.FunctionType(ir.DoubleType(), [pointer, pointer])
        places = [
            context.make_array(signature.args[i])(context, builder, arguments[i]).data
            for i in (1, 2)
        ]
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), places)

    return types.float64(types.int64, x, slope), generate


jump: Any = _jump


@njit(nogil=True, error_model="numpy")
def call_back(x, slope, reals, integers):
    """The density whose C address is integers[0]."""
    return jump(integers[0], x, slope)


@njit(nogil=True, error_model="numpy", _nrt=False)
def density(f, reals, integers, blocks, limits, u, x, slope, gradient, jacobian):
    """Log p(x(u)) + jacobian * log |dx/du|; writes x, d/dx and d/du."""
    value = jacobian * constrain(u, x, blocks, limits)
    value += f(x, slope, reals, integers)
    pull_back(u, x, slope, gradient, blocks, limits, jacobian)
    return value


@njit(nogil=True, error_model="numpy")
def _rows(f, reals, integers, blocks, limits, rows, values, gradients, jacobian):
    """`density` of each row of (r, m)."""
    x, slope = np.zeros(limits.shape[1]), np.zeros(limits.shape[1])
    for r in range(rows.shape[0]):
        values[r] = density(
            f, reals, integers, blocks, limits, rows[r], x, slope, gradients[r], jacobian
        )


class _Held:
    """Keeps the first error that a user's function raises, until the kernel has returned."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.error = self.error or error
        return True


class Callback:
    """A Python function `x (n,) -> (value, gradient (n,))` as an address that kernels can call."""

    def __init__(self, function: Callable[..., Any], n: int) -> None:
        self._held = _Held()
        kind: Any = ctypes.c_double * n
        shape = (n,)

        def call(at: int, to: int) -> float:
            found = np.nan
            if self._held.error is None:
                # The first steps of a chain go far: overflow there is no news.
                with self._held, np.errstate(all="ignore"):
                    x = np.frombuffer(kind.from_address(at)).copy()
                    slope = np.frombuffer(kind.from_address(to))
                    answer = function(x)
                    if not isinstance(answer, tuple) or len(answer) != 2:
                        raise TypeError(
                            f"the density returned a {type(answer).__name__}: return "
                            "(value, gradient), or write it with torch and backend='torch'"
                        )
                    value, gradient = answer
                    gradient = np.asarray(gradient, float)
                    if gradient.shape != shape:
                        raise ValueError(
                            f"the gradient has shape {gradient.shape}, the parameters {shape}: "
                            "return (value, gradient) with one slope for each number"
                        )
                    slope[:] = gradient
                    found = float(value)
            return found

        kind_of_call = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p)
        self._kept = kind_of_call(call)
        self.address = ctypes.cast(self._kept, ctypes.c_void_p).value

    def check(self) -> None:
        """Raises what the function has raised since the last check."""
        error, self._held.error = self._held.error, None
        if error is not None:
            raise error


class Target:
    """A log density over the unconstrained space, as the engines take it.

    Attributes:
        f: The density as a first-class function, with its data `reals` and `integers`.
        layout: The map between u and x.
        shown: The parameters and what is derived from them, as results list them.
    """

    def __init__(
        self, f: Compiled, reals: np.ndarray, integers: np.ndarray, layout: Layout,
        callback: Callback | None = None,
        vectorised: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
        derived: Callable[[Any], dict[str, np.ndarray]] | None = None,
    ) -> None:  # fmt: skip
        self.f, self.reals, self.integers, self.layout = f, reals, integers, layout
        self._callback, self._vectorised, self._derived = callback, vectorised, derived
        self.gradients = 0
        self.shown = layout
        if derived is not None:
            more = derived(layout.split(np.ones(layout.n)))
            extra = [Parameter(name, values.shape) for name, values in more.items()]
            self.shown = Layout([*layout.parameters, *extra])

    @property
    def problem(self) -> tuple[Any, ...]:
        """The leading arguments of every sampler."""
        return self.f, self.reals, self.integers, self.layout.blocks, self.layout.limits

    def check(self) -> None:
        """Raises what a Python density has raised."""
        if self._callback is not None:
            self._callback.check()

    def rows(self, rows: np.ndarray, jacobian: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Values (r,) and gradients (r, m) at the rows (r, m)."""
        rows = np.ascontiguousarray(rows, float)
        values, gradients = np.empty(len(rows)), np.empty_like(rows)
        self.gradients += len(rows)
        if self._vectorised is None:
            _rows(*self.problem, rows, values, gradients, float(jacobian))
            self.check()
            return values, gradients
        values, slopes = self._vectorised(self.constrained(rows))
        _pull_rows(rows, slopes, gradients, values, *self.problem[3:], float(jacobian))
        return values, gradients

    def __call__(self, u: np.ndarray, jacobian: float = 1.0) -> tuple[float, np.ndarray]:
        """Value and gradient (m,) at u (m,)."""
        values, gradients = self.rows(np.asarray(u)[None], jacobian)
        return float(values[0]), gradients[0]

    def constrained(self, rows: np.ndarray) -> np.ndarray:
        """x(u) of each row: (..., m) to (..., n)."""
        flat = np.ascontiguousarray(rows, float).reshape(-1, self.layout.m)
        found = np.empty((len(flat), self.layout.n))
        constrain_rows(flat, found, self.layout.blocks, self.layout.limits)
        return found.reshape(*rows.shape[:-1], self.layout.n)

    def results(self, rows: np.ndarray) -> np.ndarray:
        """x(u) of each row with derived quantities behind it, as `shown` cuts it."""
        x = self.constrained(rows)
        if self._derived is None:
            return x
        more = self._derived(self.layout.split(x)).values()
        return np.concatenate([x, *(each.reshape(*x.shape[:-1], -1) for each in more)], axis=-1)


@njit(nogil=True, error_model="numpy")
def _pull_rows(rows, slopes, gradients, values, blocks, limits, jacobian):
    """Adds the Jacobians to values (r,) and maps slopes (r, n) to gradients (r, m)."""
    x = np.zeros(limits.shape[1])
    for r in range(rows.shape[0]):
        values[r] += jacobian * constrain(rows[r], x, blocks, limits)
        pull_back(rows[r], x, slopes[r], gradients[r], blocks, limits, jacobian)
