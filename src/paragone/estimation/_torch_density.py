"""Torch densities: all chains in one evaluation, gradients by autograd.

The convention: a density takes a dict of float64 tensors, each (chains, *shape), and returns
(chains,); a sum over chains has the gradient of each chain in its own row, so no `vmap` is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from paragone.estimation._parameters import Layout

__all__ = ["vectorised"]


def vectorised(
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor], layout: Layout
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a NumPy function: x (c, n) to values (c,) and slopes (c, n)."""

    def call(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
        parts: dict[str, Any] = {
            each.name: x[:, layout.places[each.name]].reshape(len(rows), *each.shape)
            for each in layout.parameters
        }
        values = function(parts)
        if not isinstance(values, torch.Tensor) or values.shape != (len(rows),):
            raise ValueError(
                f"the density returned {getattr(values, 'shape', type(values))} for {len(rows)} "
                "chains: sum over all axes but the first"
            )
        (slopes,) = torch.autograd.grad(values.sum(), x)
        return values.detach().numpy().astype(float), slopes.numpy()

    return call
