"""Ways to attend, and decoders with their caches: ours, torch's, transformers', by the book.

A contestant of the study `attention` has

    attend(q, k, v, *, causal, window, mask) -> output
        (B, H, T, D) queries, keys and values; `window` is None or the number of last keys that a
        query sees, itself included; `mask` None or bool (T, T), true where a query may look;
    decoder(layout, width, heads, groups) -> module
        `module(x) -> (y, state)` and `module.step(x_t, state) -> (y_t, state)`, with
        `module.cached(state)`, the bytes of a token that the cache keeps, for the layouts
        "mha", "gqa", "mqa" and "mla".

Shapes: B rows, H heads, G key heads, T time, D head width, M model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone._core.lazy import resolve
from paragone.lab.contestants.mixers_rivals import rotated
from paragone.lab.torchvision_cpu import prepare

__all__ = ["LATENT", "Flex", "Hugging", "Ladder", "Naive", "Ours", "TorchSdpa", "permitted"]

LATENT = {"latent": 512, "rope": 64, "head": 128}
"""Sizes of DeepSeek-V2's heads: the latent, the shared rotary key, and a head's key and value."""


def permitted(time: int, causal: bool, window: int | None, mask: Tensor | None) -> Tensor | None:
    """The bool mask (T, T) that says all of it, or None where everything may be seen."""
    if mask is not None:
        return mask
    if not causal and window is None:
        return None
    i, j = torch.arange(time)[:, None], torch.arange(time)[None]
    seen = j <= i
    return seen & (i - j < window) if window is not None else seen


class Ours:
    """Paragone's kernels and modules."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        call = resolve("paragone.mixers:attention")
        return call(q, k, v, causal=causal, window=window, mask=mask)

    def decoder(self, layout: str, width: int, heads: int, groups: int) -> nn.Module:
        if layout == "mla":
            return resolve("paragone.mixers:LatentAttention")(
                width,
                heads,
                kv_lora_rank=LATENT["latent"],
                qk_rope_head_dim=LATENT["rope"],
                qk_nope_head_dim=LATENT["head"],
                v_head_dim=LATENT["head"],
            )
        if layout == "gqa":
            return resolve("paragone.mixers:GroupedQueryAttention")(width, heads, kv_heads=groups)
        name = "MultiHeadAttention" if layout == "mha" else "MultiQueryAttention"
        return resolve(f"paragone.mixers:{name}")(width, heads)


class Ladder:
    """A step of the teaching ladder: "three-pass", "two-pass", "online" or "tiled"."""

    def __init__(self, method: str) -> None:
        self.method = method

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, **mask: Any) -> Any:
        return resolve("paragone.mixers:attention")(q, k, v, causal=causal, method=self.method)


class _Cached(nn.Module):
    """A decoder by torch's own calls: a cache that is concatenated, grouped keys by `repeat`."""

    def __init__(self, attend: Any, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.attend, self.heads, self.groups = attend, heads, groups
        size = width // heads
        self.size = size
        self.qkv = nn.Linear(width, (heads + 2 * groups) * size, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, Any]:
        sizes = (self.heads, self.groups, self.groups)
        parts = self.qkv(x).unflatten(-1, (-1, self.size)).transpose(1, 2).split(sizes, dim=1)
        seen = 0 if state is None else state[0].shape[2]
        q, k, v = rotated(parts[0], seen), rotated(parts[1], seen), parts[2]
        if state is not None:
            k, v = torch.cat([state[0], k], dim=2), torch.cat([state[1], v], dim=2)
        mixed = self.attend(q, k, v, causal=x.shape[1] > 1)
        return self.out(mixed.transpose(1, 2).flatten(2)), (k, v)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self(x_t[:, None], state=state)
        return y[:, 0], state


class _Latent(nn.Module):
    """MLA that caches the latent and expands all of it at each step, as transformers does."""

    def __init__(self, attend: Any, width: int, heads: int) -> None:
        super().__init__()
        self.attend, self.heads = attend, heads
        self.d, self.r, self.n = LATENT["head"], LATENT["rope"], LATENT["latent"]
        self.query = nn.Linear(width, heads * (self.d + self.r), bias=False)
        self.down = nn.Linear(width, self.n + self.r, bias=False)
        self.norm = nn.RMSNorm(self.n)
        self.up = nn.Linear(self.n, heads * 2 * self.d, bias=False)
        self.out = nn.Linear(heads * self.d, width, bias=False)

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, Any]:
        seen = 0 if state is None else state.shape[1]
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q = torch.cat([q[..., : self.d], rotated(q[..., self.d :], seen)], dim=-1)
        latent, key = self.down(x).split([self.n, self.r], dim=-1)
        new = torch.cat([self.norm(latent), rotated(key[:, None], seen)[:, 0]], dim=-1)
        kept = new if state is None else torch.cat([state, new], dim=1)
        both = self.up(kept[..., : self.n]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        shared = kept[:, None, :, self.n :].expand(-1, self.heads, -1, -1)
        k, v = torch.cat([both[..., : self.d], shared], dim=-1), both[..., self.d :]
        mixed = self.attend(q, k, v, causal=x.shape[1] > 1)
        return self.out(mixed.transpose(1, 2).flatten(2)), kept

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self(x_t[:, None], state=state)
        return y[:, 0], state


class TorchSdpa:
    """torch's `scaled_dot_product_attention`, by one of its back ends ("flash" or "math")."""

    def __init__(self, backend: str = "flash") -> None:
        self.backend = backend

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        from torch.nn.attention import SDPBackend, sdpa_kernel

        seen = permitted(q.shape[2], causal, window, mask) if window or mask is not None else None
        kinds = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        # Its flash kernel takes no values of another width than keys.
        flash = self.backend == "flash" and q.shape[-1] == v.shape[-1]
        with sdpa_kernel(kinds[0] if flash else kinds[1]):
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, is_causal=causal and seen is None,
                enable_gqa=q.shape[1] != k.shape[1],
            )  # fmt: skip

    def decoder(self, layout: str, width: int, heads: int, groups: int) -> nn.Module:
        return _decoder(self.attend, layout, width, heads, groups)


def _decoder(attend: Any, layout: str, width: int, heads: int, groups: int) -> nn.Module:
    if layout == "mla":
        return _Latent(attend, width, heads)
    return _Cached(attend, width, heads, {"mha": heads, "gqa": groups, "mqa": 1}[layout])


class Naive:
    """Attention by the book: scores, mask, softmax, product; keys of a group repeated."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        times = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(times, dim=1) if times > 1 else x for x in (k, v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        seen = permitted(q.shape[2], causal, window, mask)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(-1) @ v

    def decoder(self, layout: str, width: int, heads: int, groups: int) -> nn.Module:
        return _decoder(self.attend, layout, width, heads, groups)


class Flex:
    """torch's FlexAttention, compiled; on a CPU it has no backward pass."""

    def __init__(self) -> None:
        self.call: Any = None
        self.blocks: Any = None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, window: int | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if self.call is None:
            place = "torch.nn.attention.flex_attention:"
            self.call = torch.compile(resolve(place + "flex_attention"))
            seen = permitted(q.shape[2], causal, window, mask)
            if seen is not None:
                self.blocks = resolve(place + "create_block_mask")(
                    lambda b, h, i, j: seen[i, j], None, None, q.shape[2], q.shape[2], device="cpu"
                )
        return self.call(q, k, v, block_mask=self.blocks)


class Hugging:
    """transformers' DeepSeek-V2 attention: caches the latent, expands it at each step."""

    def decoder(self, layout: str, width: int, heads: int, groups: int) -> nn.Module:
        return _Deepseek(width, heads)


class _Deepseek(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        prepare()
        place = "transformers.models.deepseek_v2."
        config = resolve(place + "configuration_deepseek_v2:DeepseekV2Config")(
            hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads,
            num_hidden_layers=1, q_lora_rank=None, kv_lora_rank=LATENT["latent"],
            qk_rope_head_dim=LATENT["rope"], qk_nope_head_dim=LATENT["head"],
            v_head_dim=LATENT["head"], vocab_size=16, max_position_embeddings=1 << 17,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        model = place + "modeling_deepseek_v2:"
        self.inner = resolve(model + "DeepseekV2Attention")(config, 0)
        self.rotary = resolve(model + "DeepseekV2RotaryEmbedding")(config)

    def forward(self, x: Tensor, *, state: Any = None, **more: Any) -> tuple[Tensor, Any]:
        cache = resolve("transformers:DynamicCache")() if state is None else state
        seen = cache.get_seq_length()
        places = torch.arange(seen, seen + x.shape[1])[None]
        angles = self.rotary(x, position_ids=places)
        y = self.inner(x, position_embeddings=angles, cache=cache, attention_mask=None)[0]
        return y, cache

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, state = self(x_t[:, None], state=state)
        return y[:, 0], state
