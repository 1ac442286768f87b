r"""Blackjack against the dealer: the cards that Gymnasium deals, and the process behind them.

Cards come from an endless deck, so that the player's total, whether an ace counts eleven, and
the dealer's open card are all that matters, but for one thing: whether 21 was dealt with two
cards (a natural). That is not seen. The table therefore has a state more for each open card than
the agent has observations; what the dealer turns up is a distribution computed by recursion.

References:
    Sutton and Barto (2018), "Reinforcement learning", 2nd edition, example 5.1.

Shapes: n environments; sights are numbered 22 total + 2 card + ace, 704 of them.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy import empty

from paragone.kernels.jit import njit
from paragone.reinforcement._pcg64 import below, last_half, two_halves
from paragone.reinforcement._table import Table
from paragone.reinforcement._vector import (
    REAL,
    TRUTH,
    WHOLE,
    Continued,
    Streams,
    checked_limit,
    checked_mode,
    final_infos,
)
from paragone.reinforcement.mdp import MDP

__all__ = ["BlackjackEnv", "BlackjackVectorEnv", "blackjack"]

CARDS = {**{card: 1 / 13 for card in range(1, 10)}, 10: 4 / 13}
SIGHTS = 704
DECK, ONE, TWO = np.uint64(13), np.uint64(1), np.uint64(2)
HALF, FULL = np.uint64(0xFFFFFFFF), np.uint64(32)
SEVENTEEN, SIXTY = np.uint64(17), np.uint64(63)
VALUES = np.uint64(0xAAAA987654321)
"""What the thirteen cards count, four bits each."""
NATURAL = 100
"""What the dealer holds with an ace and a ten: 21 that is worth more."""


def _with(total: int, ace: int, card: int) -> tuple[int, int]:
    """Returns (total, ace) of a hand after one more card; an ace counts 11 while that fits."""
    hard = total - 10 * ace + card
    if (ace or card == 1) and hard + 10 <= 21:
        return hard + 10, 1
    return hard, 0


@cache
def _dealer(total: int, ace: int) -> dict[int, float]:
    """Probabilities of the total that the dealer ends with, who draws below 17; 0: too much."""
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    found: dict[int, float] = defaultdict(float)
    for card, p in CARDS.items():
        for end, q in _dealer(*_with(total, ace, card)).items():
            found[end] += p * q
    return dict(found)


def _shown(card: int) -> dict[int, float]:
    """The same from the open card, the hidden one not yet known; NATURAL told apart."""
    found: dict[int, float] = defaultdict(float)
    first = _with(0, 0, card)
    for hidden, p in CARDS.items():
        if {card, hidden} == {1, 10}:
            found[NATURAL] += p
            continue
        for end, q in _dealer(*_with(*first, hidden)).items():
            found[end] += p * q
    return dict(found)


def blackjack(natural: bool = False, sab: bool = False) -> Table:
    """Blackjack as a table: 0 stick, 1 hit; 714 states seen as 704.

    Args:
        natural: Whether winning with a natural pays 1.5.
        sab: The book's rule: a natural wins unless the dealer has one; `natural` is then ignored.
    """

    def paid(total: int, first_two: bool, end: int) -> float:
        dealt = end == NATURAL
        points = 21 if dealt else end
        reward = float(total > points) - float(total < points)
        if first_two and sab and not dealt:
            return 1.0
        return 1.5 if first_two and natural and not sab and reward == 1.0 else reward

    ends = {card: _shown(card) for card in range(1, 11)}

    def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
        first_two = s >= SIGHTS
        total, card, ace = (21, s - SIGHTS + 1, 1) if first_two else (s // 22, s % 22 // 2, s % 2)
        if not (4 <= total <= 21 and card >= 1) or (ace and total < 12):
            return [(1.0, s, 0.0, True)]
        if a == 0:
            rewards: dict[float, float] = defaultdict(float)
            for end, p in ends[card].items():
                rewards[paid(total, first_two, end)] += p
            return [(p, s, reward, True) for reward, p in sorted(rewards.items())]
        found = []
        for drawn, p in CARDS.items():
            points, usable = _with(total, ace, drawn)
            there = 22 * points + 2 * card + usable
            found.append((p, there, -1.0 if points > 21 else 0.0, points > 21))
        return found

    start = np.zeros(SIGHTS + 10)
    for card, p in CARDS.items():
        for one, q in CARDS.items():
            for two, r in CARDS.items():
                total, ace = _with(*_with(0, 0, one), two)
                s = SIGHTS + card - 1 if total == 21 else 22 * total + 2 * card + ace
                start[s] += p * q * r
    mdp = MDP.from_function(
        SIGHTS + 10, 2, outcomes, start=start / start.sum(), action_labels=("stick", "hit")
    )
    seen = np.append(np.arange(SIGHTS), 22 * 21 + 2 * np.arange(1, 11) + 1)
    return Table(mdp, seen.astype(np.int32), SIGHTS)


class _Rules:
    """The spaces and the table, which is built when it is asked for."""

    natural: bool
    sab: bool
    _table: Table | None = None

    @property
    def table(self) -> Table:
        """The process behind, for the learners."""
        if self._table is None:
            self._table = blackjack(self.natural, self.sab)
        return self._table

    @property
    def mdp(self) -> MDP:
        """The process behind, for the planners; states above 703 are naturals."""
        return self.table.mdp


class BlackjackEnv(_Rules, gymnasium.Env):
    """One table of blackjack, dealt as Gymnasium deals under the same seed.

    Args:
        render_mode: "ansi" or None.
        natural: Whether winning with a natural pays 1.5.
        sab: The book's rule, in which a natural wins unless the dealer has one.
        max_episode_steps: Truncate after so many steps, or None.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = None,
        natural: bool = False,
        sab: bool = False,
        *,
        max_episode_steps: int | None = None,
    ) -> None:
        self.render_mode, self.natural, self.sab = render_mode, bool(natural), bool(sab)
        self.max_episode_steps = checked_limit(max_episode_steps)
        self.action_space = spaces.Discrete(2)
        self.observation_space = _sight()
        self._hand: tuple[int, int] | None = None

    def _card(self) -> int:
        return min(int(self.np_random.integers(13)) + 1, 10)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[int, int, int], dict[str, Any]]:
        super().reset(seed=seed)
        self._shows, self._hides = self._card(), self._card()
        one, two = self._card(), self._card()
        self._hand = _with(*_with(0, 0, one), two)
        self._natural, self._elapsed = self._hand[0] == 21, 0
        # Gymnasium draws the suit, and the face of a ten, of the picture that it may show.
        self.np_random.integers(4)
        if self._shows == 10:
            self.np_random.integers(3)
        return self._seen(), {}

    def _seen(self) -> tuple[int, int, int]:
        assert self._hand is not None
        return self._hand[0], self._shows, self._hand[1]

    def step(self, action: Any) -> tuple[tuple[int, int, int], float, bool, bool, dict[str, Any]]:
        if action not in (0, 1):
            raise ValueError(f"action={action} does not exist: use 0 to stick, 1 to hit")
        if self._hand is None:
            raise ResetNeeded("call reset() before step()")
        self._elapsed += 1
        truncated = self._elapsed == self.max_episode_steps
        if action:
            self._hand, self._natural = _with(*self._hand, self._card()), False
            bust = self._hand[0] > 21
            return self._seen(), -1.0 if bust else 0.0, bust, truncated, {}
        dealer = _with(*_with(0, 0, self._shows), self._hides)
        dealt = dealer[0] == 21
        while dealer[0] < 17:
            dealer = _with(*dealer, self._card())
        mine, theirs = (total if total <= 21 else 0 for total in (self._hand[0], dealer[0]))
        reward = float(mine > theirs) - float(mine < theirs)
        if self._natural and self.sab and not dealt:
            reward = 1.0
        elif self._natural and self.natural and not self.sab and reward == 1.0:
            reward = 1.5
        return self._seen(), reward, True, truncated, {}

    def render(self) -> str | None:
        if self.render_mode is None or self._hand is None:
            gymnasium.logger.warn("render() needs render_mode='ansi' and a reset")
            return None
        ace = ", an ace counting eleven" if self._hand[1] else ""
        return f"you {self._hand[0]}{ace}; the dealer shows {self._shows}\n"


def _sight() -> spaces.Tuple:
    return spaces.Tuple((spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)))


class BlackjackVectorEnv(_Rules, Continued, gymnasium.vector.VectorEnv):
    """Many tables of blackjack; environment i of `reset(seed=k)` is `BlackjackEnv` under k + i.

    Args:
        num_envs: n.
        natural: As in `BlackjackEnv`.
        sab: As in `BlackjackEnv`.
        max_episode_steps: Truncate after so many steps, or None.
        autoreset_mode: "NextStep", "SameStep" or "Disabled".
        copy: False hands out arrays that the next step overwrites.
        render_mode: "ansi" or None.
    """

    def __init__(
        self,
        num_envs: int = 1,
        natural: bool = False,
        sab: bool = False,
        *,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode, self.natural, self.sab = render_mode, bool(natural), bool(sab)
        self._streams = Streams(num_envs)
        self.num_envs = n = self._streams.count
        self._mode = checked_mode(autoreset_mode)
        self.metadata = {**BlackjackEnv.metadata, "autoreset_mode": self._mode}
        self.max_episode_steps = checked_limit(max_episode_steps)
        self.single_action_space, self.single_observation_space = spaces.Discrete(2), _sight()
        self.action_space = batch_space(self.single_action_space, n)
        self.observation_space = batch_space(self.single_observation_space, n)
        self._limit, self._rule = (
            self.max_episode_steps or 2**62,
            1 if self.sab else 2 * self.natural,
        )
        self._buffers = None if copy else self._fresh()
        self._lists = np.empty((5, n), np.uint64)
        self._shape, self._ready = (n,), False

    def _fresh(self) -> tuple[np.ndarray, ...]:
        n = self.num_envs
        return empty((3, n), WHOLE), empty(n, REAL), empty(n, TRUTH), empty(n, TRUTH)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[np.ndarray, ...], dict[str, Any]]:
        """Deals anew everywhere, or where `options["reset_mask"]` (n,) says so."""
        chosen = self._streams.prepare(seed, options)
        deal(self._streams.words, chosen)
        self._ready = not self._streams.waiting(self._mode)
        hands = self._streams.words[:, 5].astype(np.int64)
        return (hands & 63, hands >> 7 & 15, hands >> 6 & 1), {}

    def step(
        self, actions: Any
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Plays one step at every table.

        Raises:
            ValueError: An action does not exist.
        """
        if not self._ready:
            raise ResetNeeded("call reset() before step(), and where an episode has ended")
        actions = np.asarray(actions, WHOLE)
        if actions.shape != self._shape:
            raise ValueError(f"actions of shape {actions.shape}: give ({self.num_envs},)")
        seen, rewards, terminations, truncations = out = self._buffers or self._fresh()
        words = self._streams.words
        ended = play(actions, self._limit, self._rule, words, self._lists, *out)
        if ended < 0:
            bad = actions[(actions < 0) | (actions > 1)][0]
            raise ValueError(f"action={bad} does not exist: use 0 to stick, 1 to hit")
        infos: dict[str, Any] = {}
        if ended and self._mode is not AutoresetMode.NEXT_STEP:
            self._ready = self._mode is AutoresetMode.SAME_STEP
            if self._ready:
                done = terminations | truncations
                infos = final_infos(list(map(tuple, seen.T.tolist())), {}, done)
                deal(words, done)
                hands = words[:, 5].astype(np.int64)
                seen[0], seen[1], seen[2] = hands & 63, hands >> 7 & 15, hands >> 6 & 1
        return (seen[0], seen[1], seen[2]), rewards, terminations, truncations, infos

    def render(self) -> tuple[str, ...]:
        if self.render_mode is None:
            raise ValueError("render_mode=None draws nothing: give 'ansi'")
        hands = self._streams.words[:, 5].astype(np.int64).tolist()
        return tuple(f"you {hand & 63}; the dealer shows {hand >> 7 & 15}\n" for hand in hands)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _drawn(hand, card):
    """Returns total + 64 ace after one more card."""
    hard = (hand & 63) - 10 * (hand >> 6 & 1) + card
    soft = ((hand >> 6 & 1) | np.int64(card == 1)) & np.int64(hard + 10 <= 21)
    return hard + 74 * soft


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def _dealt_slowly(words, i):
    """Deals number by number, since one of them may be refused."""
    shows = min(below(words, i, np.uint64(13)) + 1, 10)
    hides = min(below(words, i, np.uint64(13)) + 1, 10)
    one = min(below(words, i, np.uint64(13)) + 1, 10)
    two = min(below(words, i, np.uint64(13)) + 1, 10)
    below(words, i, np.uint64(4))
    if shows == 10:
        below(words, i, np.uint64(3))
    return shows, hides, one, two


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _card(number):
    """Returns min(number + 1, 10) for 0 to 12."""
    return np.int64(VALUES >> (number << TWO) & np.uint64(15))


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _dealt(words, i):
    """Deals a game: bits 0-5 total, 6 ace, 7-10 open card, 11-14 hidden card, 15 natural.

    Five or six numbers are always three words, so that nothing random is branched on.
    """
    high, low, kept = words[i, 0], words[i, 1], words[i, 4]
    a, b = two_halves(words, i)
    c, d = two_halves(words, i)
    a, b, c, d = a * DECK, b * DECK, c * DECK, d * DECK
    shows, hides, one, two = _card(a >> FULL), _card(b >> FULL), _card(c >> FULL), _card(d >> FULL)
    ten = np.uint64(shows == 10)
    face = last_half(words, i, ten)
    if min(a & HALF, b & HALF, c & HALF, d & HALF) < DECK or face == 0:
        words[i, 0], words[i, 1], words[i, 4] = high, low, kept
        shows, hides, one, two = _dealt_slowly(words, i)
    hand = _drawn(_drawn(0, one), two)
    return hand | shows << 7 | hides << 11 | np.int64(hand & 63 == 21) << 15


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def deal(words, chosen):
    """Begins a game at the chosen tables."""
    for i in range(len(words)):
        if chosen[i]:
            words[i, 5] = np.uint64(_dealt(words, np.uint64(i)))
            words[i, 6] = words[i, 7] = np.uint64(0)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _tell(
    i, game, steps, limit, reward, terminated, words, seen, rewards, terminations, truncations
):
    truncated = steps >= limit
    done = np.int64(terminated | truncated)
    words[i, 5], words[i, 6], words[i, 7] = np.uint64(game), np.uint64(steps), np.uint64(done)
    seen[0, i], seen[1, i], seen[2, i] = game & 63, game >> 7 & 15, game >> 6 & 1
    rewards[i], terminations[i], truncations[i] = reward, terminated, truncated
    return done


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _paid(game, dealer, rule):
    """Returns what sticking pays against the dealer's last hand."""
    dealt = _drawn(_drawn(0, game >> 7 & 15), game >> 11 & 15) & 63 == 21
    mine, theirs = game & 63, dealer & 63
    theirs *= np.int64(theirs <= 21)
    reward = np.float64(mine > theirs) - np.float64(mine < theirs)
    if game >> 15 & 1:
        if rule == 1 and not dealt:
            reward = 1.0
        elif rule == 2 and reward == 1.0:
            reward = 1.5
    return reward


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
def _turn_up(words, sticks, who, busy, hands):
    """Lets the dealer draw at the listed tables, in rounds of those who are still below 17."""
    left = np.uint64(0)
    for k in range(sticks):
        i = who[k]
        game = np.int64(words[i, 5])
        hands[i] = np.uint64(_drawn(_drawn(0, game >> 7 & 15), game >> 11 & 15))
        busy[left] = i
        left += np.uint64(hands[i] & SIXTY < SEVENTEEN)
    while left > 0:
        now, left = left, np.uint64(0)
        for k in range(now):
            i = busy[k]
            card = _card(np.uint64(below(words, i, DECK)))
            hands[i] = np.uint64(_drawn(np.int64(hands[i]), card))
            busy[left] = i
            left += np.uint64(hands[i] & SIXTY < SEVENTEEN)


@njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
def play(actions, limit, rule, words, lists, seen, rewards, terminations, truncations):
    """Plays one step everywhere and returns how many games ended; -1 if an action is none.

    Tables are listed first by what they do, since no branch predicts it: `lists` (5, n) takes
    those that deal, hit, stick, those where the dealer draws, and the dealers' hands.
    """
    worst, deals, hits, sticks = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(len(actions)):
        worst = max(worst, np.uint64(actions[i]))
    if worst > np.uint64(1):
        return -1
    for i in range(len(actions)):
        fresh = words[i, 7]
        hit = np.uint64(actions[i]) & (fresh ^ ONE)
        lists[0, deals] = lists[1, hits] = lists[2, sticks] = np.uint64(i)
        deals += fresh
        hits += hit
        sticks += (fresh | hit) ^ ONE
    ended = 0
    out = (words, seen, rewards, terminations, truncations)
    for k in range(deals):
        i = lists[0, k]
        _tell(i, _dealt(words, i), 0, limit, 0.0, False, *out)
    for k in range(hits):
        i = lists[1, k]
        game = np.int64(words[i, 5])
        hand = _drawn(game & 127, _card(np.uint64(below(words, i, DECK))))
        bust = hand & 63 > 21
        game = hand | (game & (255 << 7))
        reward = 0.0 - np.float64(bust)
        ended += _tell(i, game, np.int64(words[i, 6]) + 1, limit, reward, bust, *out)
    _turn_up(words, sticks, lists[2], lists[3], lists[4])
    for k in range(sticks):
        i = lists[2, k]
        game = np.int64(words[i, 5])
        reward = _paid(game, np.int64(lists[4, i]), rule)
        ended += _tell(i, game, np.int64(words[i, 6]) + 1, limit, reward, True, *out)
    return ended
