"""`agent score`: how often an agent succeeds, as the shell calls it.

Importing this module loads the standard library alone.
"""

from __future__ import annotations

__all__ = ["score"]


def score(agent: str, *, out: str | None = None) -> None:
    """Says how often an agent succeeds."""
    raise NotImplementedError
