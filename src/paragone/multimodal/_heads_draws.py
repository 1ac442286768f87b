"""Random numbers for rows that bring their own generators, so that a batch changes none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

__all__ = ["Generators", "normals", "uniforms"]

Generators = torch.Generator | Sequence[torch.Generator] | None
"""None for torch's own, one for all rows, or one for each row."""


def normals(shape: tuple[int, ...], generator: Generators, *, device: Any, dtype: Any) -> Tensor:
    """Standard normal numbers of a shape (rows, ...)."""
    return _drawn(torch.randn, shape, generator, device).to(device, dtype)


def uniforms(shape: tuple[int, ...], generator: Generators, *, device: Any, dtype: Any) -> Tensor:
    """Numbers from 0 to 1 of a shape (rows, ...)."""
    return _drawn(torch.rand, shape, generator, device).to(device, dtype)


def _drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], generator: Generators, device: Any
) -> Tensor:
    if generator is None:
        return draw(shape, device=device)
    if isinstance(generator, torch.Generator):
        return draw(shape, generator=generator, device=generator.device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for {shape[0]} rows; one each is expected")
    if not len(generator):
        return torch.empty(shape, device=device)
    together = [list(rows) for _, rows in groupby(generator, id)]
    return torch.cat([
        draw((len(rows), *shape[1:]), generator=rows[0], device=rows[0].device)
        for rows in together
    ])  # fmt: skip
