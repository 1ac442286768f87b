r"""A finite process made ready to be stepped: outcomes by inversion, episodes that start again.

The outcome of row k = s A + a is the first entry e of the row whose cumulative probability
exceeds a uniform number u, as Gymnasium draws it. One more row, S A, has the start distribution
as its outcomes, so that to begin an episode is a step like any other and costs no branch.

Cost: O(log m) a step for rows of m outcomes.

Shapes: S states, A actions, E entries; the start row adds as many as there are start states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from paragone.reinforcement.mdp import MDP

__all__ = ["Table", "as_table"]

FEW_PROBES = 3
"""Rows of up to eight outcomes are filled up to the usual size, so that all take equal probes."""


@dataclass(frozen=True, eq=False)
class Table:
    """An MDP, what the agent sees of its states, and what is told beside.

    Args:
        mdp: The process.
        seen: Observation of each state (S,), or None: the state itself.
        sights: How many observations there are; S if `seen` is None.
        told: Probability of each entry as `info["prob"]` has it (E,), or None: the true one.
        masks: Actions that change the state, by observation (., A), int8, or None.
        draw: `draw(state, mode)` returns a picture, or None.
        plan: `P` to be shown in place of the process's own.
    """

    mdp: MDP
    seen: np.ndarray | None = None
    sights: int = 0
    told: np.ndarray | None = None
    masks: np.ndarray | None = None
    draw: Callable[[int, str], Any] | None = None
    plan: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.mdp.available.all():
            s, a = np.argwhere(~self.mdp.available)[0]
            raise ValueError(
                f"action {a} does not exist in state {s}: to be stepped, let it lead back to "
                f"state {s} with a bad reward"
            )
        if self.seen is None:
            object.__setattr__(self, "sights", self.mdp.n_states)

    @cached_property
    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places (S A + 1,), limits (F,), entry (F, 4)), all int64.

        A row takes a power of two of entries, so that it is searched without looking for its
        end: its place is 64 times its first entry plus the number of probes. A limit is 2^53
        times the cumulative probability, rounded up: what 53 random bits are compared with.
        An entry is twice the next state plus whether it terminates, the observation, and the
        bits of the reward and of the probability. What fills a row up is its first outcome,
        which is also what Gymnasium draws where probabilities fall short of one by rounding.
        """
        mdp = self.mdp
        starts = np.flatnonzero(mdp.start)
        counts = np.append(np.diff(mdp.offsets), len(starts))
        following = np.concatenate([mdp.successor, starts]).astype(np.int64)
        ends = np.concatenate([mdp.terminated, np.zeros(len(starts), np.bool_)])
        reward = np.concatenate([mdp.reward, np.zeros(len(starts))])
        told = mdp.probability if self.told is None else self.told
        told = np.concatenate([told, np.ones(len(starts))])
        seen = following if self.seen is None else self.seen[following].astype(np.int64)
        given = np.stack([2 * following + ends, seen, reward.view(np.int64),
                          told.view(np.int64)], axis=1)  # fmt: skip
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        total = _cumulative(np.concatenate([mdp.probability, mdp.start[starts]]), first, counts)
        bounds = np.ceil(np.minimum(total, 1.0) * 2.0**53).astype(np.int64)
        room = counts + (bounds[first + counts - 1] < 2**53)
        probes = np.ceil(np.log2(room)).astype(np.int64)
        usual = np.bincount(probes).argmax()
        if usual <= FEW_PROBES:
            probes = np.maximum(probes, usual)
        places = np.concatenate([[0], np.cumsum(1 << probes)])
        entry = np.repeat(given[first], 1 << probes, axis=0)
        limits = np.full(places[-1], 2**53)
        at = np.arange(len(given)) + np.repeat(places[:-1] - first, counts)
        entry[at], limits[at] = given, bounds
        return 64 * places[:-1] + probes, limits, entry

    @cached_property
    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(places, limits, after (F,), reward (F,), seen (S,)): what learners step through.

        `after` is twice the next state plus whether it terminates.
        """
        places, limits, entry = self.entries
        seen = np.arange(self.mdp.n_states) if self.seen is None else self.seen
        after, reward = entry[:, 0].copy(), entry[:, 2].view(np.float64).copy()
        return places, limits, after, reward, seen.astype(np.int64)

    @cached_property
    def keys(self) -> np.ndarray:
        """For each entry (F,) the number of what the agent saw and did: sight * A + action."""
        places = self.entries[0]
        A, sizes = self.mdp.n_actions, 1 << (places & 63)
        sights = np.arange(self.mdp.n_states) if self.seen is None else self.seen
        rows = sights.astype(np.int64)[:, None] * A + np.arange(A)
        return np.repeat(np.append(rows.reshape(-1), 0), sizes)

    @cached_property
    def rows(self) -> list[tuple[tuple[float, int, Any, float, bool, float], ...]]:
        """For each row its (cumulative, next state, observation, reward, terminated, told)."""
        places, limits, entry = self.entries
        reward, told = entry[:, 2].view(np.float64), entry[:, 3].view(np.float64)
        everything = list(
            zip((limits * 2.0**-53).tolist(), (entry[:, 0] >> 1).tolist(), entry[:, 1].tolist(),
                reward.tolist(), (entry[:, 0] & 1).astype(bool).tolist(), told.tolist(),
                strict=True)
        )  # fmt: skip
        spans = [(place >> 6, (place >> 6) + (1 << (place & 63))) for place in places.tolist()]
        return [tuple(everything[i:j]) for i, j in spans]


def _cumulative(probability: np.ndarray, first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the sums within each row, added in order."""
    total = probability.copy()
    for k in range(1, int(counts.max())):
        at = first[counts > k] + k
        total[at] = total[at - 1] + probability[at]
    return total


def as_table(model: Any) -> Table:
    """Returns the table of an MDP, of one of our environments, or the table itself."""
    if isinstance(model, Table):
        return model
    if isinstance(model, MDP):
        return Table(model)
    inner = getattr(model, "unwrapped", model)
    table = getattr(inner, "table", None)
    if isinstance(table, Table):
        return table
    raise ValueError(f"{type(model).__name__} is no finite process: give an MDP or a GridWorld")
