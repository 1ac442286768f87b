r"""Weights of a MoonViT under other names: transformers' layout of Kimi K2.5 and its kin.

There queries, keys and values are projections of their own, and the pairs that are turned lie half
a head apart, (j, j + D/2), not side by side, (2j, 2j + 1). Scores do not change if queries and
keys are permuted alike, so at loading row $h D + j + s D / 2$ becomes row $h D + 2 j + s$.

Shapes: H heads, D width of a head, M model width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["from_halves", "published_names", "to_halves"]

_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "norm1": "norm0", "norm2": "norm1", "attn.proj": "wo", "mlp.fc1": "mlp.fc0",
    "mlp.fc2": "mlp.fc1",
}  # fmt: skip
_OTHERS = {
    "patch_embed.pos_emb.position_embeddings": "patch_embed.pos_emb.weight",
    "final_layernorm.weight": "encoder.final_layernorm.weight",
    "final_layernorm.bias": "encoder.final_layernorm.bias",
}


def from_halves(rows: Tensor, heads: int) -> Tensor:
    """Rows (H D, …) in pairs half a head apart, put side by side."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def to_halves(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `from_halves`."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def published_names(state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Weights in transformers' layout under the published names; others stay as they are.

    Args:
        state: Names within the tower to tensors.
        heads: Heads H.

    Raises:
        ValueError: A layer of which one of the three projections is missing.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        found = _LAYER.fullmatch(name)
        if found is None:
            renamed[_OTHERS.get(name, name)] = tensor
            continue
        number, part, kind = found.groups()
        if part in ("attn.q_proj", "attn.k_proj", "attn.v_proj"):
            parts.setdefault((number, kind), {})[part[5]] = tensor
        else:
            renamed[f"encoder.blocks.{number}.{_PARTS.get(part, part)}.{kind}"] = tensor
    for (number, kind), three in parts.items():
        if set(three) != set("qkv"):
            raise ValueError(
                f"layers.{number}.attn: of q_proj, k_proj and v_proj only "
                f"{', '.join(sorted(three))} have a {kind}; all three are expected"
            )
        q, k = (from_halves(three[one], heads) for one in "qk")
        renamed[f"encoder.blocks.{number}.wqkv.{kind}"] = torch.cat([q, k, three["v"]])
    return renamed
