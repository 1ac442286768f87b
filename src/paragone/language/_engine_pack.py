r"""A model's weights in the order in which a step reads them.

Everything that a step streams stands in one array of panels (`ops.decoding`), layer after layer:
queries, keys and values together; the output of attention; gate and up in alternation, so that a
panel has both halves of the same hidden units; down; at the end the head. Norms, biases and scales
stand in a second, small one. Rotary pairs of layout "interleaved" are moved apart, which changes
no score as queries and keys are moved alike. In 8 bits a row w of a matrix becomes

$$ w \approx s\, q, \qquad s = \max_k |w_k| / 127, \qquad q = \mathrm{round}(w / s) . $$

Shapes: R outputs, K inputs, L layers, D head width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from paragone.kernels.simd import WIDTH
from paragone.language.ops.decoding._cpu_panels import PANEL
from paragone.language.ops.decoding._cpu_step import PLACES
from paragone.language.ops.skinny.layout import padded, paneled

__all__ = ["Packed", "pack"]

_SPARE = 1 << 16


@dataclasses.dataclass
class Packed:
    """Arrays of a packed model.

    Attributes:
        panels: float32 or int8, all matrices.
        rest: float32, norms, biases and scales.
        places: (L + 1, 16) int64 offsets, named by `PLACES`.
        embedding: (V M,) float32.
    """

    panels: np.ndarray
    rest: np.ndarray
    places: np.ndarray
    embedding: np.ndarray


class _Filler:
    """Collects pieces of an array and tells where each will stand."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []
        self.at = 0

    def add(self, piece: np.ndarray) -> int:
        self.pieces.append(np.ascontiguousarray(piece).reshape(-1))
        self.at += self.pieces[-1].size
        return self.at - self.pieces[-1].size

    def whole(self, kind: Any, spare: int) -> np.ndarray:
        """All pieces one behind the other, and some zeros behind them."""
        found = np.zeros(self.at + spare, kind)
        at = 0
        for piece in self.pieces:
            found[at : at + piece.size] = piece
            at += piece.size
        self.pieces.clear()
        return found


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).numpy()


def _gain(norm: Any) -> np.ndarray | None:
    """The weight of a norm; None for one that does nothing."""
    weight = getattr(norm, "weight", None)
    return None if weight is None else _numbers(weight)


def _apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of interleaved pairs to rows of halves, head by head."""
    depth = len(rows) // heads
    order = np.concatenate([np.arange(0, depth, 2), np.arange(1, depth, 2)])
    return rows.reshape(heads, depth, *rows.shape[1:])[:, order].reshape(rows.shape)


def _together(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rows of the two in turns of WIDTH."""
    parts = [padded(rows, WIDTH) for rows in (gate, up)]
    parts = [rows.reshape(-1, WIDTH, *rows.shape[1:]) for rows in parts]
    return np.stack(parts, 1).reshape(-1, *gate.shape[1:])


class _Packer:
    def __init__(self, narrow: bool):
        self.narrow = narrow
        self.panels, self.rest = _Filler(), _Filler()

    def matrix(self, weights: np.ndarray) -> tuple[int, int]:
        """Adds a matrix; returns the offsets of its panels and of its scales (-1: none)."""
        if not self.narrow:
            return self.panels.add(paneled(weights)), -1
        most = np.abs(weights).max(1)
        scale = np.where(most > 0, most, 1.0).astype(np.float32) / np.float32(127)
        levels = np.clip(np.rint(weights / scale[:, None]), -127, 127).astype(np.int8)
        return self.panels.add(paneled(levels)), self.rest.add(padded(scale, PANEL))

    def vector(self, numbers: np.ndarray | None, multiple: int = PANEL) -> int:
        return -1 if numbers is None else self.rest.add(padded(numbers, multiple))


def pack(model: Any, narrow: bool) -> Packed:
    """Packs a model that the engine serves.

    Args:
        model: A `Llama`.
        narrow: Whether to keep matrices in 8 bits.
    """
    packer, layers = _Packer(narrow), model.model.layers
    places = np.full((len(layers) + 1, len(PLACES)), -1, np.int64)
    for place, block in zip(places, layers, strict=False):
        found = _layer(packer, block)
        place[:] = [found.get(name, -1) for name in PLACES]
    head = packer.matrix(_numbers(model.lm_head.weight))
    ends: dict[str, int] = {"qkv": head[0], "qkv_scale": head[1]}
    ends["norm"] = packer.vector(_gain(model.model.norm))
    places[-1] = [ends.get(name, -1) for name in PLACES]
    return Packed(
        packer.panels.whole(np.int8 if narrow else np.float32, _SPARE),
        packer.rest.whole(np.float32, PANEL),
        places,
        np.ascontiguousarray(_numbers(model.model.embed_tokens.weight)).reshape(-1).copy(),
    )


def _layer(packer: _Packer, block: Any) -> dict[str, int]:
    mixer, feed = block.self_attn, block.mlp
    heads, groups = mixer.heads, mixer.kv_heads
    apart = mixer.rotary is not None and mixer.rotary.layout == "interleaved"

    def stacked(name: str) -> np.ndarray | None:
        parts = [getattr(mixer, f"{which}_proj") for which in "qkv"]
        if getattr(parts[0], name) is None:
            return None
        q, k, v = (_numbers(getattr(part, name)) for part in parts)
        return np.concatenate([_apart(q, heads), _apart(k, groups), v] if apart else [q, k, v])

    def bias(linear: Any) -> np.ndarray | None:
        return None if linear.bias is None else _numbers(linear.bias)

    def gain(norm: Any) -> np.ndarray | None:
        if norm is None:
            return None
        numbers = _numbers(norm.weight)
        return _apart(numbers, 1) if apart else numbers

    qkv = stacked("weight")
    assert qkv is not None
    gate, up = feed.gate_proj, feed.up_proj
    found: dict[str, int] = {}
    for name, weights in (
        ("qkv", qkv),
        ("o", _numbers(mixer.o_proj.weight)),
        ("gate_up", _together(_numbers(gate.weight), _numbers(up.weight))),
        ("down", _numbers(feed.down_proj.weight)),
    ):
        found[name], found[f"{name}_scale"] = packer.matrix(weights)
    biases = None if gate.bias is None else _together(_numbers(gate.bias), _numbers(up.bias))
    found["qkv_bias"] = packer.vector(stacked("bias"))
    found["o_bias"] = packer.vector(bias(mixer.o_proj))
    found["gate_up_bias"] = packer.vector(biases)
    found["down_bias"] = packer.vector(bias(feed.down_proj))
    found["norm"] = packer.vector(_gain(block.input_layernorm))
    found["second_norm"] = packer.vector(_gain(block.post_attention_layernorm))
    found["q_norm"] = packer.vector(gain(mixer.q_norm))
    found["k_norm"] = packer.vector(gain(mixer.k_norm))
    return found
