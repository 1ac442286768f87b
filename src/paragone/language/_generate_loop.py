"""The loop of generation: prompts in, tokens out, each row until it ends.

All rows that go on make one step together; a row that has ended gives its place up. Draws depend
on the row's own seed and step, so what a row gets is what it would get alone.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone.language.engine import Engine
from paragone.language.sampling import Drawing, Sampling

__all__ = ["Row", "decode"]

_TOGETHER, _PAGE = 512, 16


@dataclasses.dataclass
class Row:
    """One continuation.

    Attributes:
        prompt: Tokens before it.
        ids: Tokens of it, the one that ended it included.
        log_probs: Their log-probabilities, as `Sampling.pick` gives them.
        reason: "stop" (a token of `stop_ids`, or `tell` wanted it) or "length".
        steps: Passes of the model behind the prompt's, where drafts were checked.
        offered: Steps that had a draft at each depth, its parent agreed to.
        accepted: Steps that agreed to one at each depth.
    """

    prompt: list[int]
    ids: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    reason: str = "length"
    steps: int = 0
    offered: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    accepted: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


def decode(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    tell: Callable[[int, int], bool] | None = None,
    drafter: Any = None,
    draft: Any = "auto",
    acceptance: str = "exact",
) -> list[Row]:
    """Continues prompts.

    Args:
        engine: What scores the tokens.
        prompts: Tokens of each row, at least one.
        samplings: How each row draws.
        max_new_tokens: Most tokens of a continuation.
        stop_ids: Tokens that end one.
        tell: Called with row and token; True ends the row.
        drafter: A `Drafter` that guesses tokens ahead (None: one token a step).
        draft: How much it drafts.
        acceptance: "exact" or "typical".

    Raises:
        ValueError: An empty prompt, or an unknown token.
    """
    rows = [Row([int(token) for token in prompt]) for prompt in prompts]
    for at, row in enumerate(rows):
        if not row.prompt:
            raise ValueError(f"prompt {at} has no token; begin with that of the beginning (BOS)")
    vocabulary = engine.config.vocab_size
    biased = {token for sampling in samplings for token in sampling.logit_bias or {}}
    odd = [t for row in rows for t in row.prompt if not 0 <= t < vocabulary]
    odd += [token for token in biased if not 0 <= token < vocabulary]
    if odd:
        raise ValueError(f"token {odd[0]}: the model knows 0 to {vocabulary - 1}")
    ends = frozenset(int(token) for token in stop_ids)
    if drafter is not None and _by_drafts(engine, drafter, draft, acceptance, len(rows)):
        from paragone.language._speculate_loop import speculative

        return speculative(
            engine, prompts, samplings, max_new_tokens, ends, tell, drafter=drafter, plan=draft,
            acceptance=acceptance,
        )  # fmt: skip
    if max_new_tokens < 1:
        return rows
    if len(rows) == 1:
        alone = engine.continued(
            rows[0].prompt, samplings[0], max_new_tokens, sorted(ends),
            lambda token: token in ends or (tell is not None and tell(0, token)),
        )  # fmt: skip
        if alone is not None:
            rows[0].ids, rows[0].log_probs, ended = alone
            rows[0].reason = "stop" if ended else "length"
            return rows
    for first in range(0, len(rows), _TOGETHER):
        part = range(first, min(first + _TOGETHER, len(rows)))
        _together(engine, rows, list(part), samplings, max_new_tokens, ends, tell)
    return rows


def _by_drafts(engine: Engine, drafter: Any, draft: Any, acceptance: str, rows: int) -> bool:
    """Whether the loop with drafts is entered; where it cannot pay, plain decoding is the same."""
    from paragone.language._draft_pace import worth_trying

    return draft != "auto" or acceptance != "exact" or worth_trying(engine, drafter, rows)


def _together(
    engine: Engine, rows: list[Row], active: list[int], samplings: Sequence[Sampling],
    most: int, ends: frozenset[int], tell: Any,
) -> None:  # fmt: skip
    """Continues the rows `active`."""
    prompts = [rows[at].prompt for at in active]
    need = np.array([-(-(len(prompt) + most) // _PAGE) for prompt in prompts])
    starts = np.cumsum(need) - need
    pool = engine.new_pool(int(need.sum()), _PAGE)
    tables = np.minimum(starts[:, None] + np.arange(need.max()), pool.pages - 1)
    drawing = Drawing([samplings[at] for at in active], prompts, most, engine.config.vocab_size)
    left = np.arange(len(active))
    scores = engine.forward(
        pool, np.concatenate(prompts), drawing.known, np.zeros_like(left), tables
    )
    while True:
        tokens, log_probs = drawing.pick(scores, left)
        ended = [
            _taken(rows[active[i]], active[i], int(token), float(log_prob), ends, tell)
            for i, token, log_prob in zip(left, tokens, log_probs, strict=True)
        ]
        kept = ~np.array(ended)
        left, tokens = left[kept], tokens[kept]
        if not len(left) or drawing.steps[left[0]] == most:
            return
        held = drawing.known[left] - 1
        scores = engine.forward(pool, tokens, np.ones_like(left), held, tables[left])


def _taken(
    row: Row, at: int, token: int, log_prob: float, ends: frozenset[int], tell: Any
) -> bool:  # fmt: skip
    """Gives a row its token; returns whether it ends with it."""
    row.ids.append(token)
    row.log_probs.append(log_prob)
    ended = token in ends or (tell is not None and tell(at, token))
    row.reason = "stop" if ended else "length"
    return ended
