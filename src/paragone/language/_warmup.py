"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.language import _warm_decode, _warm_text, _warm_train, _warm_tune

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "llama": (*_warm_decode.CALLS, *_warm_train.CALLS),
    "alpaca": (*_warm_text.CALLS, *_warm_tune.CALLS),
}
