r"""The verifier of drafts: how far a model agrees to what was guessed.

Row 0 of the scores is that of the last certain token, the root; row i + 1 that of node i. The walk
begins at the root. At a node whose children were *chosen*, it draws a token of the model's own, by
the number that plain decoding would draw it by, and goes on if a child has that token:

$$ x \sim p(\cdot \mid \mathrm{node};\; u(\mathrm{seed}, \mathrm{step})) , \qquad
   \text{on to } c \text{ if } x_c = x . $$

So the text is that of plain decoding, token by token, for every seed; and no rule that keeps the
distribution agrees to chosen tokens more often. Children that were *drawn* from q, one after
the other and without replacement, are taken by turns,

$$ \Pr(\text{take } x_i) = \min\Big(1, \frac{r_i(x_i)}{q_i(x_i)}\Big), \qquad
   r_{i+1} \propto \max(r_i - q_i, 0), \qquad
   q_{i+1} \propto q_i\,[x \ne x_i] , $$

from $r_1 = p$ and $q_1 = q$ on; where none is taken, the token is drawn from what r is then. Then
the text has the distribution of plain decoding, though not the same tokens. p is what is drawn
from, after temperature, filters and penalties.

*Typical* acceptance takes a child whenever $p(x) > \min(\epsilon, \delta e^{-H(p)})$, and of all
branches the longest. It is quicker, and **lossy**: texts have another distribution, flatter and
with less of the rare tokens. At temperature 0 it is the exact rule.

Cost: one compiled call; a draw from V scores for each token that comes out.

References:
    Leviathan et al. (2023), arXiv:2211.17192, algorithm 1 and appendix A.1 (a draft, exact).
    Miao et al. (2024), "SpecInfer", arXiv:2305.09781, section 4.3 (several children by turns).
    Cai et al. (2024), "Medusa", arXiv:2401.10774, section 2.3.1 (typical acceptance).

Shapes: n nodes, V vocabulary, T tokens so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from paragone.kernels.backends import why_not
from paragone.language.drafting import Draft
from paragone.language.sampling import Drawing, Sampling

__all__ = ["TYPICAL", "Laid", "Walk", "lay_out", "limits_of", "verify", "walk_all"]

TYPICAL = (0.09, 0.3)
"""Epsilon and delta of typical acceptance, as Medusa has them."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """What came of a draft.

    Attributes:
        path: Nodes that were agreed to, from the root on.
        tokens: Their tokens, and one of the model's own behind them, unless one of `ends` or the
            most tokens came first.
        log_probs: Of the tokens, as `Sampling.pick` gives them.
        tried: Depths at which there was something to agree to: as many as were agreed to, or one
            more.
    """

    path: list[int]
    tokens: list[int]
    log_probs: list[float]
    tried: int = 0


@dataclasses.dataclass(frozen=True)
class Laid:
    """Drafts of A sequences laid out for a pass of N tokens, roots and nodes.

    Attributes:
        starts: (A + 1,) where each sequence begins.
        tokens: (N,) roots and nodes.
        parents: (N,) number of each one's parent in its sequence, -1 of roots.
        positions: (N,) places in the texts.
        seen: (N, C) what each sees, or None where all are chains.
        share_of: (N,) number of the distribution that children were drawn from; -1: chosen.
        shares: (Q, V) float64 of those.
    """

    starts: np.ndarray
    tokens: np.ndarray
    parents: np.ndarray
    positions: np.ndarray
    seen: np.ndarray | None
    share_of: np.ndarray
    shares: np.ndarray


def verify(
    logits: np.ndarray,
    draft: Draft,
    sampling: Sampling,
    history: Sequence[int] | np.ndarray,
    prompt: int = 0,
    step: int = 0,
    acceptance: str = "exact",
    ends: Sequence[int] = (),
    most: int | None = None,
) -> Walk:
    """Walks down a draft as far as the model agrees.

    Args:
        logits: (n + 1, V) scores of the root and of the nodes.
        draft: What was proposed.
        sampling: How tokens are drawn.
        history: (T,) tokens so far, the root the last of them.
        prompt: How many of them are the prompt's.
        step: Number of the next draw: tokens drawn so far.
        acceptance: "exact", or "typical", which is lossy.
        ends: Tokens behind which the walk stops.
        most: Most tokens to come out (None: no limit).

    Raises:
        ValueError: Scores that do not fit the draft, or an acceptance that is not known.

    Example:
        >>> scores = np.eye(3, 5, dtype=np.float32)  # after each row's token the next likeliest
        >>> verify(scores, Draft.chain([0, 4]), Sampling(temperature=0), [2]).tokens
        [0, 1]
    """
    limits = limits_of(acceptance)
    logits = np.ascontiguousarray(logits, np.float32)
    count = len(draft.tokens)
    if logits.ndim != 2 or len(logits) != count + 1:
        raise ValueError(f"logits has shape {logits.shape}; ({count + 1}, V) fits the draft")
    if count and not 0 <= draft.tokens.min() <= draft.tokens.max() < logits.shape[1]:
        raise ValueError(f"the draft has tokens beyond 0 to {logits.shape[1] - 1}")
    room = count + 1 if most is None else min(most, count + 1)
    if room < 1:
        return Walk([], [], [])
    drawing = Drawing([sampling], [history], room, logits.shape[1], [prompt], [step])
    laid = lay_out([draft], [int(history[-1]) if len(history) else 0], [0], logits.shape[1])
    return walk_all(logits, laid, drawing, np.zeros(1, np.int64), step + room, limits, ends)[0]


def limits_of(acceptance: str) -> np.ndarray:
    """The numbers of typical acceptance; none for the exact rule.

    Args:
        acceptance: "exact" or "typical".

    Raises:
        ValueError: Another name.
    """
    if acceptance not in ("exact", "typical"):
        raise ValueError(f"acceptance={acceptance!r} is none of 'exact', 'typical' (lossy)")
    return np.array(TYPICAL if acceptance == "typical" else ())


def lay_out(
    drafts: Sequence[Draft], roots: Sequence[int] | np.ndarray, past: Sequence[int] | np.ndarray,
    vocabulary: int,
) -> Laid:  # fmt: skip
    """Lays drafts out for one pass of the model.

    Args:
        drafts: One a sequence, perhaps empty.
        roots: The last certain token of each.
        past: Tokens of each before that.
        vocabulary: V.
    """
    counts = np.array([len(draft.tokens) + 1 for draft in drafts])
    starts = np.concatenate([[0], np.cumsum(counts)])
    total, longest = int(starts[-1]), int(counts.max())
    tokens, parents = np.empty(total, np.int64), np.full(total, -1, np.int64)
    share_of, shares = np.full(total, -1, np.int64), []
    tokens[starts[:-1]] = roots
    for first, end, draft in zip(starts[:-1].tolist(), starts[1:].tolist(), drafts, strict=True):
        tokens[first + 1 : end] = draft.tokens
        parents[first + 1 : end] = draft.parents
        parents[first + 1 : end] += 1
        for node, share in draft.shares.items():
            share_of[first + node + 1] = len(shares)
            shares.append(share)
    both = np.array(shares, np.float64) if shares else np.zeros((0, vocabulary))
    positions, seen = np.empty(total, np.int64), np.empty((total, longest), np.uint8)
    if why_not("numba") is None:
        from paragone.language.ops.decoding._cpu_walk import laid_out
    else:
        from paragone.language._speculate_reference import laid_out
    trees = laid_out(starts, parents, np.asarray(past, np.int64), positions, seen)
    return Laid(starts, tokens, parents, positions, seen if trees else None, share_of, both)


def walk_all(
    logits: np.ndarray, laid: Laid, drawing: Drawing, rows: np.ndarray, most: int,
    limits: np.ndarray, ends: Sequence[int] | np.ndarray = (),
) -> list[Walk]:  # fmt: skip
    """Walks down the drafts of several sequences, and takes what comes out into their histories.

    Args:
        logits: (N, V) scores of all roots and nodes.
        laid: The drafts.
        drawing: Histories and samplers of R rows.
        rows: (A,) rows that the drafts belong to.
        most: Most draws of a row altogether.
        limits: As `limits_of` gives them.
        ends: Tokens behind which a walk stops.
    """
    before, deepest = drawing.known[rows], int(np.diff(laid.starts).max())
    ends = np.asarray(ends, np.int64).reshape(-1)
    if why_not("numba") is not None:
        from paragone.language._speculate_reference import walked

        return [
            Walk(*walked(logits, laid, drawing, i, int(row), most, limits, ends))
            for i, row in enumerate(rows)
        ]
    from paragone.language.ops.decoding._cpu_walk import walk_rows

    path, told = np.empty((len(rows), deepest), np.int64), np.empty((len(rows), 3), np.int64)
    log_probs = np.empty((len(rows), deepest))
    walk_rows(
        np.ascontiguousarray(logits, np.float32), laid.starts, laid.tokens, laid.parents,
        laid.share_of, laid.shares, rows, drawing.history, drawing.known, drawing.steps, most,
        limits, ends, *drawing.numbers, np.empty((2, logits.shape[1] * bool(len(laid.shares)))),
        path, log_probs, told,
    )  # fmt: skip
    return [
        Walk(
            (path[i, :agreed] - 1).tolist(), drawing.history[row, first : first + count].tolist(),
            log_probs[i, :count].tolist(), tried,
        )
        for i, (row, first, (count, agreed, tried)) in enumerate(
            zip(rows.tolist(), before.tolist(), told.tolist(), strict=True)
        )
    ]  # fmt: skip
