r"""Early stopping: hold rows out, watch their loss, keep the best round.

After round $t$ the held-out loss $v_t$ is known. Boosting ends when `rounds` rounds in a row
brought no $v_t <$ (best so far) - tol, and the model keeps the
$t^* = \arg\min_t v_t$ first rounds (the earliest of equals), not those tried in vain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Patience", "holdout"]


@dataclass(slots=True)
class Patience:
    """Watches a loss.

    Attributes:
        rounds: Rounds to wait for an improvement; None never stops.
        tol: Least improvement that counts for waiting on.
        best_round: Rounds that the best model has (0: none was better than the start).

    Example:
        >>> patience = Patience(rounds=2, tol=0.0)
        >>> [patience.stop(t, v) for t, v in enumerate([3.0, 1.0, 2.0, 2.0], start=1)]
        [False, False, False, True]
    """

    rounds: int | None
    tol: float = 0.0
    best_round: int = 0
    best: float = np.inf
    _bar: float = np.inf
    _since: int = 0

    def stop(self, round_number: int, loss: float) -> bool:
        """Takes the loss after `round_number` rounds; returns whether to end here."""
        if loss < self.best:
            self.best, self.best_round = loss, round_number
        if loss < self._bar - self.tol:
            self._bar, self._since = loss, 0
        else:
            self._since += 1
        return self.rounds is not None and self._since >= self.rounds


def holdout(
    n: int, fraction: float, random: np.random.RandomState, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row numbers to train on and to watch, both ascending.

    Args:
        n: Number of rows.
        fraction: Share of rows to watch.
        random: Draws the rows.
        codes: Class of each row: each class gives its share (rounded) and keeps at least
            one row for training.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction={fraction} must lie in (0, 1); 0.1 is usual")
    groups = [np.arange(n)] if codes is None else [
        np.flatnonzero(codes == code) for code in np.unique(codes)
    ]  # fmt: skip
    watched = np.zeros(n, bool)
    for rows in groups:
        watched[random.permutation(rows)[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    if not watched.any():
        if n < 2:
            raise ValueError(f"early stopping needs at least 2 rows to hold some out, not {n}")
        watched[random.randint(n)] = True
    return np.flatnonzero(~watched), np.flatnonzero(watched)
