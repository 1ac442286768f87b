r"""Losses that a user writes: derivatives by hand, or a PyTorch function and its autograd.

A custom objective is a callable `(y, raw) -> (gradient, hessian)` of unweighted derivatives.
`torch_objective` makes one from a function of tensors: with $L = \sum_i \ell(y_i, F_i)$ it
returns $\partial L / \partial F_{ik}$ and, by differentiating $\sum_i \partial L / \partial
F_{ik}$ once more, $\partial^2 L / \partial F_{ik}^2$: exact when rows do not interact, at
K + 1 backward passes.

Shapes: n rows, K outputs; callables see raw as (n,) if K = 1, else (n, K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from paragone.ensemble._losses import Loss

__all__ = ["Custom", "TorchObjective", "torch_objective"]

_FLAT = 1e-6
"""Least second derivative taken from autograd; a flat or concave row gives no Newton step."""


class Custom(Loss):
    """A callable `(y, raw) -> (gradient, hessian)` as a loss.

    If the callable has an attribute `value`, a function `(y, raw) -> (n,)` losses, training
    scores and early stopping work; else `value` is NaN. The attribute `transform`, a function
    of raw, makes predictions; by default raw itself, or in classification the sigmoid or
    softmax.
    """

    def __init__(
        self, function: Callable, *, num_classes: int | None = None, outputs: int | None = None
    ) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.classify = num_classes is not None
        usual = 1 if num_classes is None or num_classes <= 2 else num_classes
        self.outputs: int = outputs or getattr(function, "outputs", usual)

    def _outside(self, raw: np.ndarray) -> np.ndarray:
        return raw[0] if self.outputs == 1 else raw.T

    def initial(self, y, weight):
        constant = np.zeros(self.outputs)
        gradient, hessian = np.empty((2, self.outputs, len(y)))
        for _ in range(50):
            raw = np.repeat(constant[:, None], len(y), axis=1)
            self.gradients(y, raw, weight, gradient, hessian)
            curvature = hessian.sum(1)
            step = np.divide(
                gradient.sum(1), curvature, out=np.zeros(self.outputs), where=curvature > 0
            )
            if not np.all(np.isfinite(step)):
                break
            constant -= step
            if np.all(np.abs(step) <= 1e-10 * (1 + np.abs(constant))):
                return constant
        # Newton's iteration need not converge for a loss we know nothing about.
        return constant if np.all(np.isfinite(constant)) else np.zeros(self.outputs)

    def gradients(self, y, raw, weight, gradient, hessian):
        found = self.function(y, self._outside(raw))
        for part, into in zip(found, (gradient, hessian), strict=True):
            part = np.asarray(part, np.float64)
            want = (len(y),) if self.outputs == 1 else (len(y), self.outputs)
            if part.shape != want:
                raise ValueError(
                    f"loss {self.name!r} returned shape {part.shape}, not {want}; "
                    "return (gradient, hessian), each of raw's shape"
                )
            np.multiply(part.T, weight, out=into)

    def losses(self, y, raw):
        value = getattr(self.function, "value", None)
        if value is None:
            return np.full(len(y), np.nan)
        return np.asarray(value(y, self._outside(raw)), np.float64)

    def transform(self, raw):
        transform = getattr(self.function, "transform", None)
        if transform is not None:
            return np.asarray(transform(self._outside(raw)))
        if not self.classify:
            return raw[0] if self.outputs == 1 else np.ascontiguousarray(raw.T)
        if self.outputs == 1:
            return np.column_stack([expit(-raw[0]), expit(raw[0])])
        return np.ascontiguousarray(softmax(raw, axis=0).T)


class TorchObjective:
    """A PyTorch loss as a custom objective; see `torch_objective`."""

    def __init__(self, function: Callable[[Any, Any], Any], outputs: int | None = None) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        if outputs is not None:
            self.outputs = outputs

    def __call__(self, y: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns first and second derivatives, of raw's shape."""
        import torch

        scores = torch.tensor(np.ascontiguousarray(raw), dtype=torch.float64, requires_grad=True)
        total = self.function(torch.from_numpy(np.ascontiguousarray(y)), scores).sum()
        (first,) = torch.autograd.grad(total, scores, create_graph=True)
        second = torch.zeros_like(scores)
        if first.requires_grad:
            for k in range(first.shape[1] if first.ndim == 2 else 1):
                column = (..., k) if first.ndim == 2 else ...
                (row,) = torch.autograd.grad(
                    first[column].sum(), scores, retain_graph=True, materialize_grads=True
                )
                second[column] = row[column]
        hessian = second.detach().numpy()
        if not hessian.any():
            return first.detach().numpy(), np.ones_like(hessian)
        return first.detach().numpy(), np.maximum(hessian, _FLAT)

    def value(self, y: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """Returns the loss of every row, or its mean repeated if the function sums."""
        import torch

        found = self.function(
            torch.from_numpy(np.ascontiguousarray(y)),
            torch.tensor(np.ascontiguousarray(raw), dtype=torch.float64),
        )
        loss = found.detach().numpy()
        return loss if loss.shape == (len(y),) else np.full(len(y), loss.sum() / len(y))


def torch_objective(
    function: Callable[[Any, Any], Any], *, outputs: int | None = None
) -> TorchObjective:
    """Returns an objective for `loss=` whose derivatives come from PyTorch's autograd.

    Prefer it to derivatives by hand when the loss is new: write it once, as a formula. A row
    whose second derivative is below 1e-6 gets 1e-6; a loss with none at all gets 1.

    Args:
        function: `(y, raw) -> losses` on float64 tensors: (n,) losses or their sum. Rows must
            not interact. Module-level functions can be pickled.
        outputs: Raw scores a row, if not as many as the task has by default.

    Example:
        >>> objective = torch_objective(lambda y, raw: (raw - y) ** 2)
        >>> objective(np.array([1.0, 2.0]), np.array([0.0, 5.0]))
        (array([-2.,  6.]), array([2., 2.]))
    """
    return TorchObjective(function, outputs)
