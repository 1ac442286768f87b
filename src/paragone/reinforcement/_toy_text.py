"""Gymnasium's toy-text worlds as tables: FrozenLake, CliffWalking and Taxi, outcome by outcome.

The rows have the outcomes of Gymnasium's `P` in the same order, so that equal uniform numbers
lead to equal trajectories.

References:
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, example 6.6 (the cliff).
    Dietterich (2000), "Hierarchical reinforcement learning with the MAXQ value function
    decomposition", JAIR 13, section 7.1 (the taxi, its rain and its fickle passenger).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paragone._core.random import RandomState, as_generator
from paragone.reinforcement._table import Table
from paragone.reinforcement._table_env import TableEnv, TableVectorEnv
from paragone.reinforcement.grid_world import GridWorld
from paragone.reinforcement.mdp import MDP

__all__ = [
    "CliffWalkingEnv", "CliffWalkingVectorEnv", "FrozenLakeEnv", "FrozenLakeVectorEnv",
    "GridWorldVectorEnv", "TaxiEnv", "TaxiVectorEnv", "cliff_walking", "frozen_lake",
    "random_map", "taxi",
]  # fmt: skip

MAPS = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": (
        "SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF",
        "FFFHFFFG",
    ),
}  # fmt: skip
STATIONS = ((0, 0), (0, 4), (4, 0), (4, 3))
WALLS = frozenset({(0, 1), (1, 1), (3, 0), (4, 0), (3, 2), (4, 2)})
"""Cells of the taxi's town (row, column) with a wall on their east side."""


def random_map(size: int = 8, p: float = 0.8, random_state: RandomState = None) -> list[str]:
    """Draws a lake on which the goal can be reached.

    Args:
        size: Rows and columns.
        p: Probability that a cell is frozen.
        random_state: Seed.
    """
    if size < 2 or not 0 < p <= 1:
        raise ValueError(f"size={size}, p={p}: use 2 and above, and a probability above 0")
    random = as_generator(random_state)
    while True:
        frozen = random.random((size, size)) < p
        frozen[0, 0] = frozen[-1, -1] = True
        reached = np.zeros_like(frozen)
        reached[0, 0] = True
        while True:
            wider = reached.copy()
            wider[1:] |= reached[:-1]
            wider[:-1] |= reached[1:]
            wider[:, 1:] |= reached[:, :-1]
            wider[:, :-1] |= reached[:, 1:]
            wider &= frozen
            if (wider == reached).all():
                break
            reached = wider
        if reached[-1, -1]:
            rows = np.where(frozen, "F", "H")
            rows[0, 0], rows[-1, -1] = "S", "G"
            return ["".join(row) for row in rows]


def frozen_lake(
    desc: Sequence[str] | None = None,
    map_name: str | None = "4x4",
    is_slippery: bool = True,
    success_rate: float = 1 / 3,
    reward_schedule: tuple[float, float, float] = (1, 0, 0),
) -> Table:
    """The lake: left, down, right, up; the ice sends one to either side.

    Args:
        desc: Rows of S start, F frozen, H hole, G goal; takes the place of `map_name`.
        map_name: "4x4", "8x8", or None for a random lake.
        is_slippery: Whether a move may go to either side.
        success_rate: Probability of the intended move on slippery ice.
        reward_schedule: Reward of (goal, hole, frozen).
    """
    if desc is None and map_name is not None and map_name not in MAPS:
        raise ValueError(f"map_name={map_name!r} is none of {', '.join(MAPS)}: give desc=rows")
    rows = list(desc) if desc is not None else MAPS[map_name] if map_name else random_map()
    if not rows or len({len(row) for row in rows}) != 1 or not set("".join(rows)) <= set("SFHG"):
        raise ValueError(f"desc={rows!r}: give rows of equal length made of S, F, H and G")
    if "S" not in "".join(rows):
        raise ValueError("the lake has no start: write an S where episodes begin")
    if not 0 <= success_rate <= 1:
        raise ValueError(f"success_rate={success_rate} is no probability: use 0 to 1")
    letters, columns = "".join(rows), len(rows[0])
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))
    reward = dict(zip("GHF", reward_schedule, strict=True))
    aside = (1.0 - success_rate) / 2.0

    def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
        if letters[s] in "GH":
            return [(1.0, s, 0.0, True)]
        found = []
        for b in ((a - 1) % 4, a, (a + 1) % 4) if is_slippery else (a,):
            row = min(max(s // columns + moves[b][0], 0), len(rows) - 1)
            column = min(max(s % columns + moves[b][1], 0), columns - 1)
            there = row * columns + column
            chance = 1.0 if not is_slippery else success_rate if b == a else aside
            letter = letters[there]
            found.append((chance, there, float(reward.get(letter, reward["F"])), letter in "GH"))
        return found

    start = np.array([letter == "S" for letter in letters], np.float64)
    names = ("left", "down", "right", "up")
    mdp = MDP.from_function(
        len(letters), 4, outcomes, start=start / start.sum(), action_labels=names
    )
    return Table(mdp, draw=_map(rows))


def cliff_walking(is_slippery: bool = False) -> Table:
    """The cliff of Sutton and Barto: up, right, down, left; a fall costs 100 and leads to start.

    Args:
        is_slippery: Whether a move may go to either side, each with probability 1/3.
    """
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))

    def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
        found = []
        directions = ((a - 1) % 4, a, (a + 1) % 4) if is_slippery else (a,)
        for b in directions:
            row = min(max(s // 12 + moves[b][0], 0), 3)
            column = min(max(s % 12 + moves[b][1], 0), 11)
            fell = row == 3 and 0 < column < 11
            there = (
                (36, -100.0, False) if fell else (row * 12 + column, -1.0, (row, column) == (3, 11))
            )
            found.append((1 / len(directions), *there))
        return found

    names = ("up", "right", "down", "left")
    mdp = MDP.from_function(48, 4, outcomes, start=36, action_labels=names)
    return Table(mdp, draw=_map([".........." + ".."] * 3 + ["SCCCCCCCCCCG"]))


def taxi(
    is_rainy: bool = False,
    fickle_passenger: bool = False,
    rainy_probability: float = 0.8,
    fickle_probability: float = 0.3,
) -> Table:
    """Dietterich's taxi: south, north, east, west, pick up, drop off.

    Args:
        is_rainy: Whether a move may go to either side.
        fickle_passenger: Whether the passenger may change the destination, once, on the first
            move after boarding. That intention is drawn with the start and is not seen: the
            process then has twice as many states as observations.
        rainy_probability: Probability of the intended move in the rain.
        fickle_probability: Probability of a fickle passenger.
    """
    for name, p in (("rainy", rainy_probability), ("fickle", fickle_probability)):
        if not 0 <= p <= 1:
            raise ValueError(f"{name}_probability={p} is no probability: use 0 to 1")
    rain = rainy_probability if is_rainy else None
    plan = [[_ride(s, a, rain) for a in range(6)] for s in range(500)]
    places = np.arange(500) // 4 % 5
    start = ((places < 4) & (places != np.arange(500) % 4)).astype(np.float64)
    start /= start.sum()
    masks = np.array([_useful(s) for s in range(500)], np.int8)
    names = ("south", "north", "east", "west", "pick up", "drop off")
    if not fickle_passenger:
        mdp = MDP.from_function(500, 6, lambda s, a: plan[s][a], start=start, action_labels=names)
        return Table(mdp, masks=masks, draw=_town)

    def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
        here, fickle = s % 500, s >= 500
        found = []
        for p, there, reward, ends in plan[here][a]:
            if fickle and here // 4 % 5 == 4 and there // 20 != here // 20:
                others = [d for d in range(4) if d != here % 4]
                found.extend((p / 3, there - there % 4 + d, reward, ends) for d in others)
            else:
                found.append((p, there + 500 * fickle, reward, ends))
        return found

    both = np.concatenate([(1 - fickle_probability) * start, fickle_probability * start])
    mdp = MDP.from_function(1000, 6, outcomes, start=both, action_labels=names)
    told = [
        p
        for s in range(1000) for a in range(6) for p, there, _, _ in plan[s % 500][a]
        for _ in range(3 if s >= 500 and s // 4 % 5 == 4 and there // 20 != s % 500 // 20 else 1)
    ]  # fmt: skip
    shown = {s: {a: plan[s][a] for a in range(6)} for s in range(500)}
    return Table(
        mdp, np.arange(1000, dtype=np.int32) % 500, 500, np.array(told), masks,
        lambda s, mode: _town(s % 500, mode), shown,
    )  # fmt: skip


def _open(row: int, column: int, step: tuple[int, int]) -> bool:
    """Whether the taxi can leave a cell in that direction."""
    there = (row + step[0], column + step[1])
    if not (0 <= there[0] < 5 and 0 <= there[1] < 5):
        return False
    return (row, min(column, there[1])) not in WALLS if step[1] else True


def _ride(s: int, a: int, rain: float | None) -> list[tuple[float, int, float, bool]]:
    row, column, passenger, goal = s // 100, s // 20 % 5, s // 4 % 5, s % 4
    if a == 4:
        boards = passenger < 4 and (row, column) == STATIONS[passenger]
        return [(1.0, s + 4 * (4 - passenger), -1.0, False) if boards else (1.0, s, -10.0, False)]
    if a == 5:
        if passenger < 4 or (row, column) not in STATIONS:
            return [(1.0, s, -10.0, False)]
        where = STATIONS.index((row, column))
        arrived = where == goal
        return [(1.0, s - 4 * (4 - where), 20.0 if arrived else -1.0, arrived)]
    moves = ((1, 0), (-1, 0), (0, 1), (0, -1))

    def there(b: int) -> int:
        dy, dx = moves[b]
        return s + 20 * (5 * dy + dx) if _open(row, column, moves[b]) else s

    if rain is None:
        return [(1.0, there(a), -1.0, False)]
    left, right = ((2, 3), (3, 2), (1, 0), (0, 1))[a]
    if not _open(row, column, moves[a]):
        left = right = a
    aside = (1.0 - rain) / 2.0
    return [(rain, there(a), -1.0, False), (aside, there(left), -1.0, False),
            (aside, there(right), -1.0, False)]  # fmt: skip


def _useful(s: int) -> list[int]:
    row, column, passenger = s // 100, s // 20 % 5, s // 4 % 5
    moves = [_open(row, column, step) for step in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    boards = passenger < 4 and (row, column) == STATIONS[passenger]
    return [int(x) for x in (*moves, boards, passenger == 4 and (row, column) in STATIONS)]


def _map(rows: Sequence[str]) -> Callable[[int, str], Any]:
    """Draws a map with the agent on it, as text or as one square of 16 pixels a cell."""
    columns = len(rows[0])
    colours = {"H": (70, 90, 130), "C": (150, 60, 50), "G": (60, 160, 90), "S": (250, 235, 180)}

    def draw(state: int, mode: str) -> Any:
        row, column = divmod(state, columns)
        if mode == "ansi":
            lines = list(rows)
            lines[row] = lines[row][:column] + "@" + lines[row][column + 1 :]
            return "\n".join(lines) + "\n"
        cells = [[colours.get(letter, (235, 240, 245)) for letter in line] for line in rows]
        pixels = np.repeat(np.repeat(np.array(cells, np.uint8), 16, axis=0), 16, axis=1)
        pixels[16 * row + 4 : 16 * row + 12, 16 * column + 4 : 16 * column + 12] = (40, 40, 40)
        return pixels

    return draw


def _town(s: int, mode: str) -> Any:
    row, column, passenger, goal = s // 100, s // 20 % 5, s // 4 % 5, s % 4
    letters = np.full((5, 5), ".")
    for name, place in zip("RGYB", STATIONS, strict=True):
        letters[place] = name
    if mode != "ansi":
        return _map(["".join(line) for line in letters])(row * 5 + column, mode)
    letters[row, column] = "@"
    lines = [
        "".join(letters[r, c] + ("|" if (r, c) in WALLS else " ") for c in range(5)).rstrip()
        for r in range(5)
    ]
    where = "in the taxi" if passenger == 4 else f"at {'RGYB'[passenger]}"
    return "\n".join(lines) + f"\npassenger {where}, to {'RGYB'[goal]}\n"


class _Built:
    """An environment whose table is built from its options."""

    build: Callable[..., Any]

    def __init__(self, *, render_mode: str | None = None, max_episode_steps: int | None = None,
                 **options: Any) -> None:  # fmt: skip
        table = type(self).build(**options)
        super().__init__(table, render_mode=render_mode, max_episode_steps=max_episode_steps)  # pyright: ignore[reportCallIssue]


class _ManyBuilt:
    """Vector environments whose table is built from their options."""

    build: Callable[..., Any]

    def __init__(
        self, num_envs: int = 1, *, max_episode_steps: int | None = None,
        autoreset_mode: Any = "NextStep", copy: bool = True, render_mode: str | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        table = type(self).build(**options)
        super().__init__(table, num_envs, max_episode_steps=max_episode_steps, copy=copy,  # pyright: ignore[reportCallIssue]
                         autoreset_mode=autoreset_mode, render_mode=render_mode)  # fmt: skip


class GridWorldVectorEnv(_ManyBuilt, TableVectorEnv):
    """Many grid worlds; see `GridWorld` for the options."""

    build = GridWorld


class FrozenLakeEnv(_Built, TableEnv):
    """One frozen lake; see `frozen_lake` for the options."""

    build = staticmethod(frozen_lake)


class FrozenLakeVectorEnv(_ManyBuilt, TableVectorEnv):
    """Many frozen lakes; see `frozen_lake` for the options."""

    build = staticmethod(frozen_lake)


class CliffWalkingEnv(_Built, TableEnv):
    """One cliff; see `cliff_walking` for the options."""

    build = staticmethod(cliff_walking)


class CliffWalkingVectorEnv(_ManyBuilt, TableVectorEnv):
    """Many cliffs; see `cliff_walking` for the options."""

    build = staticmethod(cliff_walking)


class TaxiEnv(_Built, TableEnv):
    """One taxi; see `taxi` for the options."""

    build = staticmethod(taxi)


class TaxiVectorEnv(_ManyBuilt, TableVectorEnv):
    """Many taxis; see `taxi` for the options."""

    build = staticmethod(taxi)
