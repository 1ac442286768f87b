"""Files of llama2.c: one header, then every weight as float32, in the order that C reads it.

Version 0 begins with seven int32: M, F, L, H, G, V (negative where the head is not tied) and the
longest text; tables of cosines and sines, which nobody needs, stand before the head. Versions 1
and 2 begin with the number 0x616b3432 and a header of 256 bytes; version 2 holds bytes in groups,
each with a scale. Rotary pairs are interleaved.

References:
    Touvron et al. (2023), LLaMA, arXiv:2302.13971 (the model); the layout is that of llama2.c's
    export script.

Shapes: V vocabulary, M model width, F hidden units, L layers, H heads, G key heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paragone.language._format_weights import in_layout, refuse
from paragone.language.config import LlamaConfig
from paragone.language.llama import Llama

__all__ = ["is_llama2c", "read_llama2c", "write_llama2c"]

_MAGIC = 0x616B3432
_HEADER = 256
_NORMS = ("input_layernorm", "post_attention_layernorm")
_MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj",
)  # fmt: skip


def is_llama2c(path: Path) -> bool:
    """Whether a file looks like one of llama2.c."""
    head = np.fromfile(path, np.int32, 9)
    if len(head) < 9:
        return False
    if int(head[0]) == _MAGIC:
        return True
    width, inner, layers, heads, keys, vocab, longest = (int(x) for x in head[:7])
    plausible = all(0 < x < 1 << 20 for x in (width, inner, layers, heads, keys, longest))
    return plausible and 0 < abs(vocab) < 1 << 24 and width % heads == 0 and heads % keys == 0


def read_llama2c(path: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Reads a file of version 0, 1 or 2.

    Raises:
        ValueError: A version that is not known, or a file that is too short or too long.
    """
    first = np.fromfile(path, np.int32, 2)
    if len(first) == 2 and int(first[0]) == _MAGIC:
        return _read_new(path, int(first[1]))
    head = np.fromfile(path, np.int32, 7)
    config = _config(head, path, tied=int(head[5]) > 0)
    reader = _Reader(path, 28)
    found = {"model.embed_tokens.weight": reader.take(config.vocab_size, config.hidden_size)}
    shapes = _shapes(config)
    for part in (_NORMS[0], *_MATRICES[:4], _NORMS[1], *_MATRICES[4:]):
        reader.layers(found, config, part, shapes[part])
    found["model.norm.weight"] = reader.take(config.hidden_size)
    reader.take(2, config.max_position_embeddings, config.head_size // 2)
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = reader.take(config.vocab_size, config.hidden_size)
    reader.end()
    return config, found


def write_llama2c(model: Llama, path: Path) -> None:
    """Writes version 0.

    Raises:
        ValueError: A model that the format cannot hold; the message names why.
    """
    config = model.config
    refuse(config, "llama2.c's format", set(), [])
    tensors, config = in_layout(model.state_dict(), config, "interleaved")
    vocab = config.vocab_size if config.tie_word_embeddings else -config.vocab_size
    head = (
        config.hidden_size, config.inner, config.num_hidden_layers, config.num_attention_heads,
        config.kv_heads, vocab, config.max_position_embeddings,
    )  # fmt: skip
    names = ["model.embed_tokens.weight"]
    for part in (_NORMS[0], *_MATRICES[:4], _NORMS[1], *_MATRICES[4:]):
        names += [f"model.layers.{at}.{part}.weight" for at in range(config.num_hidden_layers)]
    angles = np.outer(
        np.arange(config.max_position_embeddings),
        10000.0 ** (-np.arange(0, config.head_size, 2) / config.head_size),
    )
    with path.open("wb") as file:
        np.array(head, np.int32).tofile(file)
        for name in [*names, "model.norm.weight"]:
            _float32(tensors[name]).tofile(file)
        for table in (np.cos(angles), np.sin(angles)):
            table.astype(np.float32).tofile(file)
        if not config.tie_word_embeddings:
            _float32(tensors["lm_head.weight"]).tofile(file)


def _read_new(path: Path, version: int) -> tuple[LlamaConfig, dict[str, Tensor]]:
    if version not in (1, 2):
        raise ValueError(f"{path}: version {version} of llama2.c's format; 0, 1 and 2 are known")
    raw = path.read_bytes()[:_HEADER]
    if len(raw) < _HEADER:
        raise ValueError(f"{path}: {len(raw)} bytes, shorter than the header of {_HEADER}")
    config = _config(np.frombuffer(raw, np.int32, 7, 8), path, tied=bool(raw[36]))
    group = int(np.frombuffer(raw[37:41], np.int32)[0]) if version == 2 else 0
    reader, shapes, found = _Reader(path, _HEADER), _shapes(config), {}
    for part in _NORMS:
        reader.layers(found, config, part, shapes[part])
    found["model.norm.weight"] = reader.take(config.hidden_size)
    reader.group = group
    found["model.embed_tokens.weight"] = reader.take(config.vocab_size, config.hidden_size)
    for part in _MATRICES:
        reader.layers(found, config, part, shapes[part])
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = reader.take(config.vocab_size, config.hidden_size)
    reader.end()
    return config, found


class _Reader:
    """Takes one tensor after the other from a file: float32, or groups of bytes with scales."""

    def __init__(self, path: Path, start: int):
        self.path, self.at, self.group = path, start, 0
        self.bytes = np.memmap(path, np.uint8, "r")

    def _raw(self, count: int) -> np.ndarray:
        end = self.at + count
        if end > len(self.bytes):
            raise ValueError(
                f"{self.path}: {len(self.bytes)} bytes, but the header promises {end} or more"
            )
        piece, self.at = self.bytes[self.at : end], end
        return np.array(piece)

    def take(self, *shape: int) -> Tensor:
        count = int(np.prod(shape))
        if not self.group:
            return torch.from_numpy(self._raw(4 * count).view(np.float32).reshape(shape))
        bytes_ = self._raw(count).view(np.int8).reshape(-1, self.group)
        scales = self._raw(4 * count // self.group).view(np.float32)
        return torch.from_numpy((bytes_ * scales[:, None]).astype(np.float32).reshape(shape))

    def layers(
        self, found: dict[str, Tensor], config: LlamaConfig, part: str, shape: tuple[int, ...]
    ) -> None:
        for layer in range(config.num_hidden_layers):
            found[f"model.layers.{layer}.{part}.weight"] = self.take(*shape)

    def end(self) -> None:
        if self.at != len(self.bytes):
            raise ValueError(
                f"{self.path}: {len(self.bytes) - self.at} bytes are left behind the last tensor"
            )


def _config(head: Any, path: Path, *, tied: bool) -> LlamaConfig:
    width, inner, layers, heads, keys, vocab, longest = (int(x) for x in head)
    if min(width, inner, layers, heads, keys, abs(vocab), longest) < 1:
        raise ValueError(f"{path}: sizes {[int(x) for x in head]} are not those of a model")
    return LlamaConfig(
        vocab_size=abs(vocab), hidden_size=width, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=keys,
        max_position_embeddings=longest, rope_layout="interleaved", tie_word_embeddings=tied,
    )  # fmt: skip


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    m, f = config.hidden_size, config.inner
    q, k = (n * config.head_size for n in (config.num_attention_heads, config.kv_heads))
    shapes = ((m,), (m,), (q, m), (k, m), (k, m), (m, q), (f, m), (m, f), (f, m))
    return dict(zip((*_NORMS, *_MATRICES), shapes, strict=True))


def _float32(x: Tensor) -> np.ndarray:
    return x.detach().to("cpu", torch.float32).contiguous().numpy()
