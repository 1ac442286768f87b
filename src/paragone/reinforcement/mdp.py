r"""Finite Markov decision processes: what all planners and tabular learners stand on.

In state $s$ the agent picks an action $a$; with probability $p(s' \mid s, a)$ it goes to $s'$ and
gets a reward. What is worth knowing of a policy is its value,

$$ v_\pi(s) = \mathbb{E}_\pi \Bigl[ \sum_{t \ge 0} \gamma^t r_{t+1} \Bigm| s_0 = s \Bigr] , $$

where the sum stops at a transition that is *terminated*: nothing is added for the state behind it.

The process is kept as the list of outcomes of each row k = s A + a, so that memory follows
what can happen and not S x S: entries `offsets[k]` to `offsets[k + 1]` of `successor`,
`probability`, `reward` and `terminated`, in the order given. A row without outcomes is an action
that does not exist in that state. Where every row has exactly one outcome, `next_state`,
`rewards` and `ends` (S, A) say the same as tables.

Cost: O(entries) memory, 21 bytes an entry and 8 a row.

References:
    Bellman (1957), "A Markovian decision process".
    Puterman (2005), "Markov decision processes", chapters 2 and 6.
    Zhao (2025), "Mathematical foundations of reinforcement learning", section 1.7.

Shapes: S states, A actions, E entries (outcomes with a probability).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from paragone.reinforcement._mdp_input import (
    Outcomes,
    checked_gamma,
    checked_outcomes,
    checked_start,
    from_lists,
    from_matrices,
    lists_of,
)

__all__ = ["MDP"]


class MDP:
    """A finite Markov decision process, checked once.

    Prefer the constructors `from_gymnasium`, `from_arrays`, `from_pairs` and `from_function`
    to writing rows by hand; prefer it to dense arrays (pymdptoolbox) as soon as S x S x A
    numbers hurt: a million states take what their outcomes take.

    Args:
        offsets: First entry of each row s * A + a, and the end: S * A + 1 whole numbers.
        successor: State of each entry (E,).
        probability: Probability of each entry (E,); a row sums to 1 within 1e-8.
        reward: Reward of each entry (E,), finite.
        terminated: Whether the episode ends with this entry (E,).
        n_actions: A.
        gamma: Discount, 0 <= gamma < 1.
        start: Start distribution (S,), one state, or None: uniform.
        labels: Names of the states, to be printed.
        action_labels: Names of the actions.

    Raises:
        ValueError: A row does not sum to 1, a state does not exist, a number is not finite, or
            gamma is outside [0, 1).

    Example:
        >>> m = MDP.from_function(2, 1, lambda s, a: [(1.0, 1, 1.0 - s)], gamma=0.5)
        >>> m.P[0][0]
        [(1.0, 1, 1.0, False)]
    """

    def __init__(
        self,
        offsets: Any,
        successor: Any,
        probability: Any,
        reward: Any,
        terminated: Any,
        *,
        n_actions: int,
        gamma: float = 0.9,
        start: Any = None,
        labels: Sequence[Any] | None = None,
        action_labels: Sequence[Any] | None = None,
    ) -> None:
        states, rest = divmod(len(offsets) - 1, n_actions) if n_actions >= 1 else (0, 0)
        if rest:
            raise ValueError(f"{len(offsets)} offsets do not fit {n_actions} actions: give S*A + 1")
        given = Outcomes(offsets, successor, probability, reward, terminated)
        self.__dict__["_outcomes"] = checked_outcomes(given, states, n_actions)
        self._describe(states, n_actions, gamma, start, labels, action_labels)

    def _describe(
        self, states: int, actions: int, gamma: Any, start: Any, labels: Any, action_labels: Any
    ) -> None:
        for name, given, count in (("labels", labels, states), ("actions", action_labels, actions)):
            if given is not None and len(given) != count:
                raise ValueError(f"{len(given)} {name} for {count}: give one for each")
        self.n_states, self.n_actions = states, actions
        self.gamma = checked_gamma(gamma)
        self.start = checked_start(start, states)
        self.labels = None if labels is None else list(labels)
        self.action_labels = None if action_labels is None else list(action_labels)

    @classmethod
    def from_gymnasium(cls, env: Any, gamma: float = 0.9, **keywords: Any) -> MDP:
        """Takes an environment with `.P` (toy-text), or the table `P[s][a]` itself.

        Args:
            env: `gymnasium.make("FrozenLake-v1")`, its `.unwrapped.P`, or anything of that form.
            gamma: Discount.
            **keywords: `start`, `labels`, `action_labels`; the start distribution of the
                environment is taken if it has one.

        Raises:
            ValueError: The environment has no table of transitions.
        """
        inner = getattr(env, "unwrapped", env)
        table = getattr(inner, "P", inner)
        if not hasattr(table, "__getitem__"):
            raise ValueError(
                f"{type(inner).__name__} has no table P of transitions: planning needs the model; "
                "learn it with QLearning, or give P[s][a] = [(p, s2, r, terminated), ...]"
            )
        rows, _, actions = from_lists(table)
        if "start" not in keywords:
            start = getattr(inner, "initial_state_distrib", None)
            keywords["start"] = None if start is None else np.asarray(start) / np.sum(start)
        return cls(*rows, n_actions=actions, gamma=gamma, **keywords)

    @classmethod
    def from_arrays(
        cls, P: Any, R: Any, gamma: float = 0.9, *, axes: str = "auto", **keywords: Any
    ) -> MDP:
        """Takes transition matrices and rewards, as pymdptoolbox and QuantEcon have them.

        Args:
            P: Probabilities (A, S, S), dense or a list of A scipy.sparse matrices; or (S, A, S).
            R: Rewards (S, A), (A, S, S), (S,) or a list of A sparse matrices. -inf in (S, A)
                says that the action does not exist in that state.
            gamma: Discount.
            axes: "ass" or "sas" says which of the two P is; "auto" takes (S, A, S) only if it
                cannot be (A, S, S).
            **keywords: `start`, `labels`, `action_labels`.
        """
        rows, _, actions = from_matrices(P, R, axes)
        return cls(*rows, n_actions=actions, gamma=gamma, **keywords)

    @classmethod
    def from_pairs(
        cls, R: Any, Q: Any, s_indices: Any, a_indices: Any, gamma: float = 0.9, **keywords: Any
    ) -> MDP:
        """Takes QuantEcon's state-action pairs: only the actions that exist are listed.

        Args:
            R: Reward of each pair (L,).
            Q: Probabilities (L, S), dense or scipy.sparse.
            s_indices: State of each pair (L,).
            a_indices: Action of each pair (L,).
            gamma: Discount.
            **keywords: `start`, `labels`, `action_labels`.
        """
        import scipy.sparse as sparse

        matrix: Any = sparse.csr_array(Q)
        actions, states = int(np.max(a_indices)) + 1, matrix.shape[1]
        row = np.asarray(s_indices, np.int64) * actions + np.asarray(a_indices, np.int64)
        if len(np.unique(row)) != len(row) or row.min() < 0 or row.max() >= states * actions:
            raise ValueError("a pair (s, a) is repeated or outside the states: list each once")
        order = np.argsort(row)
        sorted_matrix = matrix[order]
        counts = np.zeros(states * actions, np.int64)
        counts[row] = np.diff(matrix.indptr)
        reward = np.repeat(np.asarray(R, np.float64)[order], np.diff(sorted_matrix.indptr))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        ends = np.zeros(len(reward), np.bool_)
        rows = Outcomes(offsets, sorted_matrix.indices, sorted_matrix.data, reward, ends)
        return cls(*rows, n_actions=actions, gamma=gamma, **keywords)

    @classmethod
    def from_function(
        cls,
        n_states: int,
        n_actions: int,
        outcomes: Callable[[int, int], Iterable[tuple] | None],
        gamma: float = 0.9,
        **keywords: Any,
    ) -> MDP:
        """Asks a function for the outcomes of every (s, a).

        Args:
            n_states: S.
            n_actions: A.
            outcomes: `outcomes(s, a)` returns [(p, s2, r), ...] or [(p, s2, r, terminated), ...];
                None where the action does not exist.
            gamma: Discount.
            **keywords: `start`, `labels`, `action_labels`.
        """
        rows = lists_of(n_states, n_actions, outcomes)
        return cls(*rows, n_actions=n_actions, gamma=gamma, **keywords)

    @cached_property
    def _outcomes(self) -> Outcomes:
        """The rows; a subclass that knows them otherwise builds them when they are asked for."""
        raise NotImplementedError

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(next_state, rewards, ends) of shape (S, A), or None if an action has a choice."""
        rows, shape = self._outcomes, (self.n_states, self.n_actions)
        if len(rows.successor) != shape[0] * shape[1] or (np.diff(rows.offsets) != 1).any():
            return None
        return tuple(x.reshape(shape) for x in (rows.successor, rows.reward, rows.terminated))  # pyright: ignore[reportReturnType]

    @property
    def offsets(self) -> np.ndarray:
        """First entry of each row s * A + a, and the end (S * A + 1,), int64."""
        return self._outcomes.offsets

    @property
    def successor(self) -> np.ndarray:
        """State of each entry (E,), int32."""
        return self._outcomes.successor

    @property
    def probability(self) -> np.ndarray:
        """Probability of each entry (E,)."""
        return self._outcomes.probability

    @property
    def reward(self) -> np.ndarray:
        """Reward of each entry (E,)."""
        return self._outcomes.reward

    @property
    def terminated(self) -> np.ndarray:
        """Whether the episode ends with this entry (E,), bool."""
        return self._outcomes.terminated

    @property
    def deterministic(self) -> bool:
        """Whether every action exists everywhere and has one outcome."""
        return self._tables is not None

    @property
    def next_state(self) -> np.ndarray | None:
        """The one successor of each action (S, A), int32; None if an action has a choice."""
        return None if self._tables is None else self._tables[0]

    @property
    def rewards(self) -> np.ndarray | None:
        """The one reward of each action (S, A); None if an action has a choice."""
        return None if self._tables is None else self._tables[1]

    @property
    def ends(self) -> np.ndarray | None:
        """Whether each action ends the episode (S, A), bool; None if an action has a choice."""
        return None if self._tables is None else self._tables[2]

    @cached_property
    def available(self) -> np.ndarray:
        """Which actions exist in each state (S, A), bool."""
        return (np.diff(self.offsets) > 0).reshape(self.n_states, self.n_actions)

    @cached_property
    def expected_reward(self) -> np.ndarray:
        """Mean reward of each action (S, A); -inf where the action does not exist."""
        row = np.repeat(np.arange(self.n_states * self.n_actions), np.diff(self.offsets))
        mean = np.bincount(row, self.probability * self.reward, self.n_states * self.n_actions)
        return np.where(self.available, mean.reshape(self.n_states, self.n_actions), -np.inf)

    @cached_property
    def continuation(self) -> Any:
        """Probabilities of going on in s' (S * A, S), scipy.sparse; terminated entries are 0."""
        import scipy.sparse as sparse

        going_on = np.where(self.terminated, 0.0, self.probability)
        shape = (self.n_states * self.n_actions, self.n_states)
        matrix = sparse.csr_array((going_on, self.successor, self.offsets), shape=shape)
        return matrix.copy()

    @cached_property
    def P(self) -> dict[int, dict[int, list[tuple[float, int, float, bool]]]]:  # noqa: N802
        """`P[s][a] = [(p, s2, r, terminated), ...]`, as Gymnasium's toy-text has it."""
        rows = zip(
            self.probability.tolist(), self.successor.tolist(), self.reward.tolist(),
            self.terminated.tolist(), strict=True,
        )  # fmt: skip
        entries, bounds, A = list(rows), self.offsets.tolist(), self.n_actions
        return {
            s: {
                a: entries[bounds[s * A + a] : bounds[s * A + a + 1]]
                for a in range(A)
                if bounds[s * A + a] < bounds[s * A + a + 1]
            }
            for s in range(self.n_states)
        }

    def to_arrays(self) -> tuple[list[Any], np.ndarray]:
        """Returns (a list of A sparse (S, S) matrices, rewards (S, A)) for other libraries.

        They know no terminated transitions: if there are any, one state is added at the end that
        such transitions go to and that leads to itself with reward 0.

        Raises:
            ValueError: An action does not exist in some state, which matrices cannot say.
        """
        import scipy.sparse as sparse

        if not self.available.all():
            s, a = np.argwhere(~self.available)[0]
            raise ValueError(f"action {a} does not exist in state {s}: matrices cannot say that")
        S, A = self.n_states, self.n_actions
        size = S + int(self.terminated.any())
        successor = np.where(self.terminated, S, self.successor)
        whole = sparse.csr_array((self.probability, successor, self.offsets), shape=(S * A, size))
        matrices = [whole[a::A] for a in range(A)]
        rewards = self.expected_reward
        if size > S:
            last = sparse.csr_array(([1.0], ([0], [S])), shape=(1, size))
            matrices = [sparse.vstack([m, last], format="csr") for m in matrices]
            rewards = np.vstack([rewards, np.zeros((1, A))])
        return matrices, rewards

    def __repr__(self) -> str:
        shape = f"{self.n_states} states, {self.n_actions} actions"
        return f"{type(self).__name__}({shape}, gamma={self.gamma})"
