"""From named tensors to a model: what fits, what does not, and which coordinates make a pair.

Everything that is wrong with a file is said at once: parameters without a tensor, tensors without
a parameter, shapes and types. Rotary layouts differ by an order of rows,

    half:         (x_0, x_1, …, x_{D/2-1}; y_0, y_1, …)        pair i is (i, i + D/2)
    interleaved:  (x_0, y_0, x_1, y_1, …)                      pair i is (2i, 2i + 1)

so that converting permutes the rows of each query head and of each key head, their biases and the
weights of their norms; values stay.

References:
    Su et al. (2021), arXiv:2104.09864, eq. 34 (pairs).

Shapes: H heads of queries or keys, D width of a head, M model width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paragone.language.config import ROTARY_MIXERS, LlamaConfig
from paragone.language.llama import Llama

__all__ = ["build_model", "in_layout", "permuted", "refuse"]

_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_MOST_LINES = 12
_TURNED = re.compile(r"model\.layers\.(\d+)\.self_attn\.[qk]_(?:proj|norm)\.(?:weight|bias)")


def permuted(rows: Tensor, width: int, layout: str) -> Tensor:
    """Brings the rows of heads that are in the other layout into this one.

    Args:
        rows: (H D, …) weights or biases, or (D,) weights of a norm.
        width: D.
        layout: "half" or "interleaved", the one that is wanted.

    Example:
        >>> permuted(torch.tensor([0, 10, 1, 11]), 4, "half").tolist()
        [0, 1, 10, 11]
    """
    pairs = (width // 2, 2) if layout == "half" else (2, width // 2)
    return rows.unflatten(0, (-1, *pairs)).transpose(1, 2).flatten(0, 2)


def in_layout(
    tensors: Mapping[str, Tensor], config: LlamaConfig, layout: str
) -> tuple[dict[str, Tensor], LlamaConfig]:
    """Returns weights and configuration in a rotary layout.

    Args:
        tensors: Name to tensor, in the layout that the configuration names.
        config: Sizes and layout.
        layout: "half" or "interleaved".
    """
    if layout == config.rope_layout:
        return dict(tensors), config
    if config.kv_lora_rank is not None:
        raise ValueError(
            f"latent attention is kept in the layout {config.rope_layout!r}; it is not permuted"
        )
    found = {
        name: permuted(x, config.head_size, layout) if _turned(name, config) else x
        for name, x in tensors.items()
    }
    return found, config.replace(rope_layout=layout)


def refuse(config: LlamaConfig, format: str, allowed: set[str], wrong: list[str]) -> None:
    """Raises if a format cannot hold a model.

    Args:
        config: The model's.
        format: Its name, for the message.
        allowed: Fields that may differ from those of a plain LLaMA.
        wrong: What was found wrong before.

    Raises:
        ValueError: All that the format has no place for.
    """
    plain: dict[str, Any] = {
        "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "qk_norm": False, "n_routed_experts": 0, "rms_norm_eps": 1e-5, "mixer_options": {},
        "head_dim": config.head_size,
    }  # fmt: skip
    if "head_dim" not in allowed:
        plain["head_dim"] = config.hidden_size // config.num_attention_heads
    found = list(wrong)
    for name, value in plain.items():
        have = config.head_size if name == "head_dim" else getattr(config, name)
        if name not in allowed and have != value:
            found.append(f"{name}={have!r}, expected {value!r}")
    if not config.plain_attention:
        found.append(f"mixer={'mla' if config.kv_lora_rank else config.mixer!r}, expected 'gqa'")
    if found:
        raise ValueError(f"{format} cannot hold this model: {'; '.join(found)}; format='hf' can")


def build_model(
    config: LlamaConfig,
    tensors: Mapping[str, Tensor],
    source: Path | str,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> Llama:
    """Builds a model and gives it these weights.

    Args:
        config: Sizes and switches.
        tensors: Name to tensor, one for each parameter and kept buffer.
        source: The file, for errors.
        device: Where to put the model (None: the CPU).
        dtype: Type of the weights (None: that of each tensor).

    Raises:
        ValueError: Names, shapes or types that do not fit, all of them in one message.
    """
    given = dict(tensors)
    if config.num_hidden_layers > len(given):
        raise ValueError(
            f"{source}: {config.num_hidden_layers} layers, but only {len(given)} tensors; the "
            "configuration is not that of these weights"
        )
    model = Llama(config, device="meta")
    if any(buffer.is_meta for buffer in _fleeting(model)):
        model = Llama(config)
    problems = _tied_problems(given, config)
    if config.tie_word_embeddings:
        given[_HEAD] = given.get(_EMBEDDING, torch.empty(0))
    wanted = model.state_dict()
    problems += _problems(wanted, given)
    if problems:
        more = len(problems) - _MOST_LINES
        shown = [*problems[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])]
        raise ValueError(
            f"{source}: {len(problems)} tensors do not fit the configuration:\n  "
            + "\n  ".join(shown)
        )
    device = torch.device("cpu" if device is None else device)
    for name, x in given.items():
        kept = dtype is None or (wanted[name].dtype == torch.float32 and name.endswith("_bias"))
        given[name] = x.to(device, None if kept or not x.is_floating_point() else dtype)
    if config.tie_word_embeddings:
        given[_HEAD] = given[_EMBEDDING]
    model.load_state_dict(given, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval() if device.type == "meta" else model.to(device).eval()


def _turned(name: str, config: LlamaConfig) -> bool:
    """Whether a tensor's rows are coordinates that rotary positions turn."""
    found = _TURNED.fullmatch(name)
    return found is not None and config.mixer_of(int(found[1])) in ROTARY_MIXERS


def _fleeting(model: Llama) -> list[Tensor]:
    """Buffers that no file holds."""
    kept = model.state_dict().keys()
    return [buffer for name, buffer in model.named_buffers() if name not in kept]


def _tied_problems(given: dict[str, Tensor], config: LlamaConfig) -> list[str]:
    if not config.tie_word_embeddings or _HEAD not in given or _EMBEDDING not in given:
        return []
    if torch.equal(given[_HEAD], given[_EMBEDDING]):
        return []
    return [
        f"{_HEAD} differs from {_EMBEDDING}, but tie_word_embeddings is true: set it to false to "
        "keep both"
    ]


def _problems(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    found = [f"{name}: missing" for name in wanted if name not in given]
    found += [f"{name}: the model has no such parameter" for name in given if name not in wanted]
    for name in wanted:
        if name not in given:
            continue
        have, want = given[name], wanted[name]
        if have.shape != want.shape:
            found.append(f"{name}: shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif have.is_floating_point() != want.is_floating_point():
            found.append(f"{name}: {have.dtype} is not the kind of {want.dtype}")
    return found
