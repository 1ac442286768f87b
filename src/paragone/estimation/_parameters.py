"""Constrained parameters and the flat vectors that the engines move in.

A parameter has a name, a shape and a support. The engines see an unconstrained vector u; the
density sees the constrained vector x, all parameters flat in C order one after the other. `Layout`
holds the map between the two as arrays that the kernels of `_transforms` read.

References:
    Stan Reference Manual 2.36, chapter "Constraint Transforms": the maps and their Jacobians.

Shapes: x (n,) constrained, u (m,) unconstrained; m < n with simplexes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Layout", "Parameter"]

REAL, LOWER, UPPER, INTERVAL, ORDERED, SIMPLEX = range(6)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a model: its name, shape and support.

    Args:
        name: How it is called in draws and tables.
        shape: () for a number, (k,) for a vector, and so on.
        lower: Least value, exclusive; None for none.
        upper: Greatest value, exclusive; None for none.
        simplex: The last axis is positive and sums to one.
        ordered: The last axis is strictly increasing.

    Raises:
        ValueError: The name is no identifier, the bounds are not in order, or two supports are
            asked for at once.

    Example:
        >>> Parameter("scale", lower=0.0).support
        '(0.0, inf)'
    """

    name: str
    shape: tuple[int, ...] = ()
    lower: float | None = None
    upper: float | None = None
    simplex: bool = False
    ordered: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"name={self.name!r} is no identifier: use a name such as 'mu'")
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        if any(int(size) != size or size < 1 for size in shape):
            raise ValueError(f"shape={shape} of {self.name!r}: use sizes of 1 and above")
        object.__setattr__(self, "shape", tuple(int(size) for size in shape))
        for side in ("lower", "upper"):
            value = getattr(self, side)
            if value is not None and math.isnan(value):
                raise ValueError(f"{side}={value} of {self.name!r} is no bound: use a number")
        low, high = self.bounds
        if not low < high:
            raise ValueError(
                f"lower={self.lower}, upper={self.upper} of {self.name!r} leave no room: "
                "use lower < upper"
            )
        bounded = np.isfinite([low, high]).any()
        if self.simplex + self.ordered + bool(bounded) > 1:
            raise ValueError(f"{self.name!r}: use one of bounds, simplex and ordered")
        if (self.simplex or self.ordered) and (not shape or shape[-1] < 2):
            raise ValueError(f"{self.name!r}: the last axis of shape={shape} needs 2 values")

    @property
    def bounds(self) -> tuple[float, float]:
        """(lower, upper) with infinities where there is no bound."""
        low = -math.inf if self.lower is None else float(self.lower)
        high = math.inf if self.upper is None else float(self.upper)
        return low, high

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return math.prod(self.shape)

    @property
    def kind(self) -> int:
        """Number of its map in `_transforms`."""
        low, high = np.isfinite(self.bounds)
        if self.simplex or self.ordered:
            return SIMPLEX if self.simplex else ORDERED
        return (REAL, LOWER, UPPER, INTERVAL)[int(low) + 2 * int(high)]

    @property
    def support(self) -> str:
        """The support in words."""
        if self.simplex or self.ordered:
            return "simplex" if self.simplex else "ordered"
        return str(self.bounds)


class Layout:
    """Where each parameter lies in the flat vectors.

    Attributes:
        blocks: (b, 4): kind, first place in u, first place in x, size in x. Unsigned, so that
            kernels need not ask whether an index counts from the end.
        limits: (2, n) bounds of each number of x.
        n: Size of x.
        m: Size of u.
    """

    def __init__(self, parameters: Sequence[Parameter] | Mapping[str, Any]) -> None:
        if isinstance(parameters, Mapping):
            parameters = [Parameter(name, shape) for name, shape in parameters.items()]
        found = [Parameter(each) if isinstance(each, str) else each for each in parameters]
        names = [each.name for each in found]
        if not found or len(set(names)) < len(names):
            raise ValueError(f"parameters={names}: give at least one, and each name once")
        self.parameters = tuple(found)
        blocks: list[tuple[int, int, int, int]] = []
        self.places: dict[str, slice] = {}
        self.n = self.m = 0
        for each in found:
            self.places[each.name] = slice(self.n, self.n + each.size)
            rows = each.size // each.shape[-1] if each.kind in (ORDERED, SIMPLEX) else 1
            size = each.size // rows
            for _ in range(rows):
                blocks.append((each.kind, self.m, self.n, size))
                self.n += size
                self.m += size - (each.kind == SIMPLEX)
        self.blocks = np.array(blocks, np.uint64)
        pairs = [np.repeat([each.bounds], each.size, axis=0) for each in found]
        self.limits = np.ascontiguousarray(np.concatenate(pairs).T)

    def split(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Cuts (..., n) into the parameters, each (..., *shape)."""
        return {
            each.name: x[..., self.places[each.name]].reshape((*x.shape[:-1], *each.shape))
            for each in self.parameters
        }

    def join(self, values: Mapping[str, Any]) -> np.ndarray:
        """Lays values of all parameters out as x (n,).

        Raises:
            ValueError: One is missing, of another shape, or outside of its support.
        """
        x = np.empty(self.n)
        for each in self.parameters:
            if each.name not in values:
                raise ValueError(f"no value for {each.name!r}: give one for each parameter")
            value = np.asarray(values[each.name], float)
            if value.shape != each.shape:
                raise ValueError(f"{each.name!r} has shape {value.shape}, not {each.shape}")
            low, high = each.bounds
            inside = np.isfinite(value).all() and ((value > low) & (value < high)).all()
            if each.ordered:
                inside = inside and (np.diff(value) > 0).all()
            if each.simplex:
                inside = inside and (value > 0).all() and np.allclose(value.sum(-1), 1)
            if not inside:
                raise ValueError(f"{each.name!r} = {value} is outside {each.support}")
            x[self.places[each.name]] = value.ravel()
        return x

    def labels(self) -> list[str]:
        """A name for each number of x: mu, theta[0], theta[1], ..."""
        found = []
        for each in self.parameters:
            for index in np.ndindex(*each.shape):
                tail = f"[{','.join(map(str, index))}]" if index else ""
                found.append(each.name + tail)
        return found
