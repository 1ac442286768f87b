"""Nearest code by one matrix product, on any device; near ties are measured again in float64."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest_code"]

_NUMBERS = 1 << 25
"""Scores that are held at a time."""

_ROUNDING = {"highest": 1.2e-7, "high": 2e-3, "medium": 1.6e-2}
"""Twice the unit of rounding of what torch may multiply float32 in."""


def nearest_code(z: Tensor, codes: Tensor) -> Tensor:
    """As `reference.nearest_code`, of float32."""
    codes = torch.where(codes.isfinite().all(-1, True), codes, torch.inf)
    wide = codes.double()
    halves = (wide.square().sum(-1) / 2).float()
    books = torch.where(halves[:, None].isfinite(), codes, 0.0)
    longest = books.double().square().sum(-1).max().sqrt()
    unit = _ROUNDING[torch.get_float32_matmul_precision()]
    found = []
    for part in z.split(max(1, _NUMBERS // len(codes))):
        length = part.double().square().sum(-1).sqrt()
        margin = unit * ((codes.shape[1] + 2) * length * longest + longest.square())
        scores = torch.addmm(-halves, part, books.T)
        best = scores.max(1, keepdim=True).values
        near = scores >= best - margin[:, None].float()
        ids = near.to(torch.int8).argmax(1)
        rows = (near.sum(1) > 1).nonzero().flatten()
        for some in rows.split(max(1, _NUMBERS // 8 // len(codes))):
            ids[some] = _measured(part[some].double(), wide, near[some])
        found.append(ids)
    return torch.cat(found)


def _measured(z: Tensor, codes: Tensor, near: Tensor) -> Tensor:
    """The nearest of those that are near."""
    row, code = near.nonzero(as_tuple=True)
    distances = torch.full(near.shape, torch.inf, dtype=torch.float64, device=z.device)
    for one in torch.arange(len(row), device=z.device).split(max(1, _NUMBERS // 8 // z.shape[1])):
        distances[row[one], code[one]] = (z[row[one]] - codes[code[one]]).square().sum(-1)
    return distances.argmin(1)
