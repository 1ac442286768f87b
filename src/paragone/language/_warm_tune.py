"""Small calls that lead through every compiled kernel of tuning, for `paragone warmup`."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["CALLS"]


def _four_bits() -> None:
    from paragone.language.ops.nf4.call import dequantize
    from paragone.language.ops.nf4.reference import quantize

    dequantize(quantize(torch.ones(65)), 65)


def _experts() -> None:
    from paragone.language.ops.experts import routed_experts

    x, weights = torch.ones(2, 3, requires_grad=True), torch.ones(2, 1)
    chosen = torch.zeros(2, 1, dtype=torch.int64)
    routed_experts(x, chosen, weights, torch.ones(2, 8, 3), torch.ones(2, 3, 4)).sum().backward()


def _stream() -> None:
    from paragone.language.ops.stream import gated, rms_norm

    x = torch.ones(1, 3, requires_grad=True)
    gated(rms_norm(x, torch.ones(3, requires_grad=True), 1e-5), x).sum().backward()


CALLS: tuple[Callable[[], None], ...] = (_four_bits, _experts, _stream)
