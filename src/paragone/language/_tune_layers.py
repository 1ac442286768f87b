r"""Layers of adapters: a frozen map plus a trained one of low rank; frozen weights of four bits.

$$ y = x W^\top + b + s\, (\mathrm{drop}(x) A^\top) B^\top , \qquad
   \frac{\partial L}{\partial x} = g W + s\, (g B) A, \quad
   \frac{\partial L}{\partial A} = s\, (g B)^\top x, \quad
   \frac{\partial L}{\partial B} = s\, g^\top (x A^\top) . $$

The low-rank products are added onto the large one in place, forward and backward: autograd alone
would make three arrays of the size of y, and one of the size of x, more. Four-bit weights are made
floats for the moment of a product and made again in the backward pass, never kept.

References:
    Hu et al. (2022), "LoRA", arXiv:2106.09685, eq. 3.
    Kalajdzievski (2023), arXiv:2312.03732, eq. 5 (the scale alpha / sqrt(r)).
    Dettmers et al. (2023), "QLoRA", arXiv:2305.14314, eq. 5-6.

Shapes: N tokens, I inputs, O outputs, r rank.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from paragone.language.ops.nf4.call import dequantize
from paragone.language.ops.nf4.reference import Packed, quantize

__all__ = ["AdaptedLinear", "Nf4Linear"]


class Nf4Linear(nn.Module):
    """A frozen linear map whose weight is kept in four bits, 4.13 with all scales.

    Attributes:
        error: Distance of the kept weight to the given one, relative to its size.
    """

    codes: Tensor
    scale: Tensor
    group: Tensor
    mean: Tensor
    error: Tensor

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        for name, part in quantize(base.weight)._asdict().items():
            self.register_buffer(name, part)
        self.bias = base.bias
        exact = base.weight.detach().float()
        error = (self.weight - exact).norm() / exact.norm().clamp(min=1e-38)
        self.register_buffer("error", error)

    @property
    def weight(self) -> Tensor:
        """(O, I) the kept weight in float32, made anew."""
        packed = Packed(self.codes, self.scale, self.group, self.mean)
        count = self.in_features * self.out_features
        return dequantize(packed, count).view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class AdaptedLinear(nn.Module):
    """A frozen linear map and a trained one of low rank beside it.

    What reads `.weight`, a fused loss or a decoder, sees the sum of both.

    Args:
        base: The frozen map.
        rank: r.
        scale: s.
        dropout: Share of inputs that the low-rank map does not see in training.
        generator: Source of A (None: torch's own); B is zero.

    Attributes:
        active: Whether the low-rank map takes part.
    """

    def __init__(
        self,
        base: nn.Linear | Nf4Linear,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base_layer, self.scale, self.dropout, self.active = base, scale, dropout, True
        wide = base.weight.dtype if isinstance(base, nn.Linear) else torch.float32
        where: dict[str, Any] = {
            "bias": False, "device": next(iter(base.state_dict().values())).device,
            "dtype": torch.promote_types(wide, torch.float32),
        }  # fmt: skip
        self.lora_A = nn.Linear(base.in_features, rank, **where)
        self.lora_B = nn.Linear(rank, base.out_features, **where)
        if not self.lora_A.weight.is_meta:
            bound = 1 / math.sqrt(base.in_features)
            nn.init.uniform_(self.lora_A.weight, -bound, bound, generator=generator)
            nn.init.zeros_(self.lora_B.weight)

    @property
    def rank(self) -> int:
        """Rank r."""
        return self.lora_A.weight.shape[0]

    @property
    def bias(self) -> Tensor | None:
        """(O,) of the frozen map."""
        return self.base_layer.bias

    @property
    def weight(self) -> Tensor:
        """(O, I) of the whole map, in the type of the frozen one; gradients go to A and B."""
        base = self.base_layer.weight
        if not self.active:
            return base
        wide = torch.promote_types(base.dtype, self.lora_A.weight.dtype)
        more = self.lora_B.weight @ self.lora_A.weight
        return (base.to(wide) + self.scale * more).to(base.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return self.base_layer(x)
        a, b = self.lora_A.weight, self.lora_B.weight
        kind = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
        if self.dropout and self.training:
            with torch.autocast(x.device.type, enabled=False):
                low = functional.dropout(x, self.dropout).to(kind) @ a.to(kind).T
                more = low @ (self.scale * b).to(kind).T
            return self.base_layer(x) + more
        return _Sum.apply(x.to(kind), a, b, self.scale, self.base_layer)  # pyright: ignore

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scale={self.scale:g}, dropout={self.dropout:g}"


class _Sum(torch.autograd.Function):
    """x W' + s (x A') B' + bias; nothing but x and A x' is kept.

    Products with the rank are made with it as the first axis, which BLAS does four times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, base: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            flat = x.flatten(0, -2) if x.ndim > 1 else x[None]
            low = a.to(x.dtype) @ flat.T
            bias = None if base.bias is None else base.bias.to(x.dtype)
            y = functional.linear(flat, base.weight.to(x.dtype), bias)
            y.addmm_(low.T, b.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(flat, low, a, b)
        ctx.scale, ctx.base, ctx.shape = scale, base, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        flat, low, a, b = ctx.saved_tensors
        grad = grads[0].reshape(len(flat), grads[0].shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            through = b.to(grad.dtype).T.contiguous() @ grad.T
            dx = None
            if ctx.needs_input_grad[0]:
                dx = grad @ ctx.base.weight.to(grad.dtype)
                dx.addmm_(through.T, a.to(grad.dtype), alpha=ctx.scale)
                dx = dx.view(ctx.shape)
            da = (through @ flat).to(a.dtype).mul_(ctx.scale)
            db = (low @ grad).T.to(b.dtype).mul_(ctx.scale)
        return dx, da, db, None, None
