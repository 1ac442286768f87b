"""The blocks of a language model, told who sees whom and where everybody stands.

Without pictures this is the model's own forward pass, bit for bit: the same products, the same
angles, and the same causal kernel.

Shapes: B lines, T new rows, C rows in memory, H heads, G key heads, D width of a head, M width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from paragone.language.llama import Llama
from paragone.mixers.contract import packed_index
from paragone.mixers.flash_attention import attention
from paragone.multimodal._lossless_layout import Batch
from paragone.multimodal._lossless_rows import visible
from paragone.multimodal.positions import table

__all__ = ["Memory", "through"]


class Memory:
    """Keys, values and marks of what lines have seen.

    Args:
        language: The model whose blocks are gone through.
        lines: B.
    """

    def __init__(self, language: Llama, lines: int):
        config, weight = language.config, language.lm_head.weight
        shape = (config.num_hidden_layers, 2, lines, config.kv_heads, 64, config.head_size)
        self.parts = weight.new_zeros(shape)
        self.marks = torch.full((lines, 4, 64), -2, dtype=torch.int64, device=weight.device)
        self.lengths = torch.zeros(lines, dtype=torch.int64)

    def grow(self, need: int) -> None:
        """Makes room for `need` rows a line."""
        room = self.marks.shape[-1]
        if need > room:
            more = max(need, 2 * room) - room
            self.parts = torch.nn.functional.pad(self.parts, (0, 0, 0, more))
            self.marks = torch.nn.functional.pad(self.marks, (0, more), value=-2)

    def forget(self, line: int, length: int) -> None:
        """Forgets what a line read after its first `length` rows."""
        self.lengths[line] = length
        self.marks[line, :, length:] = -2

    def of(self, layer: int, lines: Tensor | None, used: int) -> Tensor:
        """(2, B, G, used, D) keys and values of some lines."""
        parts = self.parts[layer, ..., :used, :]
        return parts if lines is None else parts[:, lines]


def _projected(mixer: Any, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q = mixer.q_proj(x).unflatten(-1, (mixer.heads, -1))
    k = mixer.k_proj(x).unflatten(-1, (mixer.kv_heads, -1))
    v = mixer.v_proj(x).unflatten(-1, (mixer.kv_heads, -1)).transpose(1, 2)
    if mixer.q_norm is not None:
        q, k = mixer.q_norm(q), mixer.k_norm(k)
    return mixer.rotary.turn_early(q, cos, sin), mixer.rotary.turn_early(k, cos, sin), v


def through(
    language: Llama,
    h: Tensor,
    batch: Batch,
    memory: Memory | None = None,
    lines: Sequence[int] | None = None,
    keep: bool = False,
) -> Tensor:
    """Embedded rows through all blocks.

    Args:
        language: The model.
        h: (B, T, M).
        batch: Places, marks and lengths.
        memory: What was seen before.
        lines: Lines of the memory that the batch's belong to (None: all, in order).
        keep: Whether the memory takes the new rows.

    Returns:
        (B, T, M), normalised.
    """
    blocks: Any = language.model.layers
    wide = torch.promote_types(h.dtype, torch.float32)
    cos, sin = table(blocks[0].self_attn.rotary, batch.at, wide)
    options: dict[str, Any]
    where, used = None, 0
    if memory is None and batch.plain:
        options = {"causal": True}
        if batch.ragged:
            options["lengths"] = (batch.lengths, batch.lengths)
    else:
        keys = batch.marks
        if memory is not None:
            if lines is not None and len(lines) != len(memory.lengths):
                where = torch.as_tensor(lines, device=h.device)
            known = memory.lengths if where is None else memory.lengths[where.cpu()]
            used = int(known.max())
            old = memory.marks[..., :used] if where is None else memory.marks[where, :, :used]
            keys = torch.cat([old, batch.marks], -1)
        options = {"mask": visible(batch.marks, keys)}
    new: list[Tensor] = []
    for layer, block in enumerate(blocks):
        mixer = block.self_attn
        q, k, v = _projected(mixer, block.input_layernorm(h), cos, sin)
        if memory is not None:
            if keep:
                new.append(torch.stack([k, v]))
            old = memory.of(layer, where, used)
            k, v = torch.cat([old[0], k], 2), torch.cat([old[1], v], 2)
        y = attention(q, k, v, scale=mixer.scale, **options)
        h = h + mixer.o_proj(y.transpose(1, 2).flatten(2))
        h = h + block.mlp(block.post_attention_layernorm(h))
    if memory is not None and keep:
        _kept(memory, torch.stack(new), batch, where)
    return language.model.norm(h)


def _kept(memory: Memory, new: Tensor, batch: Batch, where: Tensor | None) -> None:
    rows, at = packed_index(batch.lengths)
    lines = torch.arange(len(memory.lengths), device=new.device) if where is None else where
    known = memory.lengths.to(new.device)[lines]
    ends = known + batch.lengths
    memory.grow(int(ends.max()))
    to = (lines[rows], known[rows] + at)
    # (L, 2, B, G, T, D) with B and T in front, where the two indices stand.
    memory.parts.permute(2, 4, 0, 1, 3, 5)[to] = new.permute(2, 4, 0, 1, 3, 5)[rows, at]
    memory.marks.transpose(1, 2)[to] = batch.marks.transpose(1, 2)[rows, at]
    memory.lengths[lines.cpu()] = ends.cpu()
