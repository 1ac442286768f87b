"""Other libraries' sequence mixers behind the contract of ours, for the study `mixers`.

Each is built in its own run, which alone imports the library. What a library cannot do stays
out: without `step` a rival has no figure for decoding. Weights are as each library draws them.

Shapes: B rows, T time, M model width, H heads.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.torchvision_cpu import prepare

__all__ = [
    "FlaDelta", "FlashPytorch", "HuggingMamba", "LinformerPeer", "MambaPy", "PerformerPytorch",
    "TorchAttention", "TorchMultihead",
]  # fmt: skip


def rotated(x: Tensor, start: int = 0) -> Tensor:
    """Rotary places of (B, H, T, D): halves of the width turn by T / 10000^(2i / D)."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(start, start + x.shape[-2], dtype=torch.float32)[:, None] * rates
    low, high = x[..., :half], x[..., half : 2 * half]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([low * cos - high * sin, low * sin + high * cos, x[..., 2 * half :]], dim=-1)


class TorchAttention(nn.Module):
    """Causal attention as people write it with torch: SDPA, rotary places, a cache that grows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, Any]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = 0 if state is None else state[0].shape[2]
        q, k = rotated(q, seen), rotated(k, seen)
        if state is not None:
            k, v = torch.cat([state[0], k], dim=2), torch.cat([state[1], v], dim=2)
        mask = None
        if seen and q.shape[2] > 1:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(seen)
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=seen == 0 and q.shape[2] > 1
        )
        return self.out(mixed.transpose(1, 2).flatten(2)), (k, v)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, M) and the cache to the same."""
        y, state = self(x_t[:, None], state=state)
        return y[:, 0], state


class _Whole(nn.Module):
    """A rival that mixes whole sequences and has no state."""

    inner: nn.Module

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, None]:
        if state is not None:
            raise ValueError(f"{type(self).__name__} cannot go on from a state")
        return self._mixed(x), None

    def _mixed(self, x: Tensor) -> Tensor:
        return self.inner(x)


class TorchMultihead(_Whole):
    """`torch.nn.MultiheadAttention` with a causal mask, and no places."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def _mixed(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.inner(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


class HuggingMamba(_Whole):
    """The mixer of transformers' Mamba, on its slow path where no CUDA kernel is."""

    alone = True

    def __init__(self, width: int) -> None:
        super().__init__()
        prepare()
        config = resolve("transformers:MambaConfig")(hidden_size=width, num_hidden_layers=1)
        place = "transformers.models.mamba.modeling_mamba:MambaMixer"
        self.inner = resolve(place)(config, layer_idx=0)
        self.inner.requires_grad_(True)


class MambaPy(nn.Module):
    """mambapy's block: the scan as a tree of torch operations."""

    alone = True

    def __init__(self, width: int) -> None:
        super().__init__()
        config = resolve("mambapy.mamba:MambaConfig")(d_model=width, n_layers=1)
        self.inner = resolve("mambapy.mamba:MambaBlock")(config)
        self.config: Any = config

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, Any]:
        if state is not None:
            raise ValueError("mambapy goes on token by token only")
        return self.inner(x), None

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, M) and (scan state, last inputs of the convolution) to the same."""
        if state is None:
            inputs = x_t.new_zeros(x_t.shape[0], self.config.d_inner, self.config.d_conv - 1)
            state = (None, inputs)
        return self.inner.step(x_t, state)


class PerformerPytorch(_Whole):
    """performer-pytorch's causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = resolve("performer_pytorch:SelfAttention")(
            dim=width, causal=True, heads=heads, dim_head=width // heads
        )


class LinformerPeer(_Whole):
    """linformer's attention; it sees the whole sequence."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.inner = resolve("linformer:LinformerSelfAttention")(
            dim=width, seq_len=length, heads=heads, k=min(256, length)
        )


class FlashPytorch(_Whole):
    """FLASH-pytorch's gated unit ("gau") or mixed chunks ("flash"), its residual and norm in it."""

    alone = True

    def __init__(self, width: int, kind: str = "gau") -> None:
        super().__init__()
        if kind == "gau":
            self.inner = resolve("flash_pytorch:GAU")(dim=width, causal=True, add_residual=False)
        else:
            self.inner = resolve("flash_pytorch:FLASH")(dim=width, causal=True)


class FlaDelta(_Whole):
    """fla's own plain-torch recurrence of the delta rule, between projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        os.environ.setdefault("TRITON_INTERPRET", "1")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.rate = nn.Linear(width, heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.chunk = resolve("fla.ops.delta_rule.naive:delta_rule_chunkwise")

    def _mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k = functional.normalize(k, dim=-1)
        rate = self.rate(x).sigmoid().transpose(1, 2)
        mixed = self.chunk(q, k, v, rate, chunk_size=min(32, x.shape[1]))[0]
        return self.out(mixed.transpose(1, 2).flatten(2))
