"""Small calls that lead through every compiled kernel of texts, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

from paragone.language.rouge import novel, rouge_l

__all__ = ["CALLS"]


def _rouge() -> None:
    rouge_l("a b c", "a c")
    novel(["a b c", "a c", "d " * 70])


CALLS: tuple[Callable[[], None], ...] = (_rouge,)
