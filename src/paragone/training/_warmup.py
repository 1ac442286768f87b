"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.training import _warm_adam, _warm_collectives, _warm_optimizers, _warm_precision

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "adamw": (*_warm_adam.CALLS, *_warm_optimizers.CALLS),
    "mixed_precision": _warm_precision.CALLS,
    "all_reduce": _warm_collectives.CALLS,
}
