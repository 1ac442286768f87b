"""Small calls that lead through every compiled kernel of tuning, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["CALLS"]


def _four_bits() -> None:
    from paragone.language.ops.nf4.call import dequantize
    from paragone.language.ops.nf4.reference import quantize

    dequantize(quantize(torch.ones(65)), 65)


CALLS: tuple[Callable[[], None], ...] = (_four_bits,)
