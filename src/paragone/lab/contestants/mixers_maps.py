"""What is known of a mixer's attention matrix beside its speed: its rank, and how near softmax is.

For those whose outputs are weights times values the matrix of a random head can be written down.
The study `mixers` records its rank in the run of the contestant, and for random features the
distance to softmax at inputs of two sizes.

Shapes: T time, D key width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from paragone._core.lazy import resolve

__all__ = ["FEATURES", "MATRICES", "head", "spectra", "told"]

TIME, KEYS = 512, 64
FEATURES = (64, 256, 1024)
SCALES = {"small": 0.3, "unit": 1.0}


def head(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random queries and keys (T, D) of the given size, in float64."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, TIME, KEYS, generator=generator, dtype=torch.float64) * scale
    return q, k


def _softmax(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1)


def _mapped(which: str) -> Callable[[Tensor, Tensor], Tensor]:
    def weights(q: Tensor, k: Tensor) -> Tensor:
        features = resolve("paragone.mixers.feature_maps:feature_map_for")(which).features
        found = features(q) @ features(k).T
        return found / found.sum(-1, keepdim=True)

    return weights


MATRICES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], int]] = {
    "mha": ("softmax", _softmax, TIME),
    "linear": ("elu + 1", _mapped("elu1"), KEYS),
}
"""Contestant to a name, its attention matrix of (q, k), and the bound on its rank."""


def spectra() -> dict[str, np.ndarray]:
    """Singular values of each matrix over its largest; Performer's with 64 and 256 features."""
    q, k = head()
    found = {name: weights(q, k) for name, weights, _ in MATRICES.values()}
    place = "paragone.mixers.performer:"
    for features in FEATURES[:2]:
        a, b = resolve(place + "_maps_of")(q, k, features, "softmax", True, 0)
        found[f"FAVOR+, {features}"] = resolve(place + "_weights")(a, b)
    values = {name: torch.linalg.svdvals(matrix).numpy() for name, matrix in found.items()}
    return {name: each / each[0] for name, each in values.items()}


def told(name: str) -> dict[str, float]:
    """Further values of a contestant: `rank`, `rank_bound`, `softmax_small_64` and the like."""
    values: dict[str, float] = {}
    if name in MATRICES:
        _, weights, bound = MATRICES[name]
        values["rank"] = float(torch.linalg.matrix_rank(weights(*head())))
        values["rank_bound"] = bound
    if name == "performer":
        place = "paragone.mixers.performer:"
        rank = resolve(place + "feature_rank")(*head(), features=256)[1]
        values |= {"rank": float(rank), "rank_bound": 256.0}
        for size, scale in SCALES.items():
            for features in FEATURES:
                found = resolve(place + "approximation_error")(*head(scale), features, draws=4)
                values[f"softmax_{size}_{features}"] = float(found.relative.mean())
            values[f"softmax_{size}_mean"] = float(found.baseline)
    return values
