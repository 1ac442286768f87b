"""`config.json` of Hugging Face's folders, read into a `LlamaConfig` and written from one.

One table says for each kind of model what its names mean. A value that this model cannot honour
is refused, all of them in one message; a field that nobody here knows is warned about. A model
with parts that no published kind has is written with `model_type` "paragone" and our own names.

References:
    Jiang et al. (2023), Mistral, arXiv:2310.06825; Jiang et al. (2024), Mixtral,
    arXiv:2401.04088; Qwen Team (2024), arXiv:2412.15115 (biases of queries, keys and values);
    DeepSeek-AI (2024), DeepSeek-V3, arXiv:2412.19437, section 4.2.

Shapes: none; sizes are those of `LlamaConfig`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from paragone.language.config import LlamaConfig

__all__ = ["KINDS", "kind_of", "read_config", "write_config"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a `model_type` means.

    Attributes:
        architecture: Class name that its files give.
        defaults: Values where the file is silent.
        bias: Biases of attention (None: the file says).
        experts: "", "mixtral", "qwen3" or "deepseek": how experts are named.
        norm: Whether queries and keys are normalised.
        sliding: Whether `sliding_window` is read.
    """

    architecture: str
    defaults: Mapping[str, Any]
    bias: Any = None
    experts: str = ""
    norm: bool = False
    sliding: bool = False


_FIVE, _SIX = {"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}
_LAST = {"bos_token_id": None, "eos_token_id": None}

KINDS: dict[str, Kind] = {
    "llama": Kind("LlamaForCausalLM", _SIX),
    "mistral": Kind("MistralForCausalLM", _SIX, bias=False, sliding=True),
    "qwen2": Kind("Qwen2ForCausalLM", _SIX | _LAST, bias="qkv"),
    "qwen3": Kind("Qwen3ForCausalLM", _SIX | _LAST, norm=True),
    "mixtral": Kind("MixtralForCausalLM", _FIVE | {"rope_theta": 1e6, "num_local_experts": 8},
                    bias=False, experts="mixtral", sliding=True),
    "qwen3_moe": Kind("Qwen3MoeForCausalLM", _SIX | _LAST | {"norm_topk_prob": False},
                      experts="qwen3", norm=True),
    "deepseek_v3": Kind("DeepseekV3ForCausalLM",
                        _SIX | {"scoring_func": "sigmoid", "bos_token_id": 0, "eos_token_id": 1},
                        experts="deepseek"),
    "paragone": Kind("Llama", {}),
}  # fmt: skip
"""Kinds of models by `model_type`."""

_OWN = {field.name for field in dataclasses.fields(LlamaConfig)}

_COMMON = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id",
    "pad_token_id",
}  # fmt: skip
_EXPERTS = {
    "mixtral": {"num_experts_per_tok", "router_aux_loss_coef"},
    "qwen3": {"num_experts_per_tok", "router_aux_loss_coef", "moe_intermediate_size",
              "norm_topk_prob"},
    "deepseek": {"n_routed_experts", "num_experts_per_tok", "n_shared_experts",
                 "moe_intermediate_size", "first_k_dense_replace", "scoring_func",
                 "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group",
                 "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                 "v_head_dim"},
}  # fmt: skip
_COUNT = {"mixtral": "num_local_experts", "qwen3": "num_experts"}

_SILENT = {
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "initializer_range", "pretraining_tp", "_name_or_path", "auto_map", "rope_scaling",
    "rope_parameters", "return_dict", "output_hidden_states", "output_attentions", "id2label",
    "label2id", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder",
    "_attn_implementation", "attn_implementation", "output_router_logits", "ep_size",
    "aux_loss_alpha", "seq_aux", "num_nextn_predict_layers", "num_mtp_layers", "qk_head_dim",
    "moe_layer_freq", "topk_method", "max_window_layers", "layer_types", "sliding_window",
    "use_sliding_window", "decoder_sparse_step", "mlp_only_layers", "rope_interleave",
    "router_jitter_noise", "hidden_act", "attention_dropout", "partial_rotary_factor",
    "quantization_config", "rope_layout", "num_local_experts", "num_experts", "use_qk_norm",
}  # fmt: skip


def read_config(raw: Mapping[str, Any], source: Any) -> LlamaConfig:
    """Reads the content of a `config.json`.

    Args:
        raw: The file's content.
        source: The file, for messages.

    Raises:
        ValueError: Another kind of model, or values that this model cannot honour; all are named.
    """
    name = raw.get("model_type")
    if name not in KINDS:
        raise ValueError(f"{source}: model_type={name!r} is none of {', '.join(KINDS)}")
    kind = KINDS[name]
    raw = {**kind.defaults, **raw}
    if name == "paragone":
        return _read_own(raw, source)
    _refuse(raw, name, source)
    known = _COMMON | _EXPERTS.get(kind.experts, set())
    unknown = sorted(raw.keys() - known - _SILENT)
    if unknown:
        warnings.warn(
            f"{source}: fields that are not known here and have no effect: {', '.join(unknown)}",
            stacklevel=4,
        )
    values = {key: raw[key] for key in known & raw.keys() if raw[key] is not None}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        values[key] = _ids(raw[key]) if key in raw else None if key == "pad_token_id" else _OF[key]
    values["rope_theta"], values["rope_scaling"] = _rope(raw)
    values["qk_norm"] = kind.norm
    if kind.bias is not None:
        values["attention_bias"] = kind.bias
    if kind.experts in _COUNT:
        named = [raw[key] for key in ("num_experts", "num_local_experts") if raw.get(key)]
        if not named:
            raise ValueError(f"{source}: {_COUNT[kind.experts]} is missing")
        values["n_routed_experts"] = named[0]
    if kind.experts == "deepseek":
        interleaved = raw.get("rope_interleave", True)
        values["rope_layout"] = "interleaved" if interleaved else "half"
        values["mixer"] = "mla"
        values.pop("head_dim", None)
    values["mixer_options"] = _attention_options(raw, kind)
    return LlamaConfig(**values)


_OF = {"bos_token_id": 1, "eos_token_id": 2}


def _ids(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _attention_options(raw: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if raw.get("attention_dropout"):
        options["dropout"] = raw["attention_dropout"]
    if kind.sliding and raw.get("sliding_window"):
        options["window"] = raw["sliding_window"]
    return options


def _rope(raw: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """The base of the angles and their scaling, of either generation of files."""
    given = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = given.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    given.pop("partial_rotary_factor", None)
    name = given.pop("type", None)
    given.setdefault("rope_type", name)
    if given["rope_type"] in (None, "default"):
        return float(theta), None
    if given["rope_type"] in ("yarn", "llama3"):
        given.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    return float(theta), given


def _refuse(raw: Mapping[str, Any], name: str, source: Any) -> None:
    """Raises on values that would change the result and that nothing here can do."""
    wrong = []

    def need(key: str, allowed: tuple[Any, ...], otherwise: Any) -> None:
        if raw.get(key, otherwise) not in allowed:
            wrong.append(f"{key}={raw[key]!r}, expected {' or '.join(map(repr, allowed))}")

    need("hidden_act", ("silu", "swish"), "silu")
    need("quantization_config", (None,), None)
    need("use_sliding_window", (False, None), None)
    need("moe_layer_freq", (1,), 1)
    need("decoder_sparse_step", (1,), 1)
    need("mlp_only_layers", ([], None), None)
    need("topk_method", ("noaux_tc", None), None)
    part = (raw.get("rope_parameters") or {}).get("partial_rotary_factor")
    if (raw.get("partial_rotary_factor") or part or 1.0) != 1.0:
        wrong.append("partial_rotary_factor: all coordinates of a head are turned here")
    layers = set(raw.get("layer_types") or ["full_attention"])
    if layers - {"full_attention"} and not (KINDS[name].sliding and len(layers) == 1):
        wrong.append(f"layer_types has {', '.join(sorted(layers))}, expected full_attention")
    if wrong:
        raise ValueError(f"{source}: this model cannot honour {'; '.join(wrong)}")


def _read_own(raw: Mapping[str, Any], source: Any) -> LlamaConfig:
    unknown = sorted(raw.keys() - _OWN - _SILENT)
    if unknown:
        raise ValueError(f"{source}: unknown fields {', '.join(unknown)}")
    values = {key: raw[key] for key in _OWN & raw.keys()}
    values["eos_token_id"] = _ids(raw.get("eos_token_id"))
    if isinstance(values.get("mixer"), list):
        values["mixer"] = tuple(values["mixer"])
    return LlamaConfig(**values)


def kind_of(config: LlamaConfig) -> str:
    """Returns the `model_type` that a configuration is written as."""
    default = LlamaConfig()
    options = set(config.mixer_options) - {"dropout"}
    routed = config.n_routed_experts > 0
    simple = all(
        getattr(config, name) == getattr(default, name)
        for name in ("n_shared_experts", "first_k_dense_replace", "scoring_func",
                     "routed_scaling_factor", "n_group", "topk_group")
    )  # fmt: skip
    latent = (config.kv_lora_rank, config.qk_nope_head_dim, config.qk_rope_head_dim,
              config.v_head_dim)  # fmt: skip
    if config.kv_lora_rank is not None and None not in latent and not options:
        fits = config.scoring_func == "sigmoid" and routed and config.n_shared_experts > 0
        fits = fits and not config.mlp_bias
        return "deepseek_v3" if fits and config.attention_bias != "qkv" else "paragone"
    if not config.plain_attention or options - {"window"}:
        return "paragone"
    plain = not (config.mlp_bias or config.attention_bias or config.qk_norm)
    if routed:
        if plain and simple and config.norm_topk_prob:
            return "mixtral"
        biased = config.mlp_bias or config.attention_bias == "qkv" or "window" in options
        return "qwen3_moe" if simple and config.qk_norm and not biased else "paragone"
    if "window" in options:
        return "mistral" if plain else "paragone"
    if config.qk_norm:
        return "paragone" if config.mlp_bias or config.attention_bias == "qkv" else "qwen3"
    if config.attention_bias == "qkv":
        return "paragone" if config.mlp_bias else "qwen2"
    return "llama"


def write_config(config: LlamaConfig, dtype: str, name: str | None = None) -> dict[str, Any]:
    """Returns the content of `config.json`.

    Args:
        config: In layout "half", but for latent attention and our own kind.
        dtype: Name of the weights' type, e.g. "float32".
        name: Its `model_type` (None: `kind_of(config)`).
    """
    name = name or kind_of(config)
    kind = KINDS[name]
    head = {"model_type": name, "architectures": [kind.architecture], "dtype": dtype}
    if name == "paragone":
        return head | dataclasses.asdict(config)
    known = _COMMON | _EXPERTS.get(kind.experts, set())
    found = {key: getattr(config, key) for key in sorted(known)}
    found |= {
        "intermediate_size": config.inner, "num_key_value_heads": config.kv_heads,
        "hidden_act": "silu", "attention_dropout": config.mixer_options.get("dropout", 0.0),
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}
        | dict(config.rope_scaling or {}),
    }  # fmt: skip
    if config.rope_scaling:
        found["rope_scaling"] = dict(config.rope_scaling)
    if kind.bias is not None:
        del found["attention_bias"]
    if name != "llama":
        del found["mlp_bias"]
    if kind.sliding:
        found["sliding_window"] = config.mixer_options.get("window")
    if kind.experts == "deepseek":
        del found["head_dim"]
        found["rope_interleave"] = config.rope_layout == "interleaved"
        found["moe_intermediate_size"] = config.moe_intermediate_size or config.inner
    else:
        found["head_dim"] = config.head_size
    if kind.experts == "qwen3":
        found["moe_intermediate_size"] = config.moe_intermediate_size or config.inner
    elif kind.experts == "mixtral":
        found["intermediate_size"] = config.moe_intermediate_size or config.inner
    if kind.experts in _COUNT:
        found[_COUNT[kind.experts]] = config.n_routed_experts
    return head | found
