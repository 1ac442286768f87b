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
from typing import Any

import numpy as np

from paragone.kernels.backends import why_not
from paragone.language.drafting import Draft
from paragone.language.sampling import Drawing, Sampling

__all__ = ["TYPICAL", "Laid", "Walk", "Walker", "limits_of", "verify"]

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
        counts: (A,) tokens of each.
        past: (A,) tokens of each text before its root.
        tokens: (N,) roots and nodes.
        parents: (N,) number of each one's parent in its sequence, -1 of roots.
        positions: (N,) places in the texts.
        seen: (N, C) what each sees, or None where all are chains.
        share_of: (N,) number of the distribution that children were drawn from; -1: chosen.
        shares: (Q, V) float64 of those.
    """

    starts: np.ndarray
    counts: np.ndarray
    past: np.ndarray
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
    logits, count = np.asarray(logits), len(draft.tokens)
    if logits.ndim != 2 or len(logits) != count + 1:
        raise ValueError(f"logits has shape {logits.shape}; ({count + 1}, V) fits the draft")
    if count and not 0 <= draft.tokens.min() <= draft.tokens.max() < logits.shape[1]:
        raise ValueError(f"the draft has tokens beyond 0 to {logits.shape[1] - 1}")
    room = count + 1 if most is None else min(most, count + 1)
    if room < 1:
        return Walk([], [], [])
    drawing = Drawing([sampling], [list(history)], room, logits.shape[1], [prompt], [step])
    walker, row = Walker(drawing, step + room, acceptance, ends), np.zeros(1, np.int64)
    return walker.walk(logits, walker.lay_out([draft], row), row)[0]


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


class Walker:
    """Lays drafts of many sequences out for a pass of the model, and walks down them.

    Args:
        drawing: Histories and samplers of R rows.
        most: Most draws of a row altogether.
        acceptance: "exact" or "typical".
        ends: Tokens behind which a walk stops.
    """

    def __init__(
        self, drawing: Drawing, most: int, acceptance: str = "exact",
        ends: Sequence[int] | frozenset[int] = (),
    ):  # fmt: skip
        self.drawing, self.most, self.limits = drawing, most, limits_of(acceptance)
        self.ends = np.array(sorted(ends), np.int64)
        if why_not("numba") is None:
            from paragone.language.ops.decoding._cpu_walk import laid_out, walk_rows
        else:
            from paragone.language._speculate_reference import laid_out, walk_rows
        self._laid_out: Any = laid_out
        self._walk_rows: Any = walk_rows
        self._vocabulary = drawing.vocabulary
        self._none, self._spare = np.zeros((0, self._vocabulary)), np.empty((2, 0))

    def lay_out(self, drafts: Sequence[Draft], rows: np.ndarray) -> Laid:
        """Lays drafts out behind the last tokens of rows.

        Args:
            drafts: One a row, perhaps empty.
            rows: (A,) their rows.
        """
        counts = np.array([len(draft.tokens) + 1 for draft in drafts])
        total, count = int(counts.sum()), len(counts)
        whole, starts = np.empty((4, total), np.int64), np.empty(2 * count + 1, np.int64)
        tokens, parents, positions, share_of = whole
        starts, past = starts[: count + 1], starts[count + 1 :]
        nodes = np.concatenate([draft.tokens for draft in drafts], dtype=np.int64)
        before = np.concatenate([draft.parents for draft in drafts], dtype=np.int64)
        seen = np.empty((total, int(counts.max())), np.uint8)
        trees = self._laid_out(
            counts, rows, self.drawing.history, self.drawing.known, nodes, before, starts, past,
            tokens, parents, positions, share_of, seen,
        )  # fmt: skip
        shares = []
        for first, draft in zip(starts, drafts, strict=False):
            for node, share in draft.shares.items():
                share_of[first + node + 1] = len(shares)
                shares.append(share)
        if shares and not self._spare.size:
            self._spare = np.empty((2, self._vocabulary))
        both = np.array(shares, np.float64) if shares else self._none
        return Laid(
            starts, counts, past, tokens, parents, positions, seen if trees else None, share_of,
            both,
        )  # fmt: skip

    def walk(self, logits: np.ndarray, laid: Laid, rows: np.ndarray) -> list[Walk]:
        """Walks down each draft, and takes what comes out into the histories.

        Args:
            logits: (N, V) scores of all roots and nodes.
            laid: The drafts.
            rows: (A,) their rows.
        """
        count, deepest = len(rows), int(laid.counts.max())
        path, told = np.empty((count, deepest), np.int64), np.empty((count, 3), np.int64)
        log_probs, drawing = np.empty((count, deepest)), self.drawing
        self._walk_rows(
            np.ascontiguousarray(logits, np.float32), laid.starts, laid.tokens, laid.parents,
            laid.share_of, laid.shares, rows,
            drawing if not drawing.numbers else drawing.history, drawing.known, drawing.steps,
            self.most, self.limits, self.ends, *drawing.numbers, self._spare, path, log_probs, told,
        )  # fmt: skip
        found = []
        for i, (taken, agreed, tried) in enumerate(told.tolist()):
            first = int(laid.past[i]) + 1
            tokens = drawing.history[rows[i], first : first + taken].tolist()
            found.append(
                Walk(path[i, :agreed].tolist(), tokens, log_probs[i, :taken].tolist(), tried)
            )
        return found
