r"""What a draft block does while it drafts, for all slots at once: it is trained as it is used.

The d-th guess behind a root reads streams that the block made itself, and attends to the model's
streams up to the root, and to its own behind it. Let $s^1_j = h_j$ and $s^d_j = g^{d-1}_{j-1}$ be
what slot j reads when it is the d-th of a draft. Its keys are those of the same draft,

$$ g^d_j = \mathrm{block}\big(C[E x_{j+1};\, s^d_j]\big), \qquad
   \text{attending to}\ \ k^1_i\ (i \le j - d + 1), \quad k^e_{j-d+e}\ (1 < e \le d) , $$

so one matrix of scores of the usual size, and d - 1 numbers beside each of its rows. The loss is
that of the model's own distribution; its gradient is made with it, some hundred rows at a time:

$$ L = -\sum_v p_v \log q_v, \qquad p = \mathrm{softmax}(W h_{j+1}), \quad
   q = \mathrm{softmax}(W g_j), \qquad \frac{\partial L}{\partial g} = (q - p)\,W . $$

Cost: D passes of the block over the text, and of two heads for each.

References:
    Li et al. (2025), "EAGLE-3", arXiv:2503.01840, section 3.2 (training-time test).
    Zhang et al. (2024), "HASS", arXiv:2408.15766, section 3.2 (the same for streams).

Shapes: R rows, T slots, M width, H heads, D head width, N rows that count, V rows of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["distilled", "unrolled"]

_CHUNK = 1 << 22
"""Scores that are held at once."""


def unrolled(
    block: Any, merge: Callable[[Tensor, Tensor], Tensor], norm: nn.Module, embeddings: Tensor,
    streams: Tensor, depth: int,
) -> list[Tensor]:  # fmt: skip
    """Streams of the first, second … guess at each slot.

    Args:
        block: A `Block` with softmax attention over the whole text.
        merge: Embeddings and streams to what the block reads.
        norm: What its stream goes through.
        embeddings: (R, T, M) of the slots' tokens.
        streams: (R, T, M) that those tokens were predicted from.
        depth: Guesses behind each other.

    Returns:
        Of each guess (R, T, M). The first d - 1 slots of the d-th have no root; what stands there
        is of no use.
    """
    found: list[Tensor] = []
    kept: list[tuple[Tensor, Tensor]] = []
    read = streams
    for _ in range(depth):
        h = merge(embeddings, read)
        h = h + _attended(block.self_attn, block.input_layernorm(h), kept)
        h = h + block.mlp(block.post_attention_layernorm(h))
        found.append(norm(h))
        read = _later(found[-1], 1, dim=1)
    return found


def _later(x: Tensor, by: int, dim: int) -> Tensor:
    """Entries moved back by some places, zeros in front."""
    pad = torch.zeros_like(x.narrow(dim, 0, min(by, x.shape[dim])))
    return torch.cat([pad, x.narrow(dim, 0, max(x.shape[dim] - by, 0))], dim)


def _attended(mixer: Any, x: Tensor, kept: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention of the next guess; its keys and values are added to those of the earlier ones."""
    q = mixer.q_proj(x).unflatten(-1, (mixer.heads, -1)).transpose(1, 2)
    k, v = (
        part(x).unflatten(-1, (mixer.kv_heads, -1)).transpose(1, 2)
        for part in (mixer.k_proj, mixer.v_proj)
    )
    if mixer.q_norm is not None:
        q, k = mixer.q_norm(q), mixer.k_norm(k)
    time = torch.arange(x.shape[1], device=x.device)
    if mixer.rotary is not None:
        q, k = mixer.rotary(q, time), mixer.rotary(k, time)
    each = mixer.heads // mixer.kv_heads
    kept.append((k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)))
    guess = len(kept)
    keys, values = kept[0]
    # The first slots of a later guess have no root; they look at the first slot, whatever it is.
    hidden = time > (time[:, None] - (guess - 1)).clamp(min=0)
    unseen = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device)
    unseen.masked_fill_(hidden, -torch.inf)
    q = q * mixer.scale
    parts = [
        torch.baddbmm(unseen, q.flatten(0, 1), keys.flatten(0, 1).mT).unflatten(0, q.shape[:2])
    ]
    for e in range(2, guess + 1):
        early = torch.zeros(len(time), dtype=q.dtype, device=q.device)
        early[: guess - e] = -torch.inf
        own = _later(kept[e - 1][0], guess - e, dim=2)
        parts.append(((q * own).sum(-1) + early)[..., None])
    shares = (torch.cat(parts, -1) if guess > 1 else parts[0]).softmax(-1)
    y = shares[..., : len(time)] @ values
    for e in range(2, guess + 1):
        at = len(time) + e - 2
        y = y + shares[..., at, None] * _later(kept[e - 1][1], guess - e, dim=2)
    return mixer.o_proj(y.transpose(1, 2).flatten(2))


class _Distilled(torch.autograd.Function):
    """Cross-entropy with the model's distribution, and whether both have the same favourite."""

    @staticmethod
    def forward(ctx: Any, guessed: Tensor, true: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float32, device=guessed.device)
        gradient = torch.empty_like(guessed)
        same = torch.empty(len(guessed), dtype=torch.bool, device=guessed.device)
        size = max(1, _CHUNK // max(len(head), 1))
        for first in range(0, len(guessed), size):
            part = slice(first, first + size)
            wanted, scores = (true[part] @ head.T).float(), (guessed[part] @ head.T).float()
            same[part] = wanted.argmax(-1) == scores.argmax(-1)
            p, logs = wanted.softmax(-1), scores.log_softmax(-1)
            total -= (p * logs).sum()
            gradient[part] = (logs.exp() - p).to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(same)
        return total, same

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient), None, None


def distilled(guessed: Tensor, true: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of guesses with the model's own distribution; the head stays as it is.

    Args:
        guessed: (N, M) streams that the head reads.
        true: (N, M) streams of the model at the same places.
        head: (V, M).

    Returns:
        The sum in nats, a float32 scalar with a gradient to `guessed`, and (N,) whether the
        likeliest token is the same.

    Example:
        >>> total, same = distilled(torch.eye(2), torch.eye(2), torch.eye(2))
        >>> same.tolist()
        [True, True]
    """
    return _Distilled.apply(guessed, true, head)  # pyright: ignore[reportReturnType]
