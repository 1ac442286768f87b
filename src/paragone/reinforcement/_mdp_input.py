"""What an MDP may be given as: Gymnasium's `P`, arrays of pymdptoolbox or QuantEcon, a function.

Everything ends as `Outcomes`, the rows (s, a) one after the other, and is checked once, there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "TOLERANCE",
    "Outcomes",
    "checked_gamma",
    "checked_outcomes",
    "checked_start",
    "from_lists",
    "from_matrices",
    "lists_of",
]

TOLERANCE = 1e-8
"""How far the probabilities of one row may sum from 1."""


class Outcomes(NamedTuple):
    """What may follow each (s, a): row k = s * A + a holds entries offsets[k] to offsets[k + 1].

    A row without entries is an action that does not exist in that state.
    """

    offsets: np.ndarray
    successor: np.ndarray
    probability: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def checked_gamma(gamma: Any, *, one: bool = False) -> float:
    """Returns the discount as a float in [0, 1), or in [0, 1] where `one` allows it."""
    number = isinstance(gamma, (int, float, np.integer, np.floating))
    if number and (0 <= gamma < 1 or (one and gamma == 1)):
        return float(gamma)
    remedy = (
        "use 0 <= gamma <= 1"
        if one
        else "use 0 <= gamma < 1; finite_horizon and average_reward need no discount"
    )
    raise ValueError(f"gamma={gamma!r} is no discount: {remedy}")


def _where(row: int, actions: int) -> str:
    return f"state {row // actions}, action {row % actions}"


def checked_outcomes(rows: Outcomes, states: int, actions: int) -> Outcomes:
    """Returns the rows in their types, or raises `ValueError` naming the first bad one."""
    if states < 1 or actions < 1:
        raise ValueError(
            f"{states} states and {actions} actions are no MDP: give at least one each"
        )
    offsets = np.ascontiguousarray(rows.offsets, np.int64)
    successor = np.asarray(rows.successor)
    entries = len(successor)
    if offsets.shape != (states * actions + 1,):
        raise ValueError(f"offsets have shape {offsets.shape}: give S * A + 1 of them")
    counts = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != entries or (counts < 0).any():
        raise ValueError(f"offsets must rise from 0 to the number of entries, {entries}")
    outside = (successor < 0) | (successor >= states)
    if outside.any():
        k = int(np.argmax(outside))
        row = int(np.searchsorted(offsets, k, side="right")) - 1
        raise ValueError(
            f"successor {successor[k]} of {_where(row, actions)} is no state: "
            f"states are 0 to {states - 1}"
        )
    made = Outcomes(
        offsets,
        np.ascontiguousarray(successor, np.int32),
        np.ascontiguousarray(rows.probability, np.float64),
        np.ascontiguousarray(rows.reward, np.float64),
        np.ascontiguousarray(rows.terminated, np.bool_),
    )
    if not (made.probability.shape == made.reward.shape == made.terminated.shape == (entries,)):
        raise ValueError(
            f"{entries} successors need as many probabilities, rewards and terminated flags"
        )
    _refuse_bad_numbers(made, counts, actions)
    empty = (counts == 0).reshape(states, actions).all(axis=1)
    if empty.any():
        raise ValueError(
            f"state {int(np.argmax(empty))} has no action: a state where all ends leads to itself "
            "with reward 0"
        )
    return made


def _refuse_bad_numbers(rows: Outcomes, counts: np.ndarray, actions: int) -> None:
    for name, values in (("probability", rows.probability), ("reward", rows.reward)):
        bad = ~np.isfinite(values)
        if name == "probability":
            bad |= (values < 0) | (values > 1 + TOLERANCE)
        if bad.any():
            k = int(np.argmax(bad))
            row = int(np.searchsorted(rows.offsets, k, side="right")) - 1
            limit = "numbers from 0 to 1" if name == "probability" else "finite numbers"
            raise ValueError(f"{name} {values[k]} of {_where(row, actions)}: use {limit}")
    filled = np.flatnonzero(counts)
    if not len(filled):
        return
    sums = np.add.reduceat(rows.probability, rows.offsets[filled])
    off = np.abs(sums - 1) > TOLERANCE
    if off.any():
        k = int(np.argmax(off))
        raise ValueError(
            f"probabilities of {_where(int(filled[k]), actions)} sum to {sums[k]:.9g}, not 1 "
            f"(within {TOLERANCE:g}): scale the row"
        )


def checked_start(start: Any, states: int) -> np.ndarray:
    """Returns the start distribution (S,); None is uniform, a whole number one state."""
    if start is None:
        return np.full(states, 1 / states)
    if np.ndim(start) == 0:
        state = int(start)
        if state != start or not 0 <= state < states:
            raise ValueError(f"start={start} is no state: states are 0 to {states - 1}")
        return np.eye(1, states, state)[0]
    values = np.array(start, np.float64)
    if values.shape != (states,):
        raise ValueError(f"start has shape {values.shape}: give one probability for each state")
    if not (values >= 0).all() or abs(values.sum() - 1) > TOLERANCE:
        raise ValueError(f"start sums to {values.sum():.9g}: give probabilities that sum to 1")
    return values


def from_lists(table: Any) -> tuple[Outcomes, int, int]:
    """Reads `P[s][a] = [(p, s2, r, terminated), ...]`; an action may be missing in a state."""
    states = len(table)
    by_state = [table[s] for s in range(states)]
    keys = [row.keys() if isinstance(row, Mapping) else range(len(row)) for row in by_state]
    actions = 1 + max((int(a) for row in keys for a in row), default=-1)
    counts, entries = np.zeros(states * actions, np.int64), []
    for s, row in enumerate(by_state):
        for a in sorted(keys[s]):
            found = [(*entry, False)[:4] for entry in row[a]]
            counts[s * actions + a] = len(found)
            entries.extend(found)
    return _from_entries(counts, entries), states, actions


def lists_of(
    states: int, actions: int, outcomes: Callable[[int, int], Iterable[tuple] | None]
) -> Outcomes:
    """Asks the function for the outcomes of every (s, a); None is an action that is not there."""
    counts, entries = np.zeros(states * actions, np.int64), []
    for row in range(states * actions):
        found = [(*entry, False)[:4] for entry in outcomes(*divmod(row, actions)) or ()]
        counts[row] = len(found)
        entries.extend(found)
    return _from_entries(counts, entries)


def _from_entries(counts: np.ndarray, entries: list[tuple]) -> Outcomes:
    columns: Any = zip(*entries, strict=True) if entries else ((), (), (), ())
    probability, successor, reward, terminated = columns
    return Outcomes(
        np.concatenate([[0], np.cumsum(counts)]),
        np.asarray(successor, np.int64),
        np.asarray(probability, np.float64),
        np.asarray(reward, np.float64),
        np.asarray(terminated, np.bool_),
    )


def from_matrices(P: Any, R: Any, axes: str) -> tuple[Outcomes, int, int]:
    """Reads transition matrices, one an action, and rewards (S, A), (A, S, S) or (S,)."""
    import scipy.sparse as sparse

    if axes not in ("auto", "ass", "sas"):
        raise ValueError(f"axes={axes!r} is none of 'auto', 'ass', 'sas'")
    dense = None if isinstance(P, (list, tuple)) and sparse.issparse(P[0]) else np.asarray(P)
    if dense is not None:
        if dense.ndim != 3:
            raise ValueError(f"P has shape {dense.shape}: give (A, S, S), or a list of matrices")
        if axes == "sas" or (axes == "auto" and dense.shape[1] != dense.shape[2]):
            dense = dense.transpose(1, 0, 2)
        P = list(dense)
    matrices: list[Any] = [sparse.csr_array(matrix) for matrix in P]
    actions, states = len(matrices), matrices[0].shape[0]
    for a, matrix in enumerate(matrices):
        if matrix.shape != (states, states):
            raise ValueError(
                f"P of action {a} has shape {matrix.shape}: all must be ({states}, {states})"
            )
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    mine = np.stack([np.diff(matrix.indptr) for matrix in matrices], axis=1)
    rewards = _reward_of(R, matrices, states, actions)
    order = np.argsort(
        np.concatenate(
            [np.repeat(np.arange(states) * actions + a, mine[:, a]) for a in range(actions)]
        ),
        kind="stable",
    )
    successor = np.concatenate([m.indices for m in matrices])[order]
    probability = np.concatenate([m.data for m in matrices])[order]
    reward = np.concatenate(rewards)[order]
    counts = mine.reshape(-1)
    absent = _absent(R, states, actions)
    if absent is not None and absent.any():
        keep = ~np.repeat(absent.reshape(-1), counts)
        successor, probability, reward = successor[keep], probability[keep], reward[keep]
        counts = np.where(absent.reshape(-1), 0, counts)
    ends = np.zeros(len(successor), np.bool_)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Outcomes(offsets, successor, probability, reward, ends), states, actions


def _absent(R: Any, states: int, actions: int) -> np.ndarray | None:
    """Where R (S, A) is -inf, QuantEcon's way to say that an action is not there."""
    if isinstance(R, (list, tuple)) and hasattr(R[0], "tocsr"):
        return None
    table = np.asarray(R, np.float64)
    return np.isneginf(table) if table.shape == (states, actions) else None


def _reward_of(R: Any, matrices: list[Any], states: int, actions: int) -> list[np.ndarray]:
    """The reward of each entry of each action's matrix."""
    rows = [np.repeat(np.arange(states), np.diff(m.indptr)) for m in matrices]
    if isinstance(R, (list, tuple)) and hasattr(R[0], "tocsr"):
        if len(R) != actions:
            raise ValueError(f"R has {len(R)} matrices for {actions} actions: give one each")
        return [
            np.asarray(r.tocsr()[row, m.indices]).reshape(-1)
            for r, row, m in zip(R, rows, matrices, strict=True)
        ]
    table = np.asarray(R, np.float64)
    if table.shape == (states,):
        return [table[row] for row in rows]
    if table.shape == (states, actions):
        return [table[row, a] for a, row in enumerate(rows)]
    if table.shape == (actions, states, states):
        return [table[a][row, m.indices] for a, (row, m) in enumerate(zip(rows, matrices))]  # noqa: B905
    raise ValueError(
        f"R has shape {table.shape}: give ({states}, {actions}), "
        f"({actions}, {states}, {states}) or ({states},)"
    )
