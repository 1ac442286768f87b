"""What running summaries share: numbers that wait, joining by `+`, the way through bytes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

__all__ = ["POLICIES", "Joinable", "checked_policy"]

POLICIES = ("raise", "omit", "propagate")
"""What may happen to NaN; the order is part of the stored states."""


def checked_policy(nan_policy: str) -> str:
    """Returns the policy, or says which there are."""
    if nan_policy not in POLICIES:
        raise ValueError(f"nan_policy={nan_policy!r} is none of {', '.join(POLICIES)}")
    return nan_policy


class Joinable:
    """A summary of a stream that `merge` joins with another one, and whose state is bytes."""

    _waiting: list[float]

    def _take(self, values: np.ndarray) -> None:
        raise NotImplementedError

    def _flush(self) -> None:
        """Takes in the numbers that came one by one."""
        if self._waiting:
            values, self._waiting = np.array(self._waiting), []
            self._take(values)

    def merge(self, other: Self) -> Self:
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, state: bytes) -> Self:
        raise NotImplementedError

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.from_bytes(self.to_bytes()).merge(other)

    def __radd__(self, other: int) -> Self:
        """0 + stream, so that `sum` joins many."""
        if other != 0:
            return NotImplemented
        return self.from_bytes(self.to_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_bytes, (self.to_bytes(),)
