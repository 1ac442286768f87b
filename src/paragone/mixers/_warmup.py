"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.mixers import (
    _warm_attention,
    _warm_cheap,
    _warm_heads,
    _warm_linear,
    _warm_mamba,
    _warm_spaces,
)

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "flash_attention": _warm_attention.CALLS,
    "latent_attention": _warm_heads.CALLS,
    "linear_attention": _warm_linear.CALLS,
    "performer": _warm_cheap.CALLS,
    "state_space": (*_warm_spaces.CALLS, *_warm_mamba.CALLS),
}
