r"""What it costs to score several tokens of a sequence at once: T(n) / T(1).

Decoding one token reads all weights; a pass over n tokens reads them once, too, and pays only for
the arithmetic, so

$$ T(n) \approx \max(\text{bytes} / \text{bandwidth},\; n \cdot \text{flops} / \text{speed}) , $$

flat up to some n that depends on machine and model. Up to there drafts are nearly free; where the
curve rises like n from the beginning (weights that fit into the cache), no drafter pays.

References:
    Williams et al. (2009), "Roofline", Communications of the ACM 52(4).
    Pope et al. (2022), arXiv:2211.05102, section 2.

Shapes: n tokens of each sequence.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["CostCurve", "cost_curve"]


@dataclasses.dataclass(frozen=True)
class CostCurve:
    """Times of passes.

    Attributes:
        tokens: Tokens of each sequence in a pass, n.
        seconds: Median seconds of a pass, T(n).
        ratios: Median of T(n) / T(first of `tokens`) over the rounds.
        rows: Sequences of a pass.
        past: Tokens before the new ones.
    """

    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    rows: int
    past: int

    def __str__(self) -> str:
        parts = [f"T({n}) {s * 1e3:.3g} ms x{r:.2f}" for n, s, r in zip(
            self.tokens, self.seconds, self.ratios, strict=True)]  # fmt: skip
        return ", ".join(parts)


def cost_curve(
    engine: Any,
    tokens: Sequence[int] = (1, 2, 4, 8, 16),
    rows: int = 1,
    past: int = 64,
    *,
    rounds: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> CostCurve:
    """Times passes of several sizes by turns.

    Args:
        engine: An `Engine`.
        tokens: Sizes n, the first is what the others are compared with.
        rows: Sequences of a pass.
        past: Tokens of each before the new ones.
        rounds: How often; each round times every size once.
        clock: Seconds; `time.process_time` on a machine that others use, with one thread.

    Raises:
        ValueError: A number that is too small.

    Example:
        >>> from paragone.language import Engine, Llama, LlamaConfig
        >>> sizes = dict(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
        >>> cost_curve(Engine.make(Llama(LlamaConfig(**sizes))), (1, 2), rounds=1).tokens
        (1, 2)
    """
    if not tokens or min(*tokens, rows, rounds, 1) < 1 or past < 0:
        raise ValueError(
            f"tokens={tuple(tokens)}, rows={rows}, past={past}, rounds={rounds}: sizes, rows and "
            "rounds are at least 1, past at least 0"
        )
    page = 16
    pages = -(-(past + max(tokens)) // page)
    pool = engine.new_pool(rows * pages, page)
    tables = np.arange(rows * pages).reshape(rows, pages)
    vocabulary = engine.config.vocab_size
    # The keys before the new tokens are those of tokens that were read, not whatever memory held.
    if past:
        before = np.arange(rows * past) % vocabulary
        engine.forward(pool, before, [past] * rows, [0] * rows, tables, logits="none")
    passes = []
    for count in tokens:
        new = np.arange(rows * count) % vocabulary
        passes.append((new, [count] * rows, [past] * rows, tables))
    for one in passes:
        engine.forward(pool, *one, logits="all")
    found = np.empty((rounds, len(passes)))
    for turn in range(rounds):
        for at, one in enumerate(passes):
            began = clock()
            engine.forward(pool, *one, logits="all")
            found[turn, at] = clock() - began
    ratios = np.median(found / np.maximum(found[:, :1], 1e-12), 0)
    return CostCurve(
        tuple(tokens), tuple(np.median(found, 0).tolist()), tuple(ratios.tolist()), rows, past
    )
