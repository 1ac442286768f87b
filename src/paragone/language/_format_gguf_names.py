"""Models in GGUF files: the fields and names of the architectures llama, qwen2 and qwen3.

"llama" (with Mixtral's experts) has interleaved rotary pairs, the two others halves. Scaled angles
of Llama 3 are stored as factors that frequencies are divided by (`rope_freqs`); its parameters are
kept in a field of our own, and those that Meta published are recognised without it.

References:
    ggml-org, "GGUF specification" (ggml/docs/gguf.md), sections on keys and tensor names.
    Llama team (2024), arXiv:2407.21783 (scaled frequencies).

Shapes: E experts, F hidden units, M model width, D head width.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragone.language._format_gguf import read_tensors, write_gguf
from paragone.language._format_weights import in_layout, refuse
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama
from paragone.mixers.rotary import Rotary

__all__ = ["read_gguf", "save_gguf"]

_LAYOUTS = {"llama": "interleaved", "qwen2": "half", "qwen3": "half"}
_TOP = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
}  # fmt: skip
_PARTS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
}  # fmt: skip
_OURS = {
    **{ours: theirs for theirs, ours in _TOP.items()},
    **{ours: theirs for theirs, ours in _PARTS.items()},
}
_THEIRS = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_FACTORS = "rope_freqs.weight"
_OWN_SCALING = "paragone.rope_scaling"
_BIAS = "mlp.gate.e_score_correction_bias"


def read_gguf(path: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Reads a file.

    Raises:
        ValueError: Another architecture, a missing field, or a file that cannot be read.
    """
    fields, given = read_tensors(path)
    arch = fields.get("general.architecture")
    if arch not in _LAYOUTS:
        raise ValueError(f"{path}: architecture {arch!r} is none of {', '.join(_LAYOUTS)}")
    config = _config(fields, given, arch, path)
    stored = given["token_embd.weight"].dtype
    found = {}
    for name, x in given.items():
        if name != _FACTORS:
            found[_read_name(name)] = x.to(stored)
    for at in range(config.num_hidden_layers if config.n_routed_experts else 0):
        home = f"model.layers.{at}.mlp"
        parts = [found.pop(f"{home}.experts.{part}", None) for part in ("gate", "up", "down")]
        if None not in parts:
            gate, up, down = parts
            found[f"{home}.experts.gate_up_proj"] = torch.cat([gate, up], 1)  # pyright: ignore
            found[f"{home}.experts.down_proj"] = down  # pyright: ignore
        found[f"model.layers.{at}.{_BIAS}"] = torch.zeros(config.n_routed_experts)
    return config, found


def save_gguf(model: Llama, tokenizer: Any, path: Path, *, bytes_: bool) -> None:
    """Writes a file.

    Args:
        model: The model.
        tokenizer: What to store beside it, or None.
        path: Where.
        bytes_: Whether matrices are written with 8 bits; those whose rows are no multiples of 32
            are written as float16.

    Raises:
        ValueError: A model that the format cannot hold; the message names why.
    """
    config = model.config
    arch = "qwen3" if config.qk_norm else "qwen2" if config.attention_bias == "qkv" else "llama"
    allowed = {
        "rope_theta", "rope_scaling", "rms_norm_eps", "attention_bias", "mlp_bias", "head_dim",
        "qk_norm", "n_routed_experts",
    }  # fmt: skip
    wrong = []
    if config.n_routed_experts and (arch != "llama" or not _mixtral_like(model)):
        wrong.append("experts other than Mixtral's")
    if (arch != "llama" and config.mlp_bias) or (arch == "qwen3" and config.attention_bias):
        wrong.append(f"biases that {arch} does not have")
    refuse(config, "GGUF", allowed, wrong)
    tensors, config = in_layout(model.state_dict(), config, _LAYOUTS[arch])
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    written: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if name.endswith(_BIAS):
            continue
        if name.endswith("gate_up_proj"):
            gate, up = x.chunk(2, 1)
            home = name.replace("model.layers.", "blk.").removesuffix(".mlp.experts.gate_up_proj")
            written[f"{home}.ffn_gate_exps.weight"] = gate
            written[f"{home}.ffn_up_exps.weight"] = up
        else:
            written[_write_name(name)] = x
    quantised = set()
    for name, x in written.items():
        plain = x.ndim == 1 or "ffn_gate_inp" in name
        if bytes_ and not plain and x.shape[-1] % 32 == 0:
            quantised.add(name)
        elif bytes_ and not plain:
            written[name] = x.half()
        elif plain or x.dtype not in (torch.float16, torch.bfloat16):
            written[name] = x.float()
    scaling = dict(config.rope_scaling or {})
    if scaling.get("rope_type") == "llama3":
        written[_FACTORS] = _factors(config, scaling)
    write_gguf(path, _fields(config, arch, tokenizer, bytes_), written, quantised)


def _mixtral_like(model: Llama) -> bool:
    config, default = model.config, LlamaConfig()
    same = all(
        getattr(config, name) == getattr(default, name)
        for name in ("n_shared_experts", "first_k_dense_replace", "scoring_func", "n_group",
                     "routed_scaling_factor", "norm_topk_prob")
    )  # fmt: skip
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    return same and not any(bool(bias.any()) for bias in biases)


def _read_name(name: str) -> str:
    layer = _THEIRS.fullmatch(name)
    if layer is None:
        top, _, kind = name.rpartition(".")
        return f"{_TOP.get(top, top)}.{kind}"
    if layer[2].startswith("ffn_") and layer[2].endswith("_exps"):
        return f"model.layers.{layer[1]}.mlp.experts.{layer[2][4:-5]}"
    return f"model.layers.{layer[1]}.{_PARTS.get(layer[2], layer[2])}.{layer[3]}"


def _write_name(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer is None:
        top, _, kind = name.rpartition(".")
        return f"{_OURS[top]}.{kind}"
    if layer[2] == "mlp.experts.down_proj":
        return f"blk.{layer[1]}.ffn_down_exps.weight"
    part, _, kind = layer[2].rpartition(".")
    return f"blk.{layer[1]}.{_OURS[part]}.{kind}"


def _config(
    fields: dict[str, Any], tensors: dict[str, Tensor], arch: str, path: Path
) -> LlamaConfig:
    def need(key: str) -> Any:
        if f"{arch}.{key}" not in fields:
            raise ValueError(f"{path}: the field {arch}.{key} is missing")
        return fields[f"{arch}.{key}"]

    if "token_embd.weight" not in tensors:
        raise ValueError(f"{path}: token_embd.weight is missing")
    bias = "blk.0.attn_q.bias" in tensors
    ends = bias and "blk.0.attn_output.bias" in tensors
    heads, width = need("attention.head_count"), need("embedding_length")
    return LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0],
        hidden_size=width,
        intermediate_size=need("feed_forward_length"),
        num_hidden_layers=need("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=fields.get(f"{arch}.attention.head_count_kv"),
        head_dim=fields.get(f"{arch}.attention.key_length", width // heads),
        max_position_embeddings=need("context_length"),
        rms_norm_eps=_short(need("attention.layer_norm_rms_epsilon")),
        rope_theta=float(fields.get(f"{arch}.rope.freq_base", 10000.0)),
        rope_scaling=_scaling(fields, tensors.get(_FACTORS), arch, path),
        rope_layout=_LAYOUTS[arch],  # pyright: ignore[reportArgumentType]
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias=True if ends else "qkv" if bias else False,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"),
        n_routed_experts=fields.get(f"{arch}.expert_count", 0),
        num_experts_per_tok=fields.get(f"{arch}.expert_used_count", 2),
    )


def _fields(config: LlamaConfig, arch: str, tokenizer: Any, bytes_: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "general.architecture": arch, "general.name": "paragone", "general.file_type":
        7 if bytes_ else 0, "general.quantization_version": 2,
    }  # fmt: skip
    values = {
        "vocab_size": config.vocab_size, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.expert_inner if config.n_routed_experts else config.inner,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.kv_heads, "attention.key_length": config.head_size,
        "attention.value_length": config.head_size, "rope.dimension_count": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.freq_base": float(config.rope_theta),
    }  # fmt: skip
    if config.n_routed_experts:
        values |= {"expert_count": config.n_routed_experts,
                   "expert_used_count": config.num_experts_per_tok}  # fmt: skip
    scaling = dict(config.rope_scaling or {})
    if scaling:
        found[_OWN_SCALING] = json.dumps(scaling)
    if scaling.get("rope_type") in ("linear", "yarn"):
        values["rope.scaling.type"] = scaling["rope_type"]
        values["rope.scaling.factor"] = float(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        values["rope.scaling.original_context_length"] = int(
            scaling["original_max_position_embeddings"]
        )
    found |= {f"{arch}.{key}": value for key, value in values.items()}
    text: dict[str, Any] = (
        {"tokenizer.ggml.model": "none"} if tokenizer is None else tokenizer.to_gguf()
    )
    for name, ids in (("bos", (config.bos_token_id,)), ("eos", config.eos)):
        if ids and ids[0] is not None:
            text.setdefault(f"tokenizer.ggml.{name}_token_id", ids[0])
    return found | text


def _scaling(
    fields: dict[str, Any], factors: Tensor | None, arch: str, path: Path
) -> dict[str, Any] | None:
    if _OWN_SCALING in fields:
        return json.loads(fields[_OWN_SCALING])
    kind = fields.get(f"{arch}.rope.scaling.type", "none")
    found: dict[str, Any] | None = None
    if kind in ("linear", "yarn"):
        found = {"rope_type": kind, "factor": fields[f"{arch}.rope.scaling.factor"]}
        longest = fields.get(
            f"{arch}.rope.scaling.original_context_length", fields[f"{arch}.context_length"]
        )
        if kind == "yarn":
            found["original_max_position_embeddings"] = longest
    elif kind != "none":
        raise ValueError(f"{path}: rope.scaling.type {kind!r} is none of none, linear, yarn")
    if factors is None:
        return found
    base = float(fields.get(f"{arch}.rope.freq_base", 10000.0))
    published = {
        "rope_type": "llama3", "factor": float(factors.max()), "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    width = 2 * len(factors)
    scaled = torch.tensor(Rotary(width, base=base, scaling=published).frequencies)
    plain = torch.tensor(Rotary(width, base=base).frequencies)
    if not torch.allclose(plain / scaled, factors.float(), rtol=1e-4):
        raise ValueError(f"{path}: {_FACTORS} is not that of a published Llama 3 model")
    return published


def _factors(config: LlamaConfig, scaling: dict[str, Any]) -> Tensor:
    plain = Rotary(config.head_size, base=config.rope_theta).frequencies
    scaled = Rotary(config.head_size, base=config.rope_theta, scaling=scaling).frequencies
    return torch.tensor(plain, dtype=torch.float64).div(torch.tensor(scaled)).float()


def _short(x: float) -> float:
    """A number that went through float32, as it was written: 1e-5, not 9.999999747e-06."""
    return float(f"{x:.6g}")
