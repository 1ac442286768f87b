r"""A small language model around any mixer: what a study or a first experiment needs.

Pre-norm residual blocks over one embedding, which also reads out:

$$ h \leftarrow h + \mathrm{mix}(\mathrm{norm}(h)), \qquad
   h \leftarrow h + W_2\big(\mathrm{silu}(W_1 \mathrm{norm}(h)) \odot W_3 \mathrm{norm}(h)\big),
   \qquad \mathrm{logits} = E\, \mathrm{norm}(h) . $$

Mixers that do the feed-forward's work themselves (gated units, Mamba) stand twice in a block.

References:
    Xiong et al. (2020), arXiv:2002.04745 (pre-norm); Shazeer (2020), arXiv:2002.05202, eq. 6.

Shapes: B rows, T time, M model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paragone.mixers.registry import MIXERS, build

__all__ = ["FeedForward", "SequenceModel"]


class FeedForward(nn.Module):
    """SwiGLU: (…, M) to (…, M) through `inner` hidden units."""

    def __init__(self, width: int, inner: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        where: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
        self.up = nn.Linear(width, 2 * inner, **where)
        self.down = nn.Linear(inner, width, **where)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * value)


class SequenceModel(nn.Module):
    """A language model with the mixer of your choice, trained and decoded alike for all of them.

    Prefer it for trials and comparisons; for real language models take `paragone.language.Llama`.

    Args:
        vocab: Tokens V.
        width: Model width M.
        layers: Blocks.
        mixer: A name of `paragone.mixers.names()`, or a sequence of them that is repeated over
            the layers, e.g. ("mamba2", "mamba2", "window").
        heads: Heads, where the mixer has them (None: by the width).
        inner: Hidden units of the feed-forward (None: 8/3 of the width, a multiple of 16); 0: none.
        options: Further arguments of the mixer.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Example:
        >>> model = SequenceModel(50, 32, 2, mixer="linear")
        >>> logits, state = model(torch.zeros(1, 7, dtype=torch.int64))
        >>> logits.shape
        torch.Size([1, 7, 50])
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        layers: int,
        *,
        mixer: str | tuple[str, ...] = "mha",
        heads: int | None = None,
        inner: int | None = None,
        options: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        cycle = (mixer,) if isinstance(mixer, str) else tuple(mixer)
        inner = -(-8 * width // 48) * 16 if inner is None else inner
        self.embed = nn.Embedding(vocab, width, **where)
        if not self.embed.weight.is_meta:
            nn.init.normal_(self.embed.weight, std=width**-0.5)
        parts: list[nn.Module] = []
        for layer in range(layers):
            name = cycle[layer % len(cycle)]
            if name not in MIXERS:
                raise ValueError(f"mixer={name!r} is none of {', '.join(MIXERS)}")
            for _ in range(2 if MIXERS[name].alone else 1):
                parts.append(build(name, width, heads=heads, **where, **(options or {})))
            if inner and not MIXERS[name].alone:
                parts.append(FeedForward(width, inner, **where))
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.RMSNorm(width, **where) for _ in range(len(parts) + 1))

    def forward(
        self,
        tokens: Tensor,
        *,
        state: Any = None,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[Any]]:
        """Scores the next token after each prefix.

        Args:
            tokens: (B, T) integers.
            state: What an earlier call returned.
            positions: As in `Mixer.forward`.
            lengths: As in `Mixer.forward`.

        Returns:
            (B, T, V) logits, and the state of each part.
        """
        h = self.embed(tokens)
        states: list[Any] = [None] * len(self.parts) if state is None else list(state)
        for at, (norm, part) in enumerate(zip(self.norms[:-1], self.parts, strict=True)):
            if isinstance(part, FeedForward):
                h = h + part(norm(h))
            else:
                more, states[at] = part(
                    norm(h), state=states[at], positions=positions, lengths=lengths
                )
                h = h + more
        return self._read(h), states

    def step(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, list[Any]]:
        """Goes on by one token: (B,) integers to (B, V) logits."""
        h = self.embed(tokens)
        states: list[Any] = [None] * len(self.parts) if state is None else list(state)
        for at, norm in enumerate(self.norms[:-1]):
            part: Any = self.parts[at]
            if isinstance(part, FeedForward):
                h = h + part(norm(h))
            else:
                more, states[at] = part.step(norm(h), states[at])
                h = h + more
        return self._read(h), states

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int) -> Tensor:
        """Returns (B, count) further tokens, each the likeliest."""
        logits, state = self(tokens)
        found = [logits[:, -1].argmax(-1)]
        for _ in range(count - 1):
            logits, state = self.step(found[-1], state)
            found.append(logits.argmax(-1))
        return torch.stack(found, dim=1)

    def _read(self, h: Tensor) -> Tensor:
        return functional.linear(self.norms[-1](h), self.embed.weight)
