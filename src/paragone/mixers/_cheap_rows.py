r"""Rows that go on at places of their own: appending to them, turning keys, distances in buckets.

A batch of rows that ended at different lengths goes on with $T$ new tokens each. The new ones of
row $b$ belong at $n_b, n_b + 1, \dots$, where $n_b$ tokens are held already.

References:
    Su et al. (2021), RoFormer, arXiv:2104.09864, eq. 15 (rotary places); Raffel et al. (2020),
    T5, arXiv:1910.10683, section 2.1 (buckets of distances).

Shapes: B rows, S held and T new tokens, D anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["append_rows", "buckets", "places_of", "rotate", "take_rows"]


def append_rows(old: Tensor, held: Tensor, new: Tensor) -> Tensor:
    """Returns (B, S + T, D): the new rows right behind what counts of the old ones.

    Args:
        old: (B, S, D).
        held: (B,) how many of the S count.
        new: (B, T, D).

    Example:
        >>> old, new = torch.ones(2, 2, 1), torch.full((2, 1, 1), 5.0)
        >>> append_rows(old, torch.tensor([2, 1]), new)[..., 0].tolist()
        [[1.0, 1.0, 5.0], [1.0, 5.0, 0.0]]
    """
    if bool((held == old.shape[1]).all()):
        return torch.cat([old, new], dim=1)
    places = places_of(held, new.shape[1])
    rows = torch.arange(len(held), device=held.device)[:, None].expand_as(places)
    return torch.cat([old, torch.zeros_like(new)], dim=1).index_put((rows, places), new)


def take_rows(x: Tensor, first: Tensor, count: int) -> Tensor:
    """Returns (B, count, D): tokens from `first` (B,) on, zero where there are none."""
    places = places_of(first, count)
    inside = places < x.shape[1]
    rows = torch.arange(len(first), device=first.device)[:, None]
    if not x.shape[1]:
        return x.new_zeros(len(first), count, *x.shape[2:])
    found = x[rows, places.clamp(max=x.shape[1] - 1)]
    return found.masked_fill(~inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), 0)


def places_of(held: Tensor, count: int) -> Tensor:
    """Returns (B, count): the places of new tokens behind the (B,) held ones."""
    return held[:, None] + torch.arange(count, device=held.device)


def rotate(x: Tensor, places: Tensor, base: float = 10_000.0) -> Tensor:
    """Turns pairs of columns of x (B, T, D), D even, by angles that grow with places (B, T)."""
    half = x.shape[-1] // 2
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    speeds = torch.arange(half, device=x.device, dtype=torch.float64) * (-math.log(base) / half)
    angles = (places[..., None].to(torch.float64) * speeds.exp()).to(dtype)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def buckets(distance: Tensor, causal: bool, count: int = 32, furthest: int = 128) -> Tensor:
    """Returns the bucket of each distance $i - j$: exact when near, logarithmic when far.

    If not causal, the second half of the buckets is for keys behind the query (j > i).
    """
    start = torch.zeros_like(distance)
    if causal:
        distance = distance.clamp(min=0)
    else:
        count //= 2
        start = (distance < 0).to(distance.dtype) * count
        distance = distance.abs()
    exact = count // 2
    far = torch.log(distance.clamp(min=1).to(torch.float32) / exact) / math.log(furthest / exact)
    far = (exact + far * (count - exact)).to(distance.dtype).clamp(max=count - 1)
    return start + torch.where(distance < exact, distance, far)
