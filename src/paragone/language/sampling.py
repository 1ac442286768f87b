r"""Sampling: how the next token is drawn from the scores of all.

Scores $z$ are changed by penalties and a bias, sharpened by the temperature $\tau$, and thinned
out; the token is the inverse of the distribution at a number $u$ that seed and step alone give:

$$ p_i \propto e^{z_i / \tau}\,[\,i \in K\,], \qquad
   x = \min\big\{ i : \textstyle\sum_{j \le i} p_j > u(\mathrm{seed}, \mathrm{step}) \big\} . $$

Filters act one after the other, each on what the one before has left, with weights that add to 1
again: `top_k` the k most likely; `top_p` the fewest that hold a share p; `min_p` those at least p
times as likely as the first; `typical_p` those whose surprise is nearest to the entropy, the
fewest that hold a share p. Of equal scores the lower id goes first, everywhere.

References:
    Holtzman et al. (2019), arXiv:1904.09751, section 3.1 (top-p); Fan et al. (2018),
    arXiv:1805.04833, section 5 (top-k); Meister et al. (2022), arXiv:2202.00666, eq. 6 (typical);
    Nguyen et al. (2024), arXiv:2407.01082, section 3 (min-p); Keskar et al. (2019),
    arXiv:1909.05858, section 4.1 (repetition penalty).
    Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3" (draws by counting).

Shapes: V vocabulary, T tokens so far.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paragone.kernels.backends import why_not

__all__ = ["Drawing", "Sampling", "log_probability", "uniform"]

_WORD = (1 << 64) - 1


def _mixed(x: int) -> int:
    """The finaliser of SplitMix64: a bijection of 64-bit words that leaves no pattern."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def uniform(seed: int, step: int) -> float:
    """The draw of a step: a number in [0, 1), from seed and step alone.

    Args:
        seed: Any integer; its lower 64 bits count.
        step: Number of the token, from 0.

    Example:
        >>> uniform(0, 0) == uniform(0, 0) != uniform(0, 1)
        True
    """
    key = _mixed((seed & _WORD) + 0x9E3779B97F4A7C15 & _WORD)
    return (_mixed(key + 0x9E3779B97F4A7C15 * (step + 1) & _WORD) >> 11) * 2.0**-53


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Prefer temperature 0 where there is a right answer, `min_p` to `top_p` at high temperatures,
    and neither where log-probabilities go into training (PPO, GRPO).

    Args:
        temperature: What scores are divided by; 0 takes the most likely token.
        top_k: Tokens to choose from (None or 0: all).
        top_p: Share of the probability to choose from (None or 1: all; 0: one token).
        min_p: Least probability as a share of the greatest.
        typical_p: Share of the probability to choose from, typical tokens first.
        repetition_penalty: What the scores of all tokens so far are divided by (if positive) or
            multiplied by (if not).
        presence_penalty: What is taken off the scores of tokens that were generated.
        frequency_penalty: The same, times how often.
        logit_bias: Token to what is added to its score; -inf forbids it.
        seed: Of the draws (None: a new one, which `key` then tells).

    Raises:
        ValueError: A number out of its range.

    Example:
        >>> Sampling(temperature=0).pick(np.array([0.0, 2.0, 2.0]), [], 0)[0]
        1
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    key: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0, np.inf), ("top_k", 0, np.inf), ("top_p", 0, 1), ("min_p", 0, 1),
            ("typical_p", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value}: a number from {low} to {high} is expected")
        if not np.isfinite(self.temperature):
            raise ValueError(f"temperature={self.temperature}: a finite number is expected")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: a number above 0; 1 for none"
            )
        seed = secrets.randbits(63) if self.seed is None else int(self.seed)
        object.__setattr__(self, "key", seed & _WORD)

    def replace(self, **changes: Any) -> Sampling:
        """Returns a copy with other values."""
        return dataclasses.replace(self, **changes)

    def scores(
        self, logits: np.ndarray, history: Sequence[int] | np.ndarray = (), prompt: int = 0
    ) -> np.ndarray:
        """Scores after penalties and bias.

        Args:
            logits: (V,).
            history: (T,) tokens so far.
            prompt: How many of them are the prompt's: only the repetition penalty counts those.

        Returns:
            (V,) float64.
        """
        found = np.array(logits, np.float64)
        known = np.asarray(history, np.int64)
        if self.repetition_penalty != 1 and len(known):
            at = np.unique(known)
            value = found[at]
            by = self.repetition_penalty
            found[at] = np.where(value > 0, value / by, value * by)
        if (self.presence_penalty or self.frequency_penalty) and len(known) > prompt:
            at, times = np.unique(known[prompt:], return_counts=True)
            found[at] -= self.presence_penalty + self.frequency_penalty * times
        for token, more in (self.logit_bias or {}).items():
            found[token] += more
        return found

    def numbers(self, prompt: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What the compiled draw takes: see `ops.decoding._cpu_draw`.

        Args:
            prompt: How many of the tokens so far are the prompt's.
        """
        shares = [1.0 if x is None else x for x in (self.top_p, self.min_p or 0.0, self.typical_p)]
        bias = dict(self.logit_bias or {})
        return (
            np.array([self.temperature, *shares, self.repetition_penalty, self.presence_penalty,
                      self.frequency_penalty]),
            np.array([self.top_k or 0, self.key, prompt], np.uint64).astype(np.int64),
            np.array(list(bias), np.int64),
            np.array(list(bias.values()), np.float64),
        )  # fmt: skip

    def probabilities(
        self, logits: np.ndarray, history: Sequence[int] | np.ndarray = (), prompt: int = 0
    ) -> np.ndarray:
        """The distribution that `pick` draws from.

        Args:
            logits: (V,).
            history: (T,) tokens so far.
            prompt: How many of them are the prompt's.

        Returns:
            (V,) float64 that adds to 1.
        """
        scores = self.scores(logits, history, prompt)
        if self.temperature == 0:
            chosen = np.zeros(len(scores))
            chosen[np.argmax(scores)] = 1.0
            return chosen
        p = _softmax(scores / self.temperature)
        p = _first(p, -p, self.top_k if self.top_k and self.top_k < len(p) else None)
        p = _first(p, -p, None if self.top_p is None else float(self.top_p))
        if self.min_p:
            p = _normalised(np.where(p >= self.min_p * p.max(), p, 0.0))
        if self.typical_p is not None and self.typical_p < 1:
            surprise = -np.log(np.maximum(p, 1e-300))
            apart = np.abs(surprise - (p * surprise).sum())
            p = _first(p, np.where(p > 0, apart, np.inf), float(self.typical_p))
        return p

    def pick(
        self,
        logits: np.ndarray,
        history: Sequence[int] | np.ndarray = (),
        step: int = 0,
        prompt: int = 0,
    ) -> tuple[int, float]:
        """Draws the next token.

        Args:
            logits: (V,).
            history: (T,) tokens so far.
            step: Number of the draw; with the seed it alone decides.
            prompt: How many of the tokens so far are the prompt's.

        Returns:
            The token, and its log-probability under softmax(logits / temperature), without
            penalties and filters (at temperature 0 under softmax(logits)): what a policy
            gradient wants.
        """
        if why_not("numba") is None:
            return self._drawn(logits, history, step, prompt)
        p = self.probabilities(logits, history, prompt)
        edges = np.cumsum(p)
        token = int(np.searchsorted(edges, uniform(self.key, step) * edges[-1], side="right"))
        token = min(token, int(np.flatnonzero(p)[-1]))
        return token, log_probability(logits, token, self.temperature)

    def _drawn(
        self, logits: np.ndarray, history: Sequence[int] | np.ndarray, step: int, prompt: int
    ) -> tuple[int, float]:
        from paragone.language.ops.decoding._cpu_draw import draw

        scores, known = np.ascontiguousarray(logits, np.float32), np.asarray(history, np.int64)
        count = len(scores)
        room, ids = np.empty(3 * count, np.float32), np.empty(2 * count, np.int64)
        token, log_prob = draw(
            scores, 0, count, np.ascontiguousarray(known), len(known), step,
            *self.numbers(prompt), room, ids, np.zeros(count, np.uint8),
        )  # fmt: skip
        return int(token), float(log_prob)


class Drawing:
    """Draws of many rows, each with a sampler and a history of its own.

    Args:
        samplings: One a row.
        prompts: Tokens of each row so far.
        most: Most draws of a row.
        vocabulary: V.
        asked: How many of a row's tokens so far are the prompt's (None: all).
        steps: Draws of each row made before (None: none).

    Attributes:
        history: (R, T) tokens of each row.
        known: (R,) how many of them there are.
        asked: (R,) how many of them are the prompt's.
        steps: (R,) draws made.
        vocabulary: V.
        numbers: What compiled draws take of all rows; nothing without Numba.
    """

    numbers: tuple[np.ndarray, ...] = ()

    def __init__(
        self,
        samplings: Sequence[Sampling],
        prompts: Sequence[Sequence[int]],
        most: int,
        vocabulary: int,
        asked: Sequence[int] | None = None,
        steps: Sequence[int] | None = None,
    ):
        self.samplings, self.vocabulary = samplings, vocabulary
        self.known = np.array([len(prompt) for prompt in prompts], np.int64)
        self.asked = self.known.copy() if asked is None else np.array(asked, np.int64)
        self.steps = (
            np.zeros(len(prompts), np.int64) if steps is None else np.array(steps, np.int64)
        )
        self.history = np.zeros((len(prompts), int(self.known.max(initial=0)) + most), np.int64)
        for row, prompt in zip(self.history, prompts, strict=True):
            row[: len(prompt)] = prompt
        if why_not("numba") is None:
            parts = [s.numbers(int(n)) for s, n in zip(samplings, self.asked, strict=True)]
            reals, wholes, ids, bias = zip(*parts, strict=True)
            starts = np.cumsum([0, *map(len, ids)])
            self.numbers = (
                np.stack(reals), np.stack(wholes), starts, np.concatenate(ids),
                np.concatenate(bias), np.empty(3 * vocabulary, np.float32),
                np.empty(2 * vocabulary, np.int64), np.zeros(vocabulary, np.uint8),
            )  # fmt: skip

    def pick(self, logits: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws a token for each row that is named, and takes it into the history.

        Args:
            logits: (A, V).
            rows: (A,) rows that they belong to.

        Returns:
            (A,) tokens and (A,) log-probabilities, as `Sampling.pick` gives them.
        """
        tokens, log_probs = np.empty(len(rows), np.int64), np.empty(len(rows))
        if why_not("numba") is None:
            from paragone.language.ops.decoding._cpu_draw import draw_rows

            draw_rows(
                np.ascontiguousarray(logits, np.float32), rows, self.history, self.known,
                self.steps, *self.numbers, tokens, log_probs,
            )  # fmt: skip
        else:
            for i, row in enumerate(rows):
                known, step = int(self.known[row]), int(self.steps[row])
                tokens[i], log_probs[i] = self.samplings[row].pick(
                    logits[i], self.history[row, :known], step, prompt=int(self.asked[row])
                )
        self.history[rows, self.known[rows]] = tokens
        self.known[rows] += 1
        self.steps[rows] += 1
        return tokens, log_probs


def log_probability(logits: np.ndarray, token: int, temperature: float = 1.0) -> float:
    """Natural logarithm of softmax(logits / temperature) at a token (temperature 0: as 1)."""
    scores = np.asarray(logits, np.float64) / (temperature or 1.0)
    top = scores.max()
    return float(scores[token] - top - np.log(np.exp(scores - top).sum()))


def _softmax(scores: np.ndarray) -> np.ndarray:
    return _normalised(np.exp(scores - scores.max()))


def _normalised(p: np.ndarray) -> np.ndarray:
    return p / p.sum()


def _first(p: np.ndarray, order: np.ndarray, share: float | int | None) -> np.ndarray:
    """The first ones in rising `order`: a number of them, or the fewest that hold a share."""
    if share is None or (isinstance(share, float) and share >= 1):
        return p
    ranked = np.argsort(order, kind="stable")
    if isinstance(share, float):
        count = int(np.searchsorted(np.cumsum(p[ranked]), share * (1 - 1e-12), side="left")) + 1
    else:
        count = share
    kept = np.zeros_like(p)
    kept[ranked[:count]] = p[ranked[:count]]
    return _normalised(kept)
