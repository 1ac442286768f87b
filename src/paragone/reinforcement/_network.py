"""A multilayer perceptron as a shape: its parameters are one vector, kept by whoever learns them.

Two back ends compute the same function: `numba` (one compiled call a pass, see `_mlp_kernels`)
and `torch`, which is the definition and serves activations that have no kernel.

Shapes: B rows, d inputs, k outputs, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from paragone.reinforcement import _mlp_kernels as kernels

__all__ = ["ACTIVATIONS", "Adam", "Network", "choose_backend"]

ACTIVATIONS = ("tanh", "relu", "elu", "silu")
_COMPILED = {"tanh": kernels.TANH, "relu": kernels.RELU}


def choose_backend(backend: str, activation: str) -> str:
    """Returns "numba" or "torch"; "auto" takes Numba where the activation has a kernel."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is none of {', '.join(ACTIVATIONS)}")
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"backend={backend!r} is none of 'auto', 'numba', 'torch'")
    if backend == "numba" and activation not in _COMPILED:
        raise ValueError(
            f"backend='numba' has no activation {activation!r}: use tanh or relu, or 'torch'"
        )
    if backend == "auto":
        return "numba" if activation in _COMPILED else "torch"
    return backend


class Network:
    """Layers of the given widths; all methods take the vector of parameters.

    Args:
        sizes: Widths from the inputs d to the outputs k.
        activation: Between the layers, one of `ACTIVATIONS`.
        backend: "numba" or "torch": what `outputs` computes with.
    """

    def __init__(self, sizes: Sequence[int], activation: str, backend: str) -> None:
        self.sizes = np.array(sizes, np.int64)
        self.activation, self.backend = activation, backend
        self._kind = _COMPILED.get(activation, -1)
        self.size = sum(i * o + o for i, o in pairwise(sizes))
        self._per_row = int(self.sizes[1:].sum())
        self._buffer = np.empty(0, np.float32)

    def start(self, rng: np.random.Generator, gain: float) -> np.ndarray:
        """Draws parameters (P,): orthogonal weights, the last layer's times `gain`, no biases."""
        theta = np.zeros(self.size, np.float32)
        place, last = 0, len(self.sizes) - 2
        for layer, (wide, out) in enumerate(pairwise(self.sizes.tolist())):
            square = rng.normal(size=(max(wide, out), min(wide, out)))
            q, r = np.linalg.qr(square)
            q = (q * np.sign(np.diag(r))).reshape(max(wide, out), min(wide, out))
            weights = (q if wide >= out else q.T) * (gain if layer == last else math.sqrt(2))
            theta[place : place + wide * out] = weights.ravel()
            place += wide * out + out
        return theta

    def outputs(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Returns the outputs (B, k) of inputs (B, d) float32; a view until the next call."""
        if self.backend == "torch":
            import torch

            with torch.no_grad():
                return self.torch(torch.from_numpy(theta), torch.from_numpy(x)).numpy()
        need = len(x) * self._per_row
        if len(self._buffer) < need:
            self._buffer = np.empty(need, np.float32)
        kernels.forward(theta, self.sizes, self._kind, x, self._buffer)
        return self._buffer[need - len(x) * int(self.sizes[-1]) : need].reshape(len(x), -1)

    def add_gradient(
        self, theta: np.ndarray, x: np.ndarray, slope: np.ndarray, grad: np.ndarray
    ) -> None:
        """Adds to `grad` (P,) what a gradient `slope` (B, k) of the last `outputs(theta, x)` gives.

        Numba only; autograd does it for `torch`.
        """
        kernels.backward(theta, self.sizes, self._kind, x, self._buffer, slope, grad)

    def torch(self, theta: Any, x: Any) -> Any:
        """The same function of torch tensors, for autograd."""
        import torch

        act = torch.nn.functional.silu if self.activation == "silu" else None
        act = act or getattr(torch, self.activation, None) or torch.nn.functional.elu
        place, last = 0, len(self.sizes) - 2
        for layer in range(len(self.sizes) - 1):
            wide, out = int(self.sizes[layer]), int(self.sizes[layer + 1])
            weights = theta[place : place + wide * out].view(wide, out)
            x = torch.addmm(theta[place + wide * out : place + wide * out + out], x, weights)
            x = act(x) if layer < last else x
            place += wide * out + out
        return x


class Adam:
    """Adam over one vector of parameters; one loop, equal to `torch.optim.Adam`.

    Args:
        size: Number of parameters P.
        eps: Added to the root of the second moment.
        max_norm: The gradient's norm is cut to it.
    """

    def __init__(self, size: int, eps: float, max_norm: float) -> None:
        self.first, self.second = np.zeros(size, np.float32), np.zeros(size, np.float32)
        self.steps, self.eps, self.max_norm = 0, float(eps), float(max_norm)

    def step(self, theta: np.ndarray, grad: np.ndarray, rate: float) -> float:
        """Moves `theta` (P,) in place against `grad`; returns the gradient's norm."""
        self.steps += 1
        return kernels.adam(
            theta, grad, self.first, self.second, self.steps, float(rate), 0.9, 0.999, self.eps,
            self.max_norm,
        )  # fmt: skip
