r"""The heads of Medusa as a module, their loss, and how often they are right.

Head k is a stack of residual blocks on the stream, and a matrix over the vocabulary,

$$ x^0 = h_t, \qquad x^{i+1} = x^i + \mathrm{silu}(A_{k,i} x^i + b_{k,i}), \qquad
   q_k = \mathrm{softmax}(W_k\, x^n) \approx p(x_{t+k+2} \mid x_{\le t}), \qquad k = 0, 1, \dots $$

(the model's own head has $x_{t+1}$). Blocks begin as the identity; $W_k$ is a matrix for each head
that begins as the model's, or that one itself, shared by all heads and not trained. A shared matrix
asks for more before it: blocks are then wide, $x + C\,\mathrm{silu}(A x + b)$, as a head must be
able to take out of the stream what it says of $x_{t+1}$. The loss compares with the token, or with
all that the model knows of it, which at t + k + 1 it tells itself:

$$ L = \sum_k \lambda^k \sum_t \ell_{k,t}, \qquad
   \ell_{k,t} = -\sum_v p(v \mid x_{\le t+k+1}) \log q_k(v)
   \quad\text{or}\quad -\log q_k(x_{t+k+2}) . $$

Its expectation is the same, and its noise less.

References:
    Cai et al. (2024), arXiv:2401.10774, section 2.1.1, eq. 1-2 (lambda is 0.8).

Shapes: R rows, T tokens, M model width, K heads, V' tokens that are drafted, S places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragone.language._heads_data import HeadBatch
from paragone.language.fitting import Loss
from paragone.language.losses import token_loss
from paragone.language.packing import IGNORED

__all__ = ["MedusaHeads", "ResBlock", "heads_loss", "true_ranks"]

_FADING = 0.8


class ResBlock(nn.Module):
    """x + silu(A x + b), which begins as the identity.

    Args:
        width: M.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(self, width: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.linear = nn.Linear(width, width, device=device, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(self.linear(x))


class WideBlock(nn.Module):
    """x + C silu(A x + b), which begins as the identity: for heads without a matrix of their own.

    Args:
        width: M.
        inner: Rows of A.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(self, width: int, inner: int, *, device: Any = None, dtype: Any = None):
        super().__init__()
        self.linear = nn.Linear(width, inner, device=device, dtype=dtype)
        self.out = nn.Linear(inner, width, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(nn.functional.silu(self.linear(x)))


class MedusaHeads(nn.ModuleList):
    """K heads; parameters have the published names `{k}.{i}.linear.weight` and `{k}.{n}.weight`.

    Args:
        heads: K.
        width: M.
        layers: Residual blocks of a head.
        words: V', for matrices of their own; 0 where heads share the model's.
        inner: Rows of A in wide blocks; 0 for the published kind.
        device: Of the parameters.
        dtype: Of the parameters.

    Example:
        >>> list(MedusaHeads(1, 4, 1, 9).state_dict())
        ['0.0.linear.weight', '0.0.linear.bias', '0.1.weight']
    """

    def __init__(
        self, heads: int, width: int, layers: int = 1, words: int = 0, inner: int = 0, *,
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            nn.Sequential(
                *(
                    WideBlock(width, inner, **where) if inner else ResBlock(width, **where)
                    for _ in range(layers)
                ),
                *([nn.Linear(width, words, bias=False, **where)] if words else []),
            )
            for _ in range(heads)
        )
        self.layers, self.width, self.words, self.inner = layers, width, words, inner

    def blocks(self, head: int) -> list[Any]:
        """The residual blocks of a head."""
        return list(self[head][: self.layers])  # pyright: ignore

    def stream(self, head: int, hidden: Tensor) -> Tensor:
        """What a head's matrix reads: (..., M) to (..., M)."""
        for block in self.blocks(head):
            hidden = block(hidden)
        return hidden

    def matrix(self, head: int, shared: Tensor) -> Tensor:
        """(V', M) the matrix of a head; `shared` where it has none of its own."""
        return self[head][self.layers].weight if self.words else shared  # pyright: ignore

    def forward(self, hidden: Tensor, shared: Tensor | None = None) -> list[Tensor]:
        """(..., M) streams to the (..., V') scores of each head.

        Args:
            hidden: Normalised streams of the model.
            shared: (V', M) the model's matrix, where heads have none of their own.
        """
        if not self.words and shared is None:
            raise ValueError("these heads share the model's matrix: give it as shared")
        return [
            nn.functional.linear(self.stream(k, hidden), self.matrix(k, shared))  # pyright: ignore
            for k in range(len(self))
        ]


def heads_loss(
    heads: MedusaHeads, shared: Tensor, batch: HeadBatch, places: Tensor | None, *,
    soft: bool, weights: Sequence[float] | None = None,
) -> Loss:  # fmt: skip
    """The weighted sum of all heads' losses over a batch.

    Args:
        heads: K heads.
        shared: (V', M) rows of the model's matrix: what the shared heads use, and what the model's
            own distribution is made with.
        batch: Tokens and streams.
        places: (V,) place of each token in the drafted vocabulary, -100 where it is not in it;
            None: all are.
        soft: Compare with the model's distribution (over the drafted vocabulary) in place of the
            token.
        weights: Of each head (None: 0.8 to the power of k).

    Returns:
        The total by the count of the first head's labels; metrics `head_k`, mean nats of each.
    """
    weights = weights or [_FADING**k for k in range(len(heads))]
    total, metrics = batch.hidden.new_zeros((), dtype=torch.float32), {}
    count: Tensor | int = 0
    shared = shared.detach()
    teacher = torch.softmax((batch.hidden.detach() @ shared.T).float(), -1) if soft else None
    for k in range(len(heads)):
        labels = batch.ahead(k + 2)
        if places is not None:
            labels = torch.where(labels == IGNORED, IGNORED, places[labels.clamp(min=0)])
        stream, matrix = heads.stream(k, batch.hidden), heads.matrix(k, shared)
        if teacher is None:
            one, many = token_loss(stream, matrix, labels)
        else:
            one, many = _soft_loss(stream, matrix, teacher, labels, k + 1)
        total = total + weights[k] * one
        metrics[f"head_{k + 1}"] = (one.detach(), many)
        count = many if k == 0 else count
    return Loss(total, count, metrics, batch.tokens.numel())


def _soft_loss(
    stream: Tensor, matrix: Tensor, teacher: Tensor, labels: Tensor, ahead: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy with what the model gives `ahead` places on, where there is a label."""
    there = labels[:, : max(labels.shape[1] - ahead, 0)] != IGNORED
    scores = (stream[:, : there.shape[1]][there] @ matrix.T).float()
    wanted = teacher[:, ahead:][there]
    return -(wanted * torch.log_softmax(scores, -1)).sum(), there.sum()


@torch.no_grad()
def true_ranks(
    heads: MedusaHeads, shared: Tensor, batches: Iterable[HeadBatch], places: Tensor | None,
    most: int,
) -> np.ndarray:  # fmt: skip
    """At which rank each head has the token that came.

    Args:
        heads: K heads.
        shared: (V', M) rows of the model's matrix.
        batches: Tokens and streams of text that heads did not learn from.
        places: As in `heads_loss`.
        most: Ranks that count.

    Returns:
        (S, K) int64 ranks from 0, `most` where it was not among them; only places that have a
        token for each head.
    """
    found = []
    for batch in batches:
        last = batch.ahead(len(heads) + 1) != IGNORED
        hidden, each = batch.hidden[last], []
        for k in range(len(heads)):
            scores = (heads.stream(k, hidden) @ heads.matrix(k, shared).T).float()
            labels = batch.shifted(k + 2)[last]
            labels = labels if places is None else places[labels]
            own = scores.gather(1, labels.clamp(min=0)[:, None])
            lower = torch.arange(scores.shape[1], device=own.device) < labels[:, None]
            before = ((scores > own) | ((scores == own) & lower)).sum(1)
            each.append(torch.where(labels < 0, most, before.clamp(max=most)))
        found.append(torch.stack(each, 1).cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, len(heads)), np.int64)
