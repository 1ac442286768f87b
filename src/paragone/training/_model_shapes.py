"""Decoders as lists of shapes: from a name, a `config.json`, or its fields; no torch needed.

A transformer's memory follows from a dozen numbers. Those of well-known models stand here; those
of any other come from its `config.json` under the keys that Hugging Face publishes (model types
llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, deepseek_v2, deepseek_v3, gpt2).

Every weight is listed with its shape, so a count is exact: LLaMA-2-7B has 6,738,415,616.

Shapes: h hidden width, f inner width of the MLP, a heads, d width of a head, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["MODELS", "Decoder", "Weight", "describe", "from_config", "named"]


@dataclass(frozen=True)
class Weight:
    """`count` tensors of one shape.

    Attributes:
        name: What it is for; "embedding", "positions" and "head" are no hidden matrices.
        shape: Its shape.
        count: How many there are, over all layers.
        layers: Layers that they are spread over; 0 for what stands outside the layers.
        unit: Kind of layer that they belong to.
        size: Bytes of an element as it was built; 0 where the precision decides.
        trained: Whether it gets a gradient.
    """

    name: str
    shape: tuple[int, ...]
    count: int = 1
    layers: int = 0
    unit: int = 0
    size: int = 0
    trained: bool = True

    @property
    def elements(self) -> int:
        """Elements of one of them."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder-only transformer.

    Attributes:
        name: What the table shows.
        vocab: Rows V of the embedding.
        hidden: Width h.
        layers: Blocks.
        heads: Query heads a.
        kv_heads: Key and value heads.
        head_width: Width d of a head.
        inner: Width f of the dense MLP.
        tied: Whether the head is the embedding.
        gated: Whether the MLP has a gate (SwiGLU: three matrices) or not (GELU: two).
        norm_bias: Whether norms have a bias (layer norm) or not (RMS norm).
        positions: Rows of learned positions; 0 with rotary ones.
        qkv_bias: Whether the query, key and value projections have biases.
        bias: Whether all other projections have biases.
        qk_norm: Whether queries and keys are normed.
        dropout: Probability of dropout.
        experts: Experts of a mixture; 0 for a dense MLP.
        chosen: Experts of a token.
        expert_inner: Width of an expert.
        shared_inner: Width of the experts that every token passes.
        dense_layers: Layers at the start that have no mixture.
        router_bias: Whether the router has a bias.
        query_rank: Rank of the queries' factors (multi-head latent attention); 0: one matrix.
        latent: Rank of the keys' and values' latent; 0: no latent attention.
        rope_width: Width of a latent head's rotary part.
        value_width: Width of a latent head's values.
    """

    name: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    tied: bool = False
    gated: bool = True
    norm_bias: bool = False
    positions: int = 0
    qkv_bias: bool = False
    bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0
    experts: int = 0
    chosen: int = 0
    expert_inner: int = 0
    shared_inner: int = 0
    dense_layers: int = 0
    router_bias: bool = False
    query_rank: int = 0
    latent: int = 0
    rope_width: int = 0
    value_width: int = 0

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.heads * (self.head_width + self.rope_width)

    @property
    def key_width(self) -> int:
        """Width of the keys that attention reads."""
        return self.query_width if self.latent else self.kv_heads * self.head_width

    @property
    def mixed_width(self) -> int:
        """Width of what attention hands to its output projection."""
        return self.heads * (self.value_width or self.head_width)

    @property
    def active_inner(self) -> int:
        """Width of the MLP that a token passes in a layer with a mixture (or the dense one)."""
        return self.chosen * self.expert_inner + self.shared_inner if self.experts else self.inner

    def weights(self) -> Iterator[Weight]:
        """Every weight, equal layers once with their count."""
        h = self.hidden
        yield Weight("embedding", (self.vocab, h))
        if self.positions:
            yield Weight("positions", (self.positions, h))
        mixed = self.layers - self.dense_layers if self.experts else 0
        for unit, (count, mixture) in enumerate(((self.layers - mixed, False), (mixed, True))):
            if count:
                shapes = (*self._attention(), *(self._mixture() if mixture else self._mlp()))
                for name, shape, times in shapes:
                    yield Weight(name, shape, count * times, count, unit)
        yield Weight("norm", (h,), 2 if self.norm_bias else 1)
        if not self.tied:
            yield Weight("head", (self.vocab, h))

    def _attention(self) -> list[tuple[str, tuple[int, ...], int]]:
        h, q, k, o = self.hidden, self.query_width, self.key_width, self.mixed_width
        found: list[tuple[str, tuple[int, ...], int]] = [("norm", (h,), 4 if self.norm_bias else 2)]
        if self.latent:
            if self.query_rank:
                r = self.query_rank
                found += [("q_down", (r, h), 1), ("q_norm", (r,), 1), ("q_up", (q, r), 1)]
            else:
                found += [("q", (q, h), 1)]
            up = self.heads * (self.head_width + self.value_width)
            found += [("kv_down", (self.latent + self.rope_width, h), 1),
                      ("kv_norm", (self.latent,), 1), ("kv_up", (up, self.latent), 1)]  # fmt: skip
        else:
            found += [("q", (q, h), 1), ("kv", (k, h), 2)]
        if self.qkv_bias:
            found += [("q_bias", (q,), 1), ("kv_bias", (k,), 2)]
        if self.qk_norm:
            found += [("qk_norm", (self.head_width,), 2)]
        found += [("o", (h, o), 1)]
        return found + ([("o_bias", (h,), 1)] if self.bias else [])

    def _mlp(self) -> list[tuple[str, tuple[int, ...], int]]:
        h, f = self.hidden, self.inner
        found: list[tuple[str, tuple[int, ...], int]] = [
            ("up", (f, h), 2 if self.gated else 1), ("down", (h, f), 1),
        ]  # fmt: skip
        return found + ([("up_bias", (f,), 1), ("down_bias", (h,), 1)] if self.bias else [])

    def _mixture(self) -> list[tuple[str, tuple[int, ...], int]]:
        h, f, e, s = self.hidden, self.expert_inner, self.experts, self.shared_inner
        found: list[tuple[str, tuple[int, ...], int]] = [
            ("router", (e, h), 1), ("expert_up", (f, h), 2 * e), ("expert_down", (h, f), e),
        ]  # fmt: skip
        if self.router_bias:
            found += [("router_bias", (e,), 1)]
        return found + ([("shared_up", (s, h), 2), ("shared_down", (h, s), 1)] if s else [])


def _llama(
    hidden: int, layers: int, heads: int, inner: int, vocab: int = 32000, **more: Any
) -> dict[str, Any]:
    return {"model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": vocab,
            **more}  # fmt: skip


def _gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads}


def _of(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "model_type": kind}


MODELS: dict[str, dict[str, Any]] = {
    "llama-7b": _llama(4096, 32, 32, 11008),
    "llama-13b": _llama(5120, 40, 40, 13824),
    "llama-30b": _llama(6656, 60, 52, 17920),
    "llama-65b": _llama(8192, 80, 64, 22016),
    "llama-70b": _llama(8192, 80, 64, 28672, num_key_value_heads=8),
    "llama-3.1-8b": _llama(4096, 32, 32, 14336, 128256, num_key_value_heads=8),
    "llama-3.1-70b": _llama(8192, 80, 64, 28672, 128256, num_key_value_heads=8),
    "llama-3.1-405b": _llama(16384, 126, 128, 53248, 128256, num_key_value_heads=8),
    "llama-3.2-1b": _llama(2048, 16, 32, 8192, 128256, num_key_value_heads=8, head_dim=64,
                           tie_word_embeddings=True),
    "llama-3.2-3b": _llama(3072, 28, 24, 8192, 128256, num_key_value_heads=8, head_dim=128,
                           tie_word_embeddings=True),
    "mistral-7b": _of("mistral", _llama(4096, 32, 32, 14336, num_key_value_heads=8)),
    "mixtral-8x7b": _of("mixtral", _llama(4096, 32, 32, 14336, num_key_value_heads=8,
                                          num_local_experts=8, num_experts_per_tok=2)),
    "qwen2-7b": _of("qwen2", _llama(3584, 28, 28, 18944, 152064, num_key_value_heads=4)),
    "qwen2.5-0.5b": _of("qwen2", _llama(896, 24, 14, 4864, 151936, num_key_value_heads=2,
                                        tie_word_embeddings=True)),
    "qwen3-8b": _of("qwen3", _llama(4096, 36, 32, 12288, 151936, num_key_value_heads=8,
                                    head_dim=128)),
    "deepseek-v3": _of("deepseek_v3", _llama(
        7168, 61, 128, 18432, 129280, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
        qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=256, num_experts_per_tok=8,
        n_shared_experts=1, moe_intermediate_size=2048, first_k_dense_replace=3)),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
}  # fmt: skip
"""Fields of well-known models' `config.json`; LLaMA 1 and 2 have the same shapes at 7B and 13B."""

_ALIASES = {"llama-2-7b": "llama-7b", "llama-2-13b": "llama-13b", "llama-2-70b": "llama-70b",
            "llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b"}  # fmt: skip

_DENSE = ("llama", "mistral", "qwen2", "qwen3")
_MIXED = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")


def named(name: str) -> Decoder | None:
    """The model of that name, None if there is none."""
    key = name.strip().lower().replace("_", "-")
    key = _ALIASES.get(key, key)
    return from_config(MODELS[key], key) if key in MODELS else None


def describe(model: str | Path | Mapping[str, Any]) -> Decoder:
    """A decoder from a name, a `config.json` (or the folder that holds it), or its fields.

    Raises:
        ValueError: Neither; the message lists the names.
    """
    if isinstance(model, Mapping):
        return from_config(model)
    found = named(str(model))
    if found is not None:
        return found
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"no model {str(model)!r}: give one of {', '.join(MODELS)}; a config.json or its "
            "folder; a count such as 7.5B; or, in Python, an nn.Module"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file ({error}); a config.json is expected") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: a JSON object is expected, got a {type(config).__name__}")
    return from_config(config, path.parent.name if path.name == "config.json" else path.stem)


def _whole(config: Mapping[str, Any], *keys: str, default: int | None = None) -> int:
    """The first of these fields that is there, a positive whole number."""
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"config: {key} is {value!r}; a positive whole number is expected")
        return value
    if default is None:
        raise ValueError(f"config: {keys[0]} is missing; it is needed to count the weights")
    return default


def from_config(config: Mapping[str, Any], name: str = "") -> Decoder:
    """A decoder from the fields of a Hugging Face `config.json`.

    Raises:
        ValueError: A field is missing or wrong, or the model type is not known.
    """
    kind = config.get("model_type")
    name = name or str(config.get("_name_or_path") or kind)
    if kind == "gpt2":
        h = _whole(config, "n_embd", default=768)
        heads = _whole(config, "n_head", default=12)
        return Decoder(
            name=name, vocab=_whole(config, "vocab_size", default=50257), hidden=h,
            layers=_whole(config, "n_layer", default=12), heads=heads, kv_heads=heads,
            head_width=_per_head(h, heads), inner=_whole(config, "n_inner", default=4 * h),
            tied=bool(config.get("tie_word_embeddings", True)), gated=False, norm_bias=True,
            positions=_whole(config, "n_positions", default=1024), qkv_bias=True, bias=True,
            dropout=float(config.get("resid_pdrop", 0.1)),
        )  # fmt: skip
    if kind not in (*_DENSE, *_MIXED):
        raise ValueError(
            f"config: model_type is {kind!r}; shapes are known for gpt2, "
            f"{', '.join((*_DENSE, *_MIXED))}; build any other as an nn.Module on the meta device"
        )
    h, heads = _whole(config, "hidden_size"), _whole(config, "num_attention_heads")
    latent = _whole(config, "kv_lora_rank", default=0) if kind.startswith("deepseek") else 0
    width = _whole(config, "qk_nope_head_dim") if latent else (
        _whole(config, "head_dim", default=0) or _per_head(h, heads)
    )  # fmt: skip
    return Decoder(
        name=name, vocab=_whole(config, "vocab_size"), hidden=h,
        layers=_whole(config, "num_hidden_layers"), heads=heads, head_width=width,
        kv_heads=_whole(config, "num_key_value_heads", default=heads),
        inner=_whole(config, "intermediate_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=kind == "qwen2" or bool(config.get("attention_bias", False)),
        qk_norm=kind.startswith("qwen3"), **_mixture(kind, config), **_latent(config, latent),
    )  # fmt: skip


def _per_head(hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ValueError(f"config: {hidden} wide for {heads} heads; a multiple is expected")
    return hidden // heads


def _mixture(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in _MIXED:
        return {}
    each = _whole(config, "moe_intermediate_size", "intermediate_size")
    shared = _whole(config, "n_shared_experts", default=0)
    return {
        "experts": _whole(config, "num_local_experts", "n_routed_experts", "num_experts"),
        "chosen": _whole(config, "num_experts_per_tok", default=2),
        "expert_inner": each, "shared_inner": shared * each,
        "dense_layers": int(config.get("first_k_dense_replace") or 0),
        "router_bias": kind == "deepseek_v3",
    }  # fmt: skip


def _latent(config: Mapping[str, Any], latent: int) -> dict[str, Any]:
    if not latent:
        return {}
    return {
        "latent": latent, "query_rank": int(config.get("q_lora_rank") or 0),
        "rope_width": _whole(config, "qk_rope_head_dim"),
        "value_width": _whole(config, "v_head_dim"),
    }  # fmt: skip
