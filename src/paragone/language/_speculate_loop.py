"""The loop of speculative decoding: drafts, one pass over all of them, and a walk down each.

All rows that go on make one step together, each with a draft of its own. What the model did not
agree to is taken back by telling the engine of fewer tokens; what it agreed to in a tree is moved
to where it would stand in plain decoding. Rows end, and tell their tokens, as in plain decoding,
token by token: nothing behind an end comes out.

Shapes: R rows, A of them going on, N roots and nodes of a step, V vocabulary, M width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone.language._generate_loop import Row
from paragone.language.drafting import Draft, Drafter, Plan
from paragone.language.engine import Engine
from paragone.language.sampling import Drawing, Sampling
from paragone.language.speculation import Laid, Walk, lay_out, limits_of, walk_all

__all__ = ["Fixed", "first_chain", "plan_of", "speculative"]

_PAGE, _TOGETHER, _SCORES = 16, 512, 1 << 26


class Fixed:
    """A pace that never changes.

    Args:
        plan: What is drafted in every step.
    """

    def __init__(self, plan: Plan):
        self.plan = plan

    def choose(self, rows: int, left: int) -> Plan | None:
        """Returns the plan."""
        return self.plan

    def told(self, plan: Plan | None, rows: int, drafting_seconds: float, passing_seconds: float,
             offered: np.ndarray, accepted: np.ndarray) -> None:  # fmt: skip
        """Learns nothing."""


def plan_of(drafter: Drafter, draft: Plan | int | str) -> Plan:
    """The plan that a user means.

    Args:
        drafter: Who drafts.
        draft: A plan; a number of nodes: the largest of the drafter's plans that keeps to it; or
            "auto": the middle one.

    Raises:
        ValueError: None of these.
    """
    if isinstance(draft, Plan):
        return draft
    plans = list(drafter.plans())
    if draft == "auto":
        return plans[(len(plans) - 1) // 2]
    if not isinstance(draft, int) or draft < 1:
        raise ValueError(f"draft={draft!r}: 'auto', a Plan, or a number of nodes from 1 on")
    fitting = [plan for plan in plans if plan.nodes <= draft]
    if fitting:
        return max(fitting, key=lambda plan: (plan.nodes, plan.depth))
    return Plan(draft, min(draft, plans[0].depth), plans[0].width)


def speculative(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    most: int,
    ends: Sequence[int] | frozenset[int] = (),
    tell: Callable[[int, int], bool] | None = None,
    *,
    drafter: Drafter,
    plan: Plan | int | str = "auto",
    acceptance: str = "exact",
) -> list[Row]:
    """Continues prompts, several tokens at once where a drafter guesses them.

    Args:
        engine: What scores the tokens.
        prompts: Tokens of each row, at least one.
        samplings: How each row draws.
        most: Most tokens of a continuation.
        ends: Tokens that end one.
        tell: Called with row and token; True ends the row.
        drafter: Who guesses.
        plan: How much is drafted: see `plan_of`.
        acceptance: "exact", or "typical", which is lossy.

    Raises:
        ValueError: A draft that is larger than its plan, or an option that is not known.
    """
    rows = [Row([int(token) for token in prompt]) for prompt in prompts]
    limits_of(acceptance)
    pace = Fixed(plan_of(drafter, plan))
    together = _SCORES // (engine.config.vocab_size * (pace.plan.nodes + 1))
    together = max(1, min(together, _TOGETHER))
    for first in range(0, len(rows) if most > 0 else 0, together):
        part = range(first, min(first + together, len(rows)))
        _Loop(
            engine, rows, list(part), samplings, most, ends, tell, drafter, pace, acceptance
        ).run()
    return rows


class _Loop:
    """Some rows on their way together."""

    def __init__(
        self, engine: Engine, rows: list[Row], active: list[int], samplings: Sequence[Sampling],
        most: int, ends: Any, tell: Any, drafter: Drafter, pace: Any, acceptance: str,
    ):  # fmt: skip
        self.engine, self.pace, self.most, self.tell = engine, pace, most, tell
        self.rows, self.keys = [rows[at] for at in active], active
        self.ends = np.array(sorted(ends), np.int64)
        self.ending, self.limits = frozenset(int(end) for end in ends), limits_of(acceptance)
        self.vocabulary, self.name = engine.config.vocab_size, drafter.name
        prompts, own = [row.prompt for row in self.rows], [samplings[at] for at in active]
        self.drawing = Drawing(own, prompts, most, self.vocabulary)
        slack = max(plan.nodes for plan in (*drafter.plans(), pace.plan))
        need = np.array([-(-(len(prompt) + most + slack) // _PAGE) for prompt in prompts])
        starts = np.cumsum(need) - need
        self.pool = engine.new_pool(int(need.sum()), _PAGE)
        self.tables = np.minimum(starts[:, None] + np.arange(need.max()), self.pool.pages - 1)
        self.drafting = drafter.open(engine)
        for key, sampling in zip(self.keys, own, strict=True):
            self.drafting.add(key, [], sampling)
        deepest = max(plan.depth for plan in (*drafter.plans(), pace.plan))
        self.offered, self.accepted = (np.zeros((len(active), deepest), np.int64) for _ in range(2))

    def run(self) -> None:
        """Continues the rows until the last one ends."""
        left = self._begun()
        while len(left):
            plan = self.pace.choose(len(left), self.most - int(self.drawing.steps[left].min()))
            left = self._step(left, plan)
        for at, row in enumerate(self.rows):
            row.offered, row.accepted = self.offered[at], self.accepted[at]

    def _begun(self) -> np.ndarray:
        """Reads the prompts, and draws the first token of each."""
        left = np.arange(len(self.rows))
        counts = self.drawing.known.copy()
        new = np.concatenate([row.prompt for row in self.rows])
        scores, streams = self._passed(new, counts, np.zeros_like(left), left, "last")
        tokens, log_probs = self.drawing.pick(scores, left)
        kept = np.ones(len(left), bool)
        for at, token, log_prob in zip(left, tokens.tolist(), log_probs.tolist(), strict=True):
            kept[at] = not self._taken(int(at), [token], [log_prob])
        parts = [None] * len(left)
        if streams is not None:
            edges, none = np.cumsum(counts), np.zeros((1, streams.shape[1]), np.float32)
            parts = [np.concatenate([none, part]) for part in np.split(streams, edges[:-1])]
        some = left[kept]
        told = [np.append(self.rows[at].prompt, tokens[at]) for at in some]
        self._observed(some, told, [parts[at] for at in some])
        return some

    def _passed(
        self, new: np.ndarray, counts: np.ndarray, past: np.ndarray, left: np.ndarray, logits: str,
        laid: Laid | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
        seen = None if laid is None else laid.seen
        positions = None if laid is None or laid.seen is None else laid.positions
        found = self.engine.forward(
            self.pool, new, counts, past, self.tables[left], logits=logits,
            hidden=self.drafting.hidden, positions=positions, seen=seen,
        )  # fmt: skip
        return found if self.drafting.hidden else (found, None)

    def _step(self, left: np.ndarray, plan: Plan | None) -> np.ndarray:
        """Drafts, passes, walks; returns the rows that go on."""
        began = time.perf_counter()
        drafts = self._drafted(left, plan)
        past = self.drawing.known[left] - 1
        laid = lay_out(drafts, self.drawing.history[left, past], past, self.vocabulary)
        passing = time.perf_counter()
        scores, streams = self._passed(
            laid.tokens, np.diff(laid.starts), past, left, "all", laid
        )  # fmt: skip
        ended = time.perf_counter()
        walks = walk_all(scores, laid, self.drawing, left, self.most, self.limits, self.ends)
        kept, told, hidden = [], [], []
        offered, accepted = np.zeros((2, self.offered.shape[1]), np.int64)
        for at, walk, first, held in zip(
            left.tolist(), walks, laid.starts.tolist(), past.tolist(), strict=False
        ):
            agreed = len(walk.path)
            self.offered[at, : walk.tried] += 1
            self.accepted[at, :agreed] += 1
            offered[: walk.tried] += 1
            accepted[:agreed] += 1
            self.rows[at].steps += 1
            if self._taken(at, walk.tokens, walk.log_probs):
                continue
            kept.append(at)
            told.append(walk.tokens)
            if laid.seen is not None:
                self._compacted(at, walk, held)
            if streams is not None:
                hidden.append(streams[[first, *(first + 1 + node for node in walk.path)]])
        self._observed(kept, [np.array(part) for part in told], hidden or [None] * len(kept))
        self.pace.told(plan, len(left), passing - began, ended - passing, offered, accepted)
        return np.array(kept, np.int64)

    def _drafted(self, left: np.ndarray, plan: Plan | None) -> list[Draft]:
        if plan is None:
            return [Draft.chain([])] * len(left)
        drafts = self.drafting.draft([self.keys[at] for at in left], plan)
        for draft in drafts:
            if len(draft.tokens) > plan.nodes:
                raise ValueError(
                    f"{self.name} drafted {len(draft.tokens)} tokens; {plan} allows {plan.nodes}"
                )
        return drafts if self.engine.trees else [first_chain(draft) for draft in drafts]

    def _compacted(self, at: int, walk: Walk, held: int) -> None:
        """Moves what was agreed to in a tree to where it belongs."""
        sources = held + 1 + np.array(walk.path, np.int64)
        targets = held + 1 + np.arange(len(sources))
        away = sources != targets
        if away.any():
            self.pool.move(self.tables[at], sources[away], targets[away])

    def _observed(self, left: Any, tokens: list[np.ndarray], hidden: Sequence[Any]) -> None:
        if len(left):
            self.drafting.observe([self.keys[at] for at in left], tokens, hidden)

    def _taken(self, at: int, tokens: list[int], log_probs: list[float]) -> bool:
        """Gives a row its tokens; returns whether it ends with one of them."""
        row = self.rows[at]
        for token, log_prob in zip(tokens, log_probs, strict=True):
            row.ids.append(token)
            row.log_probs.append(log_prob)
            if token in self.ending or (self.tell is not None and self.tell(self.keys[at], token)):
                row.reason = "stop"
                break
        if row.reason != "stop" and len(row.ids) < self.most:
            return False
        self.drafting.drop(self.keys[at])
        return True


def first_chain(draft: Draft) -> Draft:
    """The first child of the root, its first child, and so on: for engines that know no trees.

    Args:
        draft: A tree.

    Example:
        >>> first_chain(Draft(np.array([5, 6, 7]), np.array([-1, -1, 0]))).tokens.tolist()
        [5, 7]
    """
    kept: list[int] = []
    for node, parent in enumerate(draft.parents.tolist()):
        if parent == (kept[-1] if kept else -1):
            kept.append(node)
    named = {node: at for at, node in enumerate([-1, *kept], -1)}
    shares = {named[node]: share for node, share in draft.shares.items() if node in named}
    return Draft.chain(draft.tokens[kept], shares)
