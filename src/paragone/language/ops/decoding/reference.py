r"""A decoder as it is defined, in NumPy and float64: what the compiled step is tested against.

No pages, no cache, no blocks: all tokens of one sequence at once,

$$ h \leftarrow h + W_O\,\mathrm{attn}(\mathrm{norm}(h)), \qquad
   h \leftarrow h + W_2\big(\mathrm{silu}(W_1 \mathrm{norm}(h)) \odot W_3 \mathrm{norm}(h)\big) . $$

Shapes: T tokens, M width, H heads, G key heads, D their width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["decoder_reference"]


def _norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def _turned(x: np.ndarray, places: np.ndarray, theta: np.ndarray, layout: str) -> np.ndarray:
    """(T, H, D) with its pairs turned."""
    angle = places[:, None, None] * theta
    half = x.shape[-1] // 2
    first, second = (
        (slice(0, half), slice(half, None)) if layout == "half"
        else (slice(0, None, 2), slice(1, None, 2))
    )  # fmt: skip
    out = np.empty_like(x)
    out[..., first] = x[..., first] * np.cos(angle) - x[..., second] * np.sin(angle)
    out[..., second] = x[..., second] * np.cos(angle) + x[..., first] * np.sin(angle)
    return out


def decoder_reference(
    weights: Mapping[str, np.ndarray], config: Any, ids: Any, *, theta: np.ndarray,
    window: int = 0, amplitude: float = 1.0, places: Any = None, seen: Any = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Scores of the next token after each, and the streams they are read from.

    Args:
        weights: A `Llama`'s parameters by name, as arrays.
        config: Its `LlamaConfig`.
        ids: (T,) tokens.
        theta: (D / 2,) angle of a step of each pair.
        window: Keys that a query sees, itself included (0: all).
        amplitude: What queries and keys are multiplied by.
        places: (T,) places of the tokens (None: 0, 1, 2 ...).
        seen: (T, T) whether a token sees another (None: those up to itself).
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    time, heads, groups = len(ids), config.num_attention_heads, config.kv_heads
    places = np.arange(time) if places is None else np.asarray(places)
    apart = np.arange(time)[:, None] - np.arange(time)
    seen = (apart >= 0 if seen is None else np.asarray(seen, bool)) & (
        (apart < window) if window else True
    )
    h = w["model.embed_tokens.weight"][np.asarray(ids)]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."

        def linear(x: np.ndarray, name: str, at: str = at) -> np.ndarray:
            return x @ w[f"{at}{name}.weight"].T + w.get(f"{at}{name}.bias", 0.0)

        x = _norm(h, w[at + "input_layernorm.weight"], config.rms_norm_eps)
        q, k, v = (
            linear(x, f"self_attn.{name}_proj").reshape(time, count, -1)
            for name, count in (("q", heads), ("k", groups), ("v", groups))
        )
        if config.qk_norm:
            q = _norm(q, w[at + "self_attn.q_norm.weight"], 1e-6)
            k = _norm(k, w[at + "self_attn.k_norm.weight"], 1e-6)
        q, k = (amplitude * _turned(x, places, theta, config.rope_layout) for x in (q, k))
        k, v = (np.repeat(x, heads // groups, 1) for x in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(seen, scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hts,shd->thd", share / share.sum(-1, keepdims=True), v)
        h = h + linear(mixed.reshape(time, -1), "self_attn.o_proj")
        x = _norm(h, w[at + "post_attention_layernorm.weight"], config.rms_norm_eps)
        gate = linear(x, "mlp.gate_proj")
        h = h + linear(gate / (1 + np.exp(-gate)) * linear(x, "mlp.up_proj"), "mlp.down_proj")
    h = _norm(h, w["model.norm.weight"], config.rms_norm_eps)
    return h @ w["lm_head.weight"].T, h
