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

from paragone.language._draft_pace import Pace
from paragone.language._generate_loop import Row
from paragone.language.drafting import Draft, Drafter, Plan
from paragone.language.engine import Engine
from paragone.language.sampling import Drawing, Sampling
from paragone.language.speculation import Laid, Walk, Walker, limits_of

__all__ = ["first_chain", "plan_of", "speculative"]

_PAGE, _TOGETHER, _SCORES = 16, 512, 1 << 26
_AT_LEAST, _LONG = 0.015, 8
"""Seconds of a plain stretch of more than so many steps: asking the pace takes some of a fast
model's steps."""


def plan_of(drafter: Drafter, draft: Plan | int | str) -> Plan | str:
    """The plan that a user means.

    Args:
        drafter: Who drafts.
        draft: A plan; a number of nodes: the largest of the drafter's plans that keeps to it; or
            "auto": whatever pays, step by step.

    Raises:
        ValueError: None of these.
    """
    if isinstance(draft, Plan):
        return draft
    if isinstance(draft, str) and draft == "auto":
        return draft
    if not isinstance(draft, int) or draft < 1:
        raise ValueError(f"draft={draft!r}: 'auto', a Plan, or a number of nodes from 1 on")
    plans = list(drafter.plans())
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
    chosen = plan_of(drafter, plan)
    pace = Pace(engine, drafter, chosen)
    plans = [chosen] if isinstance(chosen, Plan) else list(drafter.plans())
    nodes = max(plan.nodes for plan in plans)
    together = _SCORES // (engine.config.vocab_size * (nodes + 1))
    together = max(1, min(together, _TOGETHER))
    for first in range(0, len(rows) if most > 0 else 0, together):
        part = range(first, min(first + together, len(rows)))
        _Loop(
            engine, rows, list(part), samplings, most, ends, tell, drafter, pace, acceptance, plans
        ).run()
    return rows


class _Loop:
    """Some rows on their way together."""

    def __init__(
        self, engine: Engine, rows: list[Row], active: list[int], samplings: Sequence[Sampling],
        most: int, ends: Any, tell: Any, drafter: Drafter, pace: Pace, acceptance: str,
        plans: Sequence[Plan],
    ):  # fmt: skip
        self.engine, self.pace, self.most, self.tell = engine, pace, most, tell
        self.rows, self.keys = [rows[at] for at in active], active
        self.ends, self.name = frozenset(int(end) for end in ends), drafter.name
        prompts, own = [row.prompt for row in self.rows], [samplings[at] for at in active]
        self.drawing = Drawing(own, prompts, most, engine.config.vocab_size)
        self.walker = Walker(self.drawing, most, acceptance, self.ends)
        slack = max(plan.nodes for plan in plans)
        need = np.array([-(-(len(prompt) + most + slack) // _PAGE) for prompt in prompts])
        starts = np.cumsum(need) - need
        self.pool = engine.new_pool(int(need.sum()), _PAGE)
        self.tables = np.minimum(starts[:, None] + np.arange(need.max()), self.pool.pages - 1)
        self.drafting = drafter.open(engine)
        self.fresh: dict[int, list[int]] = {}
        self.done: set[int] = set()
        self.seconds = 0.0
        for key, sampling in zip(self.keys, own, strict=True):
            self.drafting.add(key, [], sampling)
        deepest = max(plan.depth for plan in plans)
        self.offered, self.accepted = (np.zeros((len(active), deepest), np.int64) for _ in range(2))

    def run(self) -> None:
        """Continues the rows until the last one ends."""
        left = self._begun()
        while len(left):
            rest = self.most - int(self.drawing.steps[left].min())
            plan = self.pace.choose(len(left), rest) if rest > 1 else None
            if plan is None:
                left = self._plain(left, min(max(self.pace.stretch, 1), rest))
                continue
            if self.fresh and self.drafting.hidden:
                # A step that drafts nothing, so that the drafter has streams to begin with.
                left = self._step(left, None)[0]
            if self.fresh:
                self._caught_up(left.tolist())
            if len(left):
                left = self._paced(left, plan)
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
        laid: Laid | None = None, blind: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
        seen = None if laid is None else laid.seen
        positions = None if laid is None or laid.seen is None else laid.positions
        hidden = False if blind else self.drafting.hidden
        found = self.engine.forward(
            self.pool, new, counts, past, self.tables[left], logits=logits, hidden=hidden,
            positions=positions, seen=seen,
        )  # fmt: skip
        return found if hidden else (found, None)

    def _paced(self, left: np.ndarray, plan: Plan) -> np.ndarray:
        """A step by a plan, of which the pace is told; returns the rows that go on."""
        before = self.offered.sum(0), self.accepted.sum(0)
        kept, drafting, passing = self._step(left, plan)
        self.pace.told(
            plan, len(left), drafting, passing, self.offered.sum(0) - before[0],
            self.accepted.sum(0) - before[1],
        )  # fmt: skip
        return kept

    def _plain(self, left: np.ndarray, count: int) -> np.ndarray:
        """Some plain steps, of which the drafter learns when it is wanted again."""
        began, rows, done = time.perf_counter(), len(left), 0
        if count > _LONG and self.seconds:
            rest = self.most - int(self.drawing.steps[left].min())
            count = min(max(count, int(_AT_LEAST / self.seconds)), rest)
        if rows == 1:
            done = self._continued(int(left[0]), count)
            left = left[:0] if int(left[0]) in self.done else left
        while done < count and len(left):
            left = self._step(left, None, blind=True)[0]
            done += 1
        spent = time.perf_counter() - began
        self.seconds = spent / done
        self.pace.told(None, rows, 0.0, spent, steps=done)
        return left

    def _continued(self, at: int, count: int) -> int:
        """Steps of one row in the engine's own loop, where it has one; returns how many."""
        drawing, row = self.drawing, self.rows[at]
        known, drawn = int(drawing.known[at]), int(drawing.steps[at])
        found = self.engine.continued(
            drawing.history[at, :known].tolist(), drawing.samplings[at],
            min(count, self.most - drawn), sorted(self.ends), lambda token: self._ends(at, token),
            pool=self.pool, table=self.tables[at], held=known - 1, drawn=drawn,
        )  # fmt: skip
        if found is None:
            return 0
        tokens, log_probs, ended = found
        new = len(tokens)
        drawing.history[at, known : known + new] = tokens
        drawing.known[at] += new
        drawing.steps[at] += new
        row.ids += tokens
        row.log_probs += log_probs
        row.steps += new
        self._closed(at, ended)
        self.fresh.setdefault(at, []).extend(tokens)
        return new

    def _step(
        self, left: np.ndarray, plan: Plan | None, blind: bool = False
    ) -> tuple[np.ndarray, float, float]:  # fmt: skip
        """Drafts, passes, walks.

        Returns:
            The rows that go on, seconds of the drafter, and all other seconds.
        """
        began = time.perf_counter()
        drafts = self._drafted(left, plan)
        drafted = time.perf_counter()
        laid = self.walker.lay_out(drafts, left)
        scores, streams = self._passed(
            laid.tokens, laid.counts, laid.past, left, "all", laid, blind
        )
        walks = self.walker.walk(scores, laid, left)
        kept, told, hidden = [], [], []
        for at, walk, first, held in zip(
            left.tolist(), walks, laid.starts.tolist(), laid.past.tolist(), strict=False
        ):
            self.offered[at, : walk.tried] += 1
            self.accepted[at, : len(walk.path)] += 1
            self.rows[at].steps += 1
            if self._taken(at, walk.tokens, walk.log_probs):
                continue
            kept.append(at)
            told.append(walk.tokens)
            if laid.seen is not None:
                self._compacted(at, walk, held)
            if streams is not None:
                hidden.append(streams[[first, *(first + 1 + node for node in walk.path)]])
        passed = time.perf_counter()
        if blind:
            for at, tokens in zip(kept, told, strict=True):
                self.fresh.setdefault(at, []).extend(tokens)
        else:
            self._caught_up(kept)
            self._observed(kept, [np.array(part) for part in told], hidden or [None] * len(kept))
        ended = time.perf_counter()
        return np.array(kept, np.int64), drafted - began + ended - passed, passed - drafted

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
        moves = [(node, place) for place, node in enumerate(walk.path) if node != place]
        if moves:
            sources, targets = np.array(moves).T + held + 1
            self.pool.move(self.tables[at], sources, targets)

    def _caught_up(self, left: list[int]) -> None:
        """Tells the drafter of the tokens of plain stretches."""
        behind = [at for at in left if at in self.fresh]
        tokens = [np.array(self.fresh[at]) for at in behind]
        self._observed(behind, tokens, [None] * len(behind))
        self.fresh.clear()

    def _observed(self, left: Any, tokens: list[np.ndarray], hidden: Sequence[Any]) -> None:
        if len(left):
            self.drafting.observe([self.keys[at] for at in left], tokens, hidden)

    def _taken(self, at: int, tokens: list[int], log_probs: list[float]) -> bool:
        """Gives a row its tokens; returns whether it ends with one of them."""
        row, ended = self.rows[at], False
        for token, log_prob in zip(tokens, log_probs, strict=True):
            row.ids.append(token)
            row.log_probs.append(log_prob)
            ended = self._ends(at, token)
            if ended:
                break
        return self._closed(at, ended)

    def _ends(self, at: int, token: int) -> bool:
        """Tells of a token; returns whether it ends its row."""
        return token in self.ends or (self.tell is not None and self.tell(self.keys[at], token))

    def _closed(self, at: int, ended: bool) -> bool:
        """Lets go of a row if it has ended, or is as long as it may be; returns whether."""
        row = self.rows[at]
        row.reason = "stop" if ended else "length"
        done = ended or len(row.ids) >= self.most
        if done:
            self.drafting.drop(self.keys[at])
            self.done.add(at)
        return done


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
