r"""Grid worlds from text: a Markov decision process, a Gymnasium environment, and a picture.

An agent walks on a grid of free, forbidden and target cells. Every step gives the reward of the
cell that it enters, or stays in, and an attempt to leave the grid that of the boundary:

$$ r(s, a) = r_{\text{boundary}} \text{ if } a \text{ leaves the grid, else }
   r_{\text{forbidden}},\; r_{\text{target}},\; r_{\text{step}} \text{ by the cell } s' . $$

The same picture has many meanings, and values differ with them. In Zhao's book, whose conventions
are the defaults here, forbidden cells can be entered at a price and the task goes on at the
target, where staying earns $r_{\text{target}}$ for ever: its value is
$r_{\text{target}} / (1 - \gamma)$. Other texts end the episode there, and in others forbidden
cells are walls. Each choice is an argument with a name, none is hidden.

Actions are numbered as Zhao's $a_1$ to $a_5$: 0 up, 1 right, 2 down, 3 left, 4 stay. Cells are
numbered along the rows: state = row * columns + column.

Cost: memory of the tables is 13 bytes for each state and action, and is taken when asked for;
planning on a deterministic grid needs none of them.

References:
    Zhao (2025), "Mathematical foundations of reinforcement learning", chapter 1.
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, examples 4.1 and 6.5.

Shapes: R rows, C columns, S = R C states, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np

from paragone.reinforcement._grid_layout import FORBIDDEN, FREE, MOVES, TARGET, parsed, shifted
from paragone.reinforcement._mdp_input import Outcomes
from paragone.reinforcement._register import register
from paragone.reinforcement.mdp import MDP

__all__ = ["GridWorld"]

register()

_NAMES = ("up", "right", "down", "left", "stay")
_CHOICES = {
    "forbidden": ("enter", "block"),
    "target": ("continuing", "absorbing", "terminal"),
    "bump_in_forbidden": ("boundary", "forbidden", "sum"),
}


class GridWorld(MDP, gymnasium.Env):
    """A grid of cells, as an `MDP` and as a `gymnasium.Env` at once.

    Prefer it to Gymnasium's FrozenLake and CliffWalking where the map is yours and where
    rewards and ends must be those of a certain book; planning on it is hundreds of times faster
    than on a general table (`value_iteration`).

    Args:
        layout: Rows of '.', '#' forbidden, 'T' target, 'S' start; a list, or one text with
            line breaks.
        gamma: Discount, 0 <= gamma < 1.
        r_boundary: Reward of an attempt to leave the grid; the agent stays where it is.
        r_forbidden: Reward of entering a forbidden cell or staying in it; with
            `forbidden="block"` of walking against it.
        r_target: Reward of entering a target, and with "continuing" of staying in it.
        r_step: Reward of entering a free cell or staying in it.
        actions: 5, or 4: without staying.
        forbidden: "enter": forbidden cells can be entered; "block": they are walls.
        target: "continuing": a cell like others (Zhao); "absorbing": all actions stay there and
            give 0; "terminal": entering it ends the episode.
        bump_in_forbidden: Reward of an attempt to leave the grid from a forbidden cell:
            "boundary", "forbidden" or the "sum" of both.
        slip: Probability that a move goes to one of its two sides instead, each with slip / 2;
            2 / 3 is FrozenLake's ice. Staying does not slip.
        wind: Rows that a column blows the agent upwards after its move (C,), Sutton and Barto's
            windy grid.
        start: Start distribution (S,) or a state; None: the cells with S, or all free cells.
        render_mode: "ansi", "rgb_array" or None.

    Raises:
        ValueError: The layout has no target, rows differ in length, a cell is unknown, or an
            argument is outside its range.

    Example:
        >>> grid = GridWorld(["..", ".T"], gamma=0.5)
        >>> grid.P[0][1]
        [(1.0, 1, 0.0, False)]
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        layout: str | Sequence[str],
        gamma: float = 0.9,
        r_boundary: float = -1.0,
        r_forbidden: float = -1.0,
        r_target: float = 1.0,
        r_step: float = 0.0,
        actions: int = 5,
        *,
        forbidden: str = "enter",
        target: str = "continuing",
        bump_in_forbidden: str = "boundary",
        slip: float = 0.0,
        wind: Sequence[int] | None = None,
        start: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.cells, marked = parsed(layout)
        if actions not in (4, 5):
            raise ValueError(f"actions={actions!r}: use 5, or 4 for no staying")
        chosen = {"forbidden": forbidden, "target": target, "bump_in_forbidden": bump_in_forbidden}
        for name, value in chosen.items():
            if value not in _CHOICES[name]:
                raise ValueError(f"{name}={value!r} is none of {', '.join(_CHOICES[name])}")
        self.forbidden, self.target, self.bump_in_forbidden = forbidden, target, bump_in_forbidden
        rewards = (r_boundary, r_forbidden, r_target, r_step)
        for name, value in zip(("boundary", "forbidden", "target", "step"), rewards, strict=True):
            if not np.isfinite(value):
                raise ValueError(f"r_{name}={value} is no reward: use a finite number")
        self.r_boundary, self.r_forbidden, self.r_target, self.r_step = map(float, rewards)
        if not 0 <= slip <= 1:
            raise ValueError(f"slip={slip} is no probability: use 0 to 1")
        self.slip, self.wind = float(slip), self._checked_wind(wind)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r} is none of 'ansi', 'rgb_array'")
        self.render_mode = render_mode
        if start is None:
            start = self._default_start(marked)
        self._describe(self.cells.size, actions, gamma, start, None, _NAMES[:actions])
        self.observation_space = gymnasium.spaces.Discrete(self.n_states)
        self.action_space = gymnasium.spaces.Discrete(actions)
        self._state: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.cells.shape[0], self.cells.shape[1]

    @property
    def layout(self) -> list[str]:
        """The cells as text; a start is not written."""
        return ["".join(".#T"[cell] for cell in row) for row in self.cells.tolist()]

    def _checked_wind(self, wind: Sequence[int] | None) -> np.ndarray | None:
        if wind is None:
            return None
        rows = np.asarray(wind)
        if rows.shape != (self.cells.shape[1],) or rows.dtype.kind not in "iu":
            raise ValueError(
                f"wind={wind!r} does not fit: give whole rows for {self.cells.shape[1]} columns"
            )
        return rows.astype(np.int32) if rows.any() else None

    def _default_start(self, marked: np.ndarray) -> np.ndarray:
        cells = marked if marked.any() else self.cells == FREE
        if not cells.any():
            cells = np.ones(self.cells.shape, np.bool_)
        return cells.reshape(-1) / cells.sum()

    def _moved(self, direction: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(next state, reward, ends) of a move that does not slip, each (S,)."""
        kind = self.cells.reshape(-1)
        there, bump = shifted(self.shape, MOVES[direction], self.wind)
        there, bump = there.reshape(-1), bump.reshape(-1)
        here = np.arange(len(kind), dtype=np.int32)
        entered = np.array([self.r_step, self.r_forbidden, self.r_target])
        reward = entered[kind[there]]
        in_forbidden = {
            "boundary": self.r_boundary,
            "forbidden": self.r_forbidden,
            "sum": self.r_boundary + self.r_forbidden,
        }[self.bump_in_forbidden]
        reward[bump] = np.where(kind[bump] == FORBIDDEN, in_forbidden, self.r_boundary)
        if self.forbidden == "block":
            against = (kind[there] == FORBIDDEN) & (there != here)
            there = np.where(against, here, there)
            reward[against] = self.r_forbidden
        ends = np.zeros(len(kind), np.bool_)
        if self.target != "continuing":
            inside = kind == TARGET
            there = np.where(inside, here, there)
            reward[inside] = 0.0
            if self.target == "terminal":
                ends = kind[there] == TARGET
        return there, reward, ends

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        if self.slip:
            return None
        columns = zip(*[self._moved(a) for a in range(self.n_actions)], strict=True)
        there, reward, ends = (np.stack(column, axis=1) for column in columns)
        return there, reward, ends

    @cached_property
    def _outcomes(self) -> Outcomes:
        S, A = self.n_states, self.n_actions
        if self._tables is not None:
            there, reward, ends = (table.reshape(-1) for table in self._tables)
            return Outcomes(np.arange(S * A + 1), there, np.ones(S * A), reward, ends)
        moves = [self._moved(a) for a in range(A)]
        chance = [(0, 1 - self.slip), (3, self.slip / 2), (1, self.slip / 2)]
        blocks, counts = [], np.zeros((S, A), np.int64)
        for a in range(A):
            if a == 4:
                parts = [(1.0, *moves[4])]
            else:
                parts = [(p, *moves[(a + turn) % 4]) for turn, p in chance if p]
            counts[:, a] = len(parts)
            blocks.extend(parts)
        probability = np.tile([part[0] for part in blocks], S)
        there, reward, ends = (
            np.stack([part[i] for part in blocks], axis=1).reshape(-1) for i in (1, 2, 3)
        )
        offsets = np.concatenate([[0], np.cumsum(counts.reshape(-1))])
        return Outcomes(offsets, there, probability, reward, ends)

    def state(self, row: int, column: int) -> int:
        """The number of a cell.

        Raises:
            ValueError: The cell is outside the grid.
        """
        if not (0 <= row < self.shape[0] and 0 <= column < self.shape[1]):
            raise ValueError(f"cell ({row}, {column}) is outside the grid of {self.shape}")
        return row * self.shape[1] + column

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Starts an episode; `options={"state": s}` starts it in s."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        if given is None:
            given = int(self.np_random.choice(self.n_states, p=self.start))
        elif not self.observation_space.contains(given):
            raise ValueError(f"state {given!r} is none: states are 0 to {self.n_states - 1}")
        self._state = int(given)
        return self._state, {"prob": float(self.start[self._state])}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Takes one action.

        Returns:
            (state, reward, terminated, truncated, info); `info["prob"]` is the probability of
            what happened. A grid truncates nothing: give `max_episode_steps` to
            `gymnasium.make`.

        Raises:
            ValueError: The action does not exist, or no episode was started.
        """
        if self._state is None:
            raise ValueError("step before reset: call reset() first")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} does not exist: use 0 to {self.n_actions - 1}")
        rows, k = self._outcomes, self._state * self.n_actions + int(action)
        first, end = int(rows.offsets[k]), int(rows.offsets[k + 1])
        entry = first
        if end - first > 1:
            below = np.cumsum(rows.probability[first:end]) > self.np_random.random()
            entry = first + int(np.argmax(below))
        self._state = int(rows.successor[entry])
        info = {"prob": float(rows.probability[entry])}
        ended = bool(rows.terminated[entry])
        return self._state, float(rows.reward[entry]), ended, False, info

    def render(self) -> Any:
        """The grid with the agent: text ("ansi") or an image (H, W, 3) of bytes ("rgb_array")."""
        if self.render_mode == "ansi":
            return self.text(agent=self._state)
        if self.render_mode == "rgb_array":
            return self.draw(agent=self._state).pixels()
        gymnasium.logger.warn("render() without render_mode: give 'ansi' or 'rgb_array'")
        return None

    def text(self, *, values: Any = None, policy: Any = None, agent: int | None = None) -> str:
        """The grid as text: cells, and below them arrows of the policy and values.

        Args:
            values: State values (S,).
            policy: Actions (S,) or probabilities (S, A); a cell shows its likeliest action.
            agent: State of the agent, written as @.
        """
        from paragone.reinforcement._grid_draw import as_text

        return as_text(self, values, policy, agent)

    def draw(self, *, values: Any = None, policy: Any = None, agent: int | None = None) -> Any:
        """The grid as a picture, with the policy's arrows and the values where given.

        Args:
            values: State values (S,); written into the cells of small grids, and their colour.
            policy: Actions (S,) or probabilities (S, A): arrows as long as they are likely, a
                circle for staying.
            agent: State of the agent.

        Returns:
            A `Drawing`: notebooks show it; `.svg()` is its text, `.save("grid.svg")` or
            `.save("grid.png")` writes it, `.pixels()` is an array (H, W, 3).
        """
        from paragone.reinforcement._grid_draw import Drawing

        return Drawing(self, values, policy, agent)
