r"""Rows that go on at places of their own: appending to them, and distances in buckets.

A batch of rows that ended at different lengths goes on with $T$ new tokens each. The new ones of
row $b$ belong at $n_b, n_b + 1, \dots$, where $n_b$ tokens are held already.

References:
    Raffel et al. (2020), T5, arXiv:1910.10683, section 2.1 (buckets of distances).

Shapes: B rows, S held and T new tokens, D anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paragone.mixers.cache import KeyValueCache

__all__ = ["append_rows", "buckets", "held_by", "places_of", "take_rows", "turned_by"]


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


def turned_by(start: int | Tensor, count: int) -> int | Tensor:
    """Returns what `Rotary` takes for tokens from a common place, or from (B,) of them, on."""
    return start if isinstance(start, int) else places_of(start, count)


def places_of(held: Tensor, count: int) -> Tensor:
    """Returns (B, count): the places of new tokens behind the (B,) held ones."""
    return held[:, None] + torch.arange(count, device=held.device)


def held_by(cache: KeyValueCache) -> tuple[Tensor, Tensor]:
    """Returns keys and values (B, G, S, …) of the rows so far, zero behind each row's last."""
    keys, values = cache.filled
    if not cache.ragged:
        return keys, values
    beyond = torch.arange(keys.shape[2], device=keys.device) >= cache.lengths[:, None]
    beyond = beyond[:, None, :, None]
    return keys.masked_fill(beyond, 0), values.masked_fill(beyond, 0)


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
