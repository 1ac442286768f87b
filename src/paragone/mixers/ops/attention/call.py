r"""One call of attention, checked and handed to the back end that serves it.

Dense and packed rows are the same to a kernel: a row is an offset and two lengths. So the
operation takes (B, H, T, D) tensors of any strides whose last one is 1, and for packed rows
(1, H, sum of lengths, D) with the lengths of N rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paragone.kernels import choice
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.reference import attention_reference
from paragone.mixers.ops.attention.rule import Rule

__all__ = ["Extras", "attend"]


class Extras(NamedTuple):
    """What a call may have beside q, k, v and the rule.

    Attributes:
        lengths: (N,) queries and (N,) keys of each row, int64 (None: all of them).
        packed: Whether the rows stand one behind the other in a single one.
        mask: Bool (N or 1, H or 1, Tq or 1, Tk or 1), or by blocks.
        bias: Float, broadcast alike.
        slopes: (N or 1, H) float32 of ALiBi.
    """

    lengths: tuple[Tensor, Tensor] | None = None
    packed: bool = False
    mask: Tensor | BlockMask | None = None
    bias: Tensor | None = None
    slopes: Tensor | None = None


def attend(
    q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Returns (B, H, Tq, E) of the type of q, and (B, H, Tq) float32 (float64) logarithms."""
    name = choice.choose("attention", backend, device=q.device.type, dtype=q.dtype)
    assert name == "torch"
    return _whole(q, k, v, rule, extras)


def _whole(q: Tensor, k: Tensor, v: Tensor, rule: Rule, extras: Extras) -> tuple[Tensor, Tensor]:
    """The definition; packed rows are padded for it."""
    mask = extras.mask.dense() if isinstance(extras.mask, BlockMask) else extras.mask
    more = {"mask": mask, "bias": extras.bias, "slopes": extras.slopes}
    if not extras.packed:
        return attention_reference(q, k, v, rule, lengths=extras.lengths, **more)
    assert extras.lengths is not None
    spans = [_spans(n) for n in extras.lengths]
    padded = [
        x[0].transpose(0, 1).new_zeros(*place.shape, *x.shape[1::2]).masked_scatter(
            inside[..., None, None], x[0].transpose(0, 1)).transpose(1, 2)
        for x, (place, inside) in ((q, spans[0]), (k, spans[1]), (v, spans[1]))
    ]  # fmt: skip
    out, lse = attention_reference(*padded, rule, lengths=extras.lengths, **more)
    inside = spans[0][1]
    return out.transpose(1, 2)[inside].transpose(0, 1)[None], lse.mT[inside].mT[None]


def _spans(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(N, longest): place in the packed row, and whether there is a token."""
    longest = int(lengths.max()) if len(lengths) else 0
    at = torch.arange(longest, device=lengths.device)
    return (torch.cumsum(lengths, 0) - lengths)[:, None] + at, at < lengths[:, None]


choice.register("attention", {"torch": lambda device, dtype: None})
