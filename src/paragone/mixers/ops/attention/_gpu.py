"""The Triton kernels of attention behind the interface of a back end."""

from __future__ import annotations

from torch import Tensor

from paragone.mixers.ops.attention.attention_triton import backward, forward
from paragone.mixers.ops.attention.block_mask import BlockMask
from paragone.mixers.ops.attention.rule import Call, Extras

__all__ = ["backward_call", "forward_call"]


def _extras(call: Call) -> Extras:
    mask: Tensor | BlockMask | None = call.mask
    if mask is None and call.table is not None and call.elements is not None:
        mask = BlockMask(call.table, call.elements, call.q.shape[2], call.k.shape[2])
    return Extras(call.lengths, call.packed, mask, call.bias, call.slopes)


def forward_call(call: Call) -> tuple[Tensor, Tensor]:
    """Outputs (B, H, Tq, E) of the type of q and logarithms (B, H, Tq) in float32."""
    return forward(call.q, call.k, call.v, call.rule, _extras(call))


def backward_call(
    call: Call, dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, trained: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of q, k, v and of the bias (if it is trained); slopes get none here."""
    found = backward(
        dout, dlse, call.q, call.k, call.v, out, lse, call.rule, _extras(call),
        bias_gradient=trained,
    )  # fmt: skip
    return found.q, found.k, found.v, found.bias, None
