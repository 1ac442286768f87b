"""Meta's folders: `params.json` and `consolidated.*.pth`, one file for each part of a model.

Parts hold rows of some matrices (queries, keys, values, W1, W3, the head) and columns of others
(the output, W2); they are joined here. Rotary pairs are interleaved. The hidden units are not in
the parameters but follow from `multiple_of` and `ffn_dim_multiplier`, and are read off W1.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971; names as in Meta's published files.

Shapes: M model width, F hidden units, V vocabulary.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragone.language._format_weights import in_layout, refuse
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

__all__ = ["is_meta", "meta_extra_heads", "read_meta", "write_meta"]

_NAMES = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm", "output": "lm_head",
}  # fmt: skip
_BACK = {ours: theirs for theirs, ours in _NAMES.items()}
_EXTRA = "extra_heads."
_COLUMNS = ("attention.wo", "feed_forward.w2")
_KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier",
    "norm_eps", "rope_theta", "use_scaled_rope", "max_seq_len", "max_batch_size",
    "rope_scaling_factor", "rope_high_freq_factor", "n_future_tokens",
}  # fmt: skip


def is_meta(folder: Path) -> bool:
    """Whether a folder is one of Meta's."""
    return (folder / "params.json").is_file() and bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    """Parts of a model; that of models which predict several tokens has no number."""
    return sorted(folder.glob("consolidated.*.pth")) or sorted(folder.glob("consolidated.pth"))


def read_meta(folder: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Reads a folder; nothing but tensors is unpickled.

    Raises:
        ValueError: Parameters that are not known or missing, or parts that do not fit together.
    """
    path = folder / "params.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    unknown, missing = (
        sorted(raw.keys() - _KNOWN),
        sorted({"dim", "n_layers", "n_heads"} - raw.keys()),
    )
    if unknown or missing:
        raise ValueError(f"{path}: unknown {', '.join(unknown)}; missing {', '.join(missing)}")
    parts = [_unpickled(file) for file in _files(folder)]
    found = {}
    for name in parts[0]:
        if name.startswith(_EXTRA):
            continue
        short = re.sub(r"^layers\.\d+\.", "", name).removesuffix(".weight")
        if short == "rope.freqs":
            continue
        layer = re.match(r"layers\.(\d+)\.", name)
        home = f"model.layers.{layer[1]}." if layer else ""
        pieces = [part[name] for part in parts]
        found[f"{home}{_NAMES.get(short, short)}.weight"] = _joined(short, pieces, raw["dim"])
    # Layers are counted: those of models which predict several tokens include the extra heads.
    raw["n_layers"] = 1 + max(
        (int(name.split(".")[2]) for name in found if name.startswith("model.layers.")), default=0
    )
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"):
        if name not in found:
            raise ValueError(f"{folder}: {name.removesuffix('.weight')} is in none of the parts")
    return _config(raw, found), found


def meta_extra_heads(folder: Path, first: int) -> dict[str, Tensor]:
    """Blocks that predict further tokens, as layers from `first` on; empty where there are none.

    Raises:
        ValueError: A file that is no file of tensors alone.
    """
    parts = [_unpickled(file) for file in _files(folder)]
    found = {}
    for name in parts[0] if parts else ():
        if not name.startswith(_EXTRA):
            continue
        _, number, rest = name.split(".", 2)
        short = rest.removesuffix(".weight")
        pieces = [part[name] for part in parts]
        home = f"model.layers.{first + int(number)}."
        found[f"{home}{_NAMES.get(short, short)}.weight"] = _joined(short, pieces, -1)
    return found


def write_meta(model: Llama, folder: Path) -> None:
    """Writes one part; a tied head is written once, as the embedding.

    Raises:
        ValueError: A model that the format cannot hold; the message names why.
    """
    config = model.config
    wrong = []
    if config.rope_scaling and dict(config.rope_scaling).get("rope_type") != "llama3":
        wrong.append(f"rope_scaling={config.rope_scaling!r}, expected that of Llama 3")
    refuse(config, "Meta's format", {"rope_theta", "rope_scaling", "rms_norm_eps"}, wrong)
    tensors, config = in_layout(model.state_dict(), config, "interleaved")
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    plain = 8 * config.hidden_size // 3
    params: dict[str, Any] = {
        "dim": config.hidden_size, "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads, "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocab_size, "multiple_of": config.inner,
        "norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta,
        "max_seq_len": config.max_position_embeddings,
    }  # fmt: skip
    if plain > config.inner:
        params["ffn_dim_multiplier"] = config.inner / plain
    if config.rope_scaling:
        params |= {
            "use_scaled_rope": True, "rope_scaling_factor": config.rope_scaling["factor"],
            "rope_high_freq_factor": config.rope_scaling["high_freq_factor"],
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params, indent=2) + "\n", encoding="utf-8")
    for old in folder.glob("consolidated.*.pth"):
        old.unlink()
    torch.save(
        {_write_name(name): x.detach().to("cpu").contiguous() for name, x in tensors.items()},
        folder / "consolidated.00.pth",
    )


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(f"{file}: no file of tensors alone ({error})") from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise ValueError(f"{file}: a dictionary of tensors is expected")
    return found


def _joined(short: str, pieces: list[Tensor], width: int) -> Tensor:
    if len(pieces) == 1 or pieces[0].ndim == 1:
        return pieces[0]
    columns = short in _COLUMNS or (short == "tok_embeddings" and pieces[0].shape[1] != width)
    return torch.cat(pieces, 1 if columns else 0)


def _config(raw: dict[str, Any], tensors: dict[str, Tensor]) -> LlamaConfig:
    scaling = None
    if raw.get("use_scaled_rope"):
        scaling = {
            "rope_type": "llama3", "factor": raw.get("rope_scaling_factor") or 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": raw.get("rope_high_freq_factor") or 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
    return LlamaConfig(
        vocab_size=tensors["model.embed_tokens.weight"].shape[0],
        hidden_size=raw["dim"],
        intermediate_size=tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        num_hidden_layers=raw["n_layers"],
        num_attention_heads=raw["n_heads"],
        num_key_value_heads=raw.get("n_kv_heads"),
        max_position_embeddings=raw.get("max_seq_len", 2048),
        rms_norm_eps=raw.get("norm_eps", 1e-5),
        rope_theta=float(raw.get("rope_theta", 10000.0)),
        rope_scaling=scaling,
        rope_layout="interleaved",
        tie_word_embeddings="lm_head.weight" not in tensors,
    )


def _write_name(name: str) -> str:
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layer:
        return f"layers.{layer[1]}.{_BACK[layer[2]]}.weight"
    return f"{_BACK[name.removesuffix('.weight')]}.weight"
