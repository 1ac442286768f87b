"""Small calls that lead through every compiled kernel of the family, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.multimodal import _warm_codebook, _warm_moonvit

__all__ = ["CALLS"]

CALLS: dict[str, tuple[Callable[[], None], ...]] = {
    "kimi_vl": _warm_moonvit.CALLS,
    "chameleon": _warm_codebook.CALLS,
}
