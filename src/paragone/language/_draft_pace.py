r"""How much to draft in the next step, or nothing: from what steps cost and what drafts yield.

A plan is worth the plain steps that it stands for, by those that it costs,

$$ v(\text{plan}) = \frac{1 + \sum_d \prod_{e \le d} a_e}{(T_\text{pass} + T_\text{draft}) / T(1)} ,
$$

and the plan with the largest v is taken if v > 1. All three times are those of this text's own
steps; nothing is measured beside it. What is not known yet is tried only on credit: a bank holds
what drafts have gained so far, in plain steps, and 2 % of all steps made,

$$ b \leftarrow b + (1 + \text{agreed}) - \frac{T_\text{pass} + T_\text{draft}}{T(1)} + 0.02 , $$

and a plan may lose at worst what is in it. So a drafter that turns out useless costs 2 % in the
long run, whatever it promised.

References:
    Wu et al. (2016), "Conservative Bandits", ICML, section 3 (tries paid from what was gained).
    Leviathan et al. (2023), arXiv:2211.17192, section 3.3 (when drafts pay).

Shapes: D depth of a plan.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from paragone.language._pace_memory import Chances, Times, between, memory_of
from paragone.language.drafting import Drafter, Plan

__all__ = ["Pace", "worth_trying"]

_SHARE, _CREDIT, _LIMIT = 0.02, 0.15, 4.0
_FADE, _FADE_SLOWLY = 0.97, 0.998
_GAIN, _HOPE = 1.02, 0.8
"""A plan is taken from the first worth on; below the second there is no hope for it."""
_DOUBT = 4.0
"""Sequences seen until half of what a plan promises counts as sure."""
_STRETCH, _RENEW, _AWAY, _HOLD = 64, 64, 2, 8
_FAR = 4 << 20
_PYTHON, _BANDWIDTH = 2e-4, 2.5e10
"""Seconds that a step with drafts takes beside the pass; bytes of weights read in a second."""


class Pace:
    """Chooses plans for one text, or one batch of texts, step by step.

    Args:
        engine: The `Engine` that decides.
        drafter: Who guesses.
        plan: "auto" or None to choose; a `Plan` to take that one always.

    Attributes:
        stretch: After `choose` returned None: how many plain steps to make before asking again.

    Example:
        >>> pace = Pace(None, Drafter(), Plan(nodes=2, depth=2))
        >>> pace.choose(rows=1, left=9)
        Plan(nodes=2, depth=2, width=1)
    """

    def __init__(self, engine: Any, drafter: Drafter, plan: Plan | str | None = "auto"):
        if not (plan is None or plan == "auto" or isinstance(plan, Plan)):
            raise ValueError(f"plan={plan!r}: 'auto', None or a Plan is expected")
        self.fixed = plan if isinstance(plan, Plan) else None
        self.stretch = 1
        if self.fixed is not None:
            return
        self.drafter = drafter
        self.plans = [p for p in drafter.plans() if p.width == 1 or getattr(engine, "trees", True)]
        self.priors = {p: np.asarray(drafter.chances(p), float) for p in self.plans}
        self.plain, self.memory = memory_of(engine, drafter)
        if not self.memory.warm:
            self.memory.bank = max(self.memory.bank, _CREDIT)
        self.slope = _assumed_slope(engine)
        self.text: dict[Hashable, Chances] = collections.defaultdict(Chances)
        self.kept_word = np.zeros(2)
        self.age, self.unused, self.patience, self.turn = 0, 0, 8, 0
        self.sure: tuple[Plan, int, int] | None = None

    def choose(self, rows: int, left: int) -> Plan | None:
        """Returns the plan of the next step; None for plain steps, `stretch` of them.

        Args:
            rows: Sequences that the step is for.
            left: Most tokens that one of them may still get.
        """
        if self.fixed is not None:
            return self.fixed
        seat, self.stretch = _seat(rows), 1
        if self.sure is not None:
            plan, until, at = self.sure
            if self.age < until and at == seat and plan.depth < left:
                return plan
            self.sure = None
        plans = [plan for plan in self.plans if plan.depth < left]
        if not plans:
            self.stretch = max(1, left)
            return None
        if not self.plain[seat].held:
            self.stretch = min(4, left)
            return None
        if self.age >= _RENEW:
            return None
        worth = {plan: self._worth(plan, rows) for plan in plans}
        plan = self._curious(plans, worth, seat) or max(plans, key=lambda p: worth[p][0])
        value, worst = worth[plan]
        bank = self.memory.bank
        if value > _GAIN and (worst <= 0 or worst <= bank):
            if worst <= 0:
                self.sure = plan, self.age + _HOLD, seat
            return plan
        if value <= _GAIN:
            worst = self._cost(plan, rows) - 1
            if self.unused >= self.patience and worst <= bank:
                self.patience = min(2 * self.patience, 512)
                return plan
        missing = max((worst - bank) / _SHARE, 0.0)
        if value <= _GAIN:
            missing = max(missing, self.patience - self.unused)
        self.stretch = max(1, min(math.ceil(missing), _STRETCH, left))
        return None

    def told(
        self,
        plan: Plan | None,
        rows: int,
        drafting_seconds: float,
        passing_seconds: float,
        offered: Any = (),
        accepted: Any = (),
        steps: int = 1,
    ) -> None:
        """Learns how a step went.

        Args:
            plan: What `choose` gave.
            rows: Sequences of the step.
            drafting_seconds: What the drafter took, its observing included.
            passing_seconds: What all else took, the pass and the walk.
            offered: (D,) sequences that had a draft at each depth, its parent agreed to.
            accepted: (D,) sequences with a draft agreed to at each depth.
            steps: Plain steps that the seconds are for.
        """
        if self.fixed is not None:
            return
        seat, memory = _seat(rows), self.memory
        if plan is None:
            self.plain[seat].add((passing_seconds + drafting_seconds) / steps)
            self.age, self.unused = 0, self.unused + steps
            self._fade(steps)
            memory.bank = min(memory.bank + _SHARE * steps, _LIMIT)
            return
        held = np.zeros(plan.depth)
        accepted = np.asarray(accepted, float)[: plan.depth]
        held[: len(accepted)] = accepted
        reached = np.concatenate([[rows], held[:-1]])
        self._fade(1)
        self.kept_word += held.sum(), reached @ self.priors[plan]
        for counts in (self.text, memory.chances):
            counts[_kind(plan)].add(reached, held)
        # What a drafter's first call takes is mostly the loading of code.
        if memory.warm:
            memory.drafting[seat, plan].add(drafting_seconds)
        memory.warm = True
        memory.passing[seat, plan].add(passing_seconds)
        usual = memory.passing[seat, plan].seconds + memory.drafting[seat, plan].seconds
        spent = min(drafting_seconds + passing_seconds, 2 * usual) / self._plain_seconds(rows)
        gain = 1 + held.sum() / rows - spent
        memory.bank = min(max(memory.bank + gain + _SHARE, -_LIMIT), _LIMIT)
        self.age, self.unused = self.age + 1, 0
        # What is taken for sure is looked at again as soon as it fails.
        self.sure = self.sure if held.any() else None
        if self.patience > 8 and self._worth(plan, rows)[0] > _GAIN:
            self.patience = 8

    def _fade(self, steps: int) -> None:
        for counts, factor in ((self.text, _FADE), (self.memory.chances, _FADE_SLOWLY)):
            for chances in counts.values():
                chances.fade(factor**steps)
        self.kept_word *= _FADE**steps

    def _plain_seconds(self, rows: int) -> float:
        held = self.plain.get(_seat(rows))
        return held.seconds if held is not None and held.held else 1.0

    def _worth(self, plan: Plan, rows: int) -> tuple[float, float]:
        """What a plan is worth, and the plain steps that it loses at worst."""
        kind = _kind(plan)
        agreed, promised = self.kept_word
        prior = np.clip(self.priors[plan] * (agreed + _DOUBT) / (promised + _DOUBT), 0, 1)
        long_run = self.memory.chances[kind]
        chances = self.text[kind].mean(long_run.mean(prior))
        more = float(np.cumprod(chances).sum())
        seen = sum(float(c.reached[:1].sum()) for c in (long_run, self.text[kind]))
        cost = self._cost(plan, rows)
        return (1 + more) / cost, cost - 1 - more * seen / (seen + _DOUBT)

    def _cost(self, plan: Plan, rows: int) -> float:
        """Plain steps that a step of this plan takes."""
        seat, plain = _seat(rows), self._plain_seconds(rows)
        passes = self._known(self.memory.passing, seat, "nodes")
        if plan.nodes in passes:
            cost = passes[plan.nodes] / plain
        elif passes:
            cost = between({0: min(plain, *passes.values()), **passes}, plan.nodes) / plain
        else:
            cost = 1 + self.slope * plan.nodes + _PYTHON / plain
        drafts = self._known(self.memory.drafting, seat, "depth")
        own = self.memory.drafting.get((seat, plan), Times())
        if own.held:
            cost += own.seconds / plain
        elif drafts:
            nearest = min(drafts, key=lambda depth: abs(depth - plan.depth))
            cost += drafts[nearest] * plan.depth / nearest / plain
        else:
            cost += self.slope * plan.depth / 2
        return max(cost, 0.05)

    def _known(
        self, times: dict[tuple[int, Plan], Times], seat: int, by: str
    ) -> dict[float, float]:
        return {getattr(p, by): t.seconds for (at, p), t in times.items() if at == seat and t.held}

    def _curious(
        self, plans: list[Plan], worth: dict[Plan, tuple[float, float]], seat: int
    ) -> Plan | None:
        """A neighbour of the best plan that has never been timed, now and then."""
        best, self.turn = max(plans, key=lambda p: worth[p][0]), self.turn + 1
        if worth[best][0] <= _GAIN or self.turn % _AWAY:
            return None
        at = plans.index(best)
        near = [p for p in plans[max(at - 1, 0) : at + 2] if not self.memory.passing[seat, p].held]
        near = [p for p in near if worth[p][1] <= self.memory.bank - _CREDIT]
        return max(near, key=lambda p: worth[p][0]) if near else None


def worth_trying(engine: Any, drafter: Drafter, rows: int = 1) -> bool:
    """Whether drafts may pay at all; where not, the loop with drafts is better not entered.

    One sequence of a small model is decoded in compiled code, and what Python does around a pass
    with drafts would take several of its steps.

    Args:
        engine: An `Engine`.
        drafter: Who guesses.
        rows: Sequences that are decoded together.
    """
    packed = getattr(engine, "packed", None)
    if packed is None or rows > 1:
        return True
    plain, memory = memory_of(engine, drafter)
    # Nothing changes this but trying.
    if memory.hopeless:
        return False
    seconds = packed.panels.nbytes / _BANDWIDTH
    if rows in plain and plain[rows].held:
        seconds = plain[rows].seconds
    for plan in drafter.plans():
        chances = np.asarray(drafter.chances(plan), float)
        more = float(np.cumprod(memory.chances[_kind(plan)].mean(chances)).sum())
        cost = 1 + _assumed_slope(engine) * plan.nodes + _PYTHON / seconds
        if 1 + more > _HOPE * cost:
            return True
    memory.hopeless = True
    return False


def _kind(plan: Plan) -> Hashable:
    """Chains of any length share their chances by depth."""
    return "chain" if plan.width == 1 else plan


def _seat(rows: int) -> int:
    """Numbers of sequences that count as equal."""
    return rows if rows <= 4 else round(2 ** (round(2 * math.log2(rows)) / 2))


def _assumed_slope(engine: Any) -> float:
    """What one more token of a pass costs, in passes of one token, as long as none was timed."""
    packed = getattr(engine, "packed", None)
    if packed is not None:
        far = packed.panels.nbytes > _FAR
        return (0.04 if engine.weights == "float32" else 0.3) if far else 0.6
    model = getattr(engine, "model", None)
    on_cpu = model is None or next(model.parameters()).device.type == "cpu"
    return 0.3 if on_cpu else 0.03
