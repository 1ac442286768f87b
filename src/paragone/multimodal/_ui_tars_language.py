r"""What a `UITars` reads and writes with: a small decoder that looks at screens, copies and points.

Tokens see earlier tokens and all coarse features of the screens. From the state h of a token
comes the next one, from the vocabulary or copied from an earlier token, and, where the next one is
a point, the patch it stands in:

$$ P(w) = g\, \mathrm{softmax}(E h)_w + (1 - g) \sum_{j:\, w_j = w} a_j, \qquad
   P(p) = \mathrm{softmax}_p \frac{\langle W_q h, k_p \rangle}{\sqrt M} , $$

with g = sigmoid(w h) and a the attention of h over earlier tokens of text. What is copied needs no
place in the vocabulary's training: an instruction's names and passwords are typed as they stand.
A token that is a point is embedded as its place and as what stands there on the present screen.

Cost: a token costs 12 M^2 a block and its attention; keys and values of screens are made once.

References:
    See, Liu and Manning (2017), arXiv:1704.04368, eq. 8-9 (copying).
    Vinyals, Fortunato and Jaitly (2015), Pointer networks, arXiv:1506.03134, section 2.3.
    Wu et al. (2025), GUI-Actor, arXiv:2506.03143, section 3 (patches in place of coordinates).
    Su et al. (2021), arXiv:2104.09864, eq. 34 (places in the row).

Shapes: B screens, G rows a screen, R = B G rows, T tokens, S coarse features, M width, H heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.multimodal._ui_tars_config import UITarsConfig
from paragone.multimodal._ui_tars_encoders import turned, waves
from paragone.multimodal._ui_tars_words import Words

__all__ = ["Cache", "Language", "Memory"]

_THETA = 1000.0


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the decoder sees of screens.

    Attributes:
        pairs: Keys and values (B, H, S, D) of each block.
        mask: (B, 1, 1, S), True where there is something; None: everywhere.
        keys: (B, P, M), what points are found by on the present screen.
        fine: (B, P, M), what stands at a place.
        columns: (B,), fine patches in a row of the present screen.
        rows: (B,), rows of fine patches.
        present: (B, P), True where a fine patch is; None: everywhere.
        table: (V, M), what each token is, as `Language.table` says.
    """

    pairs: Sequence[tuple[Tensor, Tensor]]
    mask: Tensor | None
    keys: Tensor
    fine: Tensor
    columns: Tensor
    rows: Tensor
    present: Tensor | None
    table: Tensor


@dataclasses.dataclass
class Cache:
    """Keys and values of earlier tokens, written in place.

    Attributes:
        pairs: (R, H, T, D) of each block.
        hidden: (R, T, M), last states, which copying looks at.
    """

    pairs: list[tuple[Tensor, Tensor]]
    hidden: Tensor


def _spellings(words: Words) -> Tensor:
    """Shares (words, characters' tokens) of letters in words."""
    found = torch.zeros(len(words.words), len(words.letter_tokens))
    for at, word in enumerate(words.words):
        tokens = [t for t in words.encode(word, lambda _: True) if t in words.letter_tokens]
        for token in tokens:
            found[at, token - words.letter_tokens.start] += 1 / len(tokens)
    return found


class _Layer(nn.Module):
    """Attention to tokens, to screens, and a feed-forward, each behind a norm."""

    def __init__(self, config: UITarsConfig, where: dict[str, Any]) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm0 = nn.LayerNorm(width, **where)
        self.qkv = nn.Linear(width, 3 * width, bias=False, **where)
        self.out = nn.Linear(width, width, bias=False, **where)
        self.norm1 = nn.LayerNorm(width, **where)
        self.ask = nn.Linear(width, width, bias=False, **where)
        self.screen = nn.Linear(width, 2 * width, bias=False, **where)
        self.told = nn.Linear(width, width, bias=False, **where)
        self.norm2 = nn.LayerNorm(width, **where)
        self.up = nn.Linear(width, config.feed * width, **where)
        self.down = nn.Linear(config.feed * width, width, **where)

    def pair(self, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of coarse features (B, S, M)."""
        k, v = self.screen(coarse).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(
        self, x: Tensor, turns: tuple[Tensor, Tensor], memory: Memory, at: int,
        cache: tuple[Tensor, Tensor] | None = None, where: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
        """(R, T, M) to the same, and the keys and values of its tokens.

        With a cache, `where` (R,) says which place of it the one new token of each row takes;
        without, a mask (R, T, T) says which tokens see which (None: all earlier ones).
        """
        parts = self.qkv(self.norm0(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(parts[:2], turns).unbind(0)
        v = parts[2]
        if cache is None or where is None:
            over = None if mask is None else mask[:, None]
            mixed = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=over, is_causal=mask is None
            )
        else:
            every = torch.arange(len(x), device=x.device)
            cache[0][every, :, where] = k[:, :, 0]
            cache[1][every, :, where] = v[:, :, 0]
            seen = torch.arange(cache[0].shape[2], device=x.device) <= where[:, None]
            mixed = functional.scaled_dot_product_attention(
                q, *cache, attn_mask=seen[:, None, None]
            )
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        keys, values = memory.pairs[at]
        asked = self.ask(self.norm1(x)).view(len(keys), -1, self.heads, keys.shape[-1])
        told = functional.scaled_dot_product_attention(
            asked.transpose(1, 2), keys, values, attn_mask=memory.mask
        )
        x = x + self.told(told.transpose(1, 2).reshape(x.shape))
        x = x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x, (k, v)


class Language(nn.Module):
    """The decoder with its three ways of answering.

    Args:
        config: Sizes.
        words: Tokens.
        where: Device and type.
    """

    def __init__(self, config: UITarsConfig, words: Words, where: dict[str, Any]) -> None:
        super().__init__()
        width, vocabulary = config.width, len(words)
        self.heads = config.heads
        self.embedding = nn.Embedding(vocabulary, width, **where)
        self.letters = words.letter_tokens
        self.spellings = _spellings(words)
        self.before = nn.Linear(width, width, bias=False, **where)
        self.place = nn.Linear(waves(torch.zeros(1), torch.zeros(1)).shape[-1], width, **where)
        self.standing = nn.Linear(width, width, bias=False, **where)
        self.age = nn.Embedding(config.screenshots, width, **where)
        self.layers = nn.ModuleList(_Layer(config, where) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, **where)
        self.bias = nn.Parameter(torch.zeros(vocabulary, **where))
        self.copy = nn.Linear(width, 2 * width, bias=False, **where)
        self.gate = nn.Linear(width, 1, **where)

    def remember(
        self, coarse: Tensor, ages: Tensor, mask: Tensor | None, seen: dict[str, Any]
    ) -> Memory:
        """Prepares screens for questions.

        Args:
            coarse: (B, S, M), features of all screens of a row side by side.
            ages: (S,), how old each is.
            mask: (B, S), where there is something, or None.
            seen: The other fields of the memory.
        """
        coarse = coarse + self.age(ages)
        pairs = [layer.pair(coarse) for layer in self.layers]  # pyright: ignore[reportCallIssue]
        masked = None if mask is None else mask[:, None, None]
        return Memory(pairs, masked, table=self.table(), **seen)

    def table(self) -> Tensor:
        """What each token is (V, M): its own vector, and for a word the mean of its letters' too.

        A word that was seen a few times is known by its letters, and a spelled one is where the
        same word as one token would be.
        """
        weight = self.embedding.weight
        letters = weight[self.letters.start : self.letters.stop]
        words = weight[self.letters.stop :] + self.spellings.to(weight) @ letters
        return torch.cat([weight[: self.letters.stop], words])

    def embedded(
        self, tokens: Tensor, points: tuple[Tensor, Tensor, Tensor] | None, memory: Memory,
        patch: int, before: Tensor | None = None, mask: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Tokens (R, T) as vectors, with the ones before them, and points as what they are.

        Args:
            tokens: Numbers.
            points: Rows, columns and (n, 2) places in pixels, of tokens that are points.
            memory: Of R / G screens, in the order of the rows.
            patch: Pixels of a fine patch's side.
            before: (R, T), the tokens before them (None: the rows are whole).
            mask: (R, T, T), which tokens see which, where rows are questions side by side.
        """
        x = functional.embedding(tokens, memory.table)
        # A token that knows the one before it is found by who has just said that one: to copy.
        old = self.before(x if before is None else functional.embedding(before, memory.table))
        if before is None:
            old = functional.pad(old[:, :-1], (0, 0, 1, 0))
        if mask is not None:
            seen = mask.diagonal(-1, 1, 2)
            old = old * functional.pad(seen, (1, 0))[..., None]
        x = x + old
        if points is None or not len(points[0]):
            return x
        row, column, xy = points
        screen = row // (len(tokens) // len(memory.keys))
        across = (xy[:, 0] / patch).long().clamp(min=0).minimum(memory.columns[screen] - 1)
        down = (xy[:, 1] / patch).long().clamp(min=0).minimum(memory.rows[screen] - 1)
        there = memory.fine[screen, down * memory.columns[screen] + across]
        told = self.place(waves(xy[:, 0], xy[:, 1]).to(x.dtype)) + self.standing(there)
        return x.index_put((row, column), told.to(x.dtype), accumulate=True)

    def forward(
        self, x: Tensor, memory: Memory, cache: Cache | None = None, where: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:  # fmt: skip
        """Last states (R, T, M) of embedded tokens, and keys and values of their blocks.

        Args:
            x: Embedded tokens; one a row with a cache.
            memory: Screens.
            cache: Of the tokens before; it is written to.
            where: (R,), places of the new tokens in their rows.
            mask: (R, T, T), which tokens see which (None: all earlier ones).
        """
        if mask is not None:
            at = mask.sum(-1) - 1
        elif where is not None:
            at = where[:, None]
        else:
            at = torch.arange(x.shape[1], device=x.device)[None]
        turns = self._turns(at, x)
        pairs = []
        for number, layer in enumerate(self.layers):
            old = None if cache is None else cache.pairs[number]
            x, pair = layer(x, turns, memory, number, old, where, mask)
            pairs.append(pair)
        return self.norm(x), pairs

    def _turns(self, at: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.shape[-1] // self.heads
        power = torch.arange(0, size, 2, dtype=torch.float32, device=x.device) / size
        angle = at[..., None] * _THETA**-power
        angle = torch.cat([angle, angle], -1)[:, None]
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def written(self, hidden: Tensor, memory: Memory) -> Tensor:
        """Logits of the vocabulary."""
        return functional.linear(hidden, memory.table, self.bias)

    def copied(self, asking: Tensor, hidden: Tensor, allowed: Tensor) -> Tensor:
        """Attention (R, A, T) of states over the tokens that may be copied.

        Args:
            asking: (R, A, M).
            hidden: (R, T, M), states of the tokens.
            allowed: (R, A, T); at least one in each row.
        """
        query, key = self.copy.weight.chunk(2)
        scores = functional.linear(asking, query) @ functional.linear(hidden, key).transpose(1, 2)
        scores = scores * asking.shape[-1] ** -0.5
        return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
